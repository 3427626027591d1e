"""Videos made on the spot, and a small trained model that several tests share."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

# Started in the background or by nohup, this process and those of the tests would ignore them; errors.py looks when it
# is imported.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)

from video_module import cli  # noqa: E402
from video_module.machine import available_cores  # noqa: E402

# several processes of tests (pytest -n auto) share the cores; to be set before torch is imported
if num_processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // num_processes)))
cli.prepare_process()  # as the scripts do
if not Path(
    "/dev/nvidiactl"
).exists():  # no card: Triton's kernels run in its interpreter, if that is asked for in time
    os.environ.setdefault("TRITON_INTERPRET", "1")

from video_module.data.drawing import draw_dataset  # noqa: E402
from video_module.data.encoding import write_video  # noqa: E402
from video_module.inference import latency  # noqa: E402

LEVEL_STEP = 4  # brightness from one frame to the next: far enough apart to survive the codec


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist the tests run in one process
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` means: one for each core that may be used, and memory for eight is enough."""
    return min(available_cores(), 8)


def brightness_frames(num_frames: int, *, height: int = 48, width: int = 64) -> Iterator[np.ndarray]:
    """Frame n has brightness LEVEL_STEP * n, so that a wrong index shows."""
    for number in range(num_frames):
        yield np.full((height, width, 3), LEVEL_STEP * number, np.uint8)


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Undo brightness_frames(): which frames these are."""
    return np.round(frames.reshape(len(frames), -1).mean(axis=1) / LEVEL_STEP).astype(int).tolist()


def link(path: Path, target: Path) -> None:
    """A symbolic link; the test is skipped where the system refuses them, as Windows does to most users."""
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("links are refused here")


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """make_video(num_frames, name=..., fps=..., **size) writes brightness_frames() and returns the path."""

    def make(num_frames: int, *, name: str = "video.avi", fps: float = 25, **size: int) -> Path:
        write_video(tmp_path / name, brightness_frames(num_frames, **size), fps=fps)
        return tmp_path / name

    return make


@pytest.fixture(scope="session", autouse=True)
def no_pauses_between_timings() -> Iterator[None]:
    """Latencies are measured after pauses, a minute of them in all the tests, none of which is about a duration."""
    with mock.patch.object(latency, "_SETTLE_S", 0.0):
        yield


@pytest.fixture(scope="session")
def drawn_clips(tmp_path_factory) -> Path:
    """A folder of classes: 6 actions, 6 scenes, one clip of each."""
    folder = tmp_path_factory.mktemp("drawn") / "clips"
    draw_dataset(folder, num_sources=6, clips_per_source=1, seed=5, num_workers=2)
    return folder


@pytest.fixture(scope="session")
def drawn_data(drawn_clips: Path) -> Path:
    """The same, split by source."""
    import split_data

    out = drawn_clips.parent / "data"
    fractions = ["--val_fraction", "0.17", "--test_fraction", "0.17"]
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(out), *fractions])
    return out


@pytest.fixture(scope="session")
def trained(drawn_data: Path) -> Path:
    """A checkpoint of swin3d_nano after two epochs on drawn_data."""
    import train_model

    path = drawn_data.parent / "run" / "nano.pth"
    train_model.main(
        ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano", "--save_path", str(path)]
        + ["--num_epochs", "2", "--num_workers", "0", "--device", "cpu"]
    )
    return path


@pytest.fixture(scope="session")
def exported(trained: Path) -> Path:
    """The same as an ONNX file."""
    import convert_model

    convert_model.main(["--checkpoint", str(trained), "--num_verify_clips", "8"])
    return trained.with_suffix(".onnx")
