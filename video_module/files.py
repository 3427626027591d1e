"""Write files atomically, check and lock outputs, recognise a file under other names, and read UTF-8."""

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

# Format version of a model file, .pth or .onnx. Version 2 hashes each training video by its class and name, where
# version 1 used the name alone (see data/leaks.py), and adds the version of the program that wrote the file. Readers
# ignore unknown keys, so a later version of the program can add keys to version 2.
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)

# Error numbers for a full disk, an exceeded quota, and a file above the largest size.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# File systems allow 255 bytes in a name, and a temporary file has a longer name than the finished one.
_MOST_BYTES = 230
# Pauses between attempts to move a file that another program has open on Windows. Virus scanners and indexers close it
# within these one and a half seconds.
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for writing a file or a folder.

    If the block succeeds, the result replaces `path`, otherwise it is deleted. The temporary path keeps the suffix,
    because matplotlib, PyAV and others choose the format by it. An existing folder is first moved aside, so that the
    old or the new one is complete at any moment. It is then deleted with everything in it, so callers must make sure
    that it is theirs. If `path` is a link to a folder, the link is kept and its target is replaced.
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
            # Python does not name the file that did not fit, and shutil names the source of a copy instead.
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        for leftover in (partial, old):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                # Windows cannot delete an open file. Do not let that hide the error that led here.
                with suppress(PermissionError):
                    leftover.unlink(missing_ok=True)


def _short_name(path: Path) -> tuple[str, str]:
    """Return the stem and suffix of `path`, with a hash as the stem if the name is too long to be extended."""
    if len(os.fsencode(path.name)) <= _MOST_BYTES:
        return path.stem, path.suffix
    stem = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    # A longer "suffix" is not a format but part of a name that contains a full stop.
    return stem, path.suffix if len(path.suffix) < 16 else ""


def move(path: Path, target: Path) -> None:
    """Rename a file, replacing an existing one, or a folder.

    Windows refuses this while another program has the file open. Virus scanners have it open for a moment, but Excel
    until it is closed, so this function retries for a while and then raises PermissionError naming the target.
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
    """Delete temporary files that replacing() made for `path` in processes that were killed."""
    stem, suffix = _short_name(path)
    for leftover in path.absolute().parent.glob(f".{glob.escape(stem)}.partial-*{glob.escape(suffix)}"):
        number = leftover.name.removesuffix(suffix).rpartition("-")[2]
        if number.isdecimal() and leftover.is_file() and not _is_running(int(number)):
            # On Windows, another process may still be writing to it.
            with suppress(PermissionError):
                leftover.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    # On Windows, os.kill() would send a Ctrl-C, and open files cannot be deleted there anyway.
    if machine.ON_WINDOWS:
        return pid == os.getpid()
    try:
        os.kill(pid, 0)
    except OSError as error:
        # A running process of another user gives a PermissionError.
        return not isinstance(error, ProcessLookupError)
    return True


def check_output(path: Path, *, folder: bool = False) -> None:
    """Raise InputError if a file (or folder) cannot be written at `path`. Call this before hours of work."""
    if path.is_dir() and not folder:
        raise InputError(f"{path}: is a directory; expected a file")
    if path.is_file() and folder:
        raise InputError(f"{path}: is a file; expected a directory")
    parent = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), None)
    # This only happens on Windows, for a path on a drive that does not exist.
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
    """Run check_output() on the output files of several flags.

    Also raises InputError if two outputs are the same file or an output is an input. `outputs` and `inputs` are pairs
    (flag, path), where the path is None if the flag was not given.
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
    """Lock `path` against other processes that use this lock, until the block or the process ends.

    Raises InputError if another process holds the lock.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, suffix = _short_name(path)
    lock = path.with_name(f".{stem}{suffix}.lock")
    with open(lock, "a+b") as file:
        try:
            _lock(file.fileno())
            # The previous holder may just have deleted the file.
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
    # flock() would not do: worker processes inherit its locks, and they may outlive a killed run by some seconds.
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_model_file(path: Path) -> None:
    """Raise InputError if a model file does not exist, naming the script that creates it."""
    makers = {".pth": "; create it with train_model.py", ".onnx": "; create it with convert_model.py"}
    if not path.exists():
        raise InputError(f"{path}: no such file{makers.get(path.suffix.lower(), '')}")


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether `path`, which need not exist, is `folder` or lies below it, however the two are spelled.

    On systems that ignore case, a folder has many spellings, and on macOS resolve() does not unify them.
    """
    path, folder = path.resolve(), folder.resolve()
    chain = (path, *path.parents)
    return folder in chain or (folder.exists() and any(part.exists() and part.samefile(folder) for part in chain))


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth below `folder`, including broken links and files in linked folders.

    Raises OSError naming the folder if one cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        # A link to a parent folder would lead back here forever.
        where = os.path.realpath(place)
        if where in seen:
            folders.clear()
            continue
        seen.add(where)
        # Visit folders before links, so that a folder is listed under its own name and not under that of a link.
        folders.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # noqa: PTH114, PTH118
        yield from (Path(place) / name for name in files)


def file_key(path: Path) -> Hashable:
    """Return a key that is the same for all names of a file, regardless of case and links.

    If the file does not exist, the key is the full path.
    """
    with suppress(OSError):
        stat = path.stat()
        # On Windows, files on some network drives have no inode number.
        if stat.st_ino:
            return stat.st_dev, stat.st_ino
    return path.resolve()


def file_digest(path: Path) -> str:
    """Return the first 12 hexadecimal digits of the file's SHA-256."""
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
    """Write UTF-8 text through replacing(), with the same bytes on every system."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write UTF-8 JSON. Raises ValueError on NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
