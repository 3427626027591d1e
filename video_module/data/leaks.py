"""Find what two sides of an experiment share: by source, by file name, and by content. Nothing is changed."""

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

# ---- two splits, by source


@dataclass(frozen=True, kw_only=True)
class SharedSources:
    """What a train and a test side share. A clip counts when its source stands on the train side."""

    sources_within_class: int
    test_clips_within_class: int
    """Test clips whose source is in train under the same class."""
    sources_across_classes: int
    test_clips_across_classes: int
    """Test clips whose source is in train under another class, and not under their own."""

    def __str__(self) -> str:
        return (
            f"{self.sources_within_class} within a class ({pluralize(self.test_clips_within_class, 'test video')}), "
            f"{self.sources_across_classes} across classes ({pluralize(self.test_clips_across_classes, 'test video')})"
        )


def shared_sources(train: Iterable[VideoRecord], test: Iterable[VideoRecord]) -> SharedSources:
    """Count the sources that two sides share, and the test clips of them, within a class and across classes."""
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
    """Whether the recordings are known. If not, each file counts as its own recording, and nothing is ever shared."""
    return not all(map(has_own_source, videos))


# ---- a test set and what a model was trained on, by the hashes in the model's file

# Eleven digits keep HMDB51's 3,570 clips below 60 kB, and let one of 1,530 others pass for one of them once in three
# million test sets. Files of format version 1 hold twelve digits of the file name alone, without its class: so the
# length tells the two kinds of hashes apart, wherever they are copied to.
_CLIP_DIGITS, _NAME_DIGITS = 11, 12


def hash_source(source: str) -> str:
    """A source as model files record it."""
    return _hash(source, 16)


def hash_clip(path: str) -> str:
    """A video, `<class>/…/<file>`, as model files record it: by its class and its name without the suffix.

    The class is part of it because many data sets number the files of each class from 1.
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
    """Test videos of the shared sources."""
    num_clips: int | None
    """Test videos that were themselves trained on, by class and file name; None where the model file does not record
    them."""
    by_name_alone: bool
    """Whether the model file, of format version 1, records file names without classes: then num_clips may count a
    video of another class that merely has the name of a training video."""
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
    """Compare a test set with the hashes that a model file records; None where it records nothing.

    A shared clip is a leak wherever it comes from: two splits may give it two sources. By its name alone, which
    "0001.mp4" of two classes would share, it counts in official folds only. A shared source is a leak but in official
    folds, which share sources between train and test across classes. `namesakes` are hashes that do not count: those of
    the other sides, where the test set is a side of the very split that the model was trained on. In one split, two
    files of one class and name (in two folders) are two videos.
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

# Of a video's length, the ends left out: black frames there are alike in many videos.
_PLACES = (0.1, 0.3, 0.5, 0.7, 0.9)
# A frame is shrunk to _SIDE x _SIDE, and its _SCALES x _SCALES coarsest cosine waves are kept.
_SIDE, _SCALES = 64, 16
NUM_BITS = len(_PLACES) * (_SCALES**2 - 1)
# Share of differing bits up to which two videos pass for copies. Of 30 surveillance clips, all copies came within it
# that were encoded at a far lower rate (largest 0.04) or at half the size (0.07), 27 that lost their first 5 %, and 21
# that lost 10 %. Of 44,850 pairs of different clips 17 come as near: a still camera that films one scene twice, which
# is worth knowing as well.
MAX_DISTANCE = 0.10
# Rows compared at once: 28 MB of distances against HMDB51's 6,766 clips.
_BLOCK = 1024


def fingerprint(path: Path, num_frames: int) -> np.ndarray:
    """The perceptual hash of five frames of a video: bool (NUM_BITS,). Mirrored copies are not alike.

    As in pHash: of each frame, which coarse waves of its cosine transform, without its mean, are above their median.
    Copies that were renamed, encoded anew or resized differ from their original in few bits, other videos in half.
    Raises VideoError if the video holds fewer than `num_frames`.
    """

    from video_module.data.decoding import read_frames

    def shrink(frame: np.ndarray) -> np.ndarray:
        return cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)

    frames = read_frames(path, [int(place * num_frames) for place in _PLACES], per_frame=shrink, num_frames=num_frames)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in frames]
    waves = [cv2.dct(grey)[:_SCALES, :_SCALES].ravel()[1:] for grey in greys]
    return np.concatenate([wave > np.median(wave) for wave in waves])


class _NearPair(NamedTuple):
    """Two videos by their places in what was compared, and the share of bits in which they differ."""

    first: int
    second: int
    distance: float


def near_pairs(first: np.ndarray, second: np.ndarray | None = None) -> list[_NearPair]:
    """All pairs of fingerprints at most MAX_DISTANCE apart, nearest first; within `first` where `second` is None."""
    within = second is None
    second = first if within else second
    assert first.shape[1] == second.shape[1], f"hashes of {first.shape[1]} and {second.shape[1]} bits"
    # With bits as 1 and -1, the product of two rows is the number of equal bits less that of differing ones: all
    # distances of a block are one matrix product.
    signs = [2 * bits.astype(np.float32) - 1 for bits in (first, second)]
    pairs = []
    for top in range(0, len(first), _BLOCK):
        distances = (1 - signs[0][top : top + _BLOCK] @ signs[1].T / first.shape[1]) / 2
        for row, column in zip(*np.nonzero(distances <= MAX_DISTANCE + 1e-6), strict=True):
            if not within or top + row < column:
                pairs.append(_NearPair(int(top + row), int(column), round(float(distances[row, column]), 4)))
    return sorted(pairs, key=lambda pair: (pair.distance, pair.first, pair.second))


# ---- the audit: all of it, of folders


@dataclass(kw_only=True)
class _Side:
    """A folder of classes that is compared."""

    name: str
    root: Path
    videos: list[VideoRecord]
    fingerprints: np.ndarray | None = None
    """bool (num_videos, NUM_BITS); None where content is not compared."""


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

    Of a single folder of classes, say what a random split of it would leak, and which of its videos are alike.
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
    """Read the sides to compare, and list the files that do not decode, which belong to none.

    One path is what split_data.py wrote (or its split.json), of which the sides are the splits, or a folder of classes;
    two are folders of classes. Sources are split.json's where there is one, else those of `source_of`.
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
    """What `second` shares with `first`, as counts of sources and of its own videos, and in pairs of copies."""
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
    """The near pairs of two sides, or within one, by their paths; None where content is not compared."""
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


# Random splits whose mean is told.
_NUM_DRAWS = 100


def random_split_leak(
    videos: Sequence[VideoRecord], *, val_fraction: float = 0.2, test_fraction: float = 0.1
) -> dict[str, Any] | None:
    """Estimate what a random split, video by video, would leak: the mean over a hundred random splits.

    Returns the share of test videos whose source is in train or val under the same class, and under any class. Of a
    class of two or more at least one tests, and not all; None where no class has two, or `test_fraction` is 0.
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
