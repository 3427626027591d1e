"""What can be seen of a run while it goes on: X_logs.json and .csv, the curves, TensorBoard."""

import csv
from pathlib import Path

from video_module.engine.progress import Progress
from video_module.errors import InputError
from video_module.files import replacing, write_json
from video_module.report.plots import plot_curves


class Logbook:
    """Writes a run's log beside its checkpoint, anew after each epoch."""

    def __init__(self, save_path: Path, *, tensorboard: bool = False):
        """Raises InputError where TensorBoard is asked for and not installed."""
        stem = save_path.with_suffix("")
        self._json, self._csv, self._curves, self._board = (
            stem.with_name(stem.name + end) for end in ("_logs.json", "_logs.csv", "_curves.png", "_tensorboard")
        )
        self._open_board = _board_class() if tensorboard else None

    @property
    def paths(self) -> list[Path]:
        """What it writes."""
        return [self._json, self._csv, self._curves, *([self._board] if self._open_board else [])]

    def write(self, progress: Progress) -> None:
        """Write all anew.

        A file that Windows will not give up, since Excel shows it, is told of and left to the next epoch: no reason to
        end a run.
        """
        try:
            self._write(progress)
        except PermissionError as error:
            print(f"{error.filename}: not written after this epoch: {error.strerror}")

    def _write(self, progress: Progress) -> None:
        logs = progress.logs
        write_json(self._json, logs)
        with replacing(self._csv) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(logs)
            rows.writerows(zip(*logs.values(), strict=True))
        plot_curves(self._curves, logs, best_epoch=progress.best_epoch)
        if self._open_board:
            row = progress.row(-1)
            with self._open_board(str(self._board)) as board:
                for column, value in row.items():
                    if column != "epoch" and value is not None:
                        group, _, name = (
                            column.partition("_") if column[:4] in ("trai", "val_") else ("run", "", column)
                        )
                        board.add_scalar(f"{name}/{group}", value, global_step=row["epoch"])


def _board_class():
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs a package that is not installed: pip install tensorboard") from None
    return SummaryWriter
