from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from video_module.inference.predictor import VideoPrediction, Window
from video_module.inference.timeline import find_segments, to_json, write_csv


def prediction(*windows: tuple[int, int, float], num_frames: int = 40) -> VideoPrediction:
    """Windows (start, end, probability of "a") at 10 frames/s."""
    return VideoPrediction(
        path=Path("v.avi"),
        fps=10.0,
        num_frames=num_frames,
        class_names=["a", "b"],
        windows=[Window(start=s, end=e, scores=np.array([p, 1 - p])) for s, e, p in windows],
    )


def test_segments_cover_the_video_without_gap_or_overlap():
    segments = find_segments(prediction((0, 20, 0.9), (10, 30, 0.8), (20, 40, 0.1)))
    assert [(s.start, s.end, s.label) for s in segments] == [(0, 25, "a"), (25, 40, "b")]
    assert [(s.start_s, s.end_s) for s in segments] == [(0.0, 2.5), (2.5, 4.0)]
    assert segments[0].score == pytest.approx((15 * 0.9 + 10 * 0.8) / 25)  # by the frames that each speaks for
    assert segments[1].score == pytest.approx(0.9)


def test_one_window_is_one_segment():
    [segment] = find_segments(prediction((0, 7, 0.3), num_frames=7))
    assert (segment.start, segment.end, segment.label) == (0, 7, "b")
    assert segment.score == pytest.approx(0.7)


def test_what_no_window_covers_takes_the_nearest():
    segments = find_segments(prediction((0, 5, 0.9), (20, 25, 0.2), (35, 40, 0.9)))
    assert [(s.start, s.end, s.label) for s in segments] == [(0, 13, "a"), (13, 30, "b"), (30, 40, "a")]


@pytest.mark.parametrize("span", [15, 16, 17])
@pytest.mark.parametrize("clip_step", [1, 2, 3])
def test_no_window_is_left_without_frames(span, clip_step):
    """Alternating labels make every window a segment of its own."""
    windows = [(start, start + span, 0.9 if start // clip_step % 2 else 0.1) for start in range(0, 30, clip_step)]
    segments = find_segments(prediction(*windows, num_frames=windows[-1][1]))
    assert len(segments) == len(windows)
    assert all(a.end == b.start and a.start < a.end for a, b in pairwise(segments))


def test_json_has_the_contracts_keys():
    content = to_json(prediction((0, 20, 0.9), (20, 40, 0.1)), model="m", k=1)
    assert list(content) == ["video", "model", "fps", "num_frames", "duration_s", "top_k", "segments", "windows"]
    assert content["duration_s"] == 4.0
    assert content["top_k"] == [{"label": "a", "score": pytest.approx(0.5)}]
    assert content["windows"][1] == {"start_s": 2.0, "end_s": 4.0, "top_k": [{"label": "b", "score": 0.9}]}
    assert [set(segment) for segment in content["segments"]] == [{"start_s", "end_s", "label", "score"}] * 2


def test_csv(tmp_path):
    write_csv(tmp_path / "w.csv", prediction((0, 20, 0.9), (20, 40, 0.1)))
    assert (tmp_path / "w.csv").read_text().splitlines() == [
        "start_s,end_s,label,score",
        "0.000,2.000,a,0.900000",
        "2.000,4.000,b,0.900000",
    ]
