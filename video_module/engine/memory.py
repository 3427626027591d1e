"""Choose the number of clips per forward pass for --batch_size auto."""

import gc
import math
from collections.abc import Callable

import torch

from video_module.config import ClipConfig

# Share of a card's free memory that may be used: fragmentation and other programs take the rest.
_MARGIN = 0.9
# On the CPU a pass is limited to so many pixel values, one full-size clip of 32x224x224 (4.8 million). In swin3d_b
# such a clip takes about 9 GB, and Linux kills a process that asks for too much instead of refusing, so nothing can be
# tried out. A fixed number also gives the same micro-batch, and so the same draws of dropout, on every machine; larger
# passes are no faster there.
_CPU_VALUES = 32 * 224 * 224 * 3


def forget_run() -> None:
    """Free the memory of a finished run, so that the next one in this process finds as much.

    Compiled code is kept, since a network of the same kind can use it.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def micro_batch_on_cpu(clip: ClipConfig, most: int) -> int:
    """Clips that hold no more than _CPU_VALUES together: at least 1, and `most` at most."""
    assert most >= 1
    return min(most, max(1, _CPU_VALUES // math.prod(clip.shape)))


def micro_batch_on_cuda(step: Callable[[int], None], most: int, device: torch.device) -> int:
    """The most clips for which `step(size)`, a forward and backward pass, leaves a margin of the card's memory."""

    def fits(size: int) -> bool:
        try:
            # Twice: in the first pass cuDNN tries its algorithms, some of which take far more memory than the one that
            # it chooses.
            for _ in range(2):
                available = _reset(device)
                step(size)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved(device) < _MARGIN * available

    size = largest_that_fits(fits, most)
    _reset(device)  # the peak of a pass that was only tried does not belong in the logs
    return size


def _reset(device: torch.device) -> int:
    """Give back what is not in use and forget the peak; returns the bytes that may be used."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 1, 2, 4, … and `most` that fits; 0 if not even 1 does. `fits` is asked in ascending order."""
    best, size = 0, 1
    while best < most and fits(size):
        best, size = size, min(2 * size, most)
    return best
