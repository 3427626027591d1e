"""What a visitor may ask of the server, checked before the work and during it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_module.config import setting
from video_module.machine import available_cores

# run_gradio.py reads the limits' defaults for --help, which should not wait for OpenCV.
if TYPE_CHECKING:
    from video_module.data.decoding import VideoInfo, VideoReader
    from video_module.inference.predictor import Predictor, Window

# Of frames, upright or on their side. A frame of 4K is 28 MB once decoded, and several are held at a time.
MAX_WIDTH, MAX_HEIGHT = 4096, 2304

# A second counts as this many frames at most. Otherwise a header that claims a million frames a second would lift the
# limit on a video's length.
_MAX_FPS = 60


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every field is a flag of run_gradio.py."""

    max_file_mb: int = setting(200, "largest upload, in megabytes (10^6 bytes)")
    max_seconds: int = setting(120, "longest video, and longest live session, in seconds")
    concurrency: int | None = setting(
        None, "videos recognised at a time, and live sessions at a time", default="half of the cores"
    )
    queue_size: int = setting(20, "requests that may wait; more are told that the server is busy")
    keep_minutes: int = setting(15, "delete files this many minutes after their last use, if not before")
    max_disk_mb: int = setting(4000, "disk space for all visitors' files, in megabytes")

    def __post_init__(self) -> None:
        for name in ("max_file_mb", "max_seconds", "queue_size", "keep_minutes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        if self.max_disk_mb < self.max_file_mb:
            raise ValueError(f"max_disk_mb {self.max_disk_mb} is less than max_file_mb {self.max_file_mb}")

    @property
    def max_bytes(self) -> int:
        """Of an upload."""
        return self.max_file_mb * 1_000_000

    @property
    def num_at_once(self) -> int:
        """Videos recognised at once."""
        # Half of the cores by default: onnxruntime uses all of them for one clip, and decoding takes another.
        return self.concurrency or max(1, available_cores() // 2)

    @property
    def max_frames(self) -> int:
        return self.max_seconds * _MAX_FPS


class Refused(Exception):
    """A visitor's mistake, or bad luck: a key of TEXTS and what fills its gaps."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(key)
        self.key, self.values = key, values

    def text(self, texts: dict[str, str]) -> str:
        return texts[self.key].format(**self.values)


def check_header(path: str | Path, limits: Limits) -> "VideoInfo":
    """The header of a video that may be recognised, as far as it can be believed. Raises Refused."""
    from video_module.data.decoding import VideoError, read_info

    if not Path(path).is_file():
        raise Refused("gone")
    try:
        info = read_info(path)
    except VideoError:
        raise Refused("bad_video") from None
    check_size(info.height, info.width)
    check_length(info.estimated_num_frames, info.duration_s, limits)
    return info


def check_size(height: int, width: int) -> None:
    """Raise Refused if frames are larger than 4K."""
    if max(height, width) > MAX_WIDTH or min(height, width) > MAX_HEIGHT:
        raise Refused("too_large_frames", width=width, height=height, max_width=MAX_WIDTH, max_height=MAX_HEIGHT)


def check_length(num_frames: int, duration_s: float, limits: Limits) -> None:
    """Raise Refused if so many frames, or seconds, are too many."""
    # A recording of just the permitted length may have a frame too many.
    if duration_s > limits.max_seconds + 0.05:
        raise Refused("too_long", max_seconds=limits.max_seconds)
    if num_frames > limits.max_frames:
        raise Refused("too_many_frames", max_frames=limits.max_frames)


def score_within(
    predictor: "Predictor", reader: "VideoReader", info: "VideoInfo", limits: Limits
) -> "Iterator[tuple[list[Window], int, int]]":
    """Yield (windows scored, frames done, frames expected) for each batch of a video's windows.

    Raises Refused if it cannot be decoded or turns out longer than its header said.
    """
    from video_module.data.decoding import VideoError

    try:
        for windows in predictor.score_windows(reader):
            done = windows[-1].end
            check_length(reader.num_frames, reader.times_s[-1], limits)
            yield windows, done, max(done, info.estimated_num_frames)
    except VideoError:
        raise Refused("bad_video") from None
