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


def zoo_rows() -> list[dict]:
    """Networks as near to each other as real ones: M parameters, GMACs, fp32 and int8 ms."""
    figures = {
        "swin3d_t": (28.2, 88, 1100, 600),
        "swin3d_s": (49.8, 166, 2100, 1200),
        "swin3d_b": (88, 282, 3300, 1800),
        "swin3d_nano": (0.4, 0.02, 2, 1.5),
        "r2plus1d_18": (31.5, 40.5, 600, 590),
        "r3d_18": (33.4, 40.7, 400, 395),
        "mc3_18": (11.7, 43.3, 420, 410),
        "s3d": (8.3, 143.9, 1900, 1850),
        "mvit_v1_b": (36.6, 70.6, 760, 420),
        "mvit_v2_s": (34.5, 64.2, 700, 380),
        "c3d": (79.6, 38.5, 350, 340),
        "i3d": (12.7, 111, 1000, 980),
    }
    keys = ("M params", "GMACs", "fp32 ms", "int8 ms")
    return [
        {"model": name, **dict(zip(keys, values, strict=True)), "top-1": 0.5, "low": 0.4, "high": 0.6, "clips seen": 9}
        for name, values in figures.items()
    ]


@pytest.mark.parametrize("accuracies", [True, False])
def test_names_of_models_cover_neither_each_other_nor_a_point(accuracies):
    rows = zoo_rows() if accuracies else [{**row, "top-1": None} for row in zoo_rows()]
    figure = plots.draw_zoo(rows, chance=0.5)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    names = {row["model"] for row in rows} - {"swin3d_nano"}
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text() in names]
    assert len(boxes) == len(names)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        frame = axes.get_window_extent()
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
    for row in rows:
        for kind in ("fp32 ms", "int8 ms"):
            x, y = axes.transData.transform((row["GMACs"], row[kind] / 1e3))
            assert not any(box.contains(x, y) for box in boxes)
    text = shown_text(figure)
    assert "swin3d_nano: 0.02·10⁹, 2 ms; off this scale" in text
    assert ("guessing" in text) == accuracies


def test_zoo_of_what_was_measured(tmp_path):
    rows = zoo_rows()
    slow, untimed, untested = rows[2], {**rows[0], "fp32 ms": None, "int8 ms": None}, {**rows[1], "top-1": None}
    figure = plots.draw_zoo([slow, untimed, untested])
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert names == ["swin3d_b", "swin3d_t"]  # the quickest on top, those without a time below
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text() in {"swin3d_b", "swin3d_s"}]
    assert "no latency was measured" in shown_text(plots.draw_zoo([untimed]))
    plots.plot_zoo(tmp_path / "one.png", [rows[3]])
    assert min(Image.open(tmp_path / "one.png").size) > 500
