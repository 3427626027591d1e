"""Every figure against scikit-learn's, with classes that no video has and classes that are never predicted."""

import numpy as np
import pytest
import sklearn.metrics as sklearn

from video_module.report import metrics, statistics

pytestmark = pytest.mark.slow
NUM_CLASSES = 7


@pytest.fixture(params=[0, 1, 2], ids=lambda seed: f"seed {seed}")
def case(request):
    """Labels without class 3, scores that never prefer class 5, one to four views a video."""
    rng = np.random.default_rng(request.param)
    labels = rng.choice([0, 1, 2, 4, 5, 6], 120)
    views = []
    for label in labels:
        scores = rng.dirichlet(np.full(NUM_CLASSES, 0.5) + np.eye(NUM_CLASSES)[label], rng.integers(1, 5))
        scores[:, 5] *= 1e-3
        views.append(scores / scores.sum(axis=1, keepdims=True))
    return views, np.stack([view.mean(axis=0) for view in views]), labels


def test_figures(case):
    views, scores, labels = case
    classes, present, best = range(NUM_CLASSES), np.unique(labels), scores.argmax(axis=1)
    figures = metrics.summarise(views, scores, labels, classes, sources=[str(n) for n in range(len(labels))])
    assert figures["video_top1"] == pytest.approx(sklearn.accuracy_score(labels, best))
    assert figures["video_top5"] == pytest.approx(sklearn.top_k_accuracy_score(labels, scores, k=5, labels=classes))
    clips, owners = np.concatenate(views), np.repeat(labels, [len(view) for view in views])
    assert figures["clip_top1"] == pytest.approx(sklearn.accuracy_score(owners, clips.argmax(axis=1)))
    assert figures["mean_class_accuracy"] == pytest.approx(
        sklearn.recall_score(labels, best, labels=present, average="macro", zero_division=0)
    )
    assert figures["macro_f1"] == pytest.approx(
        sklearn.f1_score(labels, best, labels=present, average="macro", zero_division=0)
    )
    assert figures["log_loss"] == pytest.approx(sklearn.log_loss(labels, scores, labels=classes))


def test_confusion_and_classes(case):
    _, scores, labels = case
    best = scores.argmax(axis=1)
    matrix = metrics.confusion_matrix(best, labels, NUM_CLASSES)
    assert np.array_equal(matrix, sklearn.confusion_matrix(labels, best, labels=range(NUM_CLASSES)))
    columns = sklearn.precision_recall_fscore_support(
        labels, best, labels=range(NUM_CLASSES), zero_division=np.nan, average=None
    )
    rows = metrics.per_class(matrix, range(NUM_CLASSES)).values()
    for row, precision, recall, f1, support in zip(rows, *columns, strict=True):
        assert row["support"] == support
        for value, reference in ((row["precision"], precision), (row["recall"], recall)):
            assert (np.nan if value is None else value) == pytest.approx(reference, nan_ok=True)
        if support:
            assert row["f1"] == pytest.approx(f1)
        else:
            assert row["f1"] is None


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 6), (3, 1), (10, 25), (400, 330)])
def test_mcnemar(first, second):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(expected)
