"""Chart of a training run: loss and accuracy over epochs."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from video_module.report.style import BLUE, INK, ORANGE, new_figure, save, styled


@styled()
def draw_curves(logs: dict[str, list], *, best_epoch: int) -> Figure:
    """Draw loss and accuracy of training and validation over epochs, and mark the epoch that was kept."""
    figure = new_figure(8, 3.2)
    panels = (("loss", "Loss", "cross-entropy, nats"), ("top1", "Top-1 accuracy", "fraction correct"))
    for axes, (quantity, title, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        seen = []
        for side, name, color, line in (("train", "training", BLUE, "o-"), ("val", "validation", ORANGE, "s--")):
            values = logs[f"{side}_{quantity}"]
            known = [value for value in values if value is not None]
            if known:
                axes.plot(logs["epoch"], values, line, color=color, label=name, markersize=3)
            seen += known
        axes.axvline(best_epoch, color=INK, linewidth=0.9, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set(title=title, xlabel="epoch", ylabel=unit, xlim=(0.5, max(2, *logs["epoch"]) + 0.5))
        axes.set_ylim(0, 1.02 if quantity == "top1" else 1.08 * max(seen) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    # The legend is above the panels, because inside them it would hide curves.
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=3)
    return figure


def plot_curves(path: Path, logs: dict[str, list], *, best_epoch: int) -> None:
    """Write draw_curves() to a file."""
    save(draw_curves(logs, best_epoch=best_epoch), path)
