"""The progress of a run: its log, its best epoch, and the finished part of the current epoch."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_module.scores import accuracy_interval, is_small_test
from video_module.tables import align, pluralize

LOG_COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "num_failed",
    "clips_per_s",
    "data_wait",
    "memory_gb",
    "duration_s",
)


@dataclass
class PartialEpoch:
    """The finished steps of an epoch, in plain values, so that an interrupted run can continue after them.

    Counts and losses cover all processes and are the same in each.
    """

    num_steps: int = 0
    losses: list[float] = field(default_factory=list)
    """Mean loss of each step, without the steps whose loss is not finite."""
    num_hits: int = 0
    num_clips: int = 0
    failures: list[str] = field(default_factory=list)
    waited_s: float = 0.0
    """Time in which the device was idle because it waited for clips."""
    duration_s: float = 0.0


@dataclass
class Progress:
    """One log entry per finished epoch, the best epoch, and the current one."""

    logs: dict[str, list] = field(default_factory=lambda: {column: [] for column in LOG_COLUMNS})
    best_epoch: int = 0
    partial: PartialEpoch = field(default_factory=PartialEpoch)

    @property
    def num_epochs(self) -> int:
        return len(self.logs["epoch"])

    def append(self, row: dict[str, Any]) -> bool:
        """Add an epoch and return whether it is the best so far.

        The best epoch has the highest validation accuracy and, among equals, the lowest validation loss.
        """
        assert row["epoch"] == self.num_epochs + 1
        for column in LOG_COLUMNS:
            self.logs[column].append(row.get(column))
        self.partial = PartialEpoch()
        is_best = self.best_epoch == 0 or self._merit(-1) > self._merit(self.best_epoch - 1)
        if is_best:
            self.best_epoch = self.num_epochs
        return is_best

    def row(self, index: int) -> dict[str, Any]:
        """Return the log row of one epoch, counted from 0."""
        return {column: values[index] for column, values in self.logs.items()}

    def is_over(self, *, num_epochs: int, patience: int) -> bool:
        """Return whether all epochs are done or the last `patience` epochs brought no improvement.

        A `patience` of 0 never stops early.
        """
        return self.num_epochs >= num_epochs or 0 < patience <= self.num_epochs - self.best_epoch

    def summary(self) -> str:
        """Return the closing table with the kept and the last epoch, and a line on time and speed."""
        rows = [("", "epoch", "train loss", "train top-1", "val loss", "val top-1")]
        for name, number in (("kept", self.best_epoch), ("last", self.num_epochs)):
            row = self.row(number - 1)
            values = [row[column] for column in ("train_loss", "train_top1", "val_loss", "val_top1")]
            rows.append((name, str(number), *("-" if value is None else f"{value:.3f}" for value in values)))
        seconds, num_failed = sum(self.logs["duration_s"]), sum(self.logs["num_failed"])
        waited = sum(share * s for share, s in zip(self.logs["data_wait"], self.logs["duration_s"], strict=True))
        num_clips = sum(rate * s for rate, s in zip(self.logs["clips_per_s"], self.logs["duration_s"], strict=True))
        text = f"{pluralize(self.num_epochs, 'epoch')} in {format_duration(seconds)} of training, "
        seconds = max(seconds, 1e-9)
        text += f"{num_clips / seconds:.1f} clips/s, {waited / seconds:.0%} of it waiting for data"
        if num_failed:
            text += f", {pluralize(num_failed, 'clip')} skipped"
        return f"{align(rows)}\n{text}"

    def _merit(self, index: int) -> tuple[float, float]:
        if self.logs["val_top1"][index] is None:  # without validation videos, the newest epoch is the best
            return (math.inf, self.logs["epoch"][index])
        return (self.logs["val_top1"][index], -self.logs["val_loss"][index])


def describe_choice(num_videos: int, num_epochs: int, save_path: Path) -> str:
    """Say which epoch is kept and how uncertain that choice is, with `num_videos` in the val split."""
    if num_videos == 0:
        return "no validation videos: keeping the last epoch"
    text = f"* marks the best epoch so far, saved as {save_path}"
    if num_epochs == 1 or not is_small_test(num_videos):
        return text
    low, high = accuracy_interval(2 / 3 * num_videos, num_videos)
    return (
        f"{text}; with {pluralize(num_videos, 'validation video')}, val top-1 can be off by {(high - low) / 2:.2f} "
        f"(95 % interval), and the best of {pluralize(num_epochs, 'epoch')} is partly luck"
    )


def epoch_line(row: dict[str, Any], num_epochs: int) -> str:
    """Return the line printed for a finished epoch."""
    text = f"epoch {row['epoch']:3}/{num_epochs}  loss {row['train_loss']:.3f}  top1 {row['train_top1']:.3f}"
    if row.get("val_top1") is not None:
        text += f"  val loss {row['val_loss']:.3f}  val top1 {row['val_top1']:.3f}"
    return text + f"  {row['clips_per_s']:.1f} clips/s  data wait {row['data_wait']:.0%}  {row['duration_s']:.0f} s"


def format_duration(seconds: float) -> str:
    """Format seconds as h:mm:ss, or as m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
