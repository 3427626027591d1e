"""Data sets as they are downloaded: .rar, .zip and .tar files, archives of archives too, unpacked beside themselves."""

import json
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO

from tqdm import tqdm

from video_module import machine
from video_module.errors import InputError
from video_module.files import move, read_text, replacing, write_json

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (".rar", ".zip", *_TAR_SUFFIXES)
_MARKER = ".unpacked.json"  # in a finished folder: which file it came from
_PARTIAL = ".partial"  # ends the name of what is not finished
# what the libraries raise; gzip and bz2 an OSError without a number, and damaged names are not UTF-8
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, UnicodeDecodeError)
# signs that Windows has in no name, ends that it drops, and devices; a colon would even hide a file within another
_NO_NAME_ON_WINDOWS = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[1-9]|lpt[1-9]) *(\.|$)', flags=re.IGNORECASE
)


@dataclass(frozen=True)
class Member:
    """A file in an archive. `path` is relative and stays inside the folder that it is unpacked to."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


class _TarHeader(tarfile.TarInfo):
    """A header that tells of its damage: tarfile takes one after the first for the end, and what follows is lost."""

    @classmethod
    def fromtarfile(cls, file: tarfile.TarFile) -> "_TarHeader":
        try:
            return super().fromtarfile(file)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from None


def is_archive(path: PurePath) -> bool:
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpacked(path: Path) -> Path:
    """The folder that an archive was unpacked to, beside it; a folder is returned as it is.

    What was begun goes on where it stopped, and what is finished is not done again. Archives inside the archive
    (HMDB51 comes as a .rar of 51 .rar) become folders of their names. Raises InputError, naming the file, if it is
    damaged, encrypted, changed since, too large for the disk, or holds a member that would land outside its folder, or
    in the place of another.
    """
    if path.is_dir() or not is_archive(path):
        return path
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    folder = path.with_name(_stem(path.name))
    stamp = {"archive": path.name, "size": path.stat().st_size, "modified_ns": path.stat().st_mtime_ns}
    if folder.exists():
        if not (folder / _MARKER).is_file():
            raise InputError(
                f"{folder}: stands where {path.name} would be unpacked; give that folder itself, or move it"
            )
        if json.loads(read_text(folder / _MARKER)) != stamp:
            raise InputError(f"{folder}: was unpacked from an earlier {path.name}; remove it to unpack the new one")
        print(f"{folder}: unpacked before, used again")
        return folder
    partial = folder.with_name(folder.name + _PARTIAL)
    origin = partial / _MARKER
    if origin.is_file() and json.loads(read_text(origin)) != stamp:
        shutil.rmtree(partial)  # begun from an earlier version of the archive
    partial.mkdir(exist_ok=True)
    write_json(origin, stamp)
    _unpack(path, partial)
    for inner in sorted(inner for inner in partial.rglob("*") if is_archive(inner) and inner.is_file()):
        _unpack_inner(inner)
    move(partial, folder)
    return folder


def _stem(name: str) -> str:
    suffix = max((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), key=len)
    return name[: -len(suffix)]


def _unpack_inner(inner: Path) -> None:
    """Put a folder in the place of an archive; the archive goes last, so that an interruption costs only time."""
    folder = inner.with_name(_stem(inner.name))
    partial = folder.with_name(folder.name + _PARTIAL)
    if folder.is_dir():  # an earlier run stopped just before its last step: _check_names() saw that no other made it
        inner.unlink()
        return
    partial.mkdir(exist_ok=True)
    _unpack(inner, partial)
    content = list(partial.iterdir())
    if [path.name for path in content] == [folder.name]:  # x.rar holds the folder x: not x/x
        move(content[0], folder)
        partial.rmdir()
    else:
        move(partial, folder)
    inner.unlink()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive's files into a folder; those that are there whole, or as a folder of their name, are kept."""
    with _opened(archive) as members:
        _check_names(archive, members, folder)
        wanted = [member for member in members if not _is_there(folder / member.path, member.size)]
        needed, free = sum(member.size for member in wanted), shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(f"{archive}: takes {needed / 1e9:.1f} GB unpacked, the disk has {free / 1e9:.1f} GB left")
        for member in tqdm(wanted, desc=archive.name, unit="file", leave=False, delay=0.5):
            target = folder / member.path
            with replacing(target) as partial, member.open() as source, open(partial, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


def _check_names(archive: Path, members: list[Member], folder: Path) -> None:
    """Raise InputError, before any is written, if the members cannot have their names here, each its own."""
    ignores_case = folder.with_name(folder.name.swapcase()).exists()
    _check_stems(archive, [member.path for member in members], ignores_case=ignores_case)
    seen: dict[str, PurePosixPath] = {}
    for path in (member.path for member in members):
        if machine.ON_WINDOWS and any(_NO_NAME_ON_WINDOWS.search(part) for part in path.parts):
            raise InputError(f"{archive}: its member {str(path)!r} has a name that Windows cannot give a file")
        for name in (path, *path.parents) if ignores_case else ():  # of folders too: two classes would become one
            if (other := seen.setdefault(str(name).casefold(), name)) != name:
                raise InputError(
                    f"{archive}: {str(other)!r} and {str(name)!r} in it would be one on this disk, which does not tell "
                    "upper from lower case"
                )


def _check_stems(archive: Path, paths: list[PurePosixPath], *, ignores_case: bool) -> None:
    """Raise InputError if an inner archive would be unpacked to where another member stands, or is unpacked to.

    A folder that is there could then not be told from what an earlier run made of the archive.
    """
    fold = str.casefold if ignores_case else str
    places = {fold(str(place)): place for path in paths for place in (path, *path.parents)}
    for inner in filter(is_archive, paths):
        place = fold(str(inner.with_name(_stem(inner.name))))
        if (other := places.setdefault(place, inner)) != inner:
            raise InputError(
                f"{archive}: {str(inner)!r} in it would be unpacked to the place of {str(other)!r}; unpack it by "
                "yourself, and give the folder"
            )


def _is_there(target: Path, size: int) -> bool:
    if target.is_file():  # replacing() writes whole files
        return target.stat().st_size == size
    return is_archive(target) and target.with_name(_stem(target.name)).is_dir()


def _safe(archive: Path, name: str) -> PurePosixPath | None:
    """A member's path, None for what systems leave beside the files. Raises InputError if it would lead elsewhere."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or re.match(r"[A-Za-z]:", parts[0]) or "\0" in name:
        raise InputError(
            f"{archive}: its member {name!r} would be written outside of its folder; none of it is unpacked"
        )
    if "__MACOSX" in parts or parts[-1].startswith("."):
        return None
    return PurePosixPath(*parts)


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The files of an archive, all looked at before the first is unpacked. The libraries' errors become InputErrors."""
    import rarfile

    lowest = archive.name.lower()
    readers = _rar_members if lowest.endswith(".rar") else _zip_members if lowest.endswith(".zip") else _tar_members
    try:
        with readers(archive) as members:
            yield members
    except rarfile.RarCannotExec:
        raise InputError(
            f"{archive}: unpacking .rar needs one of the programs unrar, unar, 7z or bsdtar in PATH; on Debian and "
            "Ubuntu: apt-get install unar"
        ) from None
    except NotImplementedError as error:
        raise InputError(
            f"{archive}: its members are packed in a way that Python cannot read ({error}); unpack it with another "
            "program, and give the folder"
        ) from None
    except (*_DAMAGE, rarfile.Error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        # bsdtar, and 7z as Debian ships it, stop in the midst of some .rar that unrar and unar read
        hint = ", or install unar" if isinstance(error, rarfile.Error) else ""
        raise InputError(f"{archive}: damaged, or not what its name says ({reason}); download it again{hint}") from None


@contextmanager
def _rar_members(archive: Path) -> Iterator[list[Member]]:
    import rarfile

    with rarfile.RarFile(archive, errors="strict") as rar:  # else a damaged header is taken for the end
        if rar.needs_password():
            raise InputError(f"{archive}: is encrypted; unpack it with its password, and give the folder")
        members = []
        for info in rar.infolist():
            _refuse_links(archive, info.filename, info.is_symlink() or (not info.is_file() and not info.is_dir()))
            if (path := _safe(archive, info.filename)) and info.is_file():
                members.append(Member(path, info.file_size, lambda info=info: rar.open(info)))
        yield members


@contextmanager
def _zip_members(archive: Path) -> Iterator[list[Member]]:
    with zipfile.ZipFile(archive) as file:
        members = []
        for info in file.infolist():
            if info.flag_bits & 1:
                raise InputError(f"{archive}: is encrypted; unpack it with its password, and give the folder")
            _refuse_links(archive, info.filename, info.external_attr >> 28 == 0o12)  # S_IFLNK
            if (path := _safe(archive, info.filename)) and not info.is_dir():
                members.append(Member(path, info.file_size, lambda info=info: file.open(info)))
        yield members


@contextmanager
def _tar_members(archive: Path) -> Iterator[list[Member]]:
    with tarfile.open(archive, tarinfo=_TarHeader) as file:
        members = []
        infos = file.getmembers()
        # Behind a compressed tar's end stands the checksum of all of it: what is wrong is told before any is written
        while file.fileobj.read(1 << 20):
            pass
        for info in infos:
            _refuse_links(archive, info.name, not info.isfile() and not info.isdir())
            if info.isdir() and info.name in (".", "./"):
                continue
            if (path := _safe(archive, info.name)) and info.isfile():
                members.append(Member(path, info.size, lambda info=info: file.extractfile(info)))
        yield members


def _refuse_links(archive: Path, name: str, is_special: bool) -> None:
    if is_special:
        raise InputError(f"{archive}: its member {name!r} is a link or a device; none of it is unpacked")


def class_folder(path: Path) -> Path:
    """A folder of classes: `path` itself, or what is in the archive `path`, unpacked by unpacked()."""
    return class_root(unpacked(path)) if is_archive(path) and not path.is_dir() else path


def class_root(folder: Path) -> Path:
    """The folder of class folders in what was unpacked: down through folders that hold one folder of folders alone."""
    while True:
        below = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        if len(below) != 1 or not any(path.is_dir() for path in below[0].iterdir()):
            return folder
        folder = below[0]


def folder_holding(folder: Path, *patterns: str) -> Path:
    """The folder, at or below `folder`, of the first file that fits one of the patterns; `folder` where none does."""
    for pattern in patterns:
        for path in sorted(folder.rglob(pattern)):
            return path.parent
    return folder
