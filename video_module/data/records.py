"""Read the videos of a data folder, from split.json if there is one, otherwise from file names and by decoding."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from video_module.data import hmdb51, ucf101
from video_module.data.labels import SPLITS, check_split_dir, find_videos, has_entries
from video_module.errors import InputError, VideoError
from video_module.files import read_text
from video_module.tables import pluralize

SPLIT_JSON = "split.json"
# A file is rejected as damaged if more than this share of its packets fail to decode.
_MAX_FAILED = 0.1
OFFICIAL = {"hmdb51": hmdb51, "ucf101": ucf101}
"""Protocols defined by the authors of data sets, and the modules that read their split files."""
_NUM_OFFICIAL_FOLDS = 3


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """One video of a data set. `path` is relative to the folder it was found in, with forward slashes."""

    path: str
    label: str
    source: str
    """The recording that the video was cut from."""
    num_frames: int
    """Number of frames that decode. 0 if the file was not decoded."""
    fps: float
    """Frames divided by duration."""
    split: str = ""
    num_damaged_frames: int = 0
    """Number of lost and of corrupt frames."""
    edges_s: tuple[float, ...] | None = None
    """Start of each frame and end of the last, in seconds; None if frame n is at n / fps."""
    has_times: bool = True
    """Whether the file states when its frames are shown. If not, a constant `fps` is assumed."""
    cut_from: str | None = None
    """The labelled file that the video is, or is a part of; None if it is from a folder of classes."""
    start_s: float | None = None
    end_s: float | None = None
    """Start and end in that file, in seconds; None if it is the whole file."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A file that is left out of a data set, and why."""

    path: str
    reason: str


SourceOf = Callable[[str, str], str]
"""(path of a video, its class) -> the recording it was cut from."""


def name_source(path: str, label: str) -> str:
    """Find the recording in a file name of HMDB51 or UCF101. For other names, the file is its own recording."""
    if parsed := hmdb51.parse_name(path, label):
        return parsed.source
    return ucf101.parse_source(path) or f"{label}/{Path(path).name}"


def has_own_source(video: VideoRecord) -> bool:
    """Return whether name_source() found no recording in the name, so that the file is its own."""
    return video.source == f"{video.label}/{Path(video.path).name}"


def regex_source(pattern: str) -> SourceOf:
    """Find recordings by a regular expression: its group `source`, else its first group, else the whole match."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group_regex '{pattern}': {error}") from None

    def source_of(path: str, label: str) -> str:
        name = Path(path).name
        match = compiled.search(name)
        if match is None:
            raise InputError(f"--group_regex '{pattern}' does not match the file name {name!r} of class {label!r}")
        source = match["source"] if "source" in compiled.groupindex else match[1 if compiled.groups else 0]
        if not source:
            raise InputError(f"--group_regex '{pattern}' gives an empty recording name for {name!r} of class {label!r}")
        return source

    return source_of


def groups_source(file: Path) -> SourceOf:
    """Find recordings in a CSV with columns `path` (`<class>/<file>`) and `source` or `source_video`."""
    reader = csv.DictReader(read_text(file).splitlines())
    columns = reader.fieldnames or []
    column = next((name for name in ("source", "source_video") if name in columns), None)
    if "path" not in columns or column is None:
        raise InputError(f"{file}: needs the columns path and source (or source_video), got {columns}")
    sources: dict[str, str] = {}
    for row in reader:
        if not row["path"] or not row[column]:
            raise InputError(f"{file}:{reader.line_num}: path or {column} is empty")
        path = row["path"].replace("\\", "/").removeprefix("./")
        if sources.setdefault(path, row[column]) != row[column]:
            raise InputError(f"{file}:{reader.line_num}: column {column} of {path} differs from an earlier row")

    def source_of(path: str, label: str) -> str:
        if path not in sources:
            raise InputError(f"{file}: no row for video {path!r}; add one, or move the file out of the folder")
        return sources[path]

    return source_of


class Probe(NamedTuple):
    """What decoding a whole video shows. The fields are those of VideoRecord."""

    num_frames: int
    fps: float
    num_damaged_frames: int
    edges_s: tuple[float, ...] | None
    has_times: bool


def probe_video(path: Path) -> Probe:
    """Decode a whole video. Raises VideoError with the reason if the file should be rejected."""
    from video_module.data.decoding import VideoReader

    reader = VideoReader(path)
    for _ in reader:
        pass
    if reader.num_frames == 0:
        raise reader.no_frame()
    if reader.num_failed > _MAX_FAILED * reader.num_packets:
        num_sound = reader.num_packets - reader.num_failed
        raise VideoError(f"{path}: damaged: only {num_sound} of {reader.num_packets} frames decode")
    edges_s = None if reader.edges_s is None else tuple(reader.edges_s.tolist())
    return Probe(reader.num_frames, reader.fps, reader.num_damaged, edges_s, reader.has_times)


def _read_records(
    folder: Path, found: Sequence[tuple[str, Path]], *, source_of: SourceOf, decode: bool, num_workers: int
) -> list[VideoRecord | Rejected]:
    """Read each (label, path) below `folder`. If `decode` is False, no file is opened."""
    names = [path.relative_to(folder).as_posix() for _, path in found]
    # First of all, because a missing recording ends the run, and decoding can take hours
    sources = [source_of(name, label) for name, (label, _) in zip(names, found, strict=True)]

    def read(name: str, label: str, source: str) -> VideoRecord | Rejected:
        try:
            probe = probe_video(folder / name) if decode else Probe(0, 0.0, 0, None, True)
        except VideoError as error:
            return Rejected(path=name, reason=str(error).removeprefix(f"{folder / name}: "))
        return VideoRecord(path=name, label=label, source=source, **probe._asdict())

    # Threads are enough, because decoding releases the interpreter lock
    with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:
        records = pool.map(read, names, [label for label, _ in found], sources)
        return list(tqdm(records, total=len(found), desc="decoding", unit="video", delay=0.5))


def scan(
    folder: Path,
    *,
    source_of: SourceOf = name_source,
    wanted: Callable[[str, str], bool] = lambda label, name: True,
    decode: bool = True,
    num_workers: int,
) -> tuple[list[VideoRecord], list[Rejected], int]:
    """Find the videos of a folder of classes and count their frames, unless `decode` is False.

    Videos for which `wanted(label, name)` is False are skipped. Returns the videos, the rejected files, and the number
    of skipped ones.
    """
    found = find_videos(folder)
    kept = [(label, path) for label, path in found if wanted(label, path.name)]
    records = _read_records(folder, kept, source_of=source_of, decode=decode, num_workers=num_workers)
    videos = [record for record in records if isinstance(record, VideoRecord)]
    rejected = [record for record in records if isinstance(record, Rejected)]
    return videos, rejected, len(found) - len(kept)


def describe_faults(videos: Sequence[VideoRecord]) -> list[str]:
    """Describe videos with lost frames or without timestamps."""
    sentences = []
    if damaged := [video for video in videos if video.num_damaged_frames]:
        num_frames = sum(video.num_damaged_frames for video in damaged)
        sentences.append(
            f"{pluralize(num_frames, 'frame')} of {pluralize(len(damaged), 'video')} lost or damaged "
            f"({damaged[0].path}, for example)"
        )
    if timeless := [video for video in videos if not video.has_times]:
        sentences.append(
            f"{pluralize(len(timeless), 'video')} without timestamps ({timeless[0].path}, for example); assuming "
            f"{timeless[0].fps:g} frames/s"
        )
    return sentences


def _read_split_json(folder: Path) -> dict[str, Any] | None:
    """Read the split.json of a data folder. None if there is none. Raises InputError if it is damaged."""
    file = folder / SPLIT_JSON
    if not file.is_file():
        return None
    try:
        content = json.loads(read_text(file))
        for key in ("videos", "digest"):
            content[key]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not a split.json of this project ({error!r}); move {folder} away, and rerun split_data.py"
        ) from None
    return content


def recorded_files(data_dir: Path) -> set[Path]:
    """Return the files that the split.json of a data folder lists."""
    content = _read_split_json(data_dir) or {"videos": []}
    return {data_dir / entry["path"] for entry in content["videos"]}


def find_folds(data_dir: Path) -> list[Path]:
    """Find the folders fold1, fold2, … of `data_dir` and check that they are from one split and complete.

    This is checked first, so that a run over all folds does not fail at the last one. Raises InputError naming the
    folder at fault.
    """
    found = [path for path in data_dir.glob("fold*") if path.name[len("fold") :].isdecimal() and path.is_dir()]
    folders = sorted(found, key=lambda path: int(path.name[len("fold") :]))
    if len(folders) < 2:
        is_official = (_read_split_json(data_dir) or {}).get("protocol") in OFFICIAL
        way = "--fold all" if is_official else "--num_folds 5"
        raise InputError(f"{data_dir}: no folders fold1, fold2, …; create them with split_data.py {way}")
    first = None
    for number, folder in enumerate(folders, start=1):
        if folder.name != f"fold{number}":
            raise InputError(f"{data_dir / f'fold{number}'}: missing, although {folder} is there; rerun split_data.py")
        content = _read_split_json(folder)
        if content is None:
            raise InputError(f"{folder}: not a split, because it has no {SPLIT_JSON}; rerun split_data.py")
        first = first or content
        is_same = all(content.get(key) == first.get(key) for key in ("protocol", "num_folds", "folds_digest"))
        if not is_same or content.get("fold") != number:
            raise InputError(f"{folder}: not from the same split as {folders[0]}; rerun split_data.py")
        for split in ("train", "test"):
            check_split_dir(folder / split)
            load_videos(folder / split, num_workers=1)
    if first.get("num_folds") not in (None, len(folders)):
        raise InputError(f"{data_dir}: has only {len(folders)} of {first['num_folds']} folds; rerun split_data.py")
    if first.get("protocol") in OFFICIAL and len(folders) < _NUM_OFFICIAL_FOLDS:
        print(
            f"note: {first['protocol']} has {_NUM_OFFICIAL_FOLDS} folds, of which {len(folders)} are here; published "
            f"numbers are means of {_NUM_OFFICIAL_FOLDS}"
        )
    return folders


def load_videos(split_dir: Path, *, num_workers: int, allow_none: bool = False) -> list[VideoRecord]:
    """Load the videos of a split folder, such as `data/test`, from the split.json above it.

    Files that are not listed there are decoded now. Paths are relative to `split_dir`. With `allow_none`, a folder that
    is empty and should be so according to split.json gives an empty list.

    Raises InputError if a listed video is missing, and VideoError if an unlisted one is broken, so that no video is
    left out silently.
    """
    recorded = _recorded(split_dir)
    if allow_none and not recorded and not has_entries(split_dir):
        return []
    found = {path.relative_to(split_dir).as_posix(): (label, path) for label, path in find_videos(split_dir)}
    if missing := sorted(set(recorded) - set(found)):
        raise InputError(
            f"{split_dir / missing[0]}: listed in {split_dir.parent / SPLIT_JSON} but missing ({len(missing)} missing "
            "in all); rerun split_data.py"
        )
    unknown = [found[name] for name in found if name not in recorded]
    probed = _read_records(split_dir, unknown, source_of=name_source, decode=True, num_workers=num_workers)
    if rejected := [record for record in probed if isinstance(record, Rejected)]:
        first, *others = rejected
        more = f"; {len(others)} more: {', '.join(record.path for record in others)}" if others else ""
        them = "them" if others else "it"
        raise VideoError(
            f"{split_dir / first.path}: {first.reason}{more}; delete or repair {them}, or write the folder with "
            f"split_data.py, which leaves {them} out"
        )
    videos = recorded | {video.path: video for video in probed}
    return [videos[name] for name in found]


def _recorded(split_dir: Path) -> dict[str, VideoRecord]:
    """Return the videos that the split.json above `split_dir` lists, by path within it."""
    split_dir = split_dir.absolute()
    content = _read_split_json(split_dir.parent) or {"videos": []}
    videos = {}
    for entry in content["videos"]:
        if entry["split"] == split_dir.name:
            name = entry["path"].removeprefix(f"{split_dir.name}/")
            known = {key: entry[key] for key in ("label", "source", "num_frames", "fps")}
            # Files of earlier versions do not have these keys
            known |= {key: entry[key] for key in ("num_damaged_frames", "edges_s", "has_times") if key in entry}
            if known.get("edges_s"):
                known["edges_s"] = tuple(known["edges_s"])
            videos[name] = VideoRecord(path=name, **known)
    return videos


def load_or_scan(
    folder: Path, *, source_of: SourceOf = name_source, decode: bool = True, num_workers: int
) -> tuple[list[VideoRecord], list[Rejected]]:
    """Read a split folder with load_videos(), any other folder of classes with scan()."""
    if folder.name in SPLITS and _read_split_json(folder.parent) is not None:
        return load_videos(folder, num_workers=num_workers), []
    videos, rejected, _ = scan(folder, source_of=source_of, decode=decode, num_workers=num_workers)
    return videos, rejected


def split_record(split_dir: Path, videos: Sequence[VideoRecord]) -> dict[str, Any] | None:
    """Return the split.json above `split_dir`, or None if `videos` are not exactly those that it lists."""
    if not videos or {video.path for video in videos} != set(_recorded(split_dir)):
        return None
    return _read_split_json(split_dir.absolute().parent)


def split_digest(split_dir: Path, videos: Sequence[VideoRecord]) -> str | None:
    """Return the digest of the split that `videos` belong to. None if split_record() is None."""
    record = split_record(split_dir, videos)
    return record["digest"] if record else None
