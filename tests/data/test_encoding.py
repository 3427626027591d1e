import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import brightness_frames, frame_numbers
from video_module.data import decoding
from video_module.data.encoding import open_video, write_video
from video_module.errors import InputError


@pytest.mark.parametrize("fps", [25, 29.97, 12.5, 60])
def test_mp4_is_h264_that_browsers_play(tmp_path, fps):
    path = tmp_path / "out.mp4"
    write_video(path, brightness_frames(30), fps=fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
        assert stream.frames == 30
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (6, 1)  # BT.601, 16..235
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")  # faststart
    assert frame_numbers(np.stack(list(decoding.iter_frames(path)))) == list(range(30))


def test_webp_is_a_picture_that_moves_for_ever(tmp_path):
    path = tmp_path / "out.webp"
    frames = list(brightness_frames(30))
    write_video(path, frames, fps=25)
    begin_ms = 0
    with Image.open(path) as picture:
        assert (picture.info["loop"], picture.size) == (0, frames[0].shape[1::-1])
        assert picture.n_frames > 5  # frames that hardly differ become one that is shown longer
        for number in range(picture.n_frames):
            picture.seek(number)
            difference = np.asarray(picture.convert("RGB")).astype(int) - frames[begin_ms // 40]
            assert abs(difference).mean() < 4
            begin_ms += picture.info["duration"]
    assert begin_ms == 30 * 40


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (35, 51)])
def test_odd_sizes_grow_by_one(tmp_path, height, width):
    write_video(tmp_path / "odd.mp4", brightness_frames(4, height=height, width=width), fps=25)
    info = decoding.read_info(tmp_path / "odd.mp4")
    assert (info.height, info.width) == (height + height % 2, width + width % 2)


@pytest.mark.parametrize("times_s", [[0, 0.05, 0.05, 0.1], [0, 0.05, 0.1, 0.1], [0, 0.1, 0.05, 0.2]])
def test_frames_of_one_time_are_all_written(tmp_path, times_s):
    """As cameras give them, and files whose times go back."""
    with open_video(tmp_path / "out.mp4", fps=25) as writer:
        for frame, begin_s, end_s in zip(brightness_frames(4), times_s, [*times_s[1:], 0.3], strict=True):
            writer.write(frame, (begin_s, end_s))
    assert frame_numbers(np.stack(list(decoding.iter_frames(tmp_path / "out.mp4")))) == [0, 1, 2, 3]


def test_a_failed_video_leaves_nothing(tmp_path):
    def frames():
        yield from brightness_frames(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_video(tmp_path / "half.mp4", frames(), fps=25)
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_are_refused(tmp_path):
    with (
        pytest.raises(InputError, match=r"expected a name ending in \.mp4, \.avi, \.webp"),
        open_video(tmp_path / "x.wmv", fps=25),
    ):
        pass
