"""Uncertainty of metrics: intervals resampled by recording, and a test of paired differences."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from video_module.scores import describe_small_test, is_small_test

Sums = Mapping[str, np.ndarray]
"""Tallies summed over videos, (..., width) each. A tally (num_videos, width) has a row for each video."""

NUM_RESAMPLES = 2000

# With fewer recordings, no interval is given, because it would mostly depend on which ones happen to be tested.
_MIN_SOURCES = 5
# Differences up to this are rounding errors.
_NO_WIDTH = 1e-9
# Shares of fewer videos are given as counts, because a percentage would suggest more precision.
_FEW_VIDEOS = 10
# With fewer recordings, intervals of this kind are known to be too narrow (Cameron, Gelbach & Miller, 2008).
_FEW_SOURCES = 20


def add_up(tallies: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the sums over all videos."""
    return {name: rows.sum(axis=0) for name, rows in tallies.items()}


def resample_by_source(
    tallies: Mapping[str, np.ndarray], sources: Sequence[str], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the sums over each of `num_resamples` bootstrap resamples, (num_resamples, width) each.

    Videos of one recording are not independent, so whole recordings (`sources`) are drawn with replacement, each with
    all its videos. This is the cluster bootstrap (Field & Welsh, Bootstrapping clustered data, JRSS B 69, 2007).
    """
    names, owners = np.unique(np.asarray(sources), return_inverse=True)
    assert all(len(rows) == len(owners) for rows in tallies.values()), "a tally has one row for each video"
    # Only how often each recording is drawn matters, so a resample is a weighted sum over recordings.
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
    """Compute the 95 % percentile interval [low, high] of each figure, resampled by recording.

    None if there are too few recordings, or if nearly all resamples give the same value. For example, without a single
    error in the sample, the interval would have no width, although errors are possible. The calibration error sums
    absolute gaps, so it is larger in resamples than in the sample on average, and its interval is shifted upwards.
    """
    figures = figures_of(resample_by_source(tallies, sources, **resampling))
    if len(set(sources)) < _MIN_SOURCES:
        return dict.fromkeys(figures)
    found = {name: np.percentile(values, [2.5, 97.5]) for name, values in figures.items()}
    return {name: bounds.tolist() if np.ptp(bounds) > _NO_WIDTH else None for name, bounds in found.items()}


def describe_share(count: int, total: int) -> str:
    """Format a share in percent, or as a count if there are few videos: "1 of 2"."""
    return f"{count} of {total}" if total < _FEW_VIDEOS else f"{count / total:.0%}"


def interval_note(
    intervals: Mapping[str, list[float] | None],
    *,
    num_sources: int,
    num_videos: int = 0,
    num_right: int | None = None,
    cross_validated: bool = False,
) -> str | None:
    """Describe the limits of intervals, or return None if there are none.

    If `num_videos` (of which `num_right` were right) is given, also say if the test is too small. `cross_validated`
    means that it is one fold of a cross-validation or all of them.
    """
    notes = []
    if num_videos and is_small_test(num_videos, num_sources):
        # Each fold needs a recording; only those in test are known here, and at least one more is in train
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
    """Return the p-value of McNemar's exact test (1947), given how many videos only one of two models gets right.

    It is two-sided and binomial. It treats videos as independent, although videos of one recording are not.
    """
    total, fewer = num_first_only + num_second_only, min(num_first_only, num_second_only)
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)
