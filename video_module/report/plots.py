"""Pictures of results (matplotlib, no window). One style: readable at README width and when printed in grey."""

import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.ticker
import matplotlib.transforms
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from video_module.files import replacing

# a class may be named in letters that DejaVu Sans lacks; a box shows that, and needs no lines of code on the screen
warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
STYLE = {
    "font.size": 9,
    "hatch.linewidth": 0.8,
    "text.parse_math": False,  # class names may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": "#e4e6e9",
    "grid.linewidth": 0.6,
    "savefig.dpi": 200,  # a figure 8 inches wide stays sharp at README width on fine screens
    "figure.constrained_layout.use": True,
}
BLUE, ORANGE, GREY = "#1f5fa8", "#e08a1e", "#9aa3ad"  # blue is apart from both in lightness too
INK = "#444444"
SPLIT_COLORS = {"train": BLUE, "val": ORANGE, "test": GREY, "all": BLUE}


def save(figure: Figure, path: Path) -> None:
    with replacing(path) as partial, matplotlib.rc_context(STYLE):
        figure.savefig(partial)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def abbreviate(text: str, length: int) -> str:
    """Leave out the middle of a long text: names that begin alike often end apart."""
    tail = (length - 1) // 3
    return text if len(text) <= length else f"{text[: length - 1 - tail]}…{text[-tail:]}"


def _widest(texts: Sequence[str], size: float) -> float:
    """Width in inches of the longest of the texts, written in `size` points."""
    font = FontProperties(size=size)
    return max(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts) / 72


def to_png(figure: Figure, *, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", transparent=transparent)
    return buffer.getvalue()


def draw_curves(logs: dict[str, list], *, best_epoch: int) -> Figure:
    """Loss and accuracy of training and validation over epochs; the kept epoch is marked."""
    with matplotlib.rc_context(STYLE):
        figure = _figure(8, 3.2)
        panels = (
            (("train_loss", "val_loss"), "Loss", "cross-entropy, nats"),
            (("train_top1", "val_top1"), "Top-1 accuracy", "share that is right"),
        )
        for axes, (columns, title, unit) in zip(figure.subplots(1, 2), panels, strict=True):
            for column, color, style in zip(columns, (BLUE, ORANGE), ("o-", "s--"), strict=True):
                if any(value is not None for value in logs[column]):
                    name = "training" if column.startswith("train") else "validation"
                    axes.plot(logs["epoch"], logs[column], style, color=color, label=name, markersize=3)
            axes.axvline(best_epoch, color=INK, linewidth=0.9, linestyle=":", label=f"kept: epoch {best_epoch}")
            axes.set(title=title, xlabel="epoch", ylabel=unit, xlim=(0.5, max(2, *logs["epoch"]) + 0.5))
            seen = [value for column in columns for value in logs[column] if value is not None]
            axes.set_ylim(0, 1.02 if "top1" in columns[0] else 1.08 * max(seen) or 1)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True, min_n_ticks=1))
            axes.grid(axis="y")
        # above the panels: at any place within, some run's curves would pass
        figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=3)
        return figure


def plot_curves(path: Path, logs: dict[str, list], *, best_epoch: int) -> None:
    """Write draw_curves() as a picture."""
    save(draw_curves(logs, best_epoch=best_epoch), path)


def draw_label_distribution(distribution: dict[str, Any]) -> Figure:
    """Videos per class, a panel for each split, the largest class on top; below, what HMDB51's names tell."""
    splits, names = distribution["splits"], distribution["class_names"]
    counts = {
        split: np.array([content["classes"][name]["num_videos"] for name in names]) for split, content in splits.items()
    }
    order = sorted(range(len(names)), key=lambda index: (-sum(counts[split][index] for split in splits), names[index]))
    order.reverse()  # barh draws upwards: the largest comes out on top
    tags = {split: content["tags"] for split, content in splits.items() if content["num_videos"]}
    has_tags = all(tags.values())
    heights = [0.7 + 0.16 * max(3, len(names)), 1.25 + 0.2 * len(tags)][: 1 + has_tags]
    with matplotlib.rc_context(STYLE):
        figure = _figure(8, sum(heights))
        above, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        panels = above.subplots(1, len(splits), sharey=True, squeeze=False)[0]
        for axes, (split, content) in zip(panels, splits.items(), strict=True):
            bars = axes.barh(
                np.arange(len(order)), counts[split][order], 0.75, color=SPLIT_COLORS.get(split, GREY), edgecolor="none"
            )
            axes.bar_label(bars, padding=2, fontsize=6.5, color=INK)
            axes.set_title(f"{split}: {content['num_videos']:,} videos")
            uneven = content["imbalance"]
            ratio = "a class is empty" if uneven["ratio"] is None else f"largest : smallest {uneven['ratio']:.1f}"
            text = f"videos of the class ({ratio})\n{content['num_clips']:,} clips, {_duration(content['duration_s'])}"
            axes.set_xlabel(text, fontsize=7.5)
            axes.margins(x=0.12)
            axes.tick_params(axis="y", length=0)
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
        panels[0].set_yticks(np.arange(len(order)), [abbreviate(names[index], 28) for index in order], fontsize=7.5)
        panels[0].set_ylim(-0.6, len(order) - 0.4)
        for subfigure in below:
            _plot_tags(subfigure, tags)
        return figure


def plot_label_distribution(path: Path, distribution: dict[str, Any]) -> None:
    """Write draw_label_distribution() as a picture."""
    save(draw_label_distribution(distribution), path)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def _plot_tags(figure: Any, tags: dict[str, dict[str, dict[str, int]]]) -> None:
    """Shares of each tag's values, a panel for each tag and a bar for each split."""
    figure.suptitle("What the names tell: share of the videos", x=0.01, ha="left", fontsize=10, fontweight="bold")
    splits = list(tags)
    panels = figure.subplots(1, len(tags[splits[0]]), sharey=True, squeeze=False)[0]
    for axes, (tag, values) in zip(panels, tags[splits[0]].items(), strict=True):
        ends = np.zeros(len(splits))
        totals = np.array([max(1, sum(tags[split][tag].values())) for split in splits])
        shades = matplotlib.colormaps["Blues"](np.linspace(0.85, 0.2, len(values)))
        for value, shade in zip(values, shades, strict=True):
            shares = np.array([tags[split][tag][value] for split in splits]) / totals
            axes.barh(
                np.arange(len(splits)),
                shares,
                0.8,
                left=ends,
                color=shade,
                label=value,
                edgecolor="white",
                linewidth=0.5,
            )
            for row, share in enumerate(shares):
                if share >= 0.13:
                    ink = "white" if sum(shade[:3]) < 1.7 else "black"
                    axes.text(
                        ends[row] + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=6, color=ink
                    )
            ends += shares
        axes.set_title(tag, fontsize=8)
        axes.set(xlim=(0, 1), xticks=[])
        axes.set_yticks(np.arange(len(splits)), splits, fontsize=7.5)
        axes.invert_yaxis() if axes is panels[0] else None
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.legend(
            frameon=False,
            fontsize=6,
            loc="upper left",
            bbox_to_anchor=(0, 0.02),
            ncols=2,
            handlelength=0.9,
            handletextpad=0.4,
            columnspacing=0.8,
            borderpad=0,
        )


def confusion_order(matrix: np.ndarray) -> list[int]:
    """Order classes so that those taken for each other stand together (average linkage; ends that meet are alike).

    Classes never confused keep their given order, and a group stands where its first class would.
    """
    support = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    alike = matrix / support
    alike = alike + alike.T
    np.fill_diagonal(alike, 0)
    chains = [[index] for index in range(len(matrix))]
    means = alike.copy()  # between chains
    while len(chains) > 1 and means.max() > 0:
        one, other = sorted(np.unravel_index(means.argmax(), means.shape))
        first, second = chains[one], chains.pop(other)
        sizes = len(first), len(second)
        joins = [(first, second), (first, second[::-1]), (first[::-1], second), (second, first)]
        left, right = max(joins, key=lambda join: alike[join[0][-1], join[1][0]])
        chains[one] = left + right
        means[one] = means[:, one] = np.average(means[[one, other]], axis=0, weights=sizes)
        means[one, one] = 0
        means = np.delete(np.delete(means, other, axis=0), other, axis=1)
    chains = [chain if chain[0] <= chain[-1] else chain[::-1] for chain in chains]
    return [int(index) for chain in sorted(chains, key=min) for index in chain]


def draw_confusion(matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Row-normalised confusion matrix (rows: labels, columns: predictions), in percent where there is room.

    Classes taken for each other stand together; rows of classes without a video are hatched. The picture is as large
    as its names and cells need, up to 51 classes of HMDB51's names about 9 inches.
    """
    num_classes = len(class_names)
    order = confusion_order(matrix)
    matrix = matrix[np.ix_(order, order)]
    names = [abbreviate(class_names[index], 24) for index in order]
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
    small, large = num_classes <= 20, num_classes > 100
    side = float(np.clip(0.55 * num_classes, 2.6, 7.0)) if num_classes <= 51 else 7 / 51 * num_classes
    side = max(7.0, 0.06 * num_classes) if large else side
    cell = 72 * side / num_classes  # points
    size = 3.5 if large else min(9.0, 0.68 * cell)
    room = _widest(names, size)
    upright = 72 * room < 0.9 * cell
    with matplotlib.rc_context(STYLE):
        figure = _figure(side + room + 1.4, side + (0.2 if upright else room) + 0.75)
        figure.set_layout_engine("compressed")  # of cells as wide as high
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")  # may be wider than the matrix
        axes = figure.subplots()
        # the root brings out the few per cent off the diagonal
        norm = matplotlib.colors.PowerNorm(0.6, vmin=0, vmax=1)
        image = axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", norm=norm)
        axes.set_facecolor("white")
        axes.patch.set(hatch="////", edgecolor=GREY)
        axes.set_xticks(range(num_classes), names, rotation=0 if upright else 90, fontsize=size)
        axes.set_yticks(range(num_classes), names, fontsize=size)
        axes.tick_params(length=0)
        if not large:
            edges = np.arange(num_classes + 1) - 0.5
            axes.hlines(edges, -0.5, num_classes - 0.5, color="#dfe3e8", linewidth=0.4)
            axes.vlines(edges, -0.5, num_classes - 0.5, color="#dfe3e8", linewidth=0.4)
        axes.set(xlabel="prediction", ylabel="label")
        axes.spines[:].set_visible(False)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            share = shares[row, column]
            if small or (not large and share >= 0.05):
                color = "white" if share > 0.45 else "black"
                text = f"{share:.0%}" if small else f"{100 * share:.0f}"
                axes.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    fontsize=min(9.0, 0.47 * cell / (1 + small)),
                    color=color,
                )
        bar = figure.colorbar(
            image, ax=axes, label="share of the label's videos", shrink=0.8, aspect=35, fraction=0.05, pad=0.02
        )
        bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"])
        bar.outline.set_visible(False)
        return figure


def plot_confusion(path: Path, matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> None:
    """Write draw_confusion() as a picture."""
    save(draw_confusion(matrix, class_names, title=title), path)


def plot_per_class(per_class: dict[str, dict[str, Any]], *, mean: float) -> Figure:
    """Recall of each class as a bar and precision as a mark, best on top, with the class's number of videos."""
    rows = [(name, row) for name, row in reversed(per_class.items()) if row["recall"] is not None]
    rows.sort(key=lambda item: (item[1]["recall"], item[1]["f1"] or 0))  # barh draws upwards
    positions = np.arange(len(rows))
    with matplotlib.rc_context(STYLE):
        figure = _figure(7, 1.4 + (0.3 if len(rows) <= 12 else 0.17) * len(rows))
        axes = figure.subplots()
        recall = [row["recall"] for _, row in rows]
        axes.grid(axis="x")
        axes.barh(positions, recall, 0.72, color=BLUE, label="recall: of the class's videos, found")
        precision = [np.nan if row["precision"] is None else row["precision"] for _, row in rows]  # never predicted
        axes.scatter(
            precision,
            positions,
            marker="D",
            s=16,
            color="white",  # with a dark edge it shows on the bars and beside them
            edgecolor="black",
            linewidth=0.8,
            zorder=3,
            clip_on=False,
            label="precision: of what is called so, right",
        )
        axes.axvline(mean, color=ORANGE, linewidth=1.2, linestyle="--", label=f"mean recall {mean:.3f}")
        axes.set_yticks(positions, [abbreviate(name, 28) for name, _ in rows], fontsize=8 if len(rows) <= 20 else 7)
        for y, (_, row) in enumerate(rows):
            axes.text(1.025, y, f"{row['support']}", va="center", fontsize=6.5, color=INK)
        axes.text(1.025, len(rows) - 0.35, "videos", va="bottom", fontsize=6.5, color=INK)
        axes.set(xlim=(0, 1.02), ylim=(-0.6, len(rows) - 0.4), xlabel="recall and precision, share of videos")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.tick_params(axis="y", length=0)
        handles, texts = axes.get_legend_handles_labels()
        by_text = dict(sorted(zip(texts, handles, strict=True), key=lambda item: item[0][:3] != "rec"))
        figure.legend(by_text.values(), by_text, frameon=False, loc="outside upper left", ncols=3, fontsize=7.5)
        return figure


def plot_reliability(reliability: dict[str, list], *, ece: float) -> Figure:
    """Accuracy over confidence in bins, the gap to a calibrated model hatched, and how many videos each bin holds."""
    edges = np.array(reliability["edges"])
    counts = np.array(reliability["counts"])
    held = np.flatnonzero(counts)
    accuracy, confidence = (
        np.array([reliability[key][number] for number in held]) for key in ("accuracy", "confidence")
    )
    left, width = edges[:-1], np.diff(edges)
    with matplotlib.rc_context(STYLE):
        figure = _figure(4.6, 4.8)
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        axes.bar(left[held], accuracy, width[held], align="edge", color=BLUE, edgecolor="white", label="accuracy")
        axes.bar(
            left[held],
            confidence - accuracy,
            width[held],
            bottom=accuracy,
            align="edge",
            color="none",
            edgecolor=ORANGE,
            linewidth=0.8,
            hatch="////",
            label="gap to the mean confidence",
        )
        axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=0.8, label="perfectly calibrated")
        axes.set(
            ylim=(0, 1.02),
            ylabel="accuracy, share of videos",
            title=f"Calibration error (ECE, {len(counts)} bins) {ece:.3f}",
        )
        figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=7, handlelength=1.5)
        bars = below.bar(left, counts, width, align="edge", color=GREY, edgecolor="white")
        below.bar_label(bars, [f"{count}" if count else "" for count in counts], fontsize=6.5, color=INK)
        below.set(xlim=(0, 1), xlabel="confidence: score of the best class", ylabel="videos")
        below.margins(y=0.2)
        return figure


def plot_by_tag(by_tag: dict[str, dict[str, dict[str, Any]]], *, overall: float) -> Figure:
    """Video top-1 by what the data set's names say of the recording, with the number of videos behind each bar."""
    with matplotlib.rc_context(STYLE):
        num_rows = sum(len(values) + 1 for values in by_tag.values())
        figure = _figure(7, 0.9 + 0.24 * num_rows)
        axes = figure.subplots()
        ticks, y = [], 0.0
        for tag, values in by_tag.items():
            axes.text(0.0, y, tag, fontweight="bold", va="center", fontsize=8.5)
            for value, row in values.items():
                y += 1
                axes.barh(y, row["video_top1"], 0.72, color=BLUE)
                text = f"{row['video_top1']:.2f}   {row['num_videos']} videos"
                axes.text(1.02, y, text, va="center", fontsize=7.5, color=INK)
                ticks.append((y, value))
            y += 1.2
        axes.axvline(overall, color=ORANGE, linewidth=1.2, linestyle="--", label=f"all videos {overall:.3f}")
        axes.set_yticks([y for y, _ in ticks], [str(value) for _, value in ticks])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1.25), ylim=(y - 0.4, -0.8), xlabel="video top-1, share of videos")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.spines.bottom.set_bounds(0, 1)
        figure.legend(frameon=False, loc="outside upper right")
        return figure


def plot_timeline(
    segments: Sequence[tuple[float, float, str, float]],
    *,
    duration_s: float,
    colors: dict[str, tuple[int, int, int]],
    title: str = "Timeline",
    xlabel: str = "time, s",
    ylabel: str = "score",
    width: float = 8,
    ink: str = "black",
) -> Figure:
    """Segments (start_s, end_s, label, score) as bars over time, a row for each label, as high as their score.

    Of more than 12 labels those that last longest have rows of their own, the others share one. `width` in inches;
    `ink` is the colour of axes and their texts, which must show on a transparent ground too.
    """
    lasting: dict[str, float] = {}
    for start, end, label, _ in segments:
        lasting[label] = lasting.get(label, 0.0) + end - start
    longest = sorted(lasting, key=lambda label: -lasting[label])
    alone = longest if len(longest) <= _MOST_ROWS else longest[: _MOST_ROWS - 1]
    names = [label for label in lasting if label in alone]  # as they come first in the video
    others = f"… ({len(longest) - len(alone)})"
    names += [others] if len(alone) < len(longest) else []
    ink_of = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink)
    with matplotlib.rc_context(STYLE | ink_of):
        figure = _figure(width, 0.95 + 0.32 * len(names))
        axes = figure.subplots()
        axes.barh(range(len(names)), duration_s, 0.8, color=ink, alpha=0.06)  # a score of 1 would fill it
        for start, end, label, score in segments:
            row = names.index(label if label in alone else others)
            color = tuple(value / 255 for value in colors[label])
            axes.bar(
                start,
                -0.8 * score,  # rows count downwards
                end - start,
                bottom=row + 0.4,
                align="edge",
                color=color,
                edgecolor=INK,
                linewidth=0.5,
            )
            if end - start > 0.4 / width * duration_s:  # written where it fits, into high bars and above low ones
                top, inside = row + 0.4 - 0.8 * score, score >= 0.55
                place = {"va": "top", "color": "black"} if inside else {"va": "bottom", "color": ink}
                axes.text(
                    (start + end) / 2,
                    top + 0.04 * (1 if inside else -1),
                    f"{score:.0%}",
                    ha="center",
                    fontsize=7,
                    **place,
                )
        axes.set_yticks(range(len(names)), [abbreviate(name, 12 if width < 5 else 24) for name in names])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, duration_s), ylim=(len(names) - 0.5, -0.5), title=title, xlabel=xlabel)
        axes.set_title(f"▮ {ylabel}, 0–100%", loc="right", fontsize=8, fontweight="normal")
        return figure


_MOST_ROWS = 12  # of a timeline
_OFF_SCALE = (
    30  # times fewer multiply-adds than the median network: a point far from all others, which it would squeeze
)


def draw_zoo(rows: Sequence[dict[str, Any]], *, chance: float | None = None) -> Figure:
    """Models side by side: left what a clip costs and takes, right, where anything was tested, how accurate each is.

    Takes the rows of benchmark/zoo.py, and the accuracy of guessing. A model without a latency stays out of the left
    panel; one far smaller than the others is named in it.
    """
    timed = [row for row in rows if row["fp32 ms"] is not None]
    tested = sorted(
        (row for row in rows if row["top-1"] is not None), key=lambda row: (row["fp32 ms"] or np.inf, row["GMACs"])
    )
    with matplotlib.rc_context(STYLE):
        figure = _figure(9.6 if tested else 6.2, 4.8)
        panels = figure.subplots(1, 1 + bool(tested), squeeze=False, width_ratios=[1.25, 1][: 1 + bool(tested)])[0]
        if tested:
            _plot_accuracies(panels[1], tested, chance=chance)
        _scatter_costs(panels[0], timed)
        return figure


def plot_zoo(path: Path, rows: Sequence[dict[str, Any]], *, chance: float | None = None) -> None:
    """Write draw_zoo() as a picture."""
    save(draw_zoo(rows, chance=chance), path)


def _scatter_costs(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Seconds of a clip over its multiply-adds, in fp32 and in int8; discs as large as the network."""
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds of one clip, 10⁹", ylabel="one clip on the CPU, s")
    axes.set_title("What a clip takes", pad=18)  # level with the other panel's
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    least = np.median([row["GMACs"] for row in rows]) / _OFF_SCALE if rows else 0
    notes = [
        f"{row['model']}: {row['GMACs']:.2g}·10⁹, {row['fp32 ms']:.2g} ms; off this scale"
        for row in rows
        if row["GMACs"] < least
    ]
    rows = [row for row in rows if row["GMACs"] >= least]
    axes.text(
        0.99,
        0.01,
        "\n".join(notes) if rows else "no latency was measured",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=7.5,
        color=INK,
    )
    if not rows:
        return
    x = np.array([row["GMACs"] for row in rows])
    fp32, int8 = (np.array([row[f"{kind} ms"] for row in rows]) / 1e3 for kind in ("fp32", "int8"))
    axes.set(xlim=(x.min() / 1.6, x.max() * 1.6))
    axes.set(ylim=(min(fp32.min(), int8.min()) / 1.6, max(fp32.max(), int8.max()) * 1.6))
    axes.vlines(x, fp32, int8, color=GREY, linewidth=0.9, zorder=2)
    sizes = [6 * row["M params"] for row in rows]  # points^2: areas, not radii, stand for the networks
    axes.scatter(x, fp32, s=sizes, color=BLUE, alpha=0.18, edgecolor="none", zorder=1)
    axes.scatter([], [], s=6 * 30, color=BLUE, alpha=0.18, edgecolor="none", label="30 M parameters")
    axes.scatter(x, fp32, s=26, color=BLUE, zorder=3, label="fp32")
    axes.scatter(x, int8, s=18, marker="D", color=ORANGE, edgecolor="white", linewidth=0.6, zorder=4, label="int8")
    axes.legend(*axes.get_legend_handles_labels(), frameon=False, loc="upper left")
    marks = list(zip(x, fp32, strict=True))
    _place_labels(axes, marks, [row["model"] for row in rows], marks=[*marks, *zip(x, int8, strict=True)])


def _plot_accuracies(axes: Any, rows: Sequence[dict[str, Any]], *, chance: float | None) -> None:
    """Accuracy with its interval, a row for each model, and how many clips training in the given time could show it."""
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=0.8, linestyle=":", zorder=0)
        axes.text(chance, -0.75, "guessing", va="bottom", ha="center", fontsize=7.5, color=INK)
    for place, row in enumerate(rows):
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=GREY, linewidth=2.2, zorder=1)
        seen = "" if row["clips seen"] is None else f"{row['clips seen']:,}"
        axes.text(1.1, place, seen, va="center", ha="right", fontsize=7.5, color=INK)
    if any(row["clips seen"] is not None for row in rows):
        axes.text(1.1, -0.75, "clips trained on", va="bottom", ha="right", fontsize=7.5, color=INK)
    axes.scatter([row["top-1"] for row in rows], range(len(rows)), s=24, color=BLUE, zorder=2)
    axes.set_yticks(range(len(rows)), [row["model"] for row in rows])
    axes.set(xlim=(0, 1.1), ylim=(len(rows) - 0.4, -0.7), xlabel="video top-1, with 95 % interval")
    axes.set_title("How accurate, quickest on top", pad=18)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.spines.bottom.set_bounds(0, 1)
    axes.tick_params(axis="y", length=0)


def _place_labels(
    axes: Any,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    marks: Sequence[tuple[float, float]],
) -> None:
    """Write a name near each point where it covers no mark and no other name; a line leads to one further away.

    The axes' limits must be set: the places follow from them.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the places found hold for this layout
    taken = [axes.get_legend().get_window_extent()]
    frame = axes.get_window_extent()
    mark_boxes = [matplotlib.transforms.Bbox([mark, mark]).padded(6) for mark in axes.transData.transform(marks)]
    behind = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}
    for index in np.argsort([-y for _, y in points]):
        x, y = points[index]
        label = axes.text(x, y, texts[index], fontsize=7.5, ha="center", va="center", bbox=behind, zorder=2.5)
        _, distance, spot = min(
            (
                (_clashes(spot, frame, taken, mark_boxes), distance, spot)
                for distance, spot in _spots(label.get_window_extent())
            ),
            key=lambda option: option[:2],
        )
        taken.append(spot)
        place = axes.transData.inverted().transform(spot.get_points().mean(axis=0))
        label.set_position(place)
        if distance > 2:
            axes.plot([x, place[0]], [y, place[1]], color=GREY, linewidth=0.5, zorder=0)


def _spots(box: matplotlib.transforms.Bbox) -> Iterator[tuple[int, matplotlib.transforms.Bbox]]:
    """Places around a box of text whose centre is its point: (how far, box), near ones first."""
    for distance in range(1, 9):
        for angle in np.radians(np.arange(0, 360, 22.5)):
            right = np.cos(angle) * (box.width / 2 + 8 * distance)
            up = np.sin(angle) * (box.height / 2 + 8 * distance)
            yield distance, matplotlib.transforms.Bbox(box.get_points() + (right, up))


def _clashes(spot, frame, taken: Sequence, marks: Sequence) -> int:
    """How many things a place for a name covers; the frame of the panel weighs more than all."""
    outside = spot.x0 < frame.x0 or spot.x1 > frame.x1 or spot.y0 < frame.y0 or spot.y1 > frame.y1
    return 1000 * outside + sum(spot.padded(2).overlaps(other) for other in [*taken, *marks])
