"""Chart of the actions in a video over time."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from video_module.report.style import INK, STYLE, abbreviate, new_figure, styled

_MOST_ROWS = 12
_BAR_HEIGHT = 0.8  # share of a row, for a score of 1


def draw_timeline(
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
    """Draw segments (start_s, end_s, label, score) as bars over time, in a row for each label, as high as their score.

    With more than 12 labels, those with the longest total duration get a row each and the others share one. `width` is
    in inches. `ink` is the colour of axes and texts, which must be readable on a transparent background.
    """
    row_of, names = _assign_rows(segments)
    parts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with styled(STYLE | dict.fromkeys(parts, ink)):
        figure = new_figure(width, 0.95 + 0.32 * len(names))
        axes = figure.subplots()
        # A faint background shows the height of a score of 1.
        axes.barh(range(len(names)), duration_s, _BAR_HEIGHT, color=ink, alpha=0.06)
        for start, end, label, score in segments:
            # The y axis points down, so bars have negative heights.
            bottom, height = row_of[label] + _BAR_HEIGHT / 2, -_BAR_HEIGHT * score
            color = tuple(value / 255 for value in colors[label])
            shape = {"bottom": bottom, "align": "edge", "color": color, "edgecolor": INK, "linewidth": 0.5}
            axes.bar(start, height, end - start, **shape)
            # Write the score if the bar is wide enough, inside high bars and above low ones.
            if end - start > 0.4 / width * duration_s:
                if score >= 0.55:
                    offset, place = 0.04, {"va": "top", "color": "black"}
                else:
                    offset, place = -0.04, {"va": "bottom", "color": ink}
                middle = (start + end) / 2
                axes.text(middle, bottom + height + offset, f"{score:.0%}", ha="center", fontsize=7, **place)
        axes.set_yticks(range(len(names)), [abbreviate(name, 12 if width < 5 else 24) for name in names])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, duration_s), ylim=(len(names) - 0.5, -0.5), title=title, xlabel=xlabel)
        axes.set_title(f"▮ {ylabel}, 0–100%", loc="right", fontsize=8, fontweight="normal")
        return figure


def _assign_rows(segments: Sequence[tuple[float, float, str, float]]) -> tuple[dict[str, int], list[str]]:
    """Return the row of each label, and the names of rows, in order of first appearance."""
    durations: dict[str, float] = {}
    for start, end, label, _ in segments:
        durations[label] = durations.get(label, 0.0) + end - start
    longest = sorted(durations, key=lambda label: -durations[label])
    alone = longest if len(longest) <= _MOST_ROWS else longest[: _MOST_ROWS - 1]
    names = [label for label in durations if label in alone]
    row_of = {label: names.index(label) if label in alone else len(names) for label in durations}
    if len(alone) < len(longest):
        names.append(f"… ({len(longest) - len(alone)})")
    return row_of, names
