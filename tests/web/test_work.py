"""Tests of videos with wrong headers."""

import dataclasses

import numpy as np
import pytest

from video_module.data.encoding import write_video
from video_module.inference.predictor import load_predictor
from video_module.web.limits import Limits, Refused, check_header
from video_module.web.work import LimitedReader, score_within, work_size


def test_length_is_checked_while_decoding(make_video, exported):
    path = make_video(60, fps=10)
    info = dataclasses.replace(check_header(path, Limits(max_seconds=6)), estimated_num_frames=10, duration_s=1.0)
    done, reader = [], LimitedReader(path, Limits(max_seconds=4))
    with pytest.raises(Refused, match="too_long"):
        for _, num_frames, total in score_within(load_predictor(exported), reader, info):
            done.append(num_frames)
            assert total >= num_frames
    assert max(done, default=0) <= 41


def test_number_of_pixels_is_checked_while_decoding(make_video):
    path = make_video(30, height=96, width=128)
    reader = LimitedReader(path, Limits(max_gigapixels=10.5 * 96 * 128 / 1e9))
    with pytest.raises(Refused, match="too_many_pixels"):
        list(reader)
    assert reader.num_frames == 11


def test_frame_size_is_checked_while_decoding(tmp_path):
    """Raw H.264 may change its frame size at any keyframe; the header only has the first size."""
    parts = []
    for width in (64, 4160):
        path = tmp_path / f"{width}.h264"
        write_video(tmp_path / "part.mp4", (np.full((64, width, 3), 90, np.uint8) for _ in range(3)), fps=25)
        _to_raw(tmp_path / "part.mp4", path)
        parts.append(path.read_bytes())
    grown = tmp_path / "grown.h264"
    grown.write_bytes(b"".join(parts))
    with pytest.raises(Refused, match="too_large_frames"):
        list(LimitedReader(grown, Limits()))


def _to_raw(source, target) -> None:
    import av

    with av.open(str(source)) as container, av.open(str(target), "w", format="h264") as output:
        stream = container.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for packet in container.demux(stream):
            if packet.size:
                packet.stream = copy
                output.mux(packet)


def test_check_is_called_for_each_frame(make_video):
    answers = iter([None, None, Refused("too_slow")])

    def check() -> None:
        if (refusal := next(answers)) is not None:
            raise refusal

    reader = LimitedReader(make_video(30), Limits(), check=check)
    with pytest.raises(Refused, match="too_slow"):
        list(reader)
    assert reader.num_frames == 3


def test_work_per_frame_grows_slower_than_its_pixels(make_video):
    """With swin3d_nano, frames of 1280x720 took 8.8 ms and frames of 240x180, with 1/21 of the pixels, 2.2 ms."""
    info = check_header(make_video(10), Limits())
    small, large = (
        work_size(dataclasses.replace(info, height=height, width=width)) for height, width in ((180, 240), (720, 1280))
    )
    assert 3 < large / small < 5
