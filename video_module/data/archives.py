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
# Records which archive a folder was unpacked from. Until that is finished, the folder has the suffix below.
_MARKER = ".unpacked.json"
_PARTIAL = ".partial"
# What the libraries raise for damaged archives. gzip and bz2 raise an OSError without errno, and any of them raises a
# UnicodeDecodeError for a damaged name that is not UTF-8.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, UnicodeDecodeError)
# Windows forbids these characters, drops dots and spaces at the end of a name, and reserves some names for devices. A
# colon would hide the content in a stream of another file.
_NO_NAME_ON_WINDOWS = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[1-9]|lpt[1-9]) *(\.|$)', flags=re.IGNORECASE
)


class _Member(NamedTuple):
    """An entry of an archive. If it is neither a file nor a folder, it is a link or a device."""

    name: str
    size: int
    is_file: bool
    is_folder: bool
    open: Callable[[], IO[bytes]]


class _TarHeader(tarfile.TarInfo):
    """A header that raises ReadError if it is damaged. By default, tarfile would take it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, file: tarfile.TarFile) -> "_TarHeader":
        try:
            return super().fromtarfile(file)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from None


def is_archive(path: PurePath) -> bool:
    return path.name.lower().endswith(_SUFFIXES)


def unpacked(path: Path) -> Path:
    """Unpack an archive into a folder beside it and return the folder; a folder is returned as it is.

    An interrupted run continues where it stopped, and a finished one is not repeated. Archives inside the archive are
    unpacked too, each into a folder of its name (HMDB51 is a .rar that contains 51 .rar files).

    Raises InputError naming the file if it is damaged, encrypted, changed since it was unpacked or too large for the
    disk, or if a member would be written outside the folder or over another member.
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
    """Replace an archive by its folder. The archive is deleted last, so an interruption loses no data."""
    folder = inner.with_name(_stem(inner.name))
    partial = folder.with_name(folder.name + _PARTIAL)
    # An earlier run stopped before deleting the archive. _check_places() has ensured that the folder comes from it.
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
    """Unpack an archive into a folder, skipping the files that an earlier run has unpacked."""
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
    """Return the files to unpack by their paths within the folder, without hidden files and macOS's metadata.

    Raises InputError if a member is a link or a device, or would be written outside the folder.
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
    """Raise InputError if this disk cannot store all files under their names. Called before any file is written.

    An inner archive must not be unpacked to the path of another member either. Otherwise it would be unclear whether an
    existing folder comes from that archive, unpacked by an earlier run, or from another member.
    """
    ignores_case = folder.with_name(folder.name.swapcase()).exists()
    fold = str.casefold if ignores_case else str
    # Folders too, because two classes would be merged into one
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
    # replacing() writes a file completely or not at all, so a file of the right size is complete
    if target.is_file():
        return target.stat().st_size == size
    return is_archive(target) and target.with_name(_stem(target.name)).is_dir()


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    """Open an archive and list its members. Errors of the archive libraries become InputErrors."""
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
        # bsdtar and Debian's 7z fail on some .rar files that unrar and unar can read
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
            # The upper four bits hold the Unix file type; 0o12 is a symbolic link (S_IFLNK)
            is_file = not info.is_dir() and info.external_attr >> 28 != 0o12
            members.append(
                _Member(info.filename, info.file_size, is_file, info.is_dir(), functools.partial(file.open, info))
            )
        yield members


@contextmanager
def _tar_members(archive: Path) -> Iterator[list[_Member]]:
    with tarfile.open(archive, tarinfo=_TarHeader) as file:
        infos = file.getmembers()
        # The checksum of a compressed tar follows its end. Read up to it now, to find damage before any file is
        # written.
        while file.fileobj.read(1 << 20):
            pass
        yield [_Member(i.name, i.size, i.isfile(), i.isdir(), functools.partial(file.extractfile, i)) for i in infos]


def class_folder(path: Path) -> Path:
    """Return the folder of class folders: `path` itself, or the one inside if it is an archive. Unpacks archives."""
    return class_root(unpacked(path)) if is_archive(path) and not path.is_dir() else path


def class_root(folder: Path) -> Path:
    """Return the folder that contains the class folders, skipping outer folders that contain only one folder."""
    while True:
        below = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        if len(below) != 1 or not any(path.is_dir() for path in below[0].iterdir()):
            return folder
        folder = below[0]


def splits_folder(path: Path) -> Path:
    """Return the folder of split files: `path` itself, or the one inside if it is an archive. Unpacks archives."""
    if not is_archive(path):
        return path
    folder = unpacked(path)
    for pattern in ("*_test_split?.txt", "trainlist*.txt"):
        for file in sorted(folder.rglob(pattern)):
            return file.parent
    return folder
