import pytest
import torch

from video_module.config import ClipConfig
from video_module.engine import memory
from video_module.models.registry import get_spec


@pytest.mark.parametrize(
    ("limit", "most", "expected"), [(100, 16, 16), (11, 16, 8), (11, 11, 11), (1, 16, 1), (0, 16, 0), (5, 6, 4)]
)
def test_the_largest_that_fits(limit, most, expected):
    asked = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    assert memory.largest_that_fits(fits, most) == expected
    assert asked == sorted(asked)
    assert len([size for size in asked if size > limit]) <= 1  # a GPU runs out of memory at most once


@pytest.mark.parametrize(
    ("clip", "most", "expected"),
    [
        (get_spec("swin3d_b").clip, 16, 1),  # 32x224x224, 9 GB
        (ClipConfig(num_frames=64), 16, 1),  # a single clip exceeds the limit
        (ClipConfig(num_frames=16, crop=112, resize=128), 16, 8),
        (get_spec("swin3d_nano").clip, 16, 16),
        (get_spec("swin3d_nano").clip, 5, 5),
    ],
)
def test_large_clips_go_through_a_cpu_one_by_one_and_small_ones_together(clip, most, expected):
    assert memory.micro_batch_on_cpu(clip, most) == expected


class Card:
    """A fake GPU with 100 bytes, where a clip takes 12 bytes, or twice as many in the first pass of a size."""

    def __init__(self, monkeypatch):
        self.reserved = self.peak = 0
        self.sizes = []
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(self, "reserved", 0))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: setattr(self, "peak", self.reserved))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100 - self.reserved, 100))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: self.reserved)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: self.peak)

    def step(self, size: int) -> None:
        num_bytes = 12 * size * (1 if size in self.sizes else 2)
        self.sizes.append(size)
        self.peak = self.reserved = min(100, num_bytes)
        if num_bytes > 100:
            raise torch.OutOfMemoryError


def test_a_search_on_a_gpu_leaves_no_memory_and_no_peak(monkeypatch):
    card = Card(monkeypatch)
    assert memory.micro_batch_on_cuda(card.step, 16, torch.device("cuda")) == 4
    assert card.sizes == [1, 1, 2, 2, 4, 4, 8]
    assert (card.reserved, card.peak) == (0, 0)


def test_what_is_needed_once_does_not_count(monkeypatch):
    """cuDNN tries algorithms in the first pass of a size, so that 4 clips take 96 bytes then and 48 bytes later."""
    card = Card(monkeypatch)
    assert memory.micro_batch_on_cuda(card.step, 4, torch.device("cuda")) == 4
