"""Log a run in progress: X_logs.json and .csv, curves, TensorBoard."""

import csv
from collections.abc import Callable
from pathlib import Path

from video_module.engine.progress import Progress
from video_module.errors import InputError
from video_module.files import remove_partial, replacing, write_json

_PlotCurves = Callable[..., None]
"""plot_curves(path, logs, best_epoch=...) draws the columns of the log."""


def log_paths(save_path: Path) -> tuple[Path, ...]:
    """The files that record a run, and the folder of TensorBoard."""
    stem = save_path.with_suffix("")
    ends = ("_logs.json", "_logs.csv", "_curves.png", "_tensorboard")
    return tuple(stem.with_name(stem.name + end) for end in ends)


class Logbook:
    """Rewrites a run's log beside its checkpoint after each epoch."""

    def __init__(self, save_path: Path, *, plot_curves: _PlotCurves, tensorboard: bool = False):
        """Raises InputError where TensorBoard is asked for and not installed."""
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
        """What it writes."""
        return [self._json, self._csv, self._curves, *([self._board] if self._open_board else [])]

    def write(self, progress: Progress) -> None:
        """Rewrite all files, and add missing epochs to TensorBoard."""
        # Windows refuses to replace a file that Excel shows. That is no reason to end a run: say so and try again
        # after the next epoch.
        try:
            self._write(progress)
        except PermissionError as error:
            print(f"{error.filename}: not written after this epoch: {error.strerror}")

    def _write(self, progress: Progress) -> None:
        for path in (self._json, self._csv, self._curves):
            remove_partial(path)  # of runs that were killed while they wrote
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
        # The folder may hold epochs of an earlier run, or of this one before it was resumed. So the first call writes
        # all epochs and makes TensorBoard drop what it has from the first one on; later calls add the new ones.
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
