"""Measure how long a device waits for clips."""

import time
from statistics import median

import torch
from torch.utils.data import DataLoader

from video_module.data.dataset import TrainingClips
from video_module.errors import VideoError
from video_module.machine import default_num_workers

# Warn if a larger share of an epoch is spent waiting for clips.
_LARGEST_WAIT = 0.1
# The networks see 256 pixels at most. On two cores, swin3d_nano trained on 29 clips/s from files of 454x256, but only
# on 13 clips/s from the same files at 852x480.
_GOOD_SIDE = 256
_NUM_LOOKED_AT = 5


def wait_warning(share: float, loader: DataLoader, device: torch.device) -> str | None:
    """Return a warning for an epoch that spent `share` of its time waiting for clips.

    Returns None if the share is small or nothing can be done.
    """
    if share <= _LARGEST_WAIT:
        return None
    remedies, on_cpu = [], device.type == "cpu"
    if (side := _short_side(loader.dataset)) > _GOOD_SIDE:
        remedies.append(
            f"shrink the videos from a short side of {side} pixels to {_GOOD_SIDE} with split_data.py --short_side "
            f"{_GOOD_SIDE}"
        )
    # On the CPU, network and readers share the cores. Once each core has a reader, the network waits because the
    # readers are using the cores, and more readers would not help.
    if not on_cpu or loader.num_workers < default_num_workers():
        remedies.append(f"raise --num_workers above {loader.num_workers} if cores are idle")
    if not on_cpu:
        remedies.append("store the videos on a faster disk")
    if not remedies:
        return None
    return f"warning: {share:.0%} of the epoch was spent waiting for clips; {', or '.join(remedies)}"


def _short_side(clips: TrainingClips) -> int:
    """Return the median short side of a few videos in pixels, or 0 if none can be read."""
    # Imported here, because clips in memory need no decoder.
    from video_module.data.decoding import read_info

    sides = []
    for video in clips.videos[:: max(1, len(clips.videos) // _NUM_LOOKED_AT)]:
        try:
            info = read_info(clips.root / video.path)
        except VideoError:
            continue
        sides.append(min(info.width, info.height))
    return round(median(sides)) if sides else 0


class WaitMeter:
    """Measures the total time in which the device was idle because the program waited for clips."""

    # While the program waits, a GPU continues with its queued work. So an event is recorded after each step, and a wait
    # counts only from the moment the GPU reached the event.

    def __init__(self, device: torch.device):
        self._total = 0.0
        self._uses_cuda = device.type == "cuda"
        if self._uses_cuda:
            self._waits: list[tuple[float, float, torch.cuda.Event]] = []
            self._last = self._origin = self._event()
            torch.cuda.synchronize(device)
            self._origin_s = time.perf_counter()

    def given(self) -> None:
        """Call this when a step has been handed to the device."""
        if self._uses_cuda:
            self._last = self._event()

    def waited(self, begin: float, end: float) -> None:
        """Record that the program waited for clips from `begin` to `end`, in seconds of time.perf_counter()."""
        if self._uses_cuda:
            self._waits.append((begin, end, self._last))
        else:
            self._total += end - begin

    def total(self) -> float:
        """Return the total wait so far in seconds. Waits for the GPU to finish its queued work."""
        if self._uses_cuda:
            # CUDA events give only the time between two events, so the first one ties them to the program's clock.
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
