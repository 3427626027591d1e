"""Output files for many videos: one per video, one table for all, and a log from which a stopped run can continue."""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from video_module.errors import InputError
from video_module.files import check_output, file_key, lies_in, replacing
from video_module.inference.inputs import Inputs, Shard

_MOST_BYTES = 255
_LINE_BEGIN = b'{"video": "'


def plan_outputs(inputs: Inputs, options: Mapping[str, tuple[Path | None, str]]) -> dict[Path, dict[str, Path]]:
    """Decide where each video's files go. `options` maps each flag to its path, or None, and its files' suffix.

    For one video the paths are its files. For many they are folders, which mirror the folders below inputs.root.
    Raises InputError, before any work, if a file would replace one of the videos, or cannot be written.
    """
    options = {flag: (path, suffix) for flag, (path, suffix) in options.items() if path}
    videos = inputs.videos
    for flag, (path, suffix) in options.items():
        check_output(path, folder=inputs.root is not None)
        if suffix == ".mp4":
            _check_video_output(path, flag, inputs)
    # Absolute but not resolved, so that a link to a video keeps its own name and place.
    absolute = {video: Path(os.path.abspath(video)) for video in videos}  # noqa: PTH100
    stems = Counter(video.with_suffix("") for video in absolute.values())
    originals = {file_key(video) for video in videos}
    outputs: dict[Path, dict[str, Path]] = {}
    owner: dict[Path, Path] = {}
    for video in videos:
        outputs[video] = {}
        for flag, (path, suffix) in options.items():
            if inputs.root is not None:
                inside = absolute[video].relative_to(os.path.abspath(inputs.root))  # noqa: PTH100
                # A video a.mp4 gives a.json, unless a.avi lies beside it: then they give a.mp4.json and a.avi.json.
                is_alone = stems[absolute[video].with_suffix("")] == 1
                path /= inside.with_name(_fitting(inside.stem if is_alone else inside.name, suffix))
            if (other := owner.setdefault(path, video)) != video:
                raise InputError(f"--{flag}: {other} and {video} would both be written to {path}; rename one of them")
            if file_key(path) in originals:
                raise InputError(
                    f"--{flag}: {path} is one of the videos and would be overwritten; choose another place"
                )
            outputs[video][flag] = path
    return outputs


def _fitting(stem: str, suffix: str) -> str:
    """A file's name. If it is too long for file systems, the stem is cut and ends in a hash of the whole name."""
    name = os.fsencode(stem + suffix)
    if len(name) <= _MOST_BYTES:
        return stem + suffix
    end = f"-{hashlib.sha256(name).hexdigest()[:16]}{suffix}"
    return name[: _MOST_BYTES - len(end)].decode("utf-8", "ignore") + end


def _check_video_output(path: Path, flag: str, inputs: Inputs) -> None:
    if inputs.root is None:
        if path.suffix.lower() not in (".mp4", ".webp"):
            raise InputError(f"--{flag} {path}: annotated videos are written as .mp4, or .webp for pages and slides")
    elif any(lies_in(path, folder) for folder in inputs.folders):
        raise InputError(
            f"--{flag} {path}: is inside an input folder, so the next run would find its videos as inputs; choose "
            "another place"
        )


def check_log(path: Path, inputs: Inputs, *, flag: str = "save_jsonl") -> None:
    """Raise InputError, before any work, if --save_jsonl cannot be written, or would change one of the videos."""
    check_output(path)
    if file_key(path) in {file_key(video) for video in inputs.videos}:
        raise InputError(f"--{flag} {path}: is one of the videos; choose another name")


def check_annotations(path: Path, inputs: Inputs) -> None:
    """Raise InputError, before any work, if --save_annotations cannot be written, or would replace a table."""
    check_log(path, inputs, flag="save_annotations")
    # Other outputs can be made again. This one is meant to be corrected by hand.
    if path.exists():
        raise InputError(
            f"--save_annotations {path}: already exists and may contain corrections; move it, or choose another name"
        )


def name_in_table(video: Path, table: Path) -> str:
    """A video's path as written in a table: relative to the table's folder, with forward slashes."""
    video, folder = Path(os.path.abspath(video)), Path(os.path.abspath(table)).parent  # noqa: PTH100
    if video.is_relative_to(folder):
        return video.relative_to(folder).as_posix()
    try:
        # ".." goes up from where a folder really is, whichever links led to it.
        return Path(os.path.relpath(video, folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return video.as_posix()


def write_annotations(path: Path, answers: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> int:
    """Write the segments of videos to a table that can be corrected and passed to split_data.py --annotations.

    `answers` are pairs of a video's path, as written in the table, and the "segments" of its to_json(). Columns: path,
    start_s, end_s, label, score. Uncertain segments are left out. Returns the number of rows; if there are none, no
    file is written.
    """
    rows = [
        [name, f"{segment['start_s']:.3f}", f"{segment['end_s']:.3f}", segment["label"], f"{segment['score']:.3f}"]
        for name, segments in answers
        for segment in segments
        if not segment["is_uncertain"]
    ]
    if not rows:
        return 0
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["path", "start_s", "end_s", "label", "score"], *rows])
    # Without a byte order mark, Excel reads a file in the encoding of its country, and names of videos and classes
    # would be garbled once it saves the file.
    encoding = "utf-8" if buffer.getvalue().isascii() else "utf-8-sig"
    with replacing(path) as partial:
        partial.write_text(buffer.getvalue(), encoding=encoding, newline="")
    return len(rows)


class ResultLog:
    """A JSON Lines file with one line per finished video, from which an interrupted run can continue.

    Processes that share the work (Shard) write one file each, X-00000-of-00004.jsonl and so on. Videos whose line holds
    an error are tried again; if a video has two lines, the later one counts.
    """

    def __init__(self, path: Path, *, shard: Shard, run: Mapping[str, Any]) -> None:
        """`run` holds the settings that the answers depend on; it is part of each line.

        Raises InputError if a file of this name holds lines of a run with other settings, or other text.
        """
        self.path = shard.name(path)
        self._run = dict(run)
        folder = path.absolute().parent
        folder.mkdir(parents=True, exist_ok=True)
        # The files of all processes are read, so that a run can continue with another number of processes.
        of_this_name = re.compile(rf"{re.escape(path.stem)}(-\d+-of-\d+)?{re.escape(path.suffix)}")
        self._files = sorted(file for file in folder.iterdir() if of_this_name.fullmatch(file.name))
        self.done = {line["video"] for line in self._lines()}
        """The videos that have an answer, by their paths as given."""
        if self.path.is_file():
            self._drop_broken_line()
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> "ResultLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, video: Path, content: Mapping[str, Any]) -> None:
        """Add a video's line and wait until it is on disk."""
        line = {"video": str(video), **content, "run": self._run}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        # File names need not be valid UTF-8; bytes that are not are written as escapes.
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def answers(self) -> dict[str, list[dict[str, Any]]]:
        """The segments of the videos that had an answer when the log was opened."""
        return {line["video"]: line["segments"] for line in self._lines()}

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The lines of all files that hold an answer."""
        for file in self._files:
            # Anything after the last line break is an unfinished line.
            for number, text in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
                line = self._parse(text, f"{file}, line {number}", file)
                if "error" not in line:
                    yield line

    def _parse(self, text: bytes, where: str, file: Path) -> dict[str, Any]:
        try:
            line = json.loads(text)
            _, run = line["video"], dict(line["run"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{where}: not written by run_model.py; choose another file") from None
        if run != self._run:
            key = next(key for key in {**run, **self._run} if run.get(key, "none") != self._run.get(key, "none"))
            raise InputError(
                f"{file} was made with another {key.removesuffix('_digest')} ({run.get(key)}; this run: "
                f"{self._run.get(key)}); choose another file, or delete it to start over"
            )
        return line

    def _drop_broken_line(self) -> None:
        """Cut off an unfinished last line. Raises InputError if it does not begin like one of ours."""
        content = self.path.read_bytes()
        rest = content[content.rfind(b"\n") + 1 :]
        if not _LINE_BEGIN.startswith(rest[: len(_LINE_BEGIN)]):
            raise InputError(f"{self.path}: the last line was not written by run_model.py; choose another file")
        os.truncate(self.path, len(content) - len(rest))
