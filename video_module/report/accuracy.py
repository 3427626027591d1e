"""Charts of accuracy by class, by confidence, and by the tags in file names."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from video_module.report.style import BLUE, GREY, INK, MOST_BARS, ORANGE, abbreviate, new_figure, styled


@styled()
def draw_per_class(per_class: dict[str, dict[str, Any]], *, mean: float) -> Figure:
    """Draw the recall of each class as a bar and its precision as a marker, best on top, with its number of videos.

    If there are very many classes, only the worst are shown.
    """
    rows = [(name, row) for name, row in reversed(per_class.items()) if row["recall"] is not None]
    # barh draws upwards, so the best class comes last.
    rows.sort(key=lambda item: (item[1]["recall"], item[1]["f1"] or 0))
    num_classes, rows = len(rows), rows[:MOST_BARS]
    positions = np.arange(len(rows))
    recall = [row["recall"] for _, row in rows]
    # The precision of a class that was never predicted is unknown, and nothing is drawn for it.
    precision = [np.nan if row["precision"] is None else row["precision"] for _, row in rows]
    figure = new_figure(7, 1.4 + (0.3 if len(rows) <= 12 else 0.17) * len(rows))
    axes = figure.subplots()
    axes.grid(axis="x")
    bars = axes.barh(positions, recall, 0.72, color=BLUE, label="recall: share of its videos found")
    # White with a dark edge shows both on the bars and beside them.
    look = {"marker": "D", "s": 16, "color": "white", "edgecolor": "black", "linewidth": 0.8}
    marks = axes.scatter(
        precision,
        positions,
        zorder=3,
        clip_on=False,
        label="precision: share of its predictions that are right",
        **look,
    )
    line = axes.axvline(mean, color=ORANGE, linewidth=1.2, linestyle="--", label=f"mean recall {mean:.3f}")
    axes.set_yticks(positions, [abbreviate(name, 28) for name, _ in rows], fontsize=8 if len(rows) <= 20 else 7)
    for y, (_, row) in enumerate(rows):
        axes.text(1.025, y, f"{row['support']}", va="center", fontsize=6.5, color=INK)
    axes.text(1.025, len(rows) - 0.35, "videos", va="bottom", fontsize=6.5, color=INK)
    axes.set(xlim=(0, 1.02), ylim=(-0.6, len(rows) - 0.4), xlabel="recall and precision, share of videos")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.tick_params(axis="y", length=0)
    if len(rows) < num_classes:
        axes.set_title(f"the {len(rows)} worst of {num_classes:,} classes")
    figure.legend(handles=[bars, marks, line], frameon=False, loc="outside upper left", ncols=3, fontsize=7.5)
    return figure


@styled()
def draw_reliability(reliability: dict[str, list], *, ece: float) -> Figure:
    """Draw accuracy over bins of confidence, with the gap to a calibrated model hatched, and the videos per bin."""
    edges, counts = np.array(reliability["edges"]), np.array(reliability["counts"])
    assert len(edges) == len(counts) + 1
    left, width = edges[:-1], np.diff(edges)
    held = np.flatnonzero(counts)
    accuracy, confidence = (np.array(reliability[key], float)[held] for key in ("accuracy", "confidence"))
    figure = new_figure(4.6, 4.8)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    axes.bar(left[held], accuracy, width[held], align="edge", color=BLUE, edgecolor="white", label="accuracy")
    hatched = {"color": "none", "edgecolor": ORANGE, "linewidth": 0.8, "hatch": "////"}
    gap, label = confidence - accuracy, "gap to the mean confidence"
    axes.bar(left[held], gap, width[held], bottom=accuracy, align="edge", label=label, **hatched)
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=0.8, label="perfectly calibrated")
    axes.set(ylim=(0, 1.02), ylabel="accuracy, share of videos")
    axes.set_title(f"Calibration error (ECE, {len(counts)} bins) {ece:.3f}")
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=7, handlelength=1.5)
    bars = below.bar(left, counts, width, align="edge", color=GREY, edgecolor="white")
    below.bar_label(bars, [f"{count}" if count else "" for count in counts], fontsize=6.5, color=INK)
    below.set(xlim=(0, 1), xlabel="confidence: score of the best class", ylabel="videos")
    below.margins(y=0.2)
    return figure


@styled()
def draw_by_tag(by_tag: dict[str, dict[str, dict[str, Any]]], *, overall: float) -> Figure:
    """Draw video top-1 by the tags in the file names, with the number of videos of each bar."""
    num_rows = sum(len(values) + 1 for values in by_tag.values())
    figure = new_figure(7, 0.9 + 0.24 * num_rows)
    axes = figure.subplots()
    ticks, y = {}, 0.0
    for tag, values in by_tag.items():
        axes.text(0.0, y, tag, fontweight="bold", va="center", fontsize=8.5)
        for value, row in values.items():
            y += 1
            axes.barh(y, row["video_top1"], 0.72, color=BLUE)
            text = f"{row['video_top1']:.2f}   {row['num_videos']} videos"
            axes.text(1.02, y, text, va="center", fontsize=7.5, color=INK)
            ticks[y] = str(value)
        y += 1.2
    axes.axvline(overall, color=ORANGE, linewidth=1.2, linestyle="--", label=f"all videos {overall:.3f}")
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1.25), ylim=(y - 0.4, -0.8), xlabel="video top-1, share of videos")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.spines.bottom.set_bounds(0, 1)
    figure.legend(frameon=False, loc="outside upper right")
    return figure
