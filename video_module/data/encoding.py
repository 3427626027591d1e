"""Write video files with PyAV. All other modules write videos through this one.

H.264 in .mp4 plays in browsers, .webp works where only pictures can be shown, and drawn clips are MPEG-4 in .avi.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from video_module.errors import InputError
from video_module.files import replacing

# For each suffix: the codec, its options, bits per pixel if the codec needs a bit rate, and the container's options.
# - veryfast encodes 450 frames/s of 320x240 on two cores, faster than they are drawn.
# - faststart puts the index first, so that a browser can play a file while it loads.
# - A loop of 0 repeats forever.
_CODECS = {
    ".mp4": ("libx264", {"preset": "veryfast", "crf": "23"}, None, {"movflags": "+faststart"}),
    ".avi": ("mpeg4", {}, 0.3, {}),
    ".webp": ("libwebp_anim", {"quality": "60"}, None, {"loop": "0"}),
}
# FFmpeg's AVCOL_SPC_SMPTE170M and AVCOL_RANGE_MPEG, which cvtColor produces. Without them, players guess by the size.
_BT601, _LIMITED_RANGE = 6, 1
# Largest width or height in pixels. It is the limit of .webp, and H.264 allows little more.
MAX_SIDE = 16_383
# For frames with individual times. A frame at any common rate and a millisecond are whole numbers of ticks.
_TICKS_PER_S = 120_000


class _VideoWriter:
    """Encode uint8 RGB frames (H, W, 3) of one size. Created by open_video()."""

    def __init__(self, path: Path, fps: float, suffix: str, keyframe_interval: int | None):
        codec, options, self._bits_per_pixel, container_options = _CODECS[suffix]
        self._container = av.open(str(path), "w", options=container_options)
        self._rate = Fraction(fps).limit_denominator(60_000)
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = options | ({"g": str(keyframe_interval)} if keyframe_interval else {})
        self._stream.codec_context.colorspace = _BT601
        self._stream.codec_context.color_range = _LIMITED_RANGE
        self._size: tuple[int, int] | None = None
        self._durations: dict[int, int] = {}
        self._last_begin = -1

    def write(self, frame: np.ndarray, times_s: tuple[float, float] | None = None) -> None:
        """Add a frame shown from times_s[0] to times_s[1], in seconds. Give times for all frames or for none."""
        assert frame.dtype == np.uint8 and frame.shape[2:] == (3,), f"not RGB in bytes: {frame.dtype} {frame.shape}"
        if self._size is None:
            self._start(*frame.shape[:2])
            if times_s is not None:
                self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
                # .mp4 stores the time between the decoding of two frames. It equals the time a frame is shown, also for
                # the last one, only if frames are not reordered.
                self._stream.codec_context.max_b_frames = 0
        elif frame.shape[:2] != self._size:
            raise ValueError(f"frame size changed from {self._size} to {frame.shape[:2]}")
        if any(after for _, after in self._pad):
            frame = np.pad(frame, self._pad, mode="edge")
        # Takes a third of the time of PyAV's conversion
        planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
        encoded = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        if times_s is None:
            encoded.pts = self._num_frames
        else:
            begin, end = (round(time_s * _TICKS_PER_S) for time_s in times_s)
            # Cameras sometimes give two frames the same time, which no container accepts.
            begin = max(begin, self._last_begin + 1)
            self._last_begin, end = begin, max(end, begin + 1)
            encoded.pts, encoded.time_base = begin, Fraction(1, _TICKS_PER_S)
            self._durations[begin] = end - begin
        self._num_frames += 1
        self._mux(self._stream.encode(encoded))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # Encoders do not pass on the durations of frames
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def _start(self, height: int, width: int) -> None:
        self._size = height, width
        self._num_frames = 0
        # 4:2:0 stores one colour per 2x2 pixels, so odd sizes are padded by repeating the last row or column
        self._pad = [(0, height % 2), (0, width % 2), (0, 0)]
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        if self._bits_per_pixel:
            self._stream.bit_rate = int(self._bits_per_pixel * height * width * self._rate)

    def close(self) -> None:
        if self._size is not None:
            self._mux(self._stream.encode(None))
        self._container.close()


@contextmanager
def open_video(path: str | Path, *, fps: float, keyframe_interval: int | None = None) -> Iterator[_VideoWriter]:
    """Open a video file for writing. It appears at `path` only when it is complete.

    `keyframe_interval` is the largest number of frames from one keyframe to the next, None for the codec's default. Odd
    sizes become one pixel larger. Raises InputError if the suffix is not .mp4, .avi or .webp.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _CODECS:
        raise InputError(f"{path}: expected a name ending in {', '.join(_CODECS)}")
    with replacing(path) as partial:
        writer = _VideoWriter(partial, fps, suffix, keyframe_interval)
        try:
            yield writer
        finally:
            writer.close()


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    keyframe_interval: int | None = None,
    edges_s: Sequence[float] | None = None,
) -> None:
    """Write a video of `frames`, uint8 RGB (H, W, 3) each; see open_video().

    `edges_s` gives the start of each frame and the end of the last in seconds, if frames are not evenly spaced.
    """
    with open_video(path, fps=fps, keyframe_interval=keyframe_interval) as writer:
        for position, frame in enumerate(frames):
            writer.write(frame, None if edges_s is None else (edges_s[position], edges_s[position + 1]))
