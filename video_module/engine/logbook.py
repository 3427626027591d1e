"""What can be seen of a run while it goes on: X_logs.json and .csv, the curves, TensorBoard."""

import csv
from pathlib import Path

from video_module.engine.progress import Progress
from video_module.errors import InputError
from video_module.files import remove_partial, replacing, write_json
from video_module.report.curves import plot_curves


class Logbook:
    """Writes a run's log beside its checkpoint, anew after each epoch."""

    def __init__(self, save_path: Path, *, tensorboard: bool = False):
        """Raises InputError where TensorBoard is asked for and not installed."""
        stem = save_path.with_suffix("")
        self._json, self._csv, self._curves, self._board = (
            stem.with_name(stem.name + end) for end in ("_logs.json", "_logs.csv", "_curves.png", "_tensorboard")
        )
        self._open_board = _board_class() if tensorboard else None
        self._num_on_board = 0  # epochs

    @property
    def paths(self) -> list[Path]:
        """What it writes."""
        return [self._json, self._csv, self._curves, *([self._board] if self._open_board else [])]

    def write(self, progress: Progress) -> None:
        """Write all anew; to TensorBoard, which adds to its files, what it has not been told yet.

        A file that Windows will not give up, since Excel shows it, is told of and left to the next epoch: no reason to
        end a run.
        """
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
        plot_curves(self._curves, logs, best_epoch=progress.best_epoch)
        if self._open_board:
            self._write_board(progress)

    def _write_board(self, progress: Progress) -> None:
        # What an earlier run, or an earlier part of this one, left in the folder may lack epochs and would show twice
        # those told again: the first time all are told, and TensorBoard drops what it has from the first epoch on
        settings = {} if self._num_on_board else {"purge_step": 1}
        with self._open_board(str(self._board), **settings) as board:
            for index in range(self._num_on_board, progress.num_epochs):
                row = progress.row(index)
                for column, value in row.items():
                    if column != "epoch" and value is not None:
                        group, _, name = (
                            column.partition("_") if column[:4] in ("trai", "val_") else ("run", "", column)
                        )
                        board.add_scalar(f"{name}/{group}", value, global_step=row["epoch"])
        self._num_on_board = progress.num_epochs


def _board_class():
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs a package that is not installed: pip install tensorboard") from None
    return SummaryWriter
