import pytest

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
    assert len([size for size in asked if size > limit]) <= 1  # no card is driven out of memory twice


@pytest.mark.parametrize(
    ("clip", "most", "expected"),
    [
        (get_spec("swin3d_b").clip, 16, 1),  # 32x224x224, 9 GB
        (ClipConfig(num_frames=64), 16, 1),  # more than the budget: one clip at a time is the least
        (ClipConfig(num_frames=16, crop=112, resize=128), 16, 8),
        (get_spec("swin3d_nano").clip, 16, 16),
        (get_spec("swin3d_nano").clip, 5, 5),
    ],
)
def test_large_clips_go_through_a_cpu_one_by_one_and_small_ones_together(clip, most, expected):
    assert memory.micro_batch_on_cpu(clip, most) == expected
