"""Find what two splits share: recordings, file names and content. Nothing on disk is changed."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from video_module.data.labels import SPLITS, has_entries, is_split_tree
from video_module.data.records import (
    OFFICIAL,
    SPLIT_JSON,
    Rejected,
    SourceOf,
    VideoRecord,
    has_own_source,
    load_or_scan,
)
from video_module.errors import InputError
from video_module.tables import pluralize

# ---- recordings shared by two splits


@dataclass(frozen=True, kw_only=True)
class SharedSources:
    """Recordings (sources) that are in both train and test, and the test clips cut from them."""

    sources_within_class: int
    test_clips_within_class: int
    """Test clips whose recording is in train under the same class."""
    sources_across_classes: int
    test_clips_across_classes: int
    """Test clips whose recording is in train, but only under other classes."""

    def __str__(self) -> str:
        return (
            f"{self.sources_within_class} within a class ({pluralize(self.test_clips_within_class, 'test video')}), "
            f"{self.sources_across_classes} across classes ({pluralize(self.test_clips_across_classes, 'test video')})"
        )


def shared_sources(train: Iterable[VideoRecord], test: Iterable[VideoRecord]) -> SharedSources:
    """Count the recordings that train and test share and their test clips, within a class and across classes."""
    train_labels: dict[str, set[str]] = defaultdict(set)
    for video in train:
        train_labels[video.source].add(video.label)
    shared = [video for video in test if video.source in train_labels]
    within = [video.source for video in shared if video.label in train_labels[video.source]]
    across = [video.source for video in shared if video.label not in train_labels[video.source]]
    return SharedSources(
        sources_within_class=len(set(within)),
        test_clips_within_class=len(within),
        sources_across_classes=len(set(across)),
        test_clips_across_classes=len(across),
    )


def sources_known(videos: Iterable[VideoRecord]) -> bool:
    """Return whether recordings are known. If not, each file counts as its own, so none can be shared."""
    return not all(map(has_own_source, videos))


# ---- overlap of a test set with a model's training videos, from hashes in the model file

# With eleven digits, the hashes of HMDB51's 3,570 training clips take less than 60 kB, and a false match with any of
# 1,530 test clips happens once in three million test sets. Files of format version 1 have twelve-digit hashes of the
# file name without the class, so the length tells the two kinds apart.
_CLIP_DIGITS, _NAME_DIGITS = 11, 12


def hash_source(source: str) -> str:
    """Return the hash of a recording's name that model files store."""
    return _hash(source, 16)


def hash_clip(path: str) -> str:
    """Return the hash of a video `<class>/…/<file>` that model files store: of its class and its name without suffix.

    The class is included because many data sets number the files of each class from 1.
    """
    label, *below = PurePosixPath(path).parts
    assert below, f"{path}: not <class>/<file>"
    return _hash(f"{label}/{PurePosixPath(path).stem}", _CLIP_DIGITS)


def _hash(text: str, num_digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:num_digits]


@dataclass(frozen=True, kw_only=True)
class TrainOverlap:
    """What a test set shares with the train and val splits of a model."""

    num_sources: int
    num_videos: int
    """Test videos of the shared recordings."""
    num_clips: int | None
    """Test videos that are themselves in train or val, by class and file name; None if the model file lacks them."""
    by_name_alone: bool
    """Whether the model file records file names without classes (format version 1). If so, num_clips may count videos
    of another class that only have the same name as a training video."""
    is_leak: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        splits = "the model's train and val splits"
        if self.num_clips and not self.num_sources and self.by_name_alone:
            return (
                f"{self.num_clips} test videos have the same file names as videos in {splits}; they may be different "
                "videos, because this older model file does not record classes"
            )
        if self.num_clips and not self.num_sources:
            return f"{self.num_clips} test videos are also in {splits} (same class and file name)"
        come = "comes" if self.num_videos == 1 else "come"
        recordings = pluralize(self.num_sources, "recording")
        text = f"{pluralize(self.num_videos, 'test video')} {come} from {recordings} in {splits}"
        if self.num_clips is None:
            return text
        return f"{text}; the model was trained or validated on {self.num_clips} of them"


def train_overlap(
    videos: Sequence[VideoRecord],
    *,
    train_sources: Collection[str],
    train_clips: Collection[str],
    protocol: str | None,
    namesakes: Collection[str] = (),
) -> TrainOverlap | None:
    """Compare a test set with the hashes in a model file. Returns None if the file has none.

    A shared clip is a leak, even if two splits assign it to different recordings. A match by file name alone is a leak
    only in official folds, because elsewhere "0001.mp4" of two classes would match. A shared recording is a leak except
    in official folds, which share recordings between train and test across classes.

    `namesakes` are clip hashes to ignore. If the test set belongs to the split that the model was trained on, they are
    those of the other sides: in one split, files with the same class and name in two folders are different videos.
    """
    if not train_sources:
        return None
    known_sources, known_clips = set(train_sources), set(train_clips)
    counted_clips = known_clips - set(namesakes)
    by_name_alone = any(len(clip) == _NAME_DIGITS for clip in known_clips)
    shared = [video.source for video in videos if hash_source(video.source) in known_sources]
    hashes = [
        _hash(PurePosixPath(video.path).stem, _NAME_DIGITS) if by_name_alone else hash_clip(video.path)
        for video in videos
    ]
    num_clips = sum(clip in counted_clips for clip in hashes)
    if protocol in OFFICIAL:
        is_leak = num_clips > 0
    else:
        is_leak = bool(shared) or (num_clips > 0 and not by_name_alone)
    return TrainOverlap(
        num_sources=len(set(shared)),
        num_videos=len(shared),
        num_clips=num_clips if known_clips else None,
        by_name_alone=by_name_alone,
        is_leak=is_leak,
    )


# ---- by content: copies under other names

# Positions of the hashed frames, as fractions of the length. Many videos begin and end with similar black frames.
_PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)
# Frames are shrunk to _SIDE x _SIDE, and the _SCALES x _SCALES lowest frequencies of the cosine transform are kept.
_SIDE, _SCALES = 64, 16
NUM_BITS = len(_PLACES) * (_SCALES**2 - 1)
# Two videos with at most this share of differing bits are reported as copies. Measured on copies of 30 surveillance
# clips: it finds all that were encoded at a much lower bit rate (largest distance 0.04) or at half the size (0.07), 27
# that lost their first 5 %, and 21 that lost 10 %. It also reports 17 of 44,850 pairs of different clips, in which a
# still camera films the same scene twice.
MAX_DISTANCE = 0.10
# Videos compared at once with all others. For HMDB51's 6,766 clips, their distances take 28 MB.
_BLOCK = 1024


def fingerprint(path: Path, num_frames: int) -> np.ndarray:
    """Compute a perceptual hash of five frames of a video, bool (NUM_BITS,).

    As in pHash, a bit says whether a low-frequency coefficient of a frame's cosine transform is above the median of
    them. Copies that were renamed, re-encoded or resized differ in few bits, other videos (and mirrored copies) in
    about half. Raises VideoError if fewer than `num_frames` decode.
    """

    from video_module.data.decoding import read_frames

    def shrink(frame: np.ndarray) -> np.ndarray:
        return cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)

    frames = read_frames(path, [int(place * num_frames) for place in _PLACES], per_frame=shrink, num_frames=num_frames)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames]
    waves = [cv2.dct(grey)[:_SCALES, :_SCALES].ravel()[1:] for grey in greys]
    return np.concatenate([wave > np.median(wave) for wave in waves])


class _NearPair(NamedTuple):
    """The indices of two videos, and the share of bits in which they differ."""

    first: int
    second: int
    distance: float


def near_pairs(first: np.ndarray, second: np.ndarray | None = None) -> list[_NearPair]:
    """Find all pairs of fingerprints at most MAX_DISTANCE apart, nearest first; within `first` if `second` is None."""
    within = second is None
    second = first if within else second
    assert first.shape[1] == second.shape[1], f"hashes of {first.shape[1]} and {second.shape[1]} bits"
    # With bits as 1 and -1, the product of two rows is the number of equal bits minus that of differing ones. So one
    # matrix product gives all distances of a block.
    signs = [2 * bits.astype(np.float32) - 1 for bits in (first, second)]
    pairs = []
    for top in range(0, len(first), _BLOCK):
        distances = (1 - signs[0][top : top + _BLOCK] @ signs[1].T / first.shape[1]) / 2
        for row, column in zip(*np.nonzero(distances <= MAX_DISTANCE + 1e-6), strict=True):
            if not within or top + row < column:
                pairs.append(_NearPair(int(top + row), int(column), round(float(distances[row, column]), 4)))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second))


# ---- the audit of folders


@dataclass(kw_only=True)
class _Side:
    """A folder of classes to compare."""

    name: str
    root: Path
    videos: list[VideoRecord]
    fingerprints: np.ndarray | None = None
    """bool (num_videos, NUM_BITS); None if content is not compared."""


def audit(
    paths: Sequence[Path],
    *,
    source_of: SourceOf,
    content: bool,
    val_fraction: float,
    test_fraction: float,
    num_workers: int,
) -> dict[str, Any]:
    """Compare every pair of the sides that `paths` name.

    For a single folder of classes, estimate instead what a random split of it would leak, and find near-identical
    videos in it.
    """
    sides, rejected = _read_sides(paths, source_of=source_of, decode=content, num_workers=num_workers)
    if content:
        for side in sides:
            side.fingerprints = _read_fingerprints(side, num_workers=num_workers)
    report: dict[str, Any] = {
        "rejected": [asdict(item) for item in rejected],
        "comparisons": [_compare(first, second) for number, second in enumerate(sides) for first in sides[:number]],
    }
    if test := next((side for side in sides if side.name == "test" and len(sides) > 1), None):
        rest = [video for side in sides if side is not test for video in side.videos]
        report["test"] = {
            "num_videos": len(test.videos),
            "sources": asdict(shared_sources(rest, test.videos)),
            "sources_known": sources_known(rest + test.videos),
        }
    if len(sides) == 1:
        [side] = sides
        report["random_split"] = random_split_leak(side.videos, val_fraction=val_fraction, test_fraction=test_fraction)
        report["near_identical"] = _near_identical(side)
    return report


def _read_sides(
    paths: Sequence[Path], *, source_of: SourceOf, decode: bool, num_workers: int
) -> tuple[list[_Side], list[Rejected]]:
    """Read the sides to compare. Returns them and the files that do not decode.

    `paths` is either one output of split_data.py (or its split.json), whose splits are the sides, or one or two folders
    of classes. Recordings come from split.json if there is one, otherwise from `source_of`.
    """
    root = paths[0].parent if paths[0].name == SPLIT_JSON else paths[0]
    folders = {path.as_posix(): path for path in paths}
    if len(paths) == 1 and is_split_tree(root):
        folders = {split: root / split for split in SPLITS if has_entries(root / split)}
    elif len(folders) != len(paths):
        raise InputError(f"{paths[0]}: given twice; --audit compares two folders, or the splits of one")
    sides, rejected = [], []
    for name, folder in folders.items():
        videos, broken = load_or_scan(folder, source_of=source_of, decode=decode, num_workers=num_workers)
        rejected += broken
        sides.append(_Side(name=name, root=folder, videos=videos))
    return sides, rejected


def _read_fingerprints(side: _Side, *, num_workers: int) -> np.ndarray:
    def read(video: VideoRecord) -> np.ndarray:
        return fingerprint(side.root / video.path, video.num_frames)

    with ThreadPoolExecutor(num_workers) as pool:
        bits = list(tqdm(pool.map(read, side.videos), total=len(side.videos), desc=side.name, unit="video"))
    return np.array(bits, dtype=bool).reshape(len(side.videos), NUM_BITS)


def _compare(first: _Side, second: _Side) -> dict[str, Any]:
    """Describe what `second` shares with `first`: recordings, file names and near-identical videos."""
    labels: dict[str, set[str]] = defaultdict(set)
    for video in first.videos:
        labels[PurePosixPath(video.path).stem].add(video.label)
    same_name = Counter(
        "within_class" if video.label in labels[name] else "across_classes"
        for video in second.videos
        if (name := PurePosixPath(video.path).stem) in labels
    )
    return {
        "first": first.name,
        "second": second.name,
        "num_videos": [len(first.videos), len(second.videos)],
        "sources": asdict(shared_sources(first.videos, second.videos)),
        "sources_known": sources_known(first.videos + second.videos),
        "same_name": {key: same_name[key] for key in ("within_class", "across_classes")},
        "near_identical": _near_identical(first, second),
    }


def _near_identical(first: _Side, second: _Side | None = None) -> list[dict[str, Any]] | None:
    """Describe the near pairs of two sides, or within one. None if content is not compared."""
    if first.fingerprints is None:
        return None
    found = []
    for pair in near_pairs(first.fingerprints, second.fingerprints if second else None):
        one, other = first.videos[pair.first], (second or first).videos[pair.second]
        found.append(
            {
                "first": one.path,
                "second": other.path,
                "distance": pair.distance,
                "same_class": one.label == other.label,
                "same_source": one.source == other.source,
            }
        )
    return found


# Number of random splits to average.
_NUM_DRAWS = 100


def random_split_leak(
    videos: Sequence[VideoRecord], *, val_fraction: float = 0.2, test_fraction: float = 0.1
) -> dict[str, Any] | None:
    """Estimate what splitting video by video at random would leak, as the mean of a hundred random splits.

    Returns the share of test videos whose recording is in train or val under the same class, and under any class. Each
    class with two or more videos has at least one in test and one elsewhere. Returns None if no class has two videos or
    `test_fraction` is 0.
    """
    most = max(Counter(video.label for video in videos).values(), default=0)
    if most < 2 or test_fraction == 0:
        return None
    labels = np.array([video.label for video in videos])
    _, sources = np.unique([video.source for video in videos], return_inverse=True)
    _, pairs = np.unique([f"{video.label}/{video.source}" for video in videos], return_inverse=True)
    within, anywhere = [], []
    for seed in range(_NUM_DRAWS):
        rng = np.random.default_rng(seed)
        is_test = np.zeros(len(videos), bool)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            num_test = min(max(1, round(test_fraction * len(members))), len(members) - 1)
            is_test[members[:num_test]] = True
        within.append(np.isin(pairs[is_test], pairs[~is_test]).mean())
        anywhere.append(np.isin(sources[is_test], sources[~is_test]).mean())
    return {
        "fractions": {"train": round(1 - val_fraction - test_fraction, 6), "val": val_fraction, "test": test_fraction},
        "num_draws": _NUM_DRAWS,
        "num_videos": len(videos),
        "num_sources": int(sources.max()) + 1,
        "sources_known": sources_known(videos),
        "test_share_within_class": float(np.mean(within)),
        "test_share_any_class": float(np.mean(anywhere)),
    }
