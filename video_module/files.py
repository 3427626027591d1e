"""Output files that are whole or absent."""

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from video_module.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; rename it onto `path` when the block succeeds, drop it when it raises.

    The suffix stays, since matplotlib, PyAV and others choose the format by it. Works for a file or a folder; an old
    folder is moved aside first, so that at every moment the old or the new one is whole. It is removed with all that is
    in it: callers make sure that it is theirs.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        yield partial
        if partial.is_dir() and path.is_dir():
            path.rename(old)
            try:
                partial.rename(path)
            except OSError:
                old.rename(path)
                raise
        else:
            partial.replace(path)
    finally:
        for leftover in (partial, old):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def remove_partial(path: Path) -> None:
    """Remove what processes that are gone left of `path` when they were killed within replacing()."""
    for leftover in path.absolute().parent.glob(f".{glob.escape(path.stem)}.partial-*{glob.escape(path.suffix)}"):
        number = leftover.name.removesuffix(path.suffix).rpartition("-")[2]
        if number.isdecimal() and leftover.is_file() and not _is_running(int(number)):
            leftover.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_output(path: Path, *, folder: bool = False) -> None:
    """Raise InputError, before hours of work, if a file (or folder) cannot be written under this name."""
    if path.is_dir() and not folder:
        raise InputError(f"{path}: a folder stands there; give the name of a file")
    if path.is_file() and folder:
        raise InputError(f"{path}: a file stands there; give the name of a folder")
    parent = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if parent != path and not parent.is_dir():
        raise InputError(f"{path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path}: no permission to write in {parent}")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark. Raises InputError if it is missing or not UTF-8."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def write_json(path: str | Path, value: Any) -> None:
    """Write UTF-8 JSON; NaN and infinity are refused, since they are no JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
