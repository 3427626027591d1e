"""Bar chart of a data set: the number of videos of each class in each split, and their lengths."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullLocator

from video_module.report.style import BLUE, GREY, INK, MOST_BARS, ORANGE, abbreviate, new_figure, styled
from video_module.tables import pluralize, round_duration

_SPLIT_COLORS = {"train": BLUE, "val": ORANGE, "test": GREY, "all": BLUE}


@styled()
def draw_class_counts(distribution: dict[str, Any]) -> Figure:
    """Draw the videos per class in a panel for each split, largest class on top, then their lengths and HMDB51's tags.

    `distribution` is the result of data.distribution.label_distribution().
    """
    splits, names = distribution["splits"], distribution["class_names"]
    totals = {name: sum(split["classes"][name]["num_videos"] for split in splits.values()) for name in names}
    # barh draws upwards, so the largest class comes last.
    ordered = sorted(names, key=lambda name: (-totals[name], name))[::-1]
    note = ""
    if len(ordered) > MOST_BARS:
        half = MOST_BARS // 2
        note = f"the {half} largest and the {half} smallest of {len(ordered):,} classes"
        ordered = ordered[:half] + ordered[-half:]
    tags = {name: split["tags"] for name, split in splits.items() if split["num_videos"]}
    heights = [1.1 + 0.16 * max(3, len(ordered))]
    if all(tags.values()):
        heights.append(1.25 + 0.2 * len(tags))
    figure = new_figure(9.5, sum(heights))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    panels = parts[0].subplots(1, len(splits) + 1, sharey=True, squeeze=False)[0]
    for axes, (name, split) in zip(panels, splits.items(), strict=False):
        _draw_split(axes, name, split, ordered)
    _draw_lengths(panels[-1], [distribution["classes"][name]["length_s"] for name in ordered])
    panels[0].set_yticks(range(len(ordered)), [abbreviate(name, 28) for name in ordered], fontsize=7.5)
    if note:
        parts[0].suptitle(note, x=0.01, ha="left", fontsize=9)
    panels[0].set_ylim(-0.6, len(ordered) - 0.4)
    if len(parts) > 1:
        _draw_tags(parts[1], tags)
    return figure


def _draw_split(axes: Axes, name: str, split: dict[str, Any], class_names: list[str]) -> None:
    counts = [split["classes"][class_name]["num_videos"] for class_name in class_names]
    bars = axes.barh(range(len(counts)), counts, 0.75, color=_SPLIT_COLORS.get(name, GREY), edgecolor="none")
    axes.bar_label(bars, padding=2, fontsize=6.5, color=INK)
    axes.set_title(f"{name}: {split['num_videos']:,} videos")
    ratio = split["imbalance"]["ratio"]
    balance = "a class is empty" if ratio is None else f"largest / smallest = {ratio:.1f}"
    duration = round_duration(split["duration_s"])
    known = split["num_sources"] is not None
    recordings = pluralize(split["num_sources"], "recording") if known else "recordings unknown"
    lines = ["videos per class", f"({balance})", recordings, f"{split['num_clips']:,} clips, {duration}"]
    axes.set_xlabel("\n".join(lines), fontsize=7.5)
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _draw_lengths(axes: Axes, lengths_s: list[dict[str, float] | None]) -> None:
    """Draw for each class a line from the shortest to the longest video, with the middle half and the median marked."""
    known = [(row, lengths) for row, lengths in enumerate(lengths_s) if lengths]
    for row, lengths in known:
        axes.plot([lengths["shortest"], lengths["longest"]], [row, row], color=GREY, linewidth=1, zorder=1)
        axes.plot([lengths["lower_quartile"], lengths["upper_quartile"]], [row, row], color=BLUE, linewidth=3.5)
        axes.plot(lengths["median"], row, "o", color="white", markeredgecolor=BLUE, markersize=3.5)
    longest = max((lengths["longest"] for _, lengths in known), default=1.0)
    shortest = min((lengths["shortest"] for _, lengths in known), default=longest)
    if longest > 10 * shortest > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, 1.05 * longest)
    axes.set_title("video length")
    axes.set_xlabel("seconds (line: range,\nbar: middle half,\ndot: median)", fontsize=7.5)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _draw_tags(figure: SubFigure, tags: dict[str, dict[str, dict[str, int]]]) -> None:
    """Draw the shares of each tag's values, with a panel for each tag and a bar for each split."""
    figure.suptitle("Tags in the file names: share of videos", x=0.01, ha="left", fontsize=10, fontweight="bold")
    splits = list(tags)
    rows = np.arange(len(splits))
    panels = figure.subplots(1, len(tags[splits[0]]), sharey=True, squeeze=False)[0]
    for axes, (tag, values) in zip(panels, tags[splits[0]].items(), strict=True):
        totals = np.array([max(1, sum(tags[split][tag].values())) for split in splits])
        shades = matplotlib.colormaps["Blues"](np.linspace(0.85, 0.2, len(values)))
        ends = np.zeros(len(splits))
        for value, shade in zip(values, shades, strict=True):
            shares = np.array([tags[split][tag][value] for split in splits]) / totals
            axes.barh(rows, shares, 0.8, left=ends, color=shade, label=value, edgecolor="white", linewidth=0.5)
            ink = "white" if sum(shade[:3]) < 1.7 else "black"
            # Narrower parts have no room for their percentage.
            for row in np.flatnonzero(shares >= 0.13):
                middle = ends[row] + shares[row] / 2
                axes.text(middle, row, f"{shares[row]:.0%}", ha="center", va="center", fontsize=6, color=ink)
            ends += shares
        axes.set_title(tag, fontsize=8)
        axes.set(xlim=(0, 1), xticks=[])
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        spacing = {"handlelength": 0.9, "handletextpad": 0.4, "columnspacing": 0.8, "borderpad": 0}
        axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(0, 0.02), ncols=2, **spacing)
    panels[0].set_yticks(rows, splits, fontsize=7.5)
    panels[0].invert_yaxis()
