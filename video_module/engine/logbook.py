"""Log a run in progress to X_logs.json, X_logs.csv, X_curves.png and TensorBoard."""

import csv
from collections.abc import Callable
from pathlib import Path

from video_module.engine.progress import Progress
from video_module.errors import InputError
from video_module.files import remove_partial, replacing, write_json

_PlotCurves = Callable[..., None]
"""A function plot_curves(path, logs, best_epoch=...) that draws the columns of the log."""


def log_paths(save_path: Path) -> tuple[Path, ...]:
    """Return the paths of a run's log files and of its TensorBoard folder."""
    stem = save_path.with_suffix("")
    ends = ("_logs.json", "_logs.csv", "_curves.png", "_tensorboard")
    return tuple(stem.with_name(stem.name + end) for end in ends)


class Logbook:
    """Writer of a run's log, which is rewritten beside the checkpoint after each epoch."""

    def __init__(self, save_path: Path, *, plot_curves: _PlotCurves, tensorboard: bool = False):
        """Raises InputError if TensorBoard is requested but not installed."""
        self._plot_curves = plot_curves
        self._json, self._csv, self._curves, self._board = log_paths(save_path)
        self._open_board = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise InputError(
                    "--tensorboard requires the package tensorboard; run pip install tensorboard"
                ) from None
            self._open_board = SummaryWriter
        self._num_on_board = 0  # epochs

    @property
    def paths(self) -> list[Path]:
        """Paths of the files and folders that this logbook writes."""
        return [self._json, self._csv, self._curves, *([self._board] if self._open_board else [])]

    def write(self, progress: Progress) -> None:
        """Rewrite all log files and add the missing epochs to TensorBoard."""
        # Windows refuses to replace a file that is open in Excel. The run should not end for that, so report it and
        # try again after the next epoch.
        try:
            self._write(progress)
        except PermissionError as error:
            print(f"{error.filename}: not written after this epoch: {error.strerror}")

    def _write(self, progress: Progress) -> None:
        for path in (self._json, self._csv, self._curves):
            remove_partial(path)  # left by runs that were killed while writing
        logs = progress.logs
        write_json(self._json, logs)
        with replacing(self._csv) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(logs)
            rows.writerows(zip(*logs.values(), strict=True))
        self._plot_curves(self._curves, logs, best_epoch=progress.best_epoch)
        if self._open_board:
            self._write_board(progress)

    def _write_board(self, progress: Progress) -> None:
        # The folder may hold epochs of an earlier run, or of this run before it was resumed. The first call therefore
        # writes all epochs and makes TensorBoard discard what it has; later calls add only the new epochs.
        settings = {} if self._num_on_board else {"purge_step": 1}
        with self._open_board(str(self._board), **settings) as board:
            for index in range(self._num_on_board, progress.num_epochs):
                row = progress.row(index)
                for column, value in row.items():
                    if column != "epoch" and value is not None:
                        is_split = column.startswith(("train_", "val_"))
                        group, _, name = column.partition("_") if is_split else ("run", "", column)
                        board.add_scalar(f"{name}/{group}", value, global_step=row["epoch"])
        self._num_on_board = progress.num_epochs
