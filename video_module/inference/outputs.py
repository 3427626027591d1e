"""Where the answers for many videos go: one place for each, and a log of lines from which a broken run goes on."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_module.errors import InputError
from video_module.files import check_output
from video_module.inference.sources import Shard, Sources


def plan_outputs(sources: Sources, options: Mapping[str, tuple[Path | None, str]]) -> dict[Path, dict[str, Path]]:
    """Where each video's files go; `options` gives each flag's path, if it was given, and the suffix of its files.

    One video's files are the paths themselves; for many, the paths are folders, and a file lies in them as its video
    lies below sources.root. Raises InputError, before any work, if a file would replace one of the videos, or cannot be
    written.
    """
    options = {flag: (path, suffix) for flag, (path, suffix) in options.items() if path}
    videos = sources.videos
    for flag, (path, suffix) in options.items():
        check_output(path, folder=sources.root is not None)
        if sources.root is None and suffix == ".mp4" and path.suffix.lower() != suffix:
            raise InputError(f"--{flag} {path}: annotated videos are written as .mp4")
    stems = Counter(video.with_suffix("") for video in videos)
    originals = {video.resolve() for video in videos}
    outputs: dict[Path, dict[str, Path]] = {}
    for video in videos:
        outputs[video] = {}
        for flag, (path, suffix) in options.items():
            if sources.root is not None:
                inside = video.absolute().relative_to(sources.root.absolute())
                # a.mp4 beside a.avi keeps its whole name
                path /= inside.with_name((inside.stem if stems[video.with_suffix("")] == 1 else inside.name) + suffix)
            if path.resolve() in originals:
                raise InputError(
                    f"--{flag}: {path} is one of the videos and would be overwritten; choose another place"
                )
            outputs[video][flag] = path
    return outputs


class ResultLog:
    """JSON Lines, one for each video as soon as it is done, by which a broken run knows where it stopped.

    Processes that share the work (Shard) write a file each, X-00000-of-00004.jsonl …, and know all of them, so that a
    run may go on with another number of processes.
    """

    def __init__(self, path: Path, *, shard: Shard, run: Mapping[str, Any]) -> None:
        """`run` is what the answers depend on besides the video; it is part of each line.

        Raises InputError if a file of that name holds lines of another run, or other text.
        """
        self.path = shard.name(path)
        self._run = dict(run)
        check_output(self.path)
        siblings = re.compile(rf"{re.escape(path.stem)}(-\d+-of-\d+)?{re.escape(path.suffix)}")
        folder = path.absolute().parent
        files = sorted(file for file in folder.glob("*") if siblings.fullmatch(file.name)) if folder.is_dir() else []
        self.done = {video for file in files for video in self._read(file)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115 (closed by close())
        self._drop_broken_line()

    def __enter__(self) -> "ResultLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, video: Path, content: Mapping[str, Any]) -> None:
        """Add a video's line; it is in the file when this returns."""
        line = {"video": str(video), **content, "run": self._run}
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, file: Path) -> list[str]:
        videos = []
        for number, text in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):  # the last has no end: not whole
            try:
                line = json.loads(text)
                video, run = line["video"], line["run"]
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file}, line {number}: not a line of run_model.py; choose another file") from None
            if run != self._run:
                key = next(key for key in {**run, **self._run} if run.get(key) != self._run.get(key))
                raise InputError(
                    f"{file} was made with {key} {run.get(key)}, this run has {self._run.get(key)}; choose another "
                    "file, or delete it to start afresh"
                )
            videos.append(video)
        return videos

    def _drop_broken_line(self) -> None:
        """Cut off what a run that was killed wrote of its last line."""
        size = self._file.seek(0, os.SEEK_END)
        position = size
        while position and not self._ends_line(position):
            position -= 1
        if position < size:
            self._file.truncate(position)

    def _ends_line(self, position: int) -> bool:
        self._file.seek(position - 1)
        return self._file.read(1) == b"\n"


def file_digest(path: Path) -> str:
    """Tells one model file from another: shortened SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
