from types import SimpleNamespace

import pytest
import torch

from video_module.engine import waiting
from video_module.engine.waiting import wait_warning


@pytest.fixture
def loader(make_video, tmp_path):
    """A function loader(height) that fakes a loader with two workers and videos of this short side."""

    def make(height: int) -> SimpleNamespace:
        make_video(2, name="a.avi", height=height, width=2 * height)
        videos = [SimpleNamespace(path="a.avi"), SimpleNamespace(path="gone.avi")]
        return SimpleNamespace(dataset=SimpleNamespace(root=tmp_path, videos=videos), num_workers=2)

    return make


@pytest.mark.parametrize(
    ("height", "device", "num_cores", "remedies"),
    [
        (480, "cpu", 2, "shrink the videos from a short side of 480 pixels to 256 with split_data.py --short_side 256"),
        (256, "cpu", 8, "raise --num_workers above 2 if cores are idle"),
        (256, "cuda", 2, "raise --num_workers above 2 if cores are idle, or store the videos on a faster disk"),
    ],
)
def test_waiting_is_told_with_what_helps(loader, monkeypatch, height, device, num_cores, remedies):
    monkeypatch.setattr(waiting, "default_num_workers", lambda: num_cores)
    text = wait_warning(0.8, loader(height), torch.device(device))
    assert text == f"warning: 80% of the epoch was spent waiting for clips; {remedies}"
    assert wait_warning(0.1, loader(height), torch.device(device)) is None


def test_nothing_is_said_where_nothing_helps(loader, monkeypatch):
    """The videos are small, and there is a reader on each core, which the network needs as well."""
    monkeypatch.setattr(waiting, "default_num_workers", lambda: 2)
    assert wait_warning(0.8, loader(256), torch.device("cpu")) is None
