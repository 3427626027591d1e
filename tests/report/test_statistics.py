import math

import numpy as np
import pytest

from video_module.report import metrics, statistics


def made_case(num_sources: int, videos_per_source: int, *, accuracy: float = 0.7, seed: int = 0):
    """Sources that are right or wrong as a whole: (views, video scores, labels, sources)."""
    rng = np.random.default_rng(seed)
    sources = np.repeat(np.arange(num_sources), videos_per_source)
    right = (rng.permutation(num_sources) < accuracy * num_sources)[sources]
    labels = rng.integers(0, 3, len(sources))
    scores = rng.dirichlet(np.ones(3), len(sources))
    best = np.where(right, labels, (labels + 1) % 3)
    for row, column in enumerate(best):
        top = scores[row].argmax()
        scores[row, [top, column]] = scores[row, [column, top]]
    views = [np.tile(row, (rng.integers(1, 4), 1)) for row in scores]
    return views, scores, labels, [f"s{source}" for source in sources]


def test_each_resample_is_the_figure_of_the_drawn_videos():
    """The sums of tallies against the figures of a set in which the drawn sources really stand several times."""
    views, scores, labels, sources = made_case(8, 3)
    tallies = metrics.tally(views, scores, labels)
    names = sorted(set(sources))
    first = [sources.index(name) for name in names]
    marks = np.zeros((len(sources), len(names)))
    marks[first, range(len(names))] = 1  # tells how often each source was drawn
    resampled = statistics.resample_by_source(tallies | {"marks": marks}, sources, num_resamples=20)
    figures = metrics.figures_of(resampled)
    for number, drawn in enumerate(resampled["marks"].astype(int)):
        assert drawn.sum() == len(names)
        rows = [row for row, source in enumerate(sources) for _ in range(drawn[names.index(source)])]
        expected = metrics.summarise(
            [views[row] for row in rows], scores[rows], labels[rows], "abc", sources=[sources[row] for row in rows]
        )
        for key, values in figures.items():
            assert values[number] == pytest.approx(expected[key]), key


def test_interval_against_a_plain_bootstrap():
    views, scores, labels, sources = made_case(40, 3)
    interval = statistics.intervals(metrics.tally(views, scores, labels), sources, metrics.figures_of)["video_top1"]
    rng, correct = np.random.default_rng(99), scores.argmax(axis=1) == labels
    groups = [correct[[source == name for source in sources]] for name in sorted(set(sources))]
    means = [
        np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]).mean() for _ in range(4000)
    ]
    assert interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)


def test_the_interval_holds_95_percent():
    """Of sources with one video each, a resample's accuracy is binomial, whose quantiles are known."""
    num, share = 200, 0.7
    views, scores, labels, sources = made_case(num, 1, accuracy=share)
    tallies = metrics.tally(views, scores, labels)
    interval = statistics.intervals(tallies, sources, metrics.figures_of, num_resamples=20_000)["video_top1"]
    chances = [math.comb(num, hits) * share**hits * (1 - share) ** (num - hits) for hits in range(num + 1)]
    quantiles = np.searchsorted(np.cumsum(chances), [0.025, 0.975]) / num
    assert interval == pytest.approx(quantiles, abs=0.006)  # 90 % would be 0.01 narrower at each end


def test_clips_of_one_film_do_not_count_as_many():
    """Ten clips of each of 20 films say as much as 20 clips, not as 200."""
    views, scores, labels, sources = made_case(20, 10)
    tallies = metrics.tally(views, scores, labels)

    def width(sources: list[str]) -> float:
        low, high = statistics.intervals(tallies, sources, metrics.figures_of)["video_top1"]
        return high - low

    assert width(sources) > 2.5 * width([str(number) for number in range(len(sources))])


def test_intervals_repeat_and_hold_the_figure():
    views, scores, labels, sources = made_case(30, 2)
    tallies = metrics.tally(views, scores, labels)
    first = statistics.intervals(tallies, sources, metrics.figures_of)
    assert first == statistics.intervals(tallies, sources, metrics.figures_of)
    figures = metrics.figures_of(statistics.add_up(tallies))
    for key in ("video_top1", "clip_top1", "mean_class_accuracy", "macro_f1", "log_loss"):
        assert first[key][0] < figures[key] < first[key][1]


@pytest.mark.parametrize(
    ("num_sources", "accuracy", "given", "note"),
    [
        (1, 0.0, False, "resampling needs at least 5 recordings, got 1"),
        (4, 0.5, False, "resampling needs at least 5 recordings, got 4"),
        (5, 0.6, True, "only 5 recordings"),
        (19, 0.6, True, "only 19 recordings"),
        (20, 1.0, False, "does not make them certain"),  # no error in any resample
        (20, 0.6, True, None),
    ],
)
def test_intervals_that_would_mislead(num_sources, accuracy, given, note):
    views, scores, labels, sources = made_case(num_sources, 4, accuracy=accuracy)
    intervals = statistics.intervals(metrics.tally(views, scores, labels), sources, metrics.figures_of)
    assert (intervals["video_top1"] is not None) == given
    intervals.pop("video_top5")  # of three classes
    text = statistics.interval_note(intervals, num_sources=num_sources)
    assert text is None if note is None else note in text


@pytest.mark.parametrize(
    ("num_videos", "num_sources", "num_right", "expected"),
    [
        (
            8,
            8,
            5,
            "a test on 8 videos of 8 recordings says little: with 5 right, the true accuracy could be anything from "
            "0.31 to 0.86 (95 % interval); to test on every video, cross-validate with split_data.py --num_folds 5",
        ),
        (99, 30, 66, "from 0.57 to 0.75 (95 % interval; wider if videos share a recording); to test on every video"),
        (500, 4, 400, "of 4 recordings says little"),
        (9, 3, 6, "; to test on every video, cross-validate with split_data.py --num_folds; "),  # 4 recordings or more
        (100, 30, 66, None),
    ],
)
def test_a_small_test_is_told(num_videos, num_sources, num_right, expected):
    note = statistics.interval_note({}, num_sources=num_sources, num_videos=num_videos, num_right=num_right)
    assert note is None if expected is None else expected in note


def test_a_cross_validation_is_not_told_to_cross_validate():
    views, scores, labels, sources = made_case(30, 4, accuracy=0.6)
    alone, fold = (
        metrics.summarise(views[::8], scores[::8], labels[::8], list("abc"), sources=sources[::8], cross_validated=yes)
        for yes in (False, True)
    )
    assert "; to test on every video, cross-validate with split_data.py --num_folds 5" in alone["interval_note"]
    assert "a test on 15 videos" in fold["interval_note"] and "cross-validate" not in fold["interval_note"]


def test_a_figure_that_cannot_vary_is_no_reason_for_a_note():
    """The label of one of three classes is among the five best in every resample."""
    views, scores, labels, sources = made_case(30, 4, accuracy=0.6)
    figures = metrics.summarise(views, scores, labels, ["a", "b", "c"], sources=sources)
    assert figures["intervals"]["video_top5"] is None
    assert figures["interval_note"] is None


def test_an_interval_without_width_is_none():
    """One class is always predicted, and few resamples leave out a whole class: 0.333 to 0.333 would look certain."""
    labels = np.array([0, 1] * 18 + [2] * 4)
    scores = np.tile([0.6, 0.2, 0.2], (40, 1))
    sources = list(map(str, range(40)))
    figures = metrics.summarise([row[None] for row in scores], scores, labels, ["a", "b", "c"], sources=sources)
    assert figures["mean_class_accuracy"] == pytest.approx(1 / 3)
    assert figures["intervals"]["mean_class_accuracy"] is None
    assert figures["intervals"]["video_top1"] is not None


def test_few_videos_are_counted():
    assert [statistics.describe_share(*pair) for pair in ((1, 2), (0, 9), (5, 10))] == ["1 of 2", "0 of 9", "50%"]


def test_mcnemar_by_hand():
    assert statistics.mcnemar(0, 0) == 1.0
    assert statistics.mcnemar(0, 6) == statistics.mcnemar(6, 0) == 2 / 2**6
    assert statistics.mcnemar(1, 2) == 1.0
    assert statistics.mcnemar(1, 7) == 2 * (1 + 8) / 2**8
