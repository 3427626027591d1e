"""What is seen of a step while it goes on, where one takes minutes; and where it may be given up."""

import math
import time

from tqdm import tqdm

from video_module.engine.interruption import StopWish

_LONG_STEP_S = 2.0  # a shorter one needs no bar of its own
_LONG_RUN_S = 2 * 3600.0
_SURE_AFTER = 3  # micro-batches, of which the first is slow: memory is had, and kernels are chosen
_SURE_AFTER_S = 20.0  # beside which a slow start no longer counts


class StepGivenUp(Exception):
    """A step ended by a wish to stop, between two of its micro-batches."""


class LongRunNote:
    """A line, once in a run, where it will take hours: how many, and what would take fewer."""

    def __init__(self, remedy: str):
        self.remedy = remedy
        self._fastest_s, self._num_timed, self._timed_s, self._is_said = math.inf, 0, 0.0, False

    def count(self, num_clips: int, seconds: float) -> None:
        """A micro-batch of `num_clips` took so long."""
        self._fastest_s = min(self._fastest_s, seconds / num_clips)
        self._num_timed += 1
        self._timed_s += seconds

    def text(self, *, clips_per_step: int, clips_per_epoch: int, num_clips_left: float) -> str | None:
        """The line, at the first call that knows the run to be long; all counts are of one process's clips."""
        sure = self._num_timed >= _SURE_AFTER or self._timed_s >= _SURE_AFTER_S
        if self._is_said or not sure or self._fastest_s * num_clips_left <= _LONG_RUN_S:
            return None
        self._is_said = True
        step, epoch, run = (
            format_roughly(self._fastest_s * count) for count in (clips_per_step, clips_per_epoch, num_clips_left)
        )
        return f"on this CPU a step takes about {step}, an epoch {epoch}, the run {run}; faster: {self.remedy}"


def format_roughly(seconds: float) -> str:
    """Seconds in the unit that leaves one or two digits."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{round(seconds / 86400)} days"


class StepWatch:
    """Looks on between the micro-batches of an epoch's steps."""

    def __init__(
        self,
        bar: tqdm,
        *,
        stop: StopWish | None,
        note: LongRunNote | None,
        clips_per_epoch: int,
        num_epochs_left: int,
    ):
        """`stop` is obeyed here: None where a step must be finished. `clips_per_epoch` are this process's."""
        self._bar, self._stop, self._note = bar, stop, note
        self._clips_per_epoch, self._clips_left = clips_per_epoch, num_epochs_left * clips_per_epoch
        self.figures = ""
        """Of the steps done, for the bar."""

    def begin(self, num_clips: int) -> None:
        """A step of so many clips begins, or begins anew."""
        self._num_clips, self._num_done = num_clips, 0
        self._begin = self._last = time.perf_counter()

    def done(self, num_clips: int) -> None:
        """A micro-batch of `num_clips` is done. Raises StepGivenUp if others are left and a stop is wished."""
        now = time.perf_counter()
        self._num_done += num_clips
        if self._note:
            self._note.count(num_clips, now - self._last)
            text = self._note.text(
                clips_per_step=self._num_clips,
                clips_per_epoch=self._clips_per_epoch,
                num_clips_left=self._clips_left,
            )
            if text:
                self._bar.write(text)
        self._last = now
        if self._num_done == self._num_clips:
            return
        if self._stop is not None and self._stop.signal is not None:
            raise StepGivenUp
        if now - self._begin > _LONG_STEP_S:
            parts = [f"clip {self._num_done}/{self._num_clips}", self.figures]
            self._bar.set_postfix_str("  ".join(filter(None, parts)))
