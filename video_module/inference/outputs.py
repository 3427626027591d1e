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
from video_module.files import check_output, file_key, lies_in
from video_module.inference.sources import Shard, Sources

_LINE_BEGIN = b'{"video": "'


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
        if suffix == ".mp4":
            _check_video_output(path, flag, sources)
    absolute = {video: Path(os.path.abspath(video)) for video in videos}  # noqa: PTH100 (resolve() would follow links)
    stems = Counter(video.with_suffix("") for video in absolute.values())
    originals = {file_key(video) for video in videos}
    outputs: dict[Path, dict[str, Path]] = {}
    owner: dict[Path, Path] = {}
    for video in videos:
        outputs[video] = {}
        for flag, (path, suffix) in options.items():
            if sources.root is not None:
                inside = absolute[video].relative_to(os.path.abspath(sources.root))  # noqa: PTH100
                is_alone = stems[absolute[video].with_suffix("")] == 1  # a.mp4 beside a.avi keeps its whole name
                path /= inside.with_name((inside.stem if is_alone else inside.name) + suffix)
            if (other := owner.setdefault(path, video)) != video:
                raise InputError(f"--{flag}: {other} and {video} would both be written to {path}; rename one of them")
            if file_key(path) in originals:
                raise InputError(
                    f"--{flag}: {path} is one of the videos and would be overwritten; choose another place"
                )
            outputs[video][flag] = path
    return outputs


def _check_video_output(path: Path, flag: str, sources: Sources) -> None:
    if sources.root is None:
        if path.suffix.lower() not in (".mp4", ".webp"):
            raise InputError(f"--{flag} {path}: annotated videos are written as .mp4, or .webp for pages and slides")
    elif any(lies_in(path, folder) for folder in sources.folders):
        raise InputError(
            f"--{flag} {path}: lies in a folder that is searched, and its videos would be found next time; choose "
            "another place"
        )


def check_log(path: Path, sources: Sources) -> None:
    """Raise InputError, before any work, if --save_jsonl cannot be written, or would change one of the videos."""
    check_output(path)
    if file_key(path) in {file_key(video) for video in sources.videos}:
        raise InputError(f"--save_jsonl {path}: is one of the videos; choose another place")


class ResultLog:
    """JSON Lines, one for each video as soon as it is done, by which a broken run knows where it stopped.

    Processes that share the work (Shard) write a file each, X-00000-of-00004.jsonl …, and know all of them, so that a
    run may go on with another number of processes. Videos whose line holds an error are tried again; of two lines of
    one video the later counts.
    """

    def __init__(self, path: Path, *, shard: Shard, run: Mapping[str, Any]) -> None:
        """`run` is what the answers depend on besides the video; it is part of each line.

        Raises InputError if a file of that name holds lines of another run, or other text.
        """
        self.path = shard.name(path)
        self._run = dict(run)
        siblings = re.compile(rf"{re.escape(path.stem)}(-\d+-of-\d+)?{re.escape(path.suffix)}")
        folder = path.absolute().parent
        files = sorted(file for file in folder.glob("*") if siblings.fullmatch(file.name)) if folder.is_dir() else []
        self.done = {video for file in files for video in self._read(file)}
        """Videos, by the name they were given, that have an answer."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115 (closed by close())
        self._drop_broken_line()

    def __enter__(self) -> "ResultLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, video: Path, content: Mapping[str, Any]) -> None:
        """Add a video's line; it is on the disk when this returns."""
        line = {"video": str(video), **content, "run": self._run}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")  # names need not be UTF-8
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, file: Path) -> list[str]:
        videos = []
        for number, text in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):  # the last has no end: not whole
            try:
                line = json.loads(text)
                video, run, has_failed = line["video"], dict(line["run"]), "error" in line
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file}, line {number}: not a line of run_model.py; choose another file") from None
            if run != self._run:
                key = next(key for key in {**run, **self._run} if run.get(key, "none") != self._run.get(key, "none"))
                raise InputError(
                    f"{file} was made with {key} {run.get(key)}, this run has {self._run.get(key)}; choose another "
                    "file, or delete it to start afresh"
                )
            if not has_failed:
                videos.append(video)
        return videos

    def _drop_broken_line(self) -> None:
        """Cut off what a run that was killed wrote of its last line. Raises InputError if that is no part of a line."""
        size = self._file.seek(0, os.SEEK_END)
        position = size
        while position and not self._ends_line(position):
            position -= 1
        self._file.seek(position)
        rest = self._file.read(len(_LINE_BEGIN))
        if not _LINE_BEGIN.startswith(rest):
            self._file.close()
            raise InputError(f"{self.path}: does not end in a line of run_model.py; choose another file")
        if position < size:
            self._file.truncate(position)

    def _ends_line(self, position: int) -> bool:
        self._file.seek(position - 1)
        return self._file.read(1) == b"\n"


def file_digest(path: Path) -> str:
    """Tells one model file from another: shortened SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
