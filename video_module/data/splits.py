"""A folder of classes -> train/val/test by source, and split.json, the record of who is where and why."""

import csv
import hashlib
import json
import os
import random
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from video_module.config import LINKS
from video_module.data import hmdb51, ucf101
from video_module.data.audit import SharedSources, shared_sources
from video_module.data.decoding import VideoError, count_frames
from video_module.data.labels import OBJ_NAMES, SPLITS, find_videos, has_entries, is_system_file, write_class_names
from video_module.errors import InputError
from video_module.files import check_output as check_writable
from video_module.files import lies_in, read_text, replacing, write_json
from video_module.tables import pluralize

SPLIT_JSON = "split.json"
_OFFICIAL = {"hmdb51": hmdb51, "ucf101": ucf101}


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """One video of a data set. `path` is relative to the folder it was found in, with forward slashes."""

    path: str
    label: str
    source: str
    num_frames: int
    """Frames that decode, whatever the header claims."""
    fps: float
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """A finished assignment of videos to splits, ready to be written."""

    protocol: str
    fold: int | None
    seed: int
    fractions: dict[str, float]
    videos: list[VideoRecord]
    rejected: list[Rejected]
    notes: list[str]
    """What a user should know of it, in sentences."""
    shared: SharedSources
    """Between train with val, and test."""

    @property
    def class_names(self) -> list[str]:
        return sorted({video.label for video in self.videos})

    @property
    def leaks(self) -> int:
        """Sources on two sides, as the protocol counts them: the official ones forbid that within a class only."""
        within = self.shared.sources_within_class
        return within if self.protocol in _OFFICIAL else within + self.shared.sources_across_classes

    @property
    def digest(self) -> str:
        """Equal for two splits exactly if they put the same names on the same sides."""
        lines = sorted(f"{video.split}/{video.path}\n" for video in self.videos)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def of(self, split: str) -> list[VideoRecord]:
        return [video for video in self.videos if video.split == split]

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "fold": self.fold,
            "seed": self.seed,
            "fractions": self.fractions,
            "counts": {split: len(self.of(split)) for split in SPLITS},
            "num_sources": len({video.source for video in self.videos}),
            "leaks": self.leaks,
            "videos": [
                {**asdict(video), "path": f"{video.split}/{video.path}"}
                for video in sorted(self.videos, key=lambda video: (SPLITS.index(video.split), video.path))
            ],
            "rejected": [asdict(item) for item in self.rejected],
            "digest": self.digest,
        }


def probe_video(path: Path) -> tuple[int, float]:
    """(frames that decode, frames per second). Raises VideoError with the reason to set the file aside."""
    num_frames, info = count_frames(path)
    if num_frames == 0:
        raise VideoError(f"{path}: no frame decodes")
    if info.header_num_frames > 10 and num_frames < 0.9 * info.header_num_frames:
        raise VideoError(f"{path}: only {num_frames} of {info.header_num_frames} frames decode")
    return num_frames, info.fps


def probe_videos(paths: Sequence[Path], *, num_workers: int) -> list[tuple[int, float] | VideoError]:
    """probe_video() of many files at once, with a bar; a file's error stands in its place."""

    def probe(path: Path) -> tuple[int, float] | VideoError:
        try:
            return probe_video(path)
        except VideoError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, num_workers)) as pool:  # decoding releases the interpreter lock
        return list(tqdm(pool.map(probe, paths), total=len(paths), desc="probing", unit="video", delay=0.5))


def name_source(name: str, label: str) -> str:
    """The source that a file name tells: HMDB51's film, UCF101's group, else the file itself."""
    if parsed := hmdb51.parse_name(name, label):
        return parsed.source
    return ucf101.parse_source(name) or f"{label}/{name}"


def stands_alone(video: VideoRecord) -> bool:
    """Whether name_source() found no source in its name."""
    return video.source == f"{video.label}/{Path(video.path).name}"


def regex_source(pattern: str) -> Callable[[str, str], str]:
    """A source reader from a regular expression: its group `source`, else its first group, else the whole match."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group_regex '{pattern}': {error}") from None

    def source_of(name: str, label: str) -> str:
        match = compiled.search(name)
        if match is None:
            raise InputError(f"--group_regex '{pattern}' does not match the file name {name!r} of class {label!r}")
        source = match["source"] if "source" in compiled.groupindex else match[1 if compiled.groups else 0]
        if not source:
            raise InputError(f"--group_regex '{pattern}' gives an empty source for {name!r} of class {label!r}")
        return source

    return source_of


def read_groups(file: Path) -> dict[str, str]:
    """Read a CSV with columns `path` (`<class>/<file>`) and `source` or `source_video` into {path: source}."""
    reader = csv.DictReader(read_text(file).splitlines())
    columns = reader.fieldnames or []
    column = next((name for name in ("source", "source_video") if name in columns), None)
    if "path" not in columns or column is None:
        raise InputError(f"{file}: needs the columns path and source (or source_video), got {columns}")
    groups: dict[str, str] = {}
    for row in reader:
        if not row["path"] or not row[column]:
            raise InputError(f"{file}:{reader.line_num}: path or {column} is empty")
        path = row["path"].replace("\\", "/").removeprefix("./")
        if groups.setdefault(path, row[column]) != row[column]:
            raise InputError(f"{file}:{reader.line_num}: {path} has another source above")
    return groups


def scan(
    input_dir: Path,
    *,
    groups: dict[str, str] | None = None,
    source_of: Callable[[str, str], str] = name_source,
    wanted: Callable[[str, str], bool] = lambda label, name: True,
    num_workers: int,
) -> tuple[list[VideoRecord], list[Rejected], int]:
    """Find the videos of a folder of classes and probe each.

    `groups` gives sources by path and wins over `source_of(name, label)`. Videos that are not `wanted(label, name)` are
    passed over. Returns the sound videos, the rejected ones, and the number passed over.
    """
    found = find_videos(input_dir)
    kept = [(label, path) for label, path in found if wanted(label, path.name)]
    names = [path.relative_to(input_dir).as_posix() for _, path in kept]
    if groups is not None and (missing := [name for name in names if name not in groups]):
        raise InputError(f"{len(missing)} of {len(names)} videos are not in the groups file, {missing[0]!r} among them")
    sources = [
        groups[name] if groups is not None else source_of(path.name, label)
        for name, (label, path) in zip(names, kept, strict=True)
    ]
    videos, rejected = [], []
    for name, (label, path), source, probed in zip(
        names, kept, sources, probe_videos([path for _, path in kept], num_workers=num_workers), strict=True
    ):
        if isinstance(probed, VideoError):
            rejected.append(Rejected(path=name, reason=str(probed).removeprefix(f"{path}: ")))
        else:
            num_frames, fps = probed
            videos.append(VideoRecord(path=name, label=label, source=source, num_frames=num_frames, fps=fps))
    return videos, rejected, len(found) - len(kept)


def assign_sources(videos: Iterable[VideoRecord], fractions: dict[str, float], *, seed: int) -> dict[str, str]:
    """Put each source, with all its videos, into one split, so that every class nears its `fractions` there.

    Greedy: sources from the largest to the smallest (the seed orders equals), each to the split that it brings
    nearest to its wanted counts, in shares of what that split wants. Every class gets into train. Returns
    {source: split}.
    """
    clips: dict[str, Counter[str]] = defaultdict(Counter)
    for video in videos:
        clips[video.source][video.label] += 1
    totals: Counter[str] = sum(clips.values(), Counter())
    order = sorted(clips)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda source: -clips[source].total())
    last_place = {label: place for place, source in enumerate(order) for label in clips[source]}
    have = {split: Counter() for split in fractions}
    assignment = {}
    for place, source in enumerate(order):

        def cost(split: str, source: str = source) -> float:
            return sum(
                (2 * count * have[split][label] + count**2) / (fractions[split] * totals[label]) - 2 * count
                for label, count in clips[source].items()
            )

        best = min((split for split in fractions if fractions[split] > 0), key=cost)
        if any(last_place[label] == place and not have["train"][label] for label in clips[source]):
            best = "train"  # the last chance of a class to be trained at all
        have[best].update(clips[source])
        assignment[source] = best
    return assignment


def split_grouped(
    videos: Sequence[VideoRecord],
    rejected: Sequence[Rejected],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Split:
    """Split by source; the fractions are of all videos."""
    if val_fraction + test_fraction >= 1:
        raise InputError(f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train on")
    fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    fractions = {split: round(share, 6) for split, share in fractions.items()}
    assignment = assign_sources(videos, fractions, seed=seed)
    placed = [replace(video, split=assignment[video.source]) for video in videos]
    return _finish("grouped", None, seed, fractions, placed, rejected, [])


def read_official(protocol: str, splits_dir: Path, fold: int) -> dict[tuple[str, str], str]:
    """Read the split files of a protocol: {(label, file name): "train" or "test"}."""
    if not splits_dir.is_dir():
        raise InputError(f"{splits_dir}: no such folder; --splits_dir is the folder of the official split files")
    return _OFFICIAL[protocol].read_official_split(splits_dir, fold)


def split_official(
    videos: Sequence[VideoRecord],
    rejected: Sequence[Rejected],
    official: dict[tuple[str, str], str],
    *,
    protocol: str,
    fold: int,
    val_fraction: float,
    seed: int,
) -> Split:
    """Split as the data set's authors do; validation is carved out of their train side by source.

    So the test videos never choose a checkpoint. `val_fraction` is of the official train side. Videos that the fold
    does not use are left out.
    """
    placed = []
    for video in videos:
        side = official.get((video.label, Path(video.path).name))
        if side is not None:
            placed.append(replace(video, split=side))
    if not placed:
        raise InputError(f"none of the {len(videos)} videos is named in fold {fold} of {protocol}")
    fractions = {"train": round(1 - val_fraction, 6), "val": val_fraction}
    train_side = [video for video in placed if video.split == "train"]
    assignment = assign_sources(train_side, fractions, seed=seed)
    placed = [video if video.split == "test" else replace(video, split=assignment[video.source]) for video in placed]
    present = {(video.label, Path(video.path).name) for video in videos}
    notes = []
    for side in ("train", "test"):
        listed = [key for key, value in official.items() if value == side]
        if missing := sorted(key for key in listed if key not in present):
            label, name = missing[0]
            notes.append(
                f"{len(missing)} of the {len(listed)} {side} videos of {protocol} fold {fold} are missing or rejected, "
                f"{label}/{name} among them"
            )
    return _finish(protocol, fold, seed, fractions, placed, rejected, notes)


def _finish(
    protocol: str,
    fold: int | None,
    seed: int,
    fractions: dict[str, float],
    videos: list[VideoRecord],
    rejected: Sequence[Rejected],
    notes: list[str],
) -> Split:
    labels = sorted({video.label for video in videos})
    if len(labels) < 2:
        raise InputError(f"a classifier needs at least two classes with videos that decode, found {labels}")
    for split in SPLITS:
        present = {video.label for video in videos if video.split == split}
        if lacking := [label for label in labels if label not in present]:
            if split == "train":
                raise InputError(f"class {lacking[0]!r} has no video left to train on")
            if fractions.get(split, 1):
                # val is carved out by source, whoever made the fold
                few = "none in the fold" if protocol in _OFFICIAL and split == "test" else "too few sources"
                notes.append(
                    f"{split} has no video of {pluralize(len(lacking), 'class')} ({few}): {', '.join(lacking[:5])}"
                    + (
                        f"; that takes more recordings, or a larger --{split}_fraction"
                        if few == "too few sources"
                        else ""
                    )
                )
    sides = [
        [(video.label, video.source) for video in videos if (video.split == "test") == is_test]
        for is_test in (False, True)
    ]
    return Split(
        protocol=protocol,
        fold=fold,
        seed=seed,
        fractions=fractions,
        videos=videos,
        rejected=list(rejected),
        notes=notes,
        shared=shared_sources(*sides),
    )


def check_output(input_dir: Path, output_dir: Path) -> None:
    """Raise InputError unless a split of `input_dir` may be written to `output_dir`: nothing of others is replaced."""
    if output_dir.is_symlink() and not output_dir.exists():
        raise InputError(f"{output_dir}: a link to {output_dir.readlink()}, which is not there")
    check_writable(output_dir, folder=True)
    if lies_in(output_dir, input_dir) and lies_in(input_dir, output_dir):
        raise InputError(f"{output_dir}: the folder of the videos itself; choose another --output_dir")
    if lies_in(output_dir, input_dir) or lies_in(input_dir, output_dir):
        raise InputError(f"{output_dir}: {input_dir} and the output must lie apart; choose another --output_dir")
    found = output_dir.iterdir() if output_dir.is_dir() else ()
    entries = {entry.name for entry in found if not is_system_file(entry)}
    if entries and SPLIT_JSON not in entries:
        raise InputError(f"{output_dir}: not empty, and not written by split_data.py; choose another folder")
    if others := sorted(entries - {*SPLITS, OBJ_NAMES, SPLIT_JSON}):
        raise InputError(f"{output_dir}: holds {others[0]} beside an earlier split; move it away first")


def write_split(split: Split, input_dir: Path, output_dir: Path, *, link: str) -> int:
    """Lay the split out as `<output_dir>/{train,val,test}/<class>/<file>` with obj.names and split.json.

    The folder appears whole or not at all, and replaces an earlier split; any other folder is refused. Returns how
    many files had to be copied because linking them failed.
    """
    if link not in LINKS:
        raise ValueError(f"link must be one of {LINKS}, got {link!r}")
    check_output(input_dir, output_dir)
    num_copied = 0
    with replacing(output_dir) as partial:
        for video in split.videos:
            target = partial / video.split / video.path
            target.parent.mkdir(parents=True, exist_ok=True)
            num_copied += not _place((input_dir / video.path).resolve(), target, link)
        for name in SPLITS:
            (partial / name).mkdir(exist_ok=True)
        write_class_names(partial / OBJ_NAMES, split.class_names)
        write_json(partial / SPLIT_JSON, split.to_json())
    return num_copied if link != "copy" else 0


def _place(source: Path, target: Path, link: str) -> bool:
    """Link or copy a file; False where it was copied."""
    try:
        if link == "hard":
            os.link(source, target)
            return True
        if link == "sym":
            target.symlink_to(source)
            return True
    except OSError:
        pass  # another file system, or one without links
    shutil.copy2(source, target)
    return False


def read_split_json(folder: Path) -> dict[str, Any] | None:
    """The split.json of a data folder, None where it has none. Raises InputError if it is damaged."""
    file = folder / SPLIT_JSON
    if not file.is_file():
        return None
    try:
        content = json.loads(read_text(file))
        for key in ("videos", "digest"):
            content[key]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a split.json of this project ({error!r}); rerun split_data.py") from None
    return content


def load_videos(split_dir: Path, *, num_workers: int, allow_none: bool = False) -> list[VideoRecord]:
    """The videos of one split folder, such as `data/test`, with what split.json above it says of them.

    Files that no split.json knows are probed now. Paths are relative to `split_dir`. Raises InputError if a video that
    split.json lists is missing, or if a probed one is broken: no video is left out in silence. `allow_none` makes a
    folder without videos that split.json expects no video in an empty list.
    """
    recorded = _recorded(split_dir)
    if allow_none and not recorded and not has_entries(split_dir):
        return []
    found = find_videos(split_dir)
    names = [path.relative_to(split_dir).as_posix() for _, path in found]
    if missing := sorted(set(recorded) - set(names)):
        raise InputError(
            f"{split_dir / missing[0]}: listed in {split_dir.parent / SPLIT_JSON} but not there "
            f"({len(missing)} videos are missing); rerun split_data.py"
        )
    unknown = [name for name in names if name not in recorded]
    probed = probe_videos([split_dir / name for name in unknown], num_workers=num_workers)
    for outcome in probed:
        if isinstance(outcome, VideoError):
            raise outcome
    measured = dict(zip(unknown, probed, strict=True))
    videos = []
    for (label, path), name in zip(found, names, strict=True):
        if entry := recorded.get(name):
            num_frames, fps, source = entry["num_frames"], entry["fps"], entry["source"]
        else:
            (num_frames, fps), source = measured[name], name_source(path.name, label)
        videos.append(VideoRecord(path=name, label=label, source=source, num_frames=num_frames, fps=fps))
    return videos


def _recorded(split_dir: Path) -> dict[str, dict[str, Any]]:
    """What the split.json above `split_dir` says of its videos, by path within it."""
    split_dir = split_dir.absolute()
    split_json = read_split_json(split_dir.parent)
    entries = split_json["videos"] if split_json else []
    prefix = f"{split_dir.name}/"
    return {entry["path"].removeprefix(prefix): entry for entry in entries if entry["split"] == split_dir.name}


def split_record(split_dir: Path, videos: Sequence[VideoRecord]) -> dict[str, Any] | None:
    """The split.json that these videos of `split_dir` are a side of; None if they are not just those it lists."""
    if not videos or {video.path for video in videos} != set(_recorded(split_dir)):
        return None
    return read_split_json(split_dir.absolute().parent)


def split_digest(split_dir: Path, videos: Sequence[VideoRecord]) -> str | None:
    """The digest of the split that these videos of `split_dir` are a side of, None as split_record()."""
    record = split_record(split_dir, videos)
    return record["digest"] if record else None


def is_official(protocol: str | None) -> bool:
    """Whether the split is the data set's authors' own."""
    return protocol in _OFFICIAL
