"""Score a visitor's video within the limits."""

import math
from collections.abc import Callable, Iterator

from video_module.data.decoding import Frame, VideoInfo, VideoReader
from video_module.errors import VideoError
from video_module.inference.predictor import Predictor, Window
from video_module.web.limits import Limits, Refused, check_length, check_pixels, check_size

# The cost of a frame that does not depend on its size, expressed in pixels: the network, and the overhead of decoding
# and drawing. This fits swin3d_nano on a CPU. Slower networks cost more, so with them large videos finish before the
# estimated time if only small ones were measured.
_FIXED_PIXELS = 512 * 512


def work_size(info: VideoInfo) -> int:
    """The amount of work for a video, in pixels. Waiting times are estimated from it."""
    return info.estimated_num_frames * (info.height * info.width + _FIXED_PIXELS)


class LimitedReader(VideoReader):
    """A reader that raises Refused as soon as a video exceeds the limits, whatever its header says."""

    def __init__(self, path: str, limits: Limits, *, check: Callable[[], None] = lambda: None) -> None:
        super().__init__(path)
        self._limits, self._check, self._num_pixels = limits, check, 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            self._check()
            check_length(self.num_frames, frame.time_s, self._limits)
            check_size(*frame.size)
            self._num_pixels += math.prod(frame.size)
            check_pixels(self._num_pixels, self._limits)
            yield frame


def score_within(
    predictor: Predictor, reader: LimitedReader, info: VideoInfo
) -> Iterator[tuple[list[Window], int, int]]:
    """Yield (windows scored, frames done, frames expected) for each batch of a video's windows. Raises Refused."""
    try:
        for windows in predictor.score_windows(reader):
            done = windows[-1].end
            yield windows, done, max(done, info.estimated_num_frames)
    except VideoError:
        raise Refused("bad_video") from None
