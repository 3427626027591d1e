"""Uncertainty of metrics: intervals that respect the sources of videos, and a test of paired differences."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from video_module.scores import describe_small_test, is_small_test

Sums = Mapping[str, np.ndarray]
"""Tallies summed over videos, (..., width) each. A tally has one row for each video: (num_videos, width)."""

NUM_RESAMPLES = 2000

# With fewer sources no interval is given: it would depend on which few happened to be filmed.
_MIN_SOURCES = 5
# What rounding makes of equal values.
_NO_WIDTH = 1e-9
# Of fewer videos a share in percent would promise more than it knows.
_FEW_VIDEOS = 10
# With fewer sources, intervals of this kind are known to come out too narrow (Cameron, Gelbach & Miller, 2008).
_FEW_SOURCES = 20


def add_up(tallies: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sums over all videos."""
    return {name: rows.sum(axis=0) for name, rows in tallies.items()}


def resample_by_source(
    tallies: Mapping[str, np.ndarray], sources: Sequence[str], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """The sums over each of `num_resamples` resamples, (num_resamples, width) each.

    Clips of one film are not independent, so whole sources are drawn with replacement, each with all its videos: the
    cluster bootstrap (Field & Welsh, Bootstrapping clustered data, JRSS B 69, 2007). The same seed draws the same.
    """
    names, owners = np.unique(np.asarray(sources), return_inverse=True)
    assert all(len(rows) == len(owners) for rows in tallies.values()), "a tally has one row for each video"
    # How often each source is drawn is all that matters, so a resample is a row of weights over the sources' sums.
    drawn = np.random.default_rng(seed).integers(len(names), size=(num_resamples, len(names)))
    weights = np.stack([np.bincount(row, minlength=len(names)) for row in drawn]).astype(np.float64)
    resampled = {}
    for name, rows in tallies.items():
        by_source = np.zeros((len(names), rows.shape[1]))
        np.add.at(by_source, owners, rows)
        resampled[name] = weights @ by_source
    return resampled


def intervals(
    tallies: Mapping[str, np.ndarray],
    sources: Sequence[str],
    figures_of: Callable[[Sums], dict[str, np.ndarray]],
    **resampling: int,
) -> dict[str, list[float] | None]:
    """95 % percentile interval [low, high] of each figure, resampled by source.

    None if there are too few sources, or if nearly every resample gives the same value: without a single error in the
    sample, for example, the interval would have no width and say nothing about errors to come. The calibration error
    sums gaps without their sign, so it is larger in the resamples than in the sample on average, and its interval leans
    upwards.
    """
    figures = figures_of(resample_by_source(tallies, sources, **resampling))
    if len(set(sources)) < _MIN_SOURCES:
        return dict.fromkeys(figures)
    found = {name: np.percentile(values, [2.5, 97.5]) for name, values in figures.items()}
    return {name: bounds.tolist() if np.ptp(bounds) > _NO_WIDTH else None for name, bounds in found.items()}


def describe_share(count: int, total: int) -> str:
    """A share in percent; of few videos as a count: "1 of 2"."""
    return f"{count} of {total}" if total < _FEW_VIDEOS else f"{count / total:.0%}"


def interval_note(
    intervals: Mapping[str, list[float] | None],
    *,
    num_sources: int,
    num_videos: int = 0,
    num_right: int | None = None,
    cross_validated: bool = False,
) -> str | None:
    """What a reader of the intervals should know; None if there is nothing.

    `num_videos` (and how many of them were right): of one test, which may be small. It is `cross_validated` if it is
    of one fold of a cross-validation, or of all.
    """
    notes = []
    if num_videos and is_small_test(num_videos, num_sources):
        # Each fold takes a recording: so many are in test, and at least one is in train
        flag = "--num_folds 5" if num_sources >= 4 else "--num_folds"
        notes.append(
            describe_small_test(num_videos, num_sources, num_right, folds_flag=None if cross_validated else flag)
        )
    if num_sources < _MIN_SOURCES:
        notes.append(f"no intervals: resampling needs at least {_MIN_SOURCES} recordings, got {num_sources}")
        return "; ".join(notes)
    if num_sources < _FEW_SOURCES:
        notes.append(f"with only {num_sources} recordings, the true intervals are wider")
    if None in intervals.values():
        notes.append("figures without an interval: nearly all resamples agree, which does not make them certain")
    return "; ".join(notes) or None


def mcnemar(num_first_only: int, num_second_only: int) -> float:
    """McNemar's exact test: two-sided binomial p-value of the videos that only one of two models gets right.

    (McNemar, 1947, in its exact form.) It treats videos as independent, which clips of one film are not.
    """
    total, fewer = num_first_only + num_second_only, min(num_first_only, num_second_only)
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)
