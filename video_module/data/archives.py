"""Unpack downloaded data sets (.rar, .zip, .tar, also nested) into a folder beside the archive."""

import functools
import json
import lzma
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, NamedTuple

from tqdm import tqdm

from video_module import machine
from video_module.errors import InputError
from video_module.files import move, read_text, replacing, write_json

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_SUFFIXES = (".rar", ".zip", *_TAR_SUFFIXES)
# A finished folder contains this file, which says what it was unpacked from; an unfinished one has another name.
_MARKER = ".unpacked.json"
_PARTIAL = ".partial"
# What the libraries raise on damage: gzip and bz2 an OSError, which has no number then, and all of them a
# UnicodeDecodeError where a damaged name is not UTF-8.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, UnicodeDecodeError)
# Windows has no names with these characters, drops dots and spaces at an end, and takes some names for devices. A colon
# would even hide a file within another one.
_NO_NAME_ON_WINDOWS = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[1-9]|lpt[1-9]) *(\.|$)', flags=re.IGNORECASE
)


class _Member(NamedTuple):
    """An entry of an archive."""

    name: str
    size: int
    is_file: bool
    is_folder: bool
    """What is neither is a link or a device."""
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
    return path.name.lower().endswith(_SUFFIXES)


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
                f"{folder}: already exists where {path.name} would be unpacked; pass that folder instead, or move it"
            )
        if json.loads(read_text(folder / _MARKER)) != stamp:
            raise InputError(f"{folder}: was unpacked from an older {path.name}; delete it to unpack the new one")
        print(f"{folder}: already unpacked; using it")
        return folder
    partial = folder.with_name(folder.name + _PARTIAL)
    origin = partial / _MARKER
    # Files from an older version of the archive cannot be reused
    if origin.is_file() and json.loads(read_text(origin)) != stamp:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    write_json(origin, stamp)
    _unpack(path, partial)
    for inner in sorted(inner for inner in partial.rglob("*") if is_archive(inner) and inner.is_file()):
        _unpack_inner(inner)
    move(partial, folder)
    return folder


def _stem(name: str) -> str:
    suffix = max((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), key=len)
    return name[: -len(suffix)]


def _unpack_inner(inner: Path) -> None:
    """Replace an archive by its folder; the archive is deleted last, so that an interruption costs only time."""
    folder = inner.with_name(_stem(inner.name))
    partial = folder.with_name(folder.name + _PARTIAL)
    # An earlier run stopped just before its last step: _check_places() saw that nothing else made this folder
    if folder.is_dir():
        inner.unlink()
        return
    partial.mkdir(exist_ok=True)
    _unpack(inner, partial)
    content = list(partial.iterdir())
    # x.rar that holds the folder x becomes x, not x/x
    if [path.name for path in content] == [folder.name]:
        move(content[0], folder)
        partial.rmdir()
    else:
        move(partial, folder)
    inner.unlink()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive's files into a folder, except those that an earlier run unpacked."""
    with _opened(archive) as members:
        files = _wanted_files(archive, members)
        _check_places(archive, list(files), folder)
        missing = {path: member for path, member in files.items() if not _is_there(folder / path, member.size)}
        needed, free = sum(member.size for member in missing.values()), shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(
                f"{archive}: needs {needed / 1e9:.1f} GB of disk space, but only {free / 1e9:.1f} GB is free"
            )
        for path, member in tqdm(
            missing.items(), desc=archive.name, unit="file", leave=machine.leaves_bars(), delay=0.5
        ):
            assert ".." not in path.parts and not path.is_absolute(), f"{path} would leave {folder}"
            with replacing(folder / path) as partial, member.open() as content, open(partial, "wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)


def _wanted_files(archive: Path, members: list[_Member]) -> dict[PurePosixPath, _Member]:
    """The files to unpack, by their paths within the folder. Raises InputError if a member would lead elsewhere.

    What macOS leaves beside the files, and what is hidden, is passed over.
    """
    files = {}
    for member in members:
        if not member.is_file and not member.is_folder:
            raise InputError(f"{archive}: contains a link or device, {member.name!r}; nothing was unpacked")
        parts = PurePosixPath(member.name.replace("\\", "/")).parts
        if member.is_folder and not parts:
            continue  # the "./" of a tar
        if not parts or parts[0] == "/" or ".." in parts or re.match(r"[A-Za-z]:", parts[0]) or "\0" in member.name:
            raise InputError(f"{archive}: {member.name!r} would be written outside its folder; nothing was unpacked")
        if member.is_file and "__MACOSX" not in parts and not parts[-1].startswith("."):
            files[PurePosixPath(*parts)] = member
    return files


def _check_places(archive: Path, paths: list[PurePosixPath], folder: Path) -> None:
    """Raise InputError, before any file is written, if the files cannot have their names here, each its own.

    Nor may an inner archive be unpacked to where another member is, or is unpacked to: a folder that is there could
    then not be told from what an earlier run made of the archive.
    """
    ignores_case = folder.with_name(folder.name.swapcase()).exists()
    fold = str.casefold if ignores_case else str
    # Folders as well, because two classes would become one
    names = [name for path in paths for name in (path, *path.parents)]
    places: dict[str, PurePosixPath] = {}
    for name in names:
        if machine.ON_WINDOWS and any(_NO_NAME_ON_WINDOWS.search(part) for part in name.parts):
            raise InputError(f"{archive}: {str(name)!r} is not a valid file name on Windows")
        if (other := places.setdefault(fold(str(name)), name)) != name:
            raise InputError(
                f"{archive}: {str(other)!r} and {str(name)!r} differ only in case, which this disk ignores"
            )
    for inner in filter(is_archive, paths):
        if (other := places.setdefault(fold(str(inner.with_name(_stem(inner.name)))), inner)) != inner:
            raise InputError(
                f"{archive}: unpacking {str(inner)!r} would overwrite {str(other)!r}; unpack it yourself, and pass the "
                "folder"
            )


def _is_there(target: Path, size: int) -> bool:
    # replacing() writes files completely or not at all, so the right size means that the file is from this archive
    if target.is_file():
        return target.stat().st_size == size
    return is_archive(target) and target.with_name(_stem(target.name)).is_dir()


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """The members of an archive, all looked at before the first is unpacked. Libraries' errors become InputErrors."""
    import rarfile

    name = archive.name.lower()
    read = _rar_members if name.endswith(".rar") else _zip_members if name.endswith(".zip") else _tar_members
    try:
        with read(archive) as members:
            yield members
    except rarfile.RarCannotExec:
        raise InputError(
            f"{archive}: unpacking .rar requires unrar, unar, 7z or bsdtar; on Debian and Ubuntu, run apt-get install "
            "unar"
        ) from None
    except NotImplementedError as error:
        raise InputError(
            f"{archive}: uses a compression that Python cannot read ({error}); unpack it with another program, and "
            "pass the folder"
        ) from None
    except (*_DAMAGE, rarfile.Error) as error:
        # An OSError with a number comes from the disk, not from the archive
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        # bsdtar, and 7z as Debian ships it, stop in the midst of some .rar that unrar and unar read
        hint = ", or install unar" if isinstance(error, rarfile.Error) else ""
        raise InputError(
            f"{archive}: damaged, or not the format its name says ({reason}); download it again{hint}"
        ) from None


def _encrypted(archive: Path) -> InputError:
    return InputError(f"{archive}: encrypted; unpack it with its password, and pass the folder")


@contextmanager
def _rar_members(archive: Path) -> Iterator[list[_Member]]:
    import rarfile

    # strict, because otherwise a damaged header counts as the end of the archive
    with rarfile.RarFile(archive, errors="strict") as rar:
        if rar.needs_password():
            raise _encrypted(archive)
        yield [
            _Member(
                i.filename, i.file_size, i.is_file() and not i.is_symlink(), i.is_dir(), functools.partial(rar.open, i)
            )
            for i in rar.infolist()
        ]


@contextmanager
def _zip_members(archive: Path) -> Iterator[list[_Member]]:
    with zipfile.ZipFile(archive) as file:
        if any(info.flag_bits & 1 for info in file.infolist()):
            raise _encrypted(archive)
        members = []
        for info in file.infolist():
            # The upper four bits hold the kind of file as Unix knows it, 0o12 being a link (S_IFLNK)
            is_file = not info.is_dir() and info.external_attr >> 28 != 0o12
            members.append(
                _Member(info.filename, info.file_size, is_file, info.is_dir(), functools.partial(file.open, info))
            )
        yield members


@contextmanager
def _tar_members(archive: Path) -> Iterator[list[_Member]]:
    with tarfile.open(archive, tarinfo=_TarHeader) as file:
        infos = file.getmembers()
        # Behind a compressed tar's end is the checksum of all of it. It is read first: damage is told before any file
        # is written.
        while file.fileobj.read(1 << 20):
            pass
        yield [_Member(i.name, i.size, i.isfile(), i.isdir(), functools.partial(file.extractfile, i)) for i in infos]


def class_folder(path: Path) -> Path:
    """The folder of classes: `path` itself, or in the archive `path`, once it is unpacked."""
    return class_root(unpacked(path)) if is_archive(path) and not path.is_dir() else path


def class_root(folder: Path) -> Path:
    """The folder that contains the class folders, below any folders that contain just one other."""
    while True:
        below = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        if len(below) != 1 or not any(path.is_dir() for path in below[0].iterdir()):
            return folder
        folder = below[0]


def splits_folder(path: Path) -> Path:
    """The folder of official split files: `path` itself, or where they are in the archive `path`, once unpacked."""
    if not is_archive(path):
        return path
    folder = unpacked(path)
    for pattern in ("*_test_split?.txt", "trainlist*.txt"):
        for file in sorted(folder.rglob(pattern)):
            return file.parent
    return folder
