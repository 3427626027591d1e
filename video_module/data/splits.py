"""Decide which videos train, validate and test: by source, or as a data set's authors did."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from video_module.data.labels import SPLITS
from video_module.data.leaks import SharedSources, shared_sources
from video_module.data.records import OFFICIAL, Rejected, VideoRecord
from video_module.errors import InputError
from video_module.tables import pluralize

TABLE = "table"
"""The protocol of a split that a table's column gives."""


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

    @property
    def class_names(self) -> list[str]:
        return sorted({video.label for video in self.videos})

    @property
    def shared(self) -> SharedSources:
        """Between train with val, and test."""
        rest = [video for video in self.videos if video.split != "test"]
        return shared_sources(rest, self.videos_in("test"))

    @property
    def leaks(self) -> int:
        """Sources on two sides, as the protocol counts them: the official ones forbid that within a class only."""
        return self.shared.sources_within_class if self.protocol in OFFICIAL else len(self.torn_sources)

    @property
    def torn_sources(self) -> list[str]:
        """Sources on more than one side, in whatever classes."""
        sides: dict[str, set[str]] = defaultdict(set)
        for video in self.videos:
            sides[video.source].add(video.split)
        return sorted(source for source, of_source in sides.items() if len(of_source) > 1)

    @property
    def digest(self) -> str:
        """Equal for two splits exactly if they put the same names on the same sides."""
        lines = sorted(f"{video.split}/{video.path}\n" for video in self.videos)
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    def videos_in(self, split: str) -> list[VideoRecord]:
        return [video for video in self.videos if video.split == split]

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "fold": self.fold,
            "seed": self.seed,
            "fractions": self.fractions,
            "counts": {split: len(self.videos_in(split)) for split in SPLITS},
            "num_sources": len({video.source for video in self.videos}),
            "leaks": self.leaks,
            "videos": [
                {**asdict(video), "path": f"{video.split}/{video.path}"}
                for video in sorted(self.videos, key=lambda video: (SPLITS.index(video.split), video.path))
            ],
            "rejected": [asdict(item) for item in self.rejected],
            "digest": self.digest,
        }


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
        # Of each class, how much the squared distance from the wanted count w grows when h videos become h + c, in
        # units of w: ((h + c - w)² - (h - w)²) / w = (2ch + c²) / w - 2c.
        def cost(split: str, source: str = source) -> float:
            return sum(
                (2 * count * have[split][label] + count**2) / (fractions[split] * totals[label]) - 2 * count
                for label, count in clips[source].items()
            )

        best = min((split for split in fractions if fractions[split] > 0), key=cost)
        # The last source of a class that is not in train yet goes there: a class without training videos is no use
        if any(last_place[label] == place and not have["train"][label] for label in clips[source]):
            best = "train"
        have[best].update(clips[source])
        assignment[source] = best
    assert all(have["train"][label] for label in totals), f"a class has no training video: {have['train']}"
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
    split = _make_split("grouped", None, seed, fractions, placed, rejected, [])
    assert split.leaks == 0, f"a split by source shares sources: {split.shared}"
    return split


def split_by_table(videos: Sequence[VideoRecord], rejected: Sequence[Rejected], *, seed: int) -> Split:
    """Leave each video on the side that its table gives it; a note names sources that stand on two."""
    split = _make_split(TABLE, None, seed, {}, list(videos), rejected, [])
    if torn := split.torn_sources:
        names = ", ".join(torn[:5]) + (", …" if len(torn) > 5 else "")
        split.notes.append(
            f"the column split puts {pluralize(len(torn), 'source')} on two sides ({names}): what was learned from one "
            "recording is tested on it, which flatters"
        )
    return split


def read_official(protocol: str, splits_dir: Path, fold: int) -> dict[tuple[str, str], str]:
    """Read the split files of a protocol: {(label, file name): "train" or "test"}."""
    if not splits_dir.is_dir():
        raise InputError(f"{splits_dir}: no such folder; --splits_dir is the folder of the official split files")
    return OFFICIAL[protocol].read_official_split(splits_dir, fold)


def _official_name(video: VideoRecord) -> tuple[str, str]:
    return video.label, Path(video.path).name


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
    used = [video for video in videos if _official_name(video) in official]
    if not used:
        raise InputError(f"none of the {len(videos)} videos is named in fold {fold} of {protocol}")
    fractions = {"train": round(1 - val_fraction, 6), "val": val_fraction}
    assignment = assign_sources([v for v in used if official[_official_name(v)] == "train"], fractions, seed=seed)
    # A source can be on both sides: official folds keep it apart within a class only
    placed = [
        replace(video, split="test" if official[_official_name(video)] == "test" else assignment[video.source])
        for video in used
    ]
    notes = _missing_videos(videos, official, f"{protocol} fold {fold}")
    return _make_split(protocol, fold, seed, fractions, placed, rejected, notes)


def _missing_videos(videos: Sequence[VideoRecord], official: dict[tuple[str, str], str], fold: str) -> list[str]:
    """A note for each side of an official fold of which some videos are not there."""
    notes = []
    for side in ("train", "test"):
        listed = {name for name, of_side in official.items() if of_side == side}
        if missing := sorted(listed - set(map(_official_name, videos))):
            notes.append(
                f"{len(missing)} of the {len(listed)} {side} videos of {fold} are missing or rejected, "
                f"{'/'.join(missing[0])} among them"
            )
    return notes


def _make_split(
    protocol: str,
    fold: int | None,
    seed: int,
    fractions: dict[str, float],
    videos: list[VideoRecord],
    rejected: Sequence[Rejected],
    notes: list[str],
) -> Split:
    """Put a split together, with notes on the classes that a side lacks. Raises InputError if train lacks one."""
    labels = sorted({video.label for video in videos})
    if len(labels) < 2:
        raise InputError(f"a classifier needs at least two classes with videos that decode, found {labels}")
    for split in SPLITS:
        present = {video.label for video in videos if video.split == split}
        lacking = [label for label in labels if label not in present]
        if lacking and split == "train":
            raise InputError(f"class {lacking[0]!r} has no video left to train on")
        # Official fractions name no test: that side is the fold's own
        if lacking and fractions.get(split, 1):
            note = f"{split} has no video of {pluralize(len(lacking), 'class')} "
            names = ", ".join(lacking[:5])
            if split in fractions:
                note += f"(too few sources): {names}; that takes more recordings, or a larger --{split}_fraction"
            else:
                note += f"(none in the {'table' if protocol == TABLE else 'fold'}): {names}"
            notes.append(note)
    return Split(
        protocol=protocol,
        fold=fold,
        seed=seed,
        fractions=fractions,
        videos=videos,
        rejected=list(rejected),
        notes=notes,
    )
