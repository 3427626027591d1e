"""Output files that are whole or absent."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; rename it onto `path` when the block succeeds, drop it when it raises.

    The suffix stays, since matplotlib, PyAV and others choose the format by it. Works for a file or a folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        if path.is_dir() and partial.is_dir():
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write UTF-8 JSON; NaN and infinity are refused, since they are no JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
