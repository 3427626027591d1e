import numpy as np
import pytest

from video_module.engine.calibration import calibrate
from video_module.scores import at_temperature, softmax


def drawn(num_videos: int, *, sharpness: float, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return 4-class scores of logits * sharpness, with labels drawn from softmax(logits)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_videos, 4))
    labels = np.array([rng.choice(4, p=row) for row in softmax(logits)])
    return [softmax(row[None] * sharpness) for row in logits], labels


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_undoes_what_makes_scores_too_sharp(sharpness):
    scores, labels = drawn(4000, sharpness=sharpness)
    assert calibrate(scores, labels, min_precision=0.9).temperature == pytest.approx(sharpness, rel=0.1)


def test_a_few_right_videos_do_not_make_the_model_certain():
    scores = [np.array([[0.6, 0.4]])] * 8
    found = calibrate(scores, np.zeros(8, int), min_precision=0.9)
    assert 0.2 < found.temperature < 1
    assert (found.precision, found.num_answers, found.num_videos) == (1.0, 8, 8)
    assert 0.5 < found.min_score < at_temperature(scores[0], found.temperature).max()


def test_scores_of_exactly_0_and_1_are_no_trouble():
    found = calibrate([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])] * 10, np.array([0, 0] * 10), min_precision=0.9)
    assert np.isfinite([found.temperature, found.min_score]).all()


@pytest.mark.parametrize("min_precision", [0.7, 0.9])
def test_threshold_is_the_lowest_that_reaches_the_precision(min_precision):
    scores, labels = drawn(3000, sharpness=1.0)
    found = calibrate(scores, labels, min_precision=min_precision)
    video_scores = at_temperature(np.concatenate(scores), found.temperature)
    best, right = video_scores.max(axis=1), video_scores.argmax(axis=1) == labels

    def precision(threshold: float) -> float:
        return right[best >= threshold].mean()

    assert found.num_answers == (best >= found.min_score).sum()
    assert found.precision == precision(found.min_score) >= min_precision
    assert all(precision(lower) < min_precision for lower in best[best < found.min_score])


def test_precision_out_of_reach_is_told():
    scores = [np.array([[0.7, 0.3]])] * 10 + [np.array([[0.6, 0.4]])] * 10
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1] + [0] * 5 + [1] * 5)
    found = calibrate(scores, labels, min_precision=0.9)
    assert found.precision == 0.4 and found.num_answers == 20
    assert found.describe(0.9).endswith("no threshold reaches --min_precision 0.9)")


def unknown_scores(scores: list[np.ndarray], labels: np.ndarray, temperature: float) -> np.ndarray:
    """Return the best score of each video without its own class, normalised to a sum of 1."""
    rows = [np.delete(at_temperature(row, temperature)[0], label) for row, label in zip(scores, labels, strict=True)]
    return np.array([row.max() / row.sum() for row in rows])


def test_the_trade_off_with_unknown_actions_is_told():
    scores, labels = drawn(400, sharpness=1.0)
    found = calibrate(scores, labels, min_precision=0.8)
    chosen, *higher = found.trade_offs
    assert chosen.min_score == found.min_score
    assert (chosen.known_answered, chosen.precision) == (found.num_answers / 400, found.precision)
    unknown = unknown_scores(scores, labels, found.temperature)
    assert chosen.unknown_held == np.mean(unknown < found.min_score)
    assert [row.unknown_held for row in higher] == pytest.approx([0.75, 0.9], abs=0.01)
    assert all(row.unknown_held >= share for row, share in zip(higher, (0.75, 0.9), strict=True))
    told = found.describe(0.8).splitlines()
    assert told[1].startswith("actions outside all classes, estimated by leaving each class out of the scores in turn")
    assert told[3].startswith(f"  {found.min_score:.2f} (the model's)")
    assert len(told) == 6


def test_what_models_say_that_do_not_know_a_class_comes_first():
    scores, labels = drawn(400, sharpness=1.0)
    found = calibrate(scores, labels, min_precision=0.8, unknown=[np.array([[0.9, 0.1, 0.0]])] * 10)
    assert found.trade_offs[0].unknown_held == 0
    assert found.describe(0.8).splitlines()[1].endswith("measured by fitting without each class in turn:")


def test_a_score_of_1_leaves_the_other_classes_equal():
    found = calibrate([np.array([[1.0, 0.0, 0.0]])] * 10, np.zeros(10, int), min_precision=0.9)
    assert found.trade_offs[0].unknown_held == (found.min_score > 0.5)


def test_of_two_classes_nothing_is_said_about_unknown_actions():
    found = calibrate([np.array([[0.7, 0.3]])] * 10, np.zeros(10, int), min_precision=0.9)
    assert found.trade_offs == ()
    assert len(found.describe(0.9).splitlines()) == 1
