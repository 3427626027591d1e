"""What `--video_path` names: videos, folders, a list on stdin, or a camera; and each process's share of it."""

import codecs
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from video_module.data.capture import is_live
from video_module.data.labels import videos_below
from video_module.errors import InputError, hide_secrets

_STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    videos: tuple[Path, ...] = ()
    """In the order given; within a folder, sorted."""
    live: str | None = None
    """A camera's number or a stream's URL. There are no videos then."""
    root: Path | None = None
    """The folder that holds all videos; None for a single video."""
    folders: tuple[Path, ...] = ()
    """The folders that were searched."""


def find_inputs(names: Sequence[str], *, stdin: BinaryIO | None = None) -> Inputs:
    """Tell files, folders (searched at any depth), `-` (one name a line on stdin), cameras and streams apart.

    Raises InputError where nothing is found, or a camera or stream is named beside others.
    """
    is_many = len(names) > 1 or names[0] == _STDIN or Path(names[0]).is_dir()
    names = [line for name in names for line in (_read_names(stdin) if name == _STDIN else [name])]
    if not names:
        raise InputError("--video_path -: no names came on stdin")
    if live := [name for name in names if is_live(name) and not _is_on_disk(Path(name))]:
        if len(names) > 1:
            raise InputError(
                f"--video_path {hide_secrets(live[0])}: a camera or stream is watched alone, without other inputs"
            )
        return Inputs(live=live[0])
    # A video that is named twice, or lies in two of the folders, counts once, under its first name. Links are not
    # resolved: people link videos into folders of their own, and look for the answers there.
    by_place: dict[str, Path] = {}
    for path in map(Path, names):
        for video in _videos_in(path) if path.is_dir() else [path]:
            by_place.setdefault(os.path.normcase(os.path.abspath(video)), video)  # noqa: PTH100
    videos = tuple(by_place.values())
    if not is_many:
        return Inputs(videos=videos)
    folders = tuple(path for path in map(Path, names) if path.is_dir())
    if len(names) == 1 and folders:
        return Inputs(videos=videos, root=folders[0], folders=folders)
    try:
        root = os.path.commonpath([Path(os.path.abspath(video)).parent for video in videos])  # noqa: PTH100
    except ValueError:  # Windows
        raise InputError("--video_path: videos of two drives have no folder in common; run them apart") from None
    return Inputs(videos=videos, root=Path(root), folders=folders)


def _is_on_disk(path: Path) -> bool:
    # Not exists(), which /dev/video0 does too.
    return path.is_file() or path.is_dir()


def _read_names(stdin: BinaryIO | None) -> list[str]:
    """Names, one a line or each with a NUL after it (find -print0), in UTF-8, UTF-16 (PowerShell's >) or any bytes."""
    if stdin is None:
        if sys.stdin is None:
            raise InputError("--video_path -: stdin is closed")
        stdin = sys.stdin.buffer
    content = stdin.read()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError:
            text = "the list begins as UTF-16 and does not go on so; save it as UTF-8"
            raise InputError(f"--video_path -: {text}") from None
    else:
        text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip()]


def _videos_in(folder: Path) -> list[Path]:
    """List a folder's videos, sorted. Raises InputError if there are none, OSError if a folder cannot be read."""
    videos = videos_below([folder])
    if not videos:
        raise InputError(f"{folder}: no video in this folder")
    return sorted(videos)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One process's share of a list: each `count`-th item, beginning with `index`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.index < self.count, self

    def take(self, items: Sequence) -> Sequence:
        return items[self.index :: self.count]

    def name(self, path: Path) -> Path:
        """X.jsonl for a single process, X-00002-of-00008.jsonl for the third of eight."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}-{self.index:05}-of-{self.count:05}{path.suffix}")


def find_shard(environment: dict[str, str] | os._Environ = os.environ) -> Shard:
    """Read RANK and WORLD_SIZE, which torchrun sets and any scheduler can; without them one process does all.

    Raises InputError where they are not numbers, or do not fit together.
    """
    rank, world_size = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return Shard()
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise InputError(f"RANK={rank} and WORLD_SIZE={world_size} in the environment: not a process of a job")
    return Shard(index=int(rank), count=int(world_size))
