"""Pictures of results (matplotlib, no window). One style: readable at README width and when printed in grey."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.patches
import numpy as np
from matplotlib.figure import Figure

from video_module.files import replacing

STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # class names may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}
BLUE, ORANGE, GREY = "#1f5fa8", "#e08a1e", "#9aa3ad"  # apart in lightness too
SPLIT_COLORS = {"train": BLUE, "val": ORANGE, "test": GREY, "all": BLUE}


def save(figure: Figure, path: Path) -> None:
    with replacing(path) as partial, matplotlib.rc_context(STYLE):
        figure.savefig(partial)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def plot_curves(path: Path, logs: dict[str, list], *, best_epoch: int) -> None:
    """Loss and accuracy of training and validation over epochs; the kept epoch is marked."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(8, 3.2)
        panels = (
            (("train_loss", "val_loss"), "Loss", "nats"),
            (("train_top1", "val_top1"), "Top-1 accuracy", "share of videos"),
        )
        for axes, (columns, title, unit) in zip(figure.subplots(1, 2), panels, strict=True):
            for column, color, style in zip(columns, (BLUE, ORANGE), ("-", "--"), strict=True):
                if any(value is not None for value in logs[column]):
                    name = "training" if column.startswith("train") else "validation"
                    axes.plot(logs["epoch"], logs[column], style, color=color, label=name, marker="o", markersize=3)
            axes.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle=":", label=f"kept: epoch {best_epoch}")
            axes.set(title=title, xlabel="epoch", ylabel=unit)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(frameon=False)
        figure.axes[1].set_ylim(0, 1.02)
        save(figure, path)


def plot_label_distribution(path: Path, distribution: dict[str, Any]) -> None:
    """Videos per class, the splits side by side, classes sorted by size."""
    splits, names = distribution["splits"], distribution["class_names"]
    totals = {name: sum(split["classes"][name] for split in splits.values()) for name in names}
    order = sorted(names, key=lambda name: (totals[name], name))  # barh draws upwards: the largest comes out on top
    with matplotlib.rc_context(STYLE):
        figure = _figure(7, 1.4 + (0.13 if len(order) <= 12 else 0.085) * len(order) * (1 + len(splits)))
        axes = figure.subplots()
        height = 0.8 / len(splits)
        for number, (split, content) in enumerate(splits.items()):
            counts = [content["classes"][name] for name in order]
            positions = np.arange(len(order)) + 0.4 - height * (number + 0.5)
            bars = axes.barh(
                positions,
                counts,
                height,
                color=SPLIT_COLORS.get(split, GREY),
                label=f"{split} ({content['num_videos']:,})",
            )
            axes.bar_label(bars, padding=2, fontsize=6, color="#444444")
        axes.set_yticks(np.arange(len(order)), order)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.set(xlabel="videos", title="Videos per class")
        figure.legend(frameon=False, loc="outside upper right", ncols=len(splits))
        save(figure, path)


def plot_confusion(path: Path, matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> None:
    """Row-normalised confusion matrix (rows: labels, columns: predictions), with shares where there is room."""
    num_classes = len(class_names)
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.zeros(matrix.shape), where=support > 0)
    with matplotlib.rc_context(STYLE):
        side = max(4.2, 1.8 + 0.17 * num_classes)
        figure = _figure(side + 0.8, side)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        size = 8 if num_classes <= 20 else 6
        axes.set_xticks(range(num_classes), class_names, rotation=90, fontsize=size)
        axes.set_yticks(range(num_classes), class_names, fontsize=size)
        axes.set(xlabel="prediction", ylabel="label", title=title)
        axes.spines[:].set_visible(False)
        if num_classes <= 20:
            for row, column in zip(*np.nonzero(matrix), strict=True):
                color = "white" if shares[row, column] > 0.55 else "black"
                axes.text(column, row, f"{shares[row, column]:.2f}", ha="center", va="center", fontsize=7, color=color)
        figure.colorbar(image, ax=axes, label="share of the label's videos", shrink=0.8)
        save(figure, path)


def plot_timeline(
    segments: Sequence[tuple[float, float, str, float]],
    *,
    duration_s: float,
    colors: dict[str, tuple[int, int, int]],
    title: str = "Timeline",
    xlabel: str = "time, s",
    ylabel: str = "score",
) -> Figure:
    """Segments (start_s, end_s, label, score) as bars over time, as high as their score, one colour a label."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(8, 2.4)
        axes = figure.subplots()
        for start, end, label, score in segments:
            color = tuple(value / 255 for value in colors[label])
            axes.bar(start, score, end - start, align="edge", color=color, edgecolor="white", linewidth=0.8)
            if end - start > 0.012 * duration_s * len(label):  # a name is written where it fits
                axes.text((start + end) / 2, 0.04, label, ha="center", va="bottom", fontsize=9, color="black")
        shown = list(dict.fromkeys(label for _, _, label, _ in segments))
        handles = [
            matplotlib.patches.Patch(color=tuple(v / 255 for v in colors[label]), label=label) for label in shown[:8]
        ]
        axes.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axes.set(xlim=(0, duration_s), ylim=(0, 1.02), title=title, xlabel=xlabel, ylabel=ylabel)
        return figure
