"""Assign videos to train, val and test: by recording, by the user's table, or as in official split files."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from video_module.data.labels import SPLITS
from video_module.data.leaks import SharedSources, shared_sources
from video_module.data.records import OFFICIAL, Rejected, VideoRecord
from video_module.errors import InputError
from video_module.tables import pluralize

TABLE = "table"
"""Protocol of a split that is given by a column of the table."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A complete assignment of videos to train, val and test."""

    protocol: str
    fold: int | None = None
    seed: int
    fractions: dict[str, float]
    videos: list[VideoRecord]
    rejected: list[Rejected]
    notes: list[str] = field(default_factory=list)
    """Sentences for the user."""
    num_folds: int | None = None
    """Number of folds of a cross-validation, in which every video is tested once."""
    folds_digest: str | None = None
    """Equal for two folds if and only if they are from the same cross-validation."""

    @property
    def class_names(self) -> list[str]:
        return sorted({video.label for video in self.videos})

    @property
    def shared(self) -> SharedSources:
        """Recordings shared between test and the other two sides."""
        rest = [video for video in self.videos if video.split != "test"]
        return shared_sources(rest, self.videos_in("test"))

    @property
    def leaks(self) -> int:
        """Number of recordings on several sides; for official protocols, only those within a class."""
        return self.shared.sources_within_class if self.protocol in OFFICIAL else len(self.torn_sources)

    @property
    def torn_sources(self) -> list[str]:
        """Recordings on more than one side, in any class."""
        sides: dict[str, set[str]] = defaultdict(set)
        for video in self.videos:
            sides[video.source].add(video.split)
        return sorted(source for source, of_source in sides.items() if len(of_source) > 1)

    @property
    def digest(self) -> str:
        """Equal for two splits if and only if they put the same paths on the same sides."""
        return _digest(f"{video.split}/{video.path}\n" for video in self.videos)

    def videos_in(self, split: str) -> list[VideoRecord]:
        return [video for video in self.videos if video.split == split]

    def to_json(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "fold": self.fold,
            "num_folds": self.num_folds,
            "folds_digest": self.folds_digest,
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


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:16]


def _by_size(videos: Iterable[VideoRecord], *, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Count the videos of each recording by class, and sort the recordings, largest first, equal ones at random."""
    clips: dict[str, Counter[str]] = defaultdict(Counter)
    for video in videos:
        clips[video.source][video.label] += 1
    order = sorted(clips)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda source: -clips[source].total())
    return clips, order


def _cost(added: Counter[str], have: Counter[str], totals: Counter[str], fraction: float) -> float:
    """Return how much further a split is from its target, `fraction` of the totals, if these videos are added."""
    # For each class, the increase of the squared distance from the target count w when h videos become h + c, divided
    # by w: ((h + c - w)² - (h - w)²) / w = (2ch + c²) / w - 2c.
    return sum(
        (2 * count * have[label] + count**2) / (fraction * totals[label]) - 2 * count for label, count in added.items()
    )


def assign_sources(videos: Iterable[VideoRecord], fractions: dict[str, float], *, seed: int) -> dict[str, str]:
    """Assign each recording with all its videos to a split, so that each class is divided by about `fractions`.

    Greedy: recordings are assigned from the largest to the smallest, each to the split with the smallest _cost(). Every
    class is in train. Returns {source: split}.
    """
    clips, order = _by_size(videos, seed=seed)
    totals: Counter[str] = sum(clips.values(), Counter())
    last_place = {label: place for place, source in enumerate(order) for label in clips[source]}
    have = {split: Counter() for split in fractions}
    assignment = {}
    for place, source in enumerate(order):
        added = clips[source]
        wanted = [split for split in fractions if fractions[split] > 0]
        best = min(wanted, key=lambda split, added=added: _cost(added, have[split], totals, fractions[split]))
        # The last recording of a class goes to train if the class is not there yet
        if any(last_place[label] == place and not have["train"][label] for label in added):
            best = "train"
        have[best].update(added)
        assignment[source] = best
    assert all(have["train"][label] for label in totals), f"a class has no training video: {have['train']}"
    return assignment


def assign_folds(videos: Iterable[VideoRecord], num_folds: int, *, seed: int) -> dict[str, int]:
    """Assign each recording with all its videos to one of the folds 1 to `num_folds`. Returns {source: fold}.

    Greedy, as in assign_sources(). It balances each class over the folds, and then the number of videos.
    """
    clips, order = _by_size(videos, seed=seed)
    totals: Counter[str] = sum(clips.values(), Counter())
    have = {fold: Counter() for fold in range(1, num_folds + 1)}
    assignment = {}
    for source in order:
        added = clips[source]

        def key(fold: int, added: Counter[str] = added) -> tuple[int, float, int]:
            held = have[fold]
            # Classes that would be in this fold only, and would have no training videos when it is tested
            num_alone = sum(held[label] + count == totals[label] for label, count in added.items())
            return num_alone, _cost(added, held, totals, 1 / num_folds), held.total()

        assignment[source] = min(have, key=key)
        have[assignment[source]].update(added)
    return assignment


def make_splits(
    videos: Sequence[VideoRecord],
    rejected: Sequence[Rejected],
    official: dict[int, dict[tuple[str, str], str]],
    *,
    protocol: str,
    num_folds: int | None,
    test_fraction: float,
    **settings: Any,
) -> list[Split]:
    """Assign the videos to one split, or to several folds. `official` holds the results of read_official() by fold."""
    if num_folds:
        return split_folds(videos, rejected, num_folds=num_folds, **settings)
    if any(video.split for video in videos):
        return [split_by_table(videos, rejected, seed=settings["seed"])]
    if not official:
        return [split_grouped(videos, rejected, test_fraction=test_fraction, **settings)]
    return [
        split_official(videos, rejected, sides, protocol=protocol, fold=fold, **settings)
        for fold, sides in official.items()
    ]


def split_grouped(
    videos: Sequence[VideoRecord],
    rejected: Sequence[Rejected],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Split:
    """Split by recording. The fractions are of all videos."""
    if val_fraction + test_fraction >= 1:
        raise InputError(f"val_fraction {val_fraction} and test_fraction {test_fraction} leave no videos for training")
    fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
    fractions = {split: round(share, 6) for split, share in fractions.items()}
    assignment = assign_sources(videos, fractions, seed=seed)
    placed = [replace(video, split=assignment[video.source]) for video in videos]
    split = _checked(Split(protocol="grouped", seed=seed, fractions=fractions, videos=placed, rejected=list(rejected)))
    assert split.leaks == 0, f"a split by recording shares recordings: {split.shared}"
    return split


def split_by_table(videos: Sequence[VideoRecord], rejected: Sequence[Rejected], *, seed: int) -> Split:
    """Split as in the table. A note names recordings on more than one side."""
    split = _checked(Split(protocol=TABLE, seed=seed, fractions={}, videos=list(videos), rejected=list(rejected)))
    if torn := split.torn_sources:
        names = ", ".join(torn[:5]) + (", …" if len(torn) > 5 else "")
        split.notes.append(
            f"the column split puts {pluralize(len(torn), 'recording')} on more than one side ({names}): the model is "
            "tested on recordings it was trained on, so results will look better than they are"
        )
    return split


def split_folds(
    videos: Sequence[VideoRecord], rejected: Sequence[Rejected], *, num_folds: int, val_fraction: float, seed: int
) -> list[Split]:
    """Split for cross-validation: each video is in test in one fold, and in train or val in the others.

    Recordings are not divided, and `val_fraction` is of all videos. Raises InputError if a fold would be empty or a
    class would have no training videos.
    """
    assert num_folds >= 2
    fractions = {"train": 1 - val_fraction - 1 / num_folds, "val": val_fraction, "test": 1 / num_folds}
    fractions = {split: round(share, 6) for split, share in fractions.items()}
    if fractions["train"] <= 0:
        raise InputError(f"val_fraction {val_fraction} and a test side of 1/{num_folds} leave no videos for training")
    note = check_sources([(video.label, video.source) for video in videos], num_folds)
    fold_of = assign_folds(videos, num_folds, seed=seed)
    for label in sorted({video.label for video in videos}):
        if len({fold_of[video.source] for video in videos if video.label == label}) == 1:
            raise InputError(
                f"--num_folds {num_folds}: all recordings of class {label!r} ended up in one fold; try another --seed, "
                "or more folds"
            )
    folds_digest = _digest(f"{fold_of[video.source]}/{video.path}\n" for video in videos)
    sides = {name: share / (1 - fractions["test"]) for name, share in fractions.items() if name != "test"}
    made = []
    for fold in range(1, num_folds + 1):
        side_of = assign_sources([video for video in videos if fold_of[video.source] != fold], sides, seed=seed)
        placed = [replace(video, split=side_of.get(video.source, "test")) for video in videos]
        split = Split(
            protocol="grouped",
            fold=fold,
            num_folds=num_folds,
            folds_digest=folds_digest,
            seed=seed,
            fractions=fractions,
            videos=placed,
            rejected=list(rejected),
            notes=[note] if note else [],
        )
        made.append(_checked(split))
        assert split.leaks == 0, f"a split by recording shares recordings: {split.shared}"
    return made


def check_sources(videos: Iterable[tuple[str, str]], num_folds: int) -> str | None:
    """Check that there are enough recordings for `num_folds`, given (label, source) of each video.

    Returns a note on classes that cannot be in the test side of every fold, or None. Raises InputError if there are
    fewer recordings than folds, or only one of a class.
    """
    sources: dict[str, set[str]] = defaultdict(set)
    for label, source in sorted(videos):
        sources[label].add(source)
    if num_folds > (num_sources := len(set().union(*sources.values()))):
        raise InputError(
            f"--num_folds {num_folds}: the videos come from {pluralize(num_sources, 'recording')}, and each of "
            f"them stays in one fold; use at most {pluralize(num_sources, 'fold')}"
        )
    if alone := [label for label, of_class in sources.items() if len(of_class) == 1]:
        more = f" (and of {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise InputError(
            f"--num_folds: all videos of class {alone[0]!r}{more} come from one recording, so the fold that tests them "
            "has none left for training; add another recording of the class, or leave the class out"
        )
    few = {label: len(of_class) for label, of_class in sources.items() if len(of_class) < num_folds}
    if not few:
        return None
    names = ", ".join(f"{label} ({number})" for label, number in list(few.items())[:5])
    return (
        f"{pluralize(len(few), 'class')} with fewer than {num_folds} recordings, so some folds have no test video of "
        f"them: {names}{', …' if len(few) > 5 else ''}; the result pooled over all folds includes all their videos"
    )


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
    """Use the official test side, and split the official train side by recording into train and val.

    So test videos never influence which checkpoint is kept. `val_fraction` is of the official train side. Videos that
    the fold does not use are left out.
    """
    used = [video for video in videos if _official_name(video) in official]
    if not used:
        raise InputError(f"none of the {len(videos)} videos is listed in fold {fold} of {protocol}")
    fractions = {"train": round(1 - val_fraction, 6), "val": val_fraction}
    assignment = assign_sources([v for v in used if official[_official_name(v)] == "train"], fractions, seed=seed)
    # A recording can be on both sides, because official folds separate recordings only within a class
    placed = [
        replace(video, split="test" if official[_official_name(video)] == "test" else assignment[video.source])
        for video in used
    ]
    notes = _missing_videos(videos, official)
    return _checked(
        Split(
            protocol=protocol,
            fold=fold,
            seed=seed,
            fractions=fractions,
            videos=placed,
            rejected=list(rejected),
            notes=notes,
        )
    )


def _missing_videos(videos: Sequence[VideoRecord], official: dict[tuple[str, str], str]) -> list[str]:
    """Return a note on the missing videos of an official fold, if any."""
    missing = sorted(set(official) - set(map(_official_name, videos)))
    if not missing:
        return []
    sides, listed = Counter(official[name] for name in missing), Counter(official.values())
    counts = [f"{sides[side]:,} of {listed[side]:,} {side} videos" for side in ("train", "test") if sides[side]]
    return [f"missing or rejected: {', '.join(counts)} ({'/'.join(missing[0])}, for example)"]


def _checked(split: Split) -> Split:
    """Raise InputError if there are fewer than two classes, or one has no training videos."""
    labels = split.class_names
    if len(labels) < 2:
        raise InputError(f"a classifier needs at least two classes with videos that decode, found {labels}")
    trained = {video.label for video in split.videos_in("train")}
    if lacking := [label for label in labels if label not in trained]:
        raise InputError(f"class {lacking[0]!r} has no video left for training")
    return split
