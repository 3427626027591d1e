import numpy as np
import pytest

from video_module.report import metrics
from video_module.scores import top_k_accuracy

# four videos of three classes (the third has none), two views each
VIEWS = [
    np.array([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1]]),  # label 0: both views right
    np.array([[0.4, 0.5, 0.1], [0.8, 0.1, 0.1]]),  # label 0: one view wrong, the video right
    np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]]),  # label 1: wrong
    np.array([[0.1, 0.8, 0.1], [0.1, 0.9, 0.0]]),  # label 1: right
]
VIDEOS = np.stack([view.mean(axis=0) for view in VIEWS])
LABELS = np.array([0, 0, 1, 1])
CLASSES = ["a", "b", "c"]


def test_figures_of_a_case_done_by_hand():
    figures = metrics.summarise(VIEWS, VIDEOS, LABELS, CLASSES, sources=["x", "x", "y", "z"])
    assert figures["video_top1"] == 0.75
    assert figures["video_top5"] == 1.0
    assert figures["clip_top1"] == 5 / 8
    assert figures["per_class_accuracy"] == {"a": 1.0, "b": 0.5, "c": None}
    assert figures["mean_class_accuracy"] == 0.75
    # a: precision 2/3, recall 1 -> 0.8; b: precision 1, recall 1/2 -> 2/3
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert figures["per_class"]["a"] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2}
    assert figures["per_class"]["c"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    assert figures["most_confused"] == [{"label": "b", "prediction": "a", "count": 1, "share": 0.5}]
    assert figures["log_loss"] == pytest.approx(-np.log([0.8, 0.6, 0.35, 0.85]).mean())
    # confidences 0.8, 0.6, 0.55, 0.85 fall into four bins; each gap weighs a quarter
    assert figures["ece"] == pytest.approx((0.2 + 0.4 + 0.55 + 0.15) / 4)
    assert (figures["num_videos"], figures["num_clips"], figures["num_sources"]) == (4, 8, 3)
    assert set(figures["intervals"].values()) == {None}
    assert "resampling needs at least 5 recordings, got 3" in figures["interval_note"]


def test_confusion_counts_labels_in_rows():
    assert metrics.confusion_matrix(np.array([1, 1, 0]), np.array([0, 0, 0]), 2).tolist() == [[1, 2], [0, 0]]


def test_top_k_reaches_from_one_to_all():
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 4)), rng.integers(0, 4, 50)
    accuracies = [top_k_accuracy(scores, labels, k) for k in (1, 2, 3, 4, 5)]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] == (scores.argmax(axis=1) == labels).mean()
    assert accuracies[3] == accuracies[4] == 1.0


def calibration_error(scores: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al.'s definition, video by video."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        bins.setdefault(min(14, int(confidence * 15)), []).append((confidence, row.index(confidence) == label))
    return sum(
        len(members) / len(labels) * abs(sum(c for c, _ in members) - sum(hit for _, hit in members)) / len(members)
        for members in bins.values()
    )


@pytest.mark.parametrize(("num_videos", "num_classes"), [(1, 2), (40, 2), (500, 7)])
def test_calibration_error_and_diagram_against_a_plain_implementation(num_videos, num_classes):
    rng = np.random.default_rng(num_videos)
    scores, labels = rng.dirichlet(np.full(num_classes, 0.4), num_videos), rng.integers(0, num_classes, num_videos)
    figures = metrics.summarise([row[None] for row in scores], scores, labels, range(num_classes), sources=labels)
    assert figures["ece"] == pytest.approx(calibration_error(scores, labels), abs=1e-12)
    diagram = figures["reliability"]
    assert sum(diagram["counts"]) == num_videos
    assert len(diagram["edges"]) == 16
    gaps = [
        count * abs(confidence - accuracy)
        for count, confidence, accuracy in zip(
            diagram["counts"], diagram["confidence"], diagram["accuracy"], strict=True
        )
        if count
    ]
    assert sum(gaps) / num_videos == pytest.approx(figures["ece"])
    for number, (count, confidence) in enumerate(zip(diagram["counts"], diagram["confidence"], strict=True)):
        assert (confidence is None) == (count == 0)
        if count:
            assert diagram["edges"][number] - 1e-9 <= confidence <= diagram["edges"][number + 1] + 1e-9


def test_perfect_confidence_is_calibrated():
    views = [row[None] for row in np.eye(3)]
    for labels, expected in ((np.arange(3), 0.0), (np.array([1, 2, 0]), 1.0)):
        assert metrics.summarise(views, np.eye(3), labels, CLASSES, sources=list("xyz"))["ece"] == expected


def test_the_most_confused_come_first():
    matrix = np.array([[5, 3, 0], [3, 0, 1], [0, 0, 9]])
    pairs = [(pair["label"], pair["prediction"], pair["count"]) for pair in metrics.most_confused(matrix, CLASSES)]
    assert pairs == [("b", "a", 3), ("a", "b", 3), ("b", "c", 1)]  # 3 of 4 before 3 of 8
    assert len(metrics.most_confused(matrix, CLASSES, limit=2)) == 2


def test_windows_count_one_by_one():
    figures = metrics.window_figures([VIEWS[0], VIEWS[1][:1], VIEWS[2], VIEWS[3]], LABELS)
    assert figures["window_top1"] == 4 / 7
    assert figures["window_mean_class_accuracy"] == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_accuracy_by_what_names_tell():
    from video_module.data import hmdb51

    names = [
        ("Film_wave_f_cm_np1_fr_goo_0.avi", True),
        ("Film_wave_u_cm_np1_fr_med_1.avi", False),
        ("Film_wave_h_nm_np10_le_bad_2.avi", True),
        ("holiday.avi", False),
    ]
    tags = [hmdb51.describe_tags(name, "wave") for name, _ in names]
    correct = np.array([right for _, right in names])
    figures = metrics.tag_figures(tags, correct, hmdb51.tag_values())
    assert figures["num_tagged_videos"] == 3
    by_tag = figures["by_tag"]
    assert list(by_tag) == ["camera motion", "viewpoint", "quality", "visible body part", "number of people"]
    assert by_tag["camera motion"] == {
        "still": {"num_videos": 1, "video_top1": 1.0},
        "moving": {"num_videos": 2, "video_top1": 0.5},
    }
    assert list(by_tag["quality"]) == ["good", "medium", "bad"]
    assert by_tag["number of people"]["4 or more"] == {"num_videos": 1, "video_top1": 1.0}
    assert metrics.tag_figures([tags[0], None, None], correct[:3], hmdb51.tag_values())["by_tag"] is None
