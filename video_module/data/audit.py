"""Leaks: sources that stand on two sides of a split."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


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
