"""Leaks: sources that stand on two sides of a split, or in a test set and in what a model was trained on."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any


@dataclass(frozen=True)
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
            f"within a class {self.sources_within_class} sources ({self.test_clips_within_class} test clips), "
            f"across classes {self.sources_across_classes} sources ({self.test_clips_across_classes} test clips)"
        )


def shared_sources(train: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]]) -> SharedSources:
    """Count what two sides, given as (label, source) of each clip, share within a class and across classes."""
    train_labels: dict[str, set[str]] = defaultdict(set)
    for label, source in train:
        train_labels[source].add(label)
    within, across = [], []
    for label, source in test:
        if label in train_labels.get(source, ()):
            within.append((label, source))
        elif source in train_labels:
            across.append(source)
    return SharedSources(
        sources_within_class=len(set(within)),
        test_clips_within_class=len(within),
        sources_across_classes=len(set(across)),
        test_clips_across_classes=len(across),
    )


def hash_source(source: str) -> str:
    """A source as model files record it."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def hash_clip(path: str) -> str:
    """A video as model files record it: by its file name alone, so that a renamed class folder changes nothing.

    12 digits keep HMDB51's 3,570 below 60 kB, and let one of 1,530 others pass for one of them once in 50 million sets.
    """
    return hashlib.sha256(PurePosixPath(path).stem.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class TrainOverlap:
    """What a test set shares with the train and val splits of a model."""

    num_sources: int
    num_videos: int
    """Test videos of the shared sources."""
    num_clips: int | None
    """Test videos that were themselves trained on, by file name; None where the model file does not record them."""
    is_leak: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        splits = "the model's train and val splits"
        if self.num_clips and not self.num_sources:
            return f"{self.num_clips} test videos are in {splits}, by their file names"
        text = f"{self.num_videos} test videos come from {self.num_sources} sources in {splits}"
        return text if self.num_clips is None else f"{text}, {self.num_clips} are in them themselves"


def train_overlap(
    videos: Iterable[tuple[str, str]],
    *,
    train_sources: Collection[str],
    train_clips: Collection[str],
    protocol: str | None,
    official: bool,
) -> TrainOverlap | None:
    """Compare a test set, given as (path, source) of each video, with the hashes that a model file records.

    Official folds share sources between train and test across classes, so there only a shared clip is a leak. Where no
    split.json tells the sources (`protocol` None), they are guessed from the names, and a shared clip is one as well.
    Returns None where the model file records nothing.
    """
    if not train_sources:
        return None
    videos, known_sources, known_clips = list(videos), set(train_sources), set(train_clips)
    shared = [source for _, source in videos if hash_source(source) in known_sources]
    num_clips = sum(hash_clip(path) in known_clips for path, _ in videos)
    if official:
        is_leak = num_clips > 0
    else:
        is_leak = bool(shared) or (protocol is None and num_clips > 0)
    return TrainOverlap(
        num_sources=len(set(shared)),
        num_videos=len(shared),
        num_clips=num_clips if known_clips else None,
        is_leak=is_leak,
    )
