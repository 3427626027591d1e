from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from video_module.report import plots


def shown_text(figure) -> str:
    FigureCanvasAgg(figure).draw()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def confused(num_classes: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    matrix = 20 * np.eye(num_classes, dtype=np.int64)
    for label, prediction in pairs:
        matrix[label, prediction] += 8
    return matrix


def test_classes_taken_for_each_other_stand_together():
    order = plots.confusion_order(confused(9, [(0, 5), (5, 0), (5, 8), (2, 7), (7, 2)]))
    assert sorted(order) == list(range(9))
    position = {index: place for place, index in enumerate(order)}
    assert {abs(position[0] - position[5]), abs(position[5] - position[8]), abs(position[2] - position[7])} == {1}
    assert order == [0, 5, 8, 1, 2, 7, 3, 4, 6]  # the rest keeps its order


@pytest.mark.parametrize("num_classes", [1, 2, 51])
def test_without_confusion_the_given_order_stays(num_classes):
    assert plots.confusion_order(confused(num_classes, [])) == list(range(num_classes))


def test_a_chain_of_confusions_is_unrolled():
    rng = np.random.default_rng(0)
    hidden = rng.permutation(12)
    order = plots.confusion_order(confused(12, list(pairwise(hidden))))
    assert order in (hidden.tolist(), hidden[::-1].tolist())


def test_order_of_many_confusions_is_a_permutation_and_repeats():
    matrix = np.random.default_rng(0).integers(0, 9, (60, 60))
    matrix[7] = 0  # a class without videos
    assert sorted(plots.confusion_order(matrix)) == list(range(60))
    assert plots.confusion_order(matrix) == plots.confusion_order(matrix)


@pytest.mark.parametrize("num_classes", [2, 6, 51])
def test_class_names_do_not_run_into_each_other(num_classes):
    names = [f"a rather long class name {n}" for n in range(num_classes)]
    figure = plots.draw_confusion(confused(num_classes, [(0, 1)]), names, title="t")
    per_class = {name: {"precision": 0.5, "recall": n / 60, "f1": 0.4, "support": 30} for n, name in enumerate(names)}
    for drawn in (figure, plots.plot_per_class(per_class, mean=0.4)):
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in drawn.axes[0].get_yticklabels()]
        assert len(boxes) == num_classes
        heights = sorted(box.y0 for box in boxes)
        assert min(np.diff(heights)) >= 0.7 * max(box.height for box in boxes)
        assert min(box.x0 for box in boxes) >= 0


def test_confusion_says_the_share_of_the_label():
    figure = plots.draw_confusion(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), ["a", "b", "none"], title="t")
    text = shown_text(figure)
    assert "75%" in text
    assert "25%" in text
    cells = figure.axes[0].images[0].get_array()
    assert np.ma.getmaskarray(cells)[2].all()  # no video, no share


def test_confusion_of_51_classes_is_written_as_a_large_picture(tmp_path):
    plots.plot_confusion(tmp_path / "c.png", confused(51, [(3, 40)]), [f"class {n}" for n in range(51)], title="t")
    assert min(Image.open(tmp_path / "c.png").size) > 1500


def test_recall_is_sorted_and_absent_classes_stay_out():
    rows = {
        "low": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 4},
        "absent": {"precision": 0.0, "recall": None, "f1": None, "support": 0},
        "high": {"precision": 0.5, "recall": 1.0, "f1": 0.7, "support": 7},
    }
    figure = plots.plot_per_class(rows, mean=0.5)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["low", "high"]  # drawn upwards
    assert "mean recall 0.500" in shown_text(figure)


def test_reliability_states_ece_and_counts():
    edges = np.linspace(0, 1, 16).tolist()
    counts, confidence, accuracy = [0] * 15, [None] * 15, [None] * 15
    counts[14], confidence[14], accuracy[14] = 37, 0.97, 0.8
    text = shown_text(
        plots.plot_reliability(
            {"edges": edges, "counts": counts, "confidence": confidence, "accuracy": accuracy}, ece=0.17
        )
    )
    assert "(ECE, 15 bins) 0.170" in text
    assert "37" in text


def test_tags_show_their_counts():
    by_tag = {"camera motion": {"moving": {"num_videos": 12, "video_top1": 0.25}}, "quality": {}}
    text = shown_text(plots.plot_by_tag(by_tag, overall=0.5))
    assert "0.25   12 videos" in text
    assert "all videos 0.500" in text
