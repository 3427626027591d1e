"""Choose the number of clips per forward pass for --batch_size auto."""

import gc
import math
from collections.abc import Callable

import torch

from video_module.config import ClipConfig

# Share of the GPU's free memory that may be used, which leaves room for fragmentation and other programs.
_MARGIN = 0.9
# Most values in a pass on the CPU: one full-size RGB clip of 32x224x224 (4.8 million). Such a clip takes about 9 GB in
# swin3d_b. Trying larger passes is no option, because Linux kills a process that runs out of memory instead of
# refusing the allocation. A fixed limit also gives the same micro-batch, and so the same dropout, on every machine.
# Larger passes are no faster on the CPU.
_CPU_VALUES = 32 * 224 * 224 * 3


def forget_run() -> None:
    """Free the memory of a finished run, so that the next run in this process has as much available.

    Compiled code is kept, because a network of the same kind can reuse it.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def micro_batch_on_cpu(clip: ClipConfig, most: int) -> int:
    """Return the number of clips with at most _CPU_VALUES values in total, between 1 and `most`."""
    assert most >= 1
    return min(most, max(1, _CPU_VALUES // math.prod(clip.shape)))


def micro_batch_on_cuda(step: Callable[[int], None], most: int, device: torch.device) -> int:
    """Return the most clips for which `step(size)`, a forward and backward pass, fits into the GPU's memory.

    A margin of the memory stays free.
    """

    def fits(size: int) -> bool:
        try:
            # Measure the second pass. In the first, cuDNN tries its algorithms, and some of them take far more memory
            # than the one that it chooses.
            for _ in range(2):
                available = _reset(device)
                step(size)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved(device) < _MARGIN * available

    size = largest_that_fits(fits, most)
    _reset(device)  # keep the peak of these trial passes out of the logs
    return size


def _reset(device: torch.device) -> int:
    """Release unused memory, reset the peak, and return the number of bytes available to this process."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest of 1, 2, 4, … and `most` that fits, or 0 if not even 1 does.

    `fits` is called in ascending order, up to the first size that does not fit.
    """
    best, size = 0, 1
    while best < most and fits(size):
        best, size = size, min(2 * size, most)
    return best
