"""How long a device had nothing to do because clips were not there yet."""

import time

import torch


class WaitMeter:
    """Sums up the time in which the device was idle because the program waited for clips."""

    # A GPU goes on with what it was given while the program waits. So an event is recorded after each step, and waiting
    # counts only from the moment at which the GPU had reached it.

    def __init__(self, device: torch.device):
        self._total = 0.0
        self._uses_cuda = device.type == "cuda"
        if self._uses_cuda:
            self._waits: list[tuple[float, float, torch.cuda.Event]] = []
            self._last = self._origin = self._event()
            torch.cuda.synchronize(device)
            self._origin_s = time.perf_counter()

    def given(self) -> None:
        """To be called when a step has been handed to the device."""
        if self._uses_cuda:
            self._last = self._event()

    def waited(self, begin: float, end: float) -> None:
        """The program waited for clips, by time.perf_counter()."""
        if self._uses_cuda:
            self._waits.append((begin, end, self._last))
        else:
            self._total += end - begin

    def total(self) -> float:
        """Seconds until now. Makes a GPU finish what it was given."""
        if self._uses_cuda:
            # Events know only the time between two of them, so a first one ties them to the program's clock.
            for begin, end, event in self._waits:
                event.synchronize()
                done = self._origin_s + self._origin.elapsed_time(event) / 1e3
                self._total += max(0.0, end - max(begin, done))
            self._waits.clear()
        return self._total

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
