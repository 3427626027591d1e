"""Describe a split for its user: the sizes of its sides, and their problems."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import PurePosixPath

from video_module.data.labels import SPLITS
from video_module.data.leaks import sources_known
from video_module.data.records import OFFICIAL, VideoRecord
from video_module.data.splits import TABLE, Split, assign_sources
from video_module.scores import describe_small_test, is_small_test
from video_module.tables import align, pluralize

# Largest number of folds that is suggested.
_MOST_FOLDS = 5


def describe_split(split: Split, *, recordings_unknown: str) -> str:
    """Describe a split. `recordings_unknown` replaces the number of shared recordings if recordings are unknown."""
    known = sources_known(split.videos)
    title = split.protocol if split.fold is None else f"{split.protocol} fold {split.fold}"
    lines = [f"{title}: {len(split.class_names)} classes, digest {split.digest}"]
    for name in SPLITS:
        part = split.videos_in(name)
        num_sources = len({video.source for video in part})
        recordings = f" {num_sources:6} {'recording' if num_sources == 1 else 'recordings'}" if known else ""
        lines.append(f"  {name:5} {len(part):6} videos{recordings}")
    if split.videos_in("test"):
        lines.append(f"  recordings shared by test and the rest: {split.shared if known else recordings_unknown}")
    return "\n".join([*lines, *(f"  {remark}" for remark in _remarks(split))])


def describe_missing(
    videos: Sequence[VideoRecord], official: dict[int, dict[tuple[str, str], str]], protocol: str
) -> str | None:
    """Return a warning if videos of the official folds are missing, otherwise None."""
    listed = set().union(*official.values())
    name = protocol if len(official) > 1 else f"{protocol} fold {min(official)}"
    lost_classes = {label for label, _ in listed} - {video.label for video in videos}
    lost = listed - {(video.label, PurePosixPath(video.path).name) for video in videos}
    if lost_classes:
        num_classes = pluralize(len({label for label, _ in listed}), "class")
        text = f"{len(lost_classes)} of the {num_classes} of {name} {'is' if len(lost_classes) == 1 else 'are'} missing"
    elif lost:
        are = "is" if len(lost) == 1 else "are"
        text = f"{len(lost):,} of the {pluralize(len(listed), 'video')} of {name} {are} missing or rejected"
    else:
        return None
    return f"{text}, so results will not be comparable with published numbers"


def describe_folds(folds: Sequence[Split]) -> str:
    """Format the folds of a cross-validation as a table, with the fewest and the most test videos per class."""
    first = folds[0]
    known = sources_known(first.videos)
    rows = [["fold", "train", "val", "test", *(["recordings"] if known else []), "per class", "digest"]]
    for split in folds:
        train, val, test = map(split.videos_in, SPLITS)
        counts = [sum(video.label == name for video in test) for name in split.class_names]
        of_a_class = " to ".join(map(str, sorted({min(counts), max(counts)})))
        recordings = [len({video.source for video in test})] if known else []
        cells = (split.fold, len(train), len(val), len(test), *recordings, of_a_class)
        rows.append([*map(str, cells), split.digest])
    num_sources = len({video.source for video in first.videos})
    recordings = f"of {pluralize(num_sources, 'recording')}" if known else "(recordings unknown)"
    counted = "recordings and videos per class are those" if known else "videos per class are those"
    title = (
        f"{first.num_folds} folds of {len(first.videos)} videos {recordings}, {len(first.class_names)} classes, digest "
        f"{first.folds_digest}; {counted} of the test side:"
    )
    remarks = dict.fromkeys(remark for split in folds for remark in _remarks(split))
    return "\n".join([title, align(rows), *(f"  {remark}" for remark in remarks)])


def _remarks(split: Split) -> list[str]:
    """Return warnings about empty sides, and notes on missing classes and a small test side."""
    remarks = [f"note: {note}" for note in split.notes]
    for side in ("val", "test"):
        part = split.videos_in(side)
        present = {video.label for video in part}
        lacking = [label for label in split.class_names if label not in present]
        # For the test sides of a cross-validation, check_sources() gives one note for all folds
        is_told = side == "test" and split.num_folds is not None
        # Official folds have no fraction for test
        if not lacking or is_told or not split.fractions.get(side, 1):
            continue
        names = ", ".join(lacking[:5]) + (", …" if len(lacking) > 5 else "")
        missing = f"note: {side} has no video of {pluralize(len(lacking), 'class')}"
        if side not in split.fractions:
            remarks.append(f"{missing} (none in the {'table' if split.protocol == TABLE else 'fold'}): {names}")
        elif part:
            remarks.append(f"{missing} (too few recordings): {names}; add recordings, or raise --{side}_fraction")
        else:
            remarks.append(f"warning: {_describe_empty(split, side)}")
    if split.num_folds is None and split.protocol not in OFFICIAL:
        test = split.videos_in("test")
        num_sources = len({video.source for video in test}) if sources_known(split.videos) else None
        if is_small_test(len(test), num_sources):
            num_folds = _possible_folds(split)
            flag = f"--num_folds {num_folds}" if num_folds else None
            remarks.append(f"note: {describe_small_test(len(test), num_sources, folds_flag=flag)}")
    return remarks


def _describe_empty(split: Split, side: str) -> str:
    """Explain why a side is empty, and what to do about it."""
    videos = [video for video in split.videos if split.num_folds is None or video.split != "test"]
    noun = "recording" if sources_known(split.videos) else "video"
    num_sources = len({video.source for video in videos})
    few = f"{pluralize(num_sources, noun)} {'is' if num_sources == 1 else 'are'} too few"
    remedies = []
    if split.num_folds is None and split.protocol not in OFFICIAL:
        if share := _working_shares(split).get(side):
            remedies.append(f"--{side}_fraction {share:g}")
        if side == "test" and (num_folds := _possible_folds(split)):
            remedies.append(f"--num_folds {num_folds} to test every video")
    use = f"use {', or '.join(remedies)}, or add {noun}s" if remedies else f"add {noun}s"
    return f"{side} is empty: {few} for a share of {split.fractions[side]:g}; {use}"


def _working_shares(split: Split) -> dict[str, float]:
    """Find the smallest shares, in steps of 0.05, with which no side is empty. Returns {} if there are none."""
    wanted = {side for side, share in split.fractions.items() if share}
    empty = sorted(wanted - {video.split for video in split.videos})
    for steps in sorted(product(range(1, 20), repeat=len(empty)), key=sum):
        shares = split.fractions | {side: step / 20 for side, step in zip(empty, steps, strict=True)}
        shares["train"] = round(1 - sum(share for side, share in shares.items() if side != "train"), 6)
        if shares["train"] < 0.05:
            continue
        if wanted <= set(assign_sources(split.videos, shares, seed=split.seed).values()):
            return {side: shares[side] for side in empty}
    return {}


def _possible_folds(split: Split) -> int | None:
    """Return the number of folds to suggest. None if a class has a single recording."""
    sources = defaultdict(set)
    for video in split.videos:
        sources[video.label].add(video.source)
    if min(map(len, sources.values())) < 2:
        return None
    return min(_MOST_FOLDS, len(set().union(*sources.values())))
