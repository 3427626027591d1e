"""Shared fixtures: generated videos, a dataset of drawn clips and a small model trained on it."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

# A process started in the background or by nohup inherits these signals ignored and passes that on to the processes
# that the tests start. This must come before errors.py is imported, which checks which signals are ignored.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)

from video_module import cli  # noqa: E402
from video_module.machine import available_cores  # noqa: E402

# With pytest -n auto, several processes share the cores. Must be set before torch is imported.
if num_processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // num_processes)))
cli.prepare_process()  # as the scripts do
# Without a GPU, Triton kernels run in its interpreter. Must be set before Triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from video_module.data.drawing import draw_dataset  # noqa: E402
from video_module.data.encoding import write_video  # noqa: E402
from video_module.inference import latency  # noqa: E402

LEVEL_STEP = 4  # difference in brightness between consecutive frames, large enough to survive compression


@pytest.hookimpl(optionalhook=True)  # unknown without pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes for `-n auto`: one per usable core, at most 8 to limit memory."""
    return min(available_cores(), 8)


def brightness_frames(num_frames: int, *, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Yield uniform frames; frame n has brightness LEVEL_STEP * n, so that a wrong index shows."""
    for number in range(num_frames):
        yield np.full((height, width, 3), LEVEL_STEP * number, np.uint8)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Return the index of each frame of brightness_frames(), computed from its brightness."""
    return np.round(frames.reshape(len(frames), -1).mean(axis=1) / LEVEL_STEP).astype(int).tolist()


def link(path: Path, target: Path) -> None:
    """Create a symbolic link, or skip the test if the system does not allow it, as Windows for most users."""
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("symbolic links are not allowed here")


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes brightness_frames() as a video in tmp_path and returns its path."""

    def make(num_frames: int, *, name: str = "video.avi", fps: float = 25, **size: int) -> Path:
        write_video(tmp_path / name, brightness_frames(num_frames, **size), fps=fps)
        return tmp_path / name

    return make


@pytest.fixture(scope="session", autouse=True)
def no_pauses_between_timings() -> Iterator[None]:
    """Skip the pauses between latency measurements, which would add a minute to the tests."""
    with mock.patch.object(latency, "_SETTLE_S", 0.0):
        yield


@pytest.fixture(scope="session")
def drawn_clips(tmp_path_factory) -> Path:
    """Return a folder of drawn clips: 6 classes with one clip from each of 6 sources."""
    folder = tmp_path_factory.mktemp("drawn") / "clips"
    draw_dataset(folder, num_sources=6, clips_per_source=1, seed=5, num_workers=2)
    return folder


@pytest.fixture(scope="session")
def drawn_data(drawn_clips: Path) -> Path:
    """Return the drawn clips, split by source into train, val and test."""
    import split_data

    out = drawn_clips.parent / "data"
    fractions = ["--val_fraction", "0.17", "--test_fraction", "0.17"]
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(out), *fractions])
    return out


@pytest.fixture(scope="session")
def trained(drawn_data: Path) -> Path:
    """Return the checkpoint of a swin3d_nano trained on drawn_data for two epochs."""
    import train_model

    path = drawn_data.parent / "run" / "nano.pth"
    train_model.main(
        ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano", "--save_path", str(path)]
        + ["--num_epochs", "2", "--num_workers", "0", "--device", "cpu"]
    )
    return path


@pytest.fixture(scope="session")
def exported(trained: Path) -> Path:
    """Return the trained model as an ONNX file."""
    import convert_model

    convert_model.main(["--checkpoint", str(trained), "--num_verify_clips", "8"])
    return trained.with_suffix(".onnx")
