"""Chart of a confusion matrix, with similar classes side by side."""

from collections.abc import Sequence

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from video_module.report.statistics import describe_share
from video_module.report.style import GREY, abbreviate, new_figure, styled, text_width

# A picture of 700 classes took 3 GB and was unreadable.
_MOST_CLASSES = 100


def confusion_order(matrix: np.ndarray) -> list[int]:
    """Order the classes so that those mistaken for each other are side by side.

    Clusters the classes with average linkage: the two groups most often mistaken for each other are joined, until no
    confusion is left between groups. When two groups are joined, they are turned so that their most similar ends meet.
    Classes that are never confused keep their order, and a group takes the position of its first class.
    """
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    similarity = share + share.T
    np.fill_diagonal(similarity, 0)
    groups = [[index] for index in range(len(matrix))]
    means = similarity.copy()  # between groups
    while len(groups) > 1 and means.max() > 0:
        one, other = sorted(np.unravel_index(means.argmax(), means.shape))
        first, second = groups[one], groups.pop(other)
        sizes = len(first), len(second)
        joins = [(first, second), (first, second[::-1]), (first[::-1], second), (second, first)]
        left, right = max(joins, key=lambda join: similarity[join[0][-1], join[1][0]])
        groups[one] = left + right
        means[one] = means[:, one] = np.average(means[[one, other]], axis=0, weights=sizes)
        means[one, one] = 0
        means = np.delete(np.delete(means, other, axis=0), other, axis=1)
    groups = [group if group[0] <= group[-1] else group[::-1] for group in groups]
    order = [int(index) for group in sorted(groups, key=min) for index in group]
    assert sorted(order) == list(range(len(matrix)))
    return order


def _most_mistaken(matrix: np.ndarray) -> np.ndarray:
    """Return the classes to show, ascending. If there are too many, those mistaken for each other most often."""
    labels, predictions = np.nonzero(matrix)
    is_mistake = labels != predictions
    pairs = np.stack([labels, predictions], axis=1)[is_mistake]
    order = np.argsort(-matrix[labels, predictions][is_mistake], kind="stable")
    chosen = dict.fromkeys([*pairs[order].ravel().tolist(), *range(len(matrix))])
    return np.sort(list(chosen)[:_MOST_CLASSES])


@styled()
def draw_confusion(matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Draw the row-normalised confusion matrix (rows: labels, columns: predictions), ordered by confusion_order().

    Shares are written in percent if there is room, and as counts in rows of few videos. Rows of classes without videos
    are hatched. The picture is as large as its names and cells need: about 9 inches for the 51 classes of HMDB51. Of
    more than 100 classes, the 100 that are mistaken most often are shown.
    """
    shown = _most_mistaken(matrix)
    if len(shown) < len(class_names):
        title += f"\nthe {len(shown)} of {len(class_names):,} classes that are mistaken most often"
    support = matrix.sum(axis=1, keepdims=True)[shown]
    matrix = matrix[np.ix_(shown, shown)]
    order = confusion_order(matrix)
    matrix, support = matrix[np.ix_(order, order)], support[order]
    names = [abbreviate(class_names[shown[index]], 24) for index in order]
    num_classes = len(names)
    side = float(np.clip(0.55 * num_classes, 2.6, 7.0)) if num_classes <= 51 else 7 / 51 * num_classes
    cell = 72 * side / num_classes  # points
    size = min(9.0, 0.68 * cell)
    room = text_width(names, size)
    horizontal = 72 * room < 0.9 * cell
    figure = new_figure(side + room + 1.4, side + (0.2 if horizontal else room) + 0.75)
    # The compressed layout keeps the cells square without wide margins.
    figure.set_layout_engine("compressed")
    # The title belongs to the figure, not to the axes, because it can be wider than a small matrix.
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    axes = figure.subplots()
    shares = np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
    # A power below 1 makes small shares beside the diagonal visible.
    norm = matplotlib.colors.PowerNorm(0.6, vmin=0, vmax=1)
    image = axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", norm=norm)
    # Rows without a video are masked, so the hatched background shows through them. White would look like zeros.
    axes.set_facecolor("white")
    axes.patch.set(hatch="////", edgecolor=GREY)
    axes.set_xticks(range(num_classes), names, rotation=0 if horizontal else 90, fontsize=size)
    axes.set_yticks(range(num_classes), names, fontsize=size)
    axes.tick_params(length=0)
    axes.set(xlabel="prediction", ylabel="label")
    axes.spines[:].set_visible(False)
    edges = np.arange(num_classes + 1) - 0.5
    axes.hlines(edges, -0.5, num_classes - 0.5, color="#dfe3e8", linewidth=0.4)
    axes.vlines(edges, -0.5, num_classes - 0.5, color="#dfe3e8", linewidth=0.4)
    _write_shares(axes, matrix, support[:, 0], cell=cell)
    bar = figure.colorbar(
        image, ax=axes, label="share of the label's videos", shrink=0.8, aspect=35, fraction=0.05, pad=0.02
    )
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"])
    bar.outline.set_visible(False)
    return figure


def _write_shares(axes: Axes, matrix: np.ndarray, support: np.ndarray, *, cell: float) -> None:
    """Write the shares into cells that are `cell` points wide. With many classes, only those of 5 % and more."""
    few = len(matrix) <= 20
    size = min(9.0, 0.47 * cell / (1 + few))
    for row, column in np.argwhere(matrix):
        share = matrix[row, column] / support[row]
        if not few and share < 0.05:
            continue
        text = describe_share(matrix[row, column], support[row])
        if not few:
            text = text.removesuffix("%").replace(" of ", "/")
        color = "white" if share > 0.45 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
