import numpy as np
import pytest

from video_module.report import metrics

# four videos of three classes (the third has none), two views each
VIEWS = [
    np.array([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1]]),  # label 0: both views right
    np.array([[0.4, 0.5, 0.1], [0.8, 0.1, 0.1]]),  # label 0: one view wrong, the video right
    np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]]),  # label 1: wrong
    np.array([[0.1, 0.8, 0.1], [0.1, 0.9, 0.0]]),  # label 1: right
]
VIDEOS = np.stack([view.mean(axis=0) for view in VIEWS])
LABELS = np.array([0, 0, 1, 1])


def test_figures_of_a_case_done_by_hand():
    figures = metrics.summarise(VIEWS, VIDEOS, LABELS, ["a", "b", "c"])
    assert figures["video_top1"] == 0.75
    assert figures["video_top5"] == 1.0
    assert figures["clip_top1"] == 5 / 8
    assert figures["per_class_accuracy"] == {"a": 1.0, "b": 0.5, "c": None}
    assert figures["mean_class_accuracy"] == 0.75
    # a: precision 2/3, recall 1 -> 0.8; b: precision 1, recall 1/2 -> 2/3
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert figures["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.35, 0.85]).mean())
    # confidences 0.8, 0.6, 0.55, 0.85 fall into four bins; each gap weighs a quarter
    assert figures["ece"] == pytest.approx((0.2 + 0.4 + 0.55 + 0.15) / 4)
    assert (figures["num_videos"], figures["num_clips"]) == (4, 8)


def test_confusion_counts_labels_in_rows():
    assert metrics.confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 0]), 2).tolist() == [[1, 2], [0, 0]]


def test_top_k_reaches_from_one_to_all():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 4)), rng.integers(0, 4, 50)
    accuracies = [metrics.top_k_accuracy(scores, labels, k) for k in (1, 2, 3, 4, 5)]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == (scores.argmax(axis=1) == labels).mean()
    assert accuracies[3] == accuracies[4] == 1.0


def test_perfect_confidence_is_calibrated():
    assert metrics.expected_calibration_error(np.eye(3), np.arange(3)) == 0.0
    assert metrics.expected_calibration_error(np.eye(3), np.array([1, 2, 0])) == 1.0
