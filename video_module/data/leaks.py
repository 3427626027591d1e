"""What two sides of an experiment share: by source, by file name, and by what the videos show. Nothing is changed."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from video_module.data.audit import shared_sources
from video_module.data.fingerprint import fingerprints, near_pairs
from video_module.data.labels import SPLITS, find_videos, has_entries, is_split_tree
from video_module.data.splits import SPLIT_JSON, Rejected, VideoRecord, load_videos, read_split_json, scan
from video_module.errors import InputError

_NUM_DRAWS = 100  # of random splits


@dataclass(frozen=True, kw_only=True)
class Side:
    """A folder of classes that is compared. Frame counts are 0 where nothing was decoded."""

    name: str
    root: Path
    videos: list[VideoRecord]


SourceOf = Callable[[str, str], str]
"""(file name, label) -> source."""


def read_sides(
    paths: Sequence[Path], *, groups: dict[str, str] | None, source_of: SourceOf, decode: bool, num_workers: int
) -> tuple[list[Side], list[Rejected]]:
    """The sides to compare, and files that do not decode, which are on none.

    One path is what split_data.py wrote (or its split.json), of which the sides are the splits, or a folder of classes;
    two are folders of classes. Sources are split.json's where there is one, else those of `groups` or of the names.
    """
    root = paths[0].parent if paths[0].name == SPLIT_JSON else paths[0]
    folders = {path.as_posix(): path for path in paths}
    if len(paths) == 1 and is_split_tree(root):
        folders = {split: root / split for split in SPLITS if has_entries(root / split)}
    if len(folders) != len(paths) and len(paths) > 1:
        raise InputError(f"{paths[0]}: named twice; --audit compares two folders, or the splits of one")
    sides, rejected = [], []
    for name, folder in folders.items():
        if folder.name in SPLITS and read_split_json(folder.parent) is not None:
            videos = load_videos(folder, num_workers=num_workers)
        elif decode:
            videos, broken, _ = scan(folder, groups=groups, source_of=source_of, num_workers=num_workers)
            rejected += broken
        else:
            videos = [_unread(folder, label, path, groups, source_of) for label, path in find_videos(folder)]
        sides.append(Side(name=name, root=folder, videos=videos))
    return sides, rejected


def _unread(folder: Path, label: str, path: Path, groups: dict[str, str] | None, source_of: SourceOf) -> VideoRecord:
    name = path.relative_to(folder).as_posix()
    if groups is not None and name not in groups:
        raise InputError(f"{name!r} is not in the groups file")
    source = groups[name] if groups is not None else source_of(path.name, label)
    return VideoRecord(path=name, label=label, source=source, num_frames=0, fps=0)


def compare_sides(first: Side, second: Side, bits: dict[str, np.ndarray] | None) -> dict[str, Any]:
    """What `second` shares with `first`: counts of sources and of second's videos, within a class and across classes.

    `bits` holds the fingerprints of each side by name; None leaves the content out.
    """
    sources = shared_sources(*([(video.label, video.source) for video in side.videos] for side in (first, second)))
    names: dict[str, set[str]] = {}
    for video in first.videos:
        names.setdefault(PurePosixPath(video.path).stem, set()).add(video.label)
    same_names = [video for video in second.videos if PurePosixPath(video.path).stem in names]
    found: dict[str, Any] = {
        "first": first.name,
        "second": second.name,
        "num_videos": [len(first.videos), len(second.videos)],
        "sources": asdict(sources),
        "same_name": {
            "within_class": sum(video.label in names[PurePosixPath(video.path).stem] for video in same_names),
            "across_classes": sum(video.label not in names[PurePosixPath(video.path).stem] for video in same_names),
        },
        "near_identical": None,
    }
    if bits is not None:
        pairs = near_pairs(bits[first.name], bits[second.name])
        found["near_identical"] = [_pair(first.videos[p.first], second.videos[p.second], p.distance) for p in pairs]
    return found


def _pair(first: VideoRecord, second: VideoRecord, distance: float) -> dict[str, Any]:
    return {
        "first": first.path,
        "second": second.path,
        "distance": distance,
        "same_class": first.label == second.label,
        "same_source": first.source == second.source,
    }


def read_fingerprints(sides: Sequence[Side], *, num_workers: int) -> dict[str, np.ndarray]:
    """The fingerprints of each side's videos, by its name."""
    return {
        side.name: fingerprints(
            [(side.root / video.path, video.num_frames) for video in side.videos],
            num_workers=num_workers,
            desc=side.name,
        )
        for side in sides
    }


def pairs_within(side: Side, bits: np.ndarray) -> list[dict[str, Any]]:
    """Near-identical videos of one side."""
    return [_pair(side.videos[p.first], side.videos[p.second], p.distance) for p in near_pairs(bits)]


def random_split_leak(
    videos: Sequence[VideoRecord], *, val_fraction: float = 0.2, test_fraction: float = 0.1
) -> dict[str, Any] | None:
    """What a split of each class's videos at random, video by video, would leak: the mean over a hundred such splits.

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
        "test_share_within_class": float(np.mean(within)),
        "test_share_any_class": float(np.mean(anywhere)),
    }


def audit(
    paths: Sequence[Path],
    *,
    groups: dict[str, str] | None,
    source_of: SourceOf,
    content: bool,
    val_fraction: float,
    test_fraction: float,
    num_workers: int,
) -> dict[str, Any]:
    """Compare the sides that `paths` name, each with each.

    Of a single folder of classes, say what a random split of it would leak, and which of its videos are alike.
    """
    sides, rejected = read_sides(paths, groups=groups, source_of=source_of, decode=content, num_workers=num_workers)
    bits = read_fingerprints(sides, num_workers=num_workers) if content else None
    report: dict[str, Any] = {"rejected": [asdict(item) for item in rejected], "comparisons": []}
    report["comparisons"] = [
        compare_sides(first, second, bits) for number, second in enumerate(sides) for first in sides[:number]
    ]
    if len(sides) == 1:
        [side] = sides
        report["random_split"] = random_split_leak(side.videos, val_fraction=val_fraction, test_fraction=test_fraction)
        report["near_identical"] = pairs_within(side, bits[side.name]) if bits is not None else None
    return report
