"""Find the inputs that --video_path names (videos, folders, a list, a camera), and share them among processes."""

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
    """In the order given; sorted within each folder."""
    live: str | None = None
    """A camera's number or a stream's URL. There are no videos then."""
    root: Path | None = None
    """The folder that holds all videos; None for a single video."""
    folders: tuple[Path, ...] = ()
    """The folders that were searched."""


def find_inputs(names: Sequence[str], *, stdin: BinaryIO | None = None) -> Inputs:
    """Find the inputs among files, folders (searched recursively), `-` (one name per line on stdin), cameras, streams.

    Raises InputError if nothing is found, or if a camera or stream is combined with other inputs.
    """
    is_many = len(names) > 1 or names[0] == _STDIN or Path(names[0]).is_dir()
    names = [line for name in names for line in (_read_names(stdin) if name == _STDIN else [name])]
    if not names:
        raise InputError("--video_path -: no file names on stdin")
    if live := [name for name in names if is_live(name) and not _is_on_disk(Path(name))]:
        if len(names) > 1:
            raise InputError(
                f"--video_path {hide_secrets(live[0])}: a camera or stream cannot be combined with other inputs"
            )
        return Inputs(live=live[0])
    # A video that is named twice, or found in two of the folders, counts once, under its first name. Links are not
    # resolved, because people who link videos into a folder of their own look for the answers there.
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
        raise InputError("--video_path: the videos are on different drives; run once for each drive") from None
    return Inputs(videos=videos, root=Path(root), folders=folders)


def _is_on_disk(path: Path) -> bool:
    # Not exists(), which is also true of /dev/video0.
    return path.is_file() or path.is_dir()


def _read_names(stdin: BinaryIO | None) -> list[str]:
    """Read names, one per line or NUL-terminated (find -print0), in UTF-8, UTF-16 (PowerShell's >) or any bytes."""
    if stdin is None:
        if sys.stdin is None:
            raise InputError("--video_path -: stdin is closed")
        stdin = sys.stdin.buffer
    content = stdin.read()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError:
            text = "the list has a UTF-16 byte order mark but is not valid UTF-16; save it as UTF-8"
            raise InputError(f"--video_path -: {text}") from None
    else:
        text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip()]


def _videos_in(folder: Path) -> list[Path]:
    """List a folder's videos, sorted. Raises InputError if there are none, OSError if a folder cannot be read."""
    videos = videos_below([folder])
    if not videos:
        raise InputError(f"{folder}: no videos in this folder")
    return sorted(videos)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One process's share of a list: every `count`-th item, starting at `index`."""

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
    """Read this process's share from RANK and WORLD_SIZE, as set by torchrun or a scheduler. Without them, it is all.

    Raises InputError if they are not numbers, or contradict each other.
    """
    rank, world_size = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None or world_size is None:
        return Shard()
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise InputError(f"RANK={rank} and WORLD_SIZE={world_size} in the environment; RANK must be below WORLD_SIZE")
    return Shard(index=int(rank), count=int(world_size))
