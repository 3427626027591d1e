"""The only writer of video files, on PyAV.

H.264 .mp4 is for browsers, .webp for pages and slides that show pictures only, MPEG-4 .avi for drawn clips.
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

# By suffix: the codec, its options, bits per pixel where the codec needs a rate, and the container's options.
# - veryfast encodes 450 frames/s of 320x240 on two cores: drawing them takes longer.
# - faststart puts the index first, so that a browser plays a file before it has all of it.
# - A loop of 0 is without end.
_CODECS = {
    ".mp4": ("libx264", {"preset": "veryfast", "crf": "23"}, None, {"movflags": "+faststart"}),
    ".avi": ("mpeg4", {}, 0.3, {}),
    ".webp": ("libwebp_anim", {"quality": "60"}, None, {"loop": "0"}),
}
# FFmpeg's AVCOL_SPC_SMPTE170M and AVCOL_RANGE_MPEG: what cvtColor makes. Players that are not told guess by the size.
_BT601, _LIMITED_RANGE = 6, 1
# Of a frame's sides in pixels: .webp holds no more, and H.264 hardly.
MAX_SIDE = 16_383
# Where frames have times of their own: a whole number for each frame of all usual rates, and for a millisecond.
_TICKS_PER_S = 120_000


class _VideoWriter:
    """Encodes uint8 RGB frames (H, W, 3) of one size. Made by open_video()."""

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
        """Add a frame, shown from times_s[0] to times_s[1], in seconds; of all frames or of none."""
        assert frame.dtype == np.uint8 and frame.shape[2:] == (3,), f"not RGB in bytes: {frame.dtype} {frame.shape}"
        if self._size is None:
            self._start(*frame.shape[:2])
            if times_s is not None:
                self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
                # .mp4 stores how long after one frame the next is decoded. That is how long it is shown, for the last
                # one too, if frames are not reordered.
                self._stream.codec_context.max_b_frames = 0
        elif frame.shape[:2] != self._size:
            raise ValueError(f"frame size changed from {self._size} to {frame.shape[:2]}")
        if any(after for _, after in self._pad):
            frame = np.pad(frame, self._pad, mode="edge")
        # A third of the time of PyAV's own conversion
        planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
        encoded = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        if times_s is None:
            encoded.pts = self._num_frames
        else:
            begin, end = (round(time_s * _TICKS_PER_S) for time_s in times_s)
            # Cameras give two frames one time now and then, which no container takes.
            begin = max(begin, self._last_begin + 1)
            self._last_begin, end = begin, max(end, begin + 1)
            encoded.pts, encoded.time_base = begin, Fraction(1, _TICKS_PER_S)
            self._durations[begin] = end - begin
        self._num_frames += 1
        self._mux(self._stream.encode(encoded))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            # Encoders do not hand it on
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux(packet)

    def _start(self, height: int, width: int) -> None:
        self._size = height, width
        self._num_frames = 0
        # 4:2:0 holds colour for 2x2 pixels: an odd size is filled up by repeating the last row or column
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
    """Write a video file; it appears at `path` only when complete.

    `keyframe_interval`, the most frames from one keyframe to the next, is the codec's own where it is None. Sizes that
    are odd come out one pixel larger. Raises InputError on a suffix other than .mp4, .avi and .webp.
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
    """Write frames, uint8 RGB (H, W, 3) each, as open_video() does.

    `edges_s` tells when each frame begins and the last one ends, where they are not evenly spaced.
    """
    with open_video(path, fps=fps, keyframe_interval=keyframe_interval) as writer:
        for position, frame in enumerate(frames):
            writer.write(frame, None if edges_s is None else (edges_s[position], edges_s[position + 1]))
