"""Limits on uploads and work, checked before and during processing."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_module.config import setting
from video_module.machine import available_cores

# run_gradio.py --help needs the defaults below and should not wait for the import of OpenCV.
if TYPE_CHECKING:
    from video_module.data.decoding import VideoInfo

# Largest frame, landscape or portrait. A decoded 4K frame takes 28 MB, and several are in memory at a time.
MAX_WIDTH, MAX_HEIGHT = 4096, 2304

# The most frames of a video are this many for each second of --max_seconds. Otherwise a header that claims a million
# frames per second would allow a short video to have any number of frames.
_MAX_FPS = 60

# HTTP status by refusal; all others are 400.
_STATUS = {
    "sign_in": 401,
    "foreign": 403,
    "gone": 404,
    "too_slow_upload": 408,
    "too_large_file": 413,
    "too_large_request": 413,
    "bad_suffix": 415,
    "bad_video": 422,
    "too_long": 422,
    "too_many_frames": 422,
    "too_many_pixels": 422,
    "too_large_frames": 422,
    "too_slow": 422,
    "too_many_attempts": 429,
    "too_many_cameras": 429,
    "busy": 503,
    "too_many_jobs": 503,
    "too_many_uploads": 503,
    "closing": 503,
    "storage_full": 507,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server. Every field is a flag of run_gradio.py."""

    max_file_mb: int = setting(200, "largest upload, in MB (10^6 bytes)")
    max_seconds: int = setting(120, "longest video and longest live session, in seconds")
    max_gigapixels: float = setting(
        4.0, "largest video, in 10^9 pixels (frames x height x width); 4 is two minutes of 1280x720 at 36 frames/s"
    )
    max_work_s: int = setting(600, "longest processing time of one video, in seconds; waiting does not count")
    concurrency: int | None = setting(
        None, "videos processed at once, and live sessions at once", default="half of the cores"
    )
    queue_size: int = setting(20, "number of waiting requests; more are refused as busy")
    keep_minutes: int = setting(15, "delete files at the latest this many minutes after their last use")
    max_disk_mb: int = setting(4000, "disk space for all visitors' files, in MB; one address may use a quarter")

    def __post_init__(self) -> None:
        for name in ("max_file_mb", "max_seconds", "max_work_s", "queue_size", "keep_minutes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.max_gigapixels > 0:
            raise ValueError(f"max_gigapixels must be above 0, got {self.max_gigapixels}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        if self.max_disk_mb < self.max_file_mb:
            raise ValueError(f"max_disk_mb {self.max_disk_mb} is less than max_file_mb {self.max_file_mb}")

    @property
    def max_bytes(self) -> int:
        """Size of the largest upload."""
        return self.max_file_mb * 1_000_000

    @property
    def max_bytes_each(self) -> int:
        """Disk space for the files of one address: a quarter, so that nobody fills the disk, or at least one upload."""
        return max(self.max_disk_mb * 1_000_000 // 4, self.max_bytes)

    @property
    def num_at_once(self) -> int:
        """Number of videos processed at once."""
        # Half of the cores by default: onnxruntime uses all cores for one clip, and decoding takes another.
        return self.concurrency or max(1, available_cores() // 2)

    @property
    def max_frames(self) -> int:
        return self.max_seconds * _MAX_FPS


class Refused(Exception):
    """A request that is refused, with the key of the message in TEXTS and the values for its placeholders."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(key)
        self.key, self.values = key, values

    def text(self, texts: dict[str, str]) -> str:
        return texts[self.key].format(**self.values)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUS.get(self.key, 400)


def check_header(path: str | Path, limits: Limits) -> "VideoInfo":
    """Read a video's header and check it against the limits. The header may be wrong. Raises Refused."""
    from video_module.data.decoding import read_info
    from video_module.errors import VideoError

    if not Path(path).is_file():
        raise Refused("gone")
    try:
        info = read_info(path)
    except VideoError:
        raise Refused("bad_video") from None
    check_size(info.height, info.width)
    check_length(info.estimated_num_frames, info.duration_s, limits)
    check_pixels(num_pixels(info), limits)
    return info


def num_pixels(info: "VideoInfo") -> int:
    """Number of pixels in all frames, according to the header."""
    return info.estimated_num_frames * info.height * info.width


def check_size(height: int, width: int) -> None:
    """Raise Refused if frames are larger than 4K."""
    if max(height, width) > MAX_WIDTH or min(height, width) > MAX_HEIGHT:
        raise Refused("too_large_frames", width=width, height=height, max_width=MAX_WIDTH, max_height=MAX_HEIGHT)


def check_length(num_frames: int, duration_s: float, limits: Limits) -> None:
    """Raise Refused if a video has too many frames or seconds."""
    # A recording of exactly the permitted length may have one more frame.
    if duration_s > limits.max_seconds + 0.05:
        raise Refused("too_long", max_seconds=limits.max_seconds)
    if num_frames > limits.max_frames:
        raise Refused("too_many_frames", max_frames=limits.max_frames)


def check_pixels(num_pixels: int, limits: Limits) -> None:
    """Raise Refused if a video has too many pixels to process in reasonable time."""
    if num_pixels > limits.max_gigapixels * 1e9:
        raise Refused("too_many_pixels", max_gigapixels=f"{limits.max_gigapixels:g}")


def address_of(request: Any) -> str:
    """The address that identifies the visitor of a request."""
    return visitor_at(request.client.host if request.client else "")


def visitor_at(host: str) -> str:
    """What identifies the visitor at an address. For IPv6 it is the /64 network, as one visitor may use all of it."""
    if ":" in host and is_address(host):
        address = ipaddress.IPv6Address(host)
        # Some proxies write IPv4 addresses in this form.
        return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address), 64), strict=False))
    return host


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
