"""Files: write them whole or not at all, check and lock outputs, recognise a file under other names, read UTF-8."""

import errno
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from video_module import machine
from video_module.errors import InputError

# Tells a reader how to read a model file, .pth or .onnx. Version 2 hashes each training video by its class and name,
# while version 1 used the name alone (see data/leaks.py), and adds the version of the program that wrote the file.
# Readers ignore unknown keys, so that a later version of the program can add some to version 2.
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)

# Errors of writing to a full disk, beyond a quota, and beyond the largest size of a file.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# File systems allow 255 bytes for a name, and an unfinished file has a longer name than the finished one.
_MOST_BYTES = 230
# Pauses between attempts to move a file that another program has open on Windows. Virus scanners and indexers close it
# within this second and a half.
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to. If the block succeeds, it replaces `path`; else it is deleted.

    The suffix is kept, since matplotlib, PyAV and others choose the format by it. Works for a file or a folder. An old
    folder is moved aside first, so that either the old or the new one is complete at any moment, and is then deleted
    with everything in it, so callers must make sure that it is theirs. A link to a folder is kept and its target
    replaced.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links to files)
    if path.is_dir():
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, suffix = _short_name(path)
    partial = path.with_name(f".{stem}.partial-{os.getpid()}{suffix}")
    old = path.with_name(f".{stem}{suffix}.old-{os.getpid()}")
    try:
        yield partial
        if partial.is_dir() and path.is_dir():
            move(path, old)
            try:
                move(partial, path)
            except OSError:
                move(old, path)
                raise
        else:
            move(partial, path)
    except OSError as error:
        if error.errno in FULL_DISK:
            # Python does not say which file did not fit, and shutil names the source of a copy
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        for leftover in (partial, old):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                # Windows cannot delete an open file. In that case, show the error that led here.
                with suppress(PermissionError):
                    leftover.unlink(missing_ok=True)


def _short_name(path: Path) -> tuple[str, str]:
    """The stem and suffix of `path`; if the name leaves no room for additions, the stem is a hash."""
    if len(os.fsencode(path.name)) <= _MOST_BYTES:
        return path.stem, path.suffix
    stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    # A longer "suffix" is not a format, but part of a name that contains a full stop
    return stem, path.suffix if len(path.suffix) < 16 else ""


def move(path: Path, target: Path) -> None:
    """Rename a file, replacing an existing one, or a folder.

    Windows refuses this while another program has the file open, as virus scanners do for a moment and Excel until it
    is closed, so this tries again for a while. Raises PermissionError naming the target.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            path.replace(target)
            return
        except PermissionError:
            if not machine.ON_WINDOWS:
                raise
            if pause_s is None:
                text = "it is open in another program; close it there and run this again"
                raise PermissionError(errno.EACCES, text, str(target)) from None
            time.sleep(pause_s)


def remove_partial(path: Path) -> None:
    """Delete temporary files for `path` that killed processes left behind in replacing()."""
    stem, suffix = _short_name(path)
    for leftover in path.absolute().parent.glob(f".{glob.escape(stem)}.partial-*{glob.escape(suffix)}"):
        number = leftover.name.removesuffix(suffix).rpartition("-")[2]
        if number.isdecimal() and leftover.is_file() and not _is_running(int(number)):
            # On Windows another process may still be writing to it
            with suppress(PermissionError):
                leftover.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    # On Windows os.kill() would send a Ctrl-C, and open files cannot be deleted there anyway
    if machine.ON_WINDOWS:
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except OSError as error:
        # Another user's running process gives a PermissionError
        return not isinstance(error, ProcessLookupError)
    return True


def check_output(path: Path, *, folder: bool = False) -> None:
    """Raise InputError, before hours of work, if a file (or folder) cannot be written under this name."""
    if path.is_dir() and not folder:
        raise InputError(f"{path}: is a directory; expected a file")
    if path.is_file() and folder:
        raise InputError(f"{path}: is a file; expected a directory")
    parent = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), None)
    # Only happens on Windows, for a path on a drive that does not exist
    if parent is None:
        raise InputError(f"{path}: drive {path.absolute().anchor} does not exist")
    if parent != path and not parent.is_dir():
        raise InputError(f"{path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK):
        reason = "is not writable"
        if hasattr(os, "statvfs") and os.statvfs(parent).f_flag & os.ST_RDONLY:
            reason = "is on a read-only disk"
        raise InputError(f"{path}: {parent} {reason}; choose another place")


def check_outputs(outputs: Sequence[tuple[str, Path | None]], inputs: Sequence[tuple[str, Path | None]] = ()) -> None:
    """Run check_output() on the files of several flags, and raise InputError if two are the same file, or an input.

    Both are pairs (flag, path), with None for a flag that was not given.
    """
    owner = {file_key(path): (flag, path) for flag, path in inputs if path is not None and path.exists()}
    read = set(owner)
    for flag, path in outputs:
        if path is None:
            continue
        check_output(path)
        key = file_key(path)
        other, named = owner.setdefault(key, (flag, path))
        if key in read:
            raise InputError(f"{flag}: {path} would overwrite {named}, the input of {other}; choose another name")
        if other != flag:
            raise InputError(f"{flag}: {path} is also the output of {other}; choose another name")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes that use this lock from writing `path`, until this block or process ends.

    Raises InputError if another process holds the lock.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, suffix = _short_name(path)
    lock = path.with_name(f".{stem}{suffix}.lock")
    with open(lock, "a+b") as file:
        try:
            _lock(file.fileno())
            # The previous holder may have deleted the file just now.
            is_ours = lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, PermissionError):
            is_ours = False
        except OSError as error:
            print(
                f"note: {path.parent}: file locking is not available ({error.strerror}); make sure that no other run "
                f"writes {path.name}"
            )
            is_ours = True
        if not is_ours:
            raise InputError(f"{path}: in use by another run; wait for it to end, or choose another name")
        try:
            yield
        finally:
            # Windows cannot delete an open file.
            with suppress(OSError):
                lock.unlink()


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return
    # Not flock(), whose locks are inherited by worker processes, which may outlive a killed run by some seconds.
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_model_file(path: Path) -> None:
    """Raise InputError, naming the script that creates it, if a model file does not exist."""
    makers = {".pth": "; create it with train_model.py", ".onnx": "; create it with convert_model.py"}
    if not path.exists():
        raise InputError(f"{path}: no such file{makers.get(path.suffix.lower(), '')}")


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `path`, which need not exist, is `folder` or lies below it, however the two are spelled.

    On systems that ignore case, a folder has many spellings, which resolve() does not unify on macOS.
    """
    path, folder = path.resolve(), folder.resolve()
    chain = (path, *path.parents)
    return folder in chain or (folder.exists() and any(part.exists() and part.samefile(folder) for part in chain))


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth below `folder`, including those in linked folders, and broken links.

    Raises OSError naming a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        # A link to a parent folder would lead back here without end.
        where = os.path.realpath(place)
        if where in seen:
            folders.clear()
            continue
        seen.add(where)
        # Folders come before links, so that a folder is listed under its own name, not under a link's.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # noqa: PTH114, PTH118
        yield from (Path(place) / name for name in files)


def file_key(path: Path) -> Hashable:
    """A key that is the same for all names of a file, whatever their case and links. Without a file, the full path."""
    with suppress(OSError):
        stat = path.stat()
        # On Windows, files on some network drives have no inode number
        if stat.st_ino:
            return stat.st_dev, stat.st_ino
    return path.resolve()


def file_digest(path: Path) -> str:
    """The file's SHA-256, shortened."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises InputError if it is missing, a folder, or not UTF-8.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected a file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text by replacing(), with the same bytes on every system."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write UTF-8 JSON. Raises ValueError on NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
