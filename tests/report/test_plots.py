import io
import subprocess
import sys
from itertools import pairwise

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from video_module.report import accuracy, class_counts, confusion, curves, style, timeline_plot

HMDB51 = """
brush_hair cartwheel catch chew clap climb climb_stairs dive draw_sword dribble drink eat fall_floor fencing
flic_flac golf handstand hit hug jump kick kick_ball kiss laugh pick pour pullup punch push pushup ride_bike ride_horse
run shake_hands shoot_ball shoot_bow shoot_gun sit situp smile smoke somersault stand swing_baseball sword
sword_exercise talk throw turn walk wave
""".split()  # noqa: SIM905 (a list of 51 strings would be a screen long)
CLASS_NAMES = {
    "2": ["fight", "noFight"],
    "2 long": ["opening the door of a very tall cupboard", "closing it"],
    "6": ["jump", "pull", "push", "sit", "stand", "wave"],
    "6 long": [f"an action whose name takes a line, number {n}" for n in range(6)],
    "51": HMDB51,
    "51 long": [f"{name} and then something else" for name in HMDB51],
}


def shown_text(figure) -> str:
    FigureCanvasAgg(figure).draw()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def confused(num_classes: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    matrix = 20 * np.eye(num_classes, dtype=np.int64)
    for label, prediction in pairs:
        matrix[label, prediction] += 8
    return matrix


def test_classes_taken_for_each_other_stand_together():
    order = confusion.confusion_order(confused(9, [(0, 5), (5, 0), (5, 8), (2, 7), (7, 2)]))
    assert sorted(order) == list(range(9))
    position = {index: place for place, index in enumerate(order)}
    assert {abs(position[0] - position[5]), abs(position[5] - position[8]), abs(position[2] - position[7])} == {1}
    assert order == [0, 5, 8, 1, 2, 7, 3, 4, 6]  # the rest keeps its order


@pytest.mark.parametrize("num_classes", [1, 2, 51])
def test_without_confusion_the_given_order_stays(num_classes):
    assert confusion.confusion_order(confused(num_classes, [])) == list(range(num_classes))


def test_a_chain_of_confusions_is_unrolled():
    rng = np.random.default_rng(0)
    hidden = rng.permutation(12)
    order = confusion.confusion_order(confused(12, list(pairwise(hidden))))
    assert order in (hidden.tolist(), hidden[::-1].tolist())


def test_order_of_many_confusions_is_a_permutation_and_repeats():
    matrix = np.random.default_rng(0).integers(0, 9, (60, 60))
    matrix[7] = 0  # a class without videos
    assert sorted(confusion.confusion_order(matrix)) == list(range(60))
    assert confusion.confusion_order(matrix) == confusion.confusion_order(matrix)


def drawn_texts(figure) -> list[tuple[str, object]]:
    """Each text that a picture shows, with its box in pixels. (Ticks outside the limits have texts, too, not drawn.)"""
    drawn = []
    draw = Text.draw

    def record(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), text.get_window_extent(renderer)))
        return draw(text, renderer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        FigureCanvasAgg(figure).draw()
    return drawn


def assert_legible(figure) -> None:
    """No text is cut off by the picture's edge or runs into another, at the resolution at which pictures are saved."""
    figure.set_dpi(style.STYLE["savefig.dpi"])
    texts = drawn_texts(figure)
    assert len(texts) > 3
    width, height = figure.canvas.get_width_height()
    for number, (text, box) in enumerate(texts):
        inside = box.x0 >= 0 and box.x1 <= width + 0.5 and box.y0 >= 0 and box.y1 <= height + 0.5
        assert inside, f"{text!r} is cut off: {box}, {width} x {height}"
        for other, other_box in texts[:number]:
            assert not box.padded(-0.5).overlaps(other_box.padded(-0.5)), f"{text!r} runs into {other!r}"


def per_class_rows(names: list[str]) -> dict[str, dict]:
    rows = {name: {"precision": 0.5, "recall": n / 60, "f1": 0.4, "support": 30} for n, name in enumerate(names)}
    rows[names[-1]] |= {"precision": 0.0, "recall": 1.0, "support": 1024}
    return rows


def timeline(names: list[str], *, width: float):
    labels = [*names, names[0]] * 2
    segments = [(n, n + 1, label, 0.3 + 0.7 * (n % 5) / 4) for n, label in enumerate(labels)]
    colors = dict.fromkeys(names, (90, 180, 240))
    return timeline_plot.draw_timeline(segments, duration_s=len(labels), colors=colors, width=width)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, id=name, marks=pytest.mark.slow if name == "51 long" else ())
        for name, names in CLASS_NAMES.items()
    ],
)
def test_texts_are_neither_cut_off_nor_run_into_each_other(names):
    matrix = confused(len(names), [(0, 1), (1, 0), (len(names) // 2, 1)])
    matrix[-1] = 0
    title = "Share of each label's videos, in percent"
    assert_legible(confusion.draw_confusion(matrix, names, title=title))
    assert_legible(accuracy.draw_per_class(per_class_rows(names), mean=0.4))
    for with_tags in (False, True):
        assert_legible(class_counts.draw_class_counts(distribution_of(names, with_tags=with_tags)))
    for width in (4.2, 5.2):
        assert_legible(timeline(names, width=width))


def distribution_of(names: list[str], *, with_tags: bool) -> dict:
    def split(scale: int) -> dict:
        counts = {name: scale + n for n, name in enumerate(names)}
        total = sum(counts.values())
        share = {"still": total // 2, "moving": total - total // 2}
        people = {"0": 0, "1": total - total // 8, "2": total // 8, "3": 0, "4 or more": 0}
        return {
            "classes": {name: {"num_videos": count} for name, count in counts.items()},
            "num_videos": total,
            "num_clips": 12 * total,
            "duration_s": 3.0 * total,
            "num_sources": 1 + total // 9,
            "imbalance": {"ratio": max(counts.values()) / min(counts.values())},
            "tags": {"camera motion": share, "number of people": people} if with_tags else None,
        }

    keys = ("shortest", "lower_quartile", "median", "upper_quartile", "longest")
    lengths = {
        name: {"length_s": dict(zip(keys, (0.5, 1.5, 2.0 + n % 7, 9.0, 10.0 + 3 * n), strict=True))}
        for n, name in enumerate(names)
    }
    lengths[names[0]] = {"length_s": None}  # a class of which all videos are broken
    splits = {"train": split(700), "val": split(1), "test": split(30)}
    return {"class_names": names, "classes": lengths, "splits": splits}


@pytest.mark.parametrize("num_epochs", [1, 2, 30])
@pytest.mark.parametrize("has_validation", [True, False])
def test_curves(num_epochs, has_validation):
    epochs = list(range(1, num_epochs + 1))
    columns = {"train_loss": 2 / np.array(epochs), "train_top1": 1 - 0.9 / np.array(epochs)}
    logs = {"epoch": epochs} | {key: values.tolist() for key, values in columns.items()}
    logs |= {
        key: logs[f"train_{key[4:]}"] if has_validation else [None] * num_epochs for key in ("val_loss", "val_top1")
    }
    figure = curves.draw_curves(logs, best_epoch=1)
    assert_legible(figure)
    texts = [text for text, _ in drawn_texts(figure)]
    assert ("validation" in texts) == has_validation
    assert {"training", "kept: epoch 1", "epoch", "cross-entropy, nats"} <= set(texts)
    for axes in figure.axes:
        ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert ticks
        assert all(tick == round(tick) >= 1 for tick in ticks)  # there is no epoch 1.5
        for line in axes.lines:
            assert max(line.get_ydata()) < axes.get_ylim()[1] or max(line.get_ydata()) == 1  # the last is axvline's


def test_colours_that_meet_differ_in_grey():
    def lightness(color: str) -> float:
        return float(np.dot(matplotlib.colors.to_rgb(color), (0.299, 0.587, 0.114)))

    for other in (style.ORANGE, style.GREY, "white"):
        assert abs(lightness(style.BLUE) - lightness(other)) > 0.2


def test_a_label_without_videos_differs_from_one_never_predicted_in_grey():
    matrix = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 0]])
    picture = style.to_png(confusion.draw_confusion(matrix, ["a", "b", "none"], title="t"))
    figure = confusion.draw_confusion(matrix, ["a", "b", "none"], title="t")
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L")).astype(float)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    scale = style.STYLE["savefig.dpi"] / figure.dpi

    def cell(row: int, column: int) -> np.ndarray:
        (x0, y0), (x1, y1) = figure.axes[0].transData.transform([(column - 0.3, row + 0.3), (column + 0.3, row - 0.3)])
        rows = slice(round(len(grey) - y1 * scale), round(len(grey) - y0 * scale))
        return grey[rows, round(x0 * scale) : round(x1 * scale)]

    assert cell(0, 1).std() < 1
    assert cell(2, 1).std() > 10  # hatched


def test_names_in_any_letters_are_drawn_without_a_word(tmp_path):
    program = (
        "import numpy as np, sys; from pathlib import Path; from video_module.report import confusion, style; "
        "style.save(confusion.draw_confusion(np.eye(2, dtype=int), ['走る', 'sit'], title='x'), Path(sys.argv[1]))"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path / "x.png"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_long_name_keeps_both_ends():
    assert style.abbreviate("sit", 3) == "sit"
    assert style.abbreviate("playing the violin 1", 13) == "playing …in 1"
    assert len(style.abbreviate("x" * 99, 24)) == 24
    shortened = {style.abbreviate(name, 24) for name in CLASS_NAMES["6 long"]}
    assert len(shortened) == 6


def test_names_of_classes_lie_flat_where_they_fit():
    def rotations(names: list[str]) -> set[float]:
        figure = confusion.draw_confusion(confused(len(names), []), names, title="t")
        return {label.get_rotation() for label in figure.axes[0].get_xticklabels()}

    assert rotations(CLASS_NAMES["6"]) == {0}
    assert rotations(CLASS_NAMES["6 long"]) == rotations(HMDB51) == {90}


def test_the_timeline_has_a_row_for_each_label_so_that_it_needs_no_colours():
    figure = timeline(["sit", "stand"], width=8)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sit", "stand"]
    bars = [patch for patch in axes.patches if patch.get_width() == 1]
    rows = [round(bar.get_y() - 0.4) for bar in bars]  # sit, stand, sit, twice
    assert rows == [0, 1, 0, 0, 1, 0]
    assert [round(-bar.get_height() / 0.8, 3) for bar in bars] == [0.3, 0.475, 0.65, 0.825, 1.0, 0.3]


def test_labels_that_are_too_many_for_rows_share_the_last():
    segments = [(float(n), n + 1.0 + (name == "walk"), name, 0.5) for n, name in enumerate(HMDB51)]
    figure = timeline_plot.draw_timeline(segments, duration_s=60, colors=dict.fromkeys(HMDB51, (9, 9, 9)))
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(rows) == 12
    assert rows[-1] == "… (40)"
    assert "walk" in rows  # the longest
    shared = [patch for patch in figure.axes[0].patches if patch.get_width() < 3 and round(patch.get_y() - 0.4) == 11]
    assert len(shared) == 40


def test_confusion_says_the_share_of_the_label():
    figure = confusion.draw_confusion(np.array([[9, 3, 0], [1, 1, 0], [0, 0, 0]]), ["a", "b", "none"], title="t")
    text = shown_text(figure)
    assert all(share in text for share in ("75%", "25%", "1 of 2"))
    assert "9 of 12" not in text
    cells = figure.axes[0].images[0].get_array()
    assert np.ma.getmaskarray(cells)[2].all()  # no video, no share


def test_confusion_of_51_classes_is_written_as_a_large_picture(tmp_path):
    names = [f"class {n}" for n in range(51)]
    style.save(confusion.draw_confusion(confused(51, [(3, 40)]), names, title="t"), tmp_path / "c.png")
    assert min(Image.open(tmp_path / "c.png").size) > 1500


def test_recall_is_sorted_and_absent_classes_stay_out():
    rows = {
        "low": {"precision": None, "recall": 0.0, "f1": 0.0, "support": 4},
        "absent": {"precision": 0.0, "recall": None, "f1": None, "support": 0},
        "high": {"precision": 0.5, "recall": 1.0, "f1": 0.7, "support": 7},
    }
    figure = accuracy.draw_per_class(rows, mean=0.5)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["low", "high"]  # drawn upwards
    assert "mean recall 0.500" in shown_text(figure)


def test_reliability_states_ece_and_counts():
    edges = np.linspace(0, 1, 16).tolist()
    counts, confidence, correct = [0] * 15, [None] * 15, [None] * 15
    counts[14], confidence[14], correct[14] = 37, 0.97, 0.8
    figure = accuracy.draw_reliability(
        {"edges": edges, "counts": counts, "confidence": confidence, "accuracy": correct}, ece=0.17
    )
    assert_legible(figure)
    text = shown_text(figure)
    assert "(ECE, 15 bins) 0.170" in text
    assert "37" in text


def test_tags_show_their_counts():
    by_tag = {"camera motion": {"moving": {"num_videos": 12, "video_top1": 0.25}}, "quality": {}}
    figure = accuracy.draw_by_tag(by_tag, overall=0.5)
    assert_legible(figure)
    text = shown_text(figure)
    assert "0.25   12 videos" in text
    assert "all videos 0.500" in text


def test_of_very_many_classes_those_to_look_at_are_drawn():
    """A confusion picture of 700 classes took 3 GB; bars of 2,000 are higher than matplotlib draws."""
    names = [f"class {number}" for number in range(700)]
    matrix = confused(700, [(3, 650), (650, 3), (699, 200)])
    matrix[3, 5:300] += 1  # by far most of the mistakes, each of a video
    figure = confusion.draw_confusion(matrix, names, title="t")
    axes = figure.axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len(shown) == 100 and {"class 3", "class 650", "class 699", "class 200"} <= set(shown)
    assert max(figure.get_size_inches()) < 20
    assert "the 100 of 700 classes that are mistaken most often" in figure.get_suptitle()
    shares = axes.images[0].get_array()
    row, column = shown.index("class 650"), shown.index("class 3")
    assert shares[row, column] == pytest.approx(8 / 28)
    row, column = shown.index("class 3"), shown.index("class 650")
    assert shares[row, column] == pytest.approx(8 / matrix[3].sum())  # of all its videos

    figure = accuracy.draw_per_class(per_class_rows(names), mean=0.4)
    assert "class 0" in [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert figure.axes[0].get_title(loc="left") == "the 400 worst of 700 classes"
    counts = class_counts.draw_class_counts(distribution_of(names, with_tags=False))
    for drawn in (figure, counts):
        assert len(drawn.axes[0].get_yticklabels()) == 400
        assert max(drawn.get_size_inches()) < 100
