"""Draw the cost and the time per clip of all models in one picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from video_module.report.style import BLUE, GREY, INK, ORANGE, new_figure, styled

# A network with this many times fewer multiply-adds than the median is named instead of drawn, because its point would
# squeeze all others into a corner.
_OFF_SCALE = 30


@styled()
def draw_zoo(rows: Sequence[dict[str, Any]]) -> Figure:
    """Plot seconds per clip over multiply-adds per clip, in fp32 and int8, for the rows of benchmark/zoo.py.

    The areas of the pale discs show the number of parameters. A network far smaller than the others is only named.
    """
    figure = new_figure(6.2, 4.8)
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel="multiply-adds of one clip, 10⁹", ylabel="one clip on the CPU, s")
    axes.set_title("Cost per clip")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    least = np.median([row["GMACs"] for row in rows]) / _OFF_SCALE
    notes = [
        f"{row['model']}: {row['GMACs']:.2g}·10⁹, {row['fp32 ms']:.2g} ms; off this scale"
        for row in rows
        if row["GMACs"] < least
    ]
    note = {"ha": "right", "va": "bottom", "fontsize": 7.5, "color": INK}
    axes.text(0.99, 0.01, "\n".join(notes), transform=axes.transAxes, **note)
    rows = [row for row in rows if row["GMACs"] >= least]
    x = np.array([row["GMACs"] for row in rows])
    fp32, int8 = (np.array([row[f"{kind} ms"] for row in rows]) / 1e3 for kind in ("fp32", "int8"))
    axes.set(xlim=(x.min() / 1.6, x.max() * 1.6))
    axes.set(ylim=(min(fp32.min(), int8.min()) / 1.6, max(fp32.max(), int8.max()) * 1.6))
    axes.vlines(x, fp32, int8, color=GREY, linewidth=0.9, zorder=2)
    disc = {"color": BLUE, "alpha": 0.18, "edgecolor": "none"}
    axes.scatter(x, fp32, s=[6 * row["M params"] for row in rows], zorder=1, **disc)
    axes.scatter([], [], s=6 * 30, label="30 M parameters", **disc)
    axes.scatter(x, fp32, s=26, color=BLUE, zorder=3, label="fp32")
    axes.scatter(x, int8, s=18, marker="D", color=ORANGE, edgecolor="white", linewidth=0.6, zorder=4, label="int8")
    axes.legend(frameon=False, loc="upper left")
    _write_names(axes, [row["model"] for row in rows], x, fp32, int8)
    return figure


def _write_names(axes: Axes, names: Sequence[str], x: np.ndarray, fp32: np.ndarray, int8: np.ndarray) -> None:
    """Write each name near its fp32 point, where it covers no point or other name, with a line to distant names.

    Matplotlib has no function for this, and the package adjustText would be one more dependency. The limits of the axes
    must be set before, because the positions depend on them.
    """
    # The positions are computed in pixels for the current layout, which must not change when the picture is saved.
    axes.figure.draw_without_rendering()
    axes.figure.set_layout_engine("none")
    frame = axes.get_window_extent()
    points = axes.transData.transform([*zip(x, fp32, strict=True), *zip(x, int8, strict=True)])
    taken = [axes.get_legend().get_window_extent(), *(Bbox([point, point]).padded(6) for point in points)]
    look = {"fontsize": 7.5, "ha": "center", "va": "center", "zorder": 2.5}
    look["bbox"] = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}
    for index in np.argsort(-fp32):
        text = axes.text(x[index], fp32[index], names[index], **look)
        box = text.get_window_extent()
        best, fewest, best_distance = box, np.inf, 0
        for distance in range(1, 9):
            for angle in np.radians(np.arange(0, 360, 22.5)):
                right = np.cos(angle) * (box.width / 2 + 8 * distance)
                up = np.sin(angle) * (box.height / 2 + 8 * distance)
                spot = Bbox(box.get_points() + (right, up))
                is_inside = frame.contains(*spot.min) and frame.contains(*spot.max)
                # A name outside the frame is worse than one that covers something.
                num_covered = sum(spot.padded(2).overlaps(other) for other in taken) + 1000 * (not is_inside)
                if num_covered < fewest:
                    best, fewest, best_distance = spot, num_covered, distance
        taken.append(best)
        place = axes.transData.inverted().transform(best.get_points().mean(axis=0))
        text.set_position(place)
        if best_distance > 2:
            axes.plot([x[index], place[0]], [fp32[index], place[1]], color=GREY, linewidth=0.5, zorder=0)
