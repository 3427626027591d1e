import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from video_module.config import TimelineConfig
from video_module.inference.overlay import segment_colors
from video_module.inference.predictor import VideoPrediction, Window
from video_module.inference.timeline import (
    UNCERTAIN,
    Labeller,
    Segment,
    find_segments,
    label_order,
    shown_label,
    smooth_scores,
    to_json,
    write_csv,
    write_vtt,
)


def prediction(*windows: tuple[int, int, float], num_frames: int = 40) -> VideoPrediction:
    """Return a prediction with windows (start, end, probability of "a") at 10 frames/s."""
    return VideoPrediction(
        path=Path("v.avi"),
        fps=10.0,
        num_frames=num_frames,
        class_names=["a", "b"],
        windows=[Window(start=s, end=e, scores=np.array([p, 1 - p])) for s, e, p in windows],
    )


# Each window gets its best class.
RAW = TimelineConfig(smooth_s=0, min_score=0, hysteresis=0)


def test_label_order_omits_uncertain_segments_and_repeats():
    def segment(label: str) -> Segment:
        return Segment(start=0, end=1, start_s=0, end_s=1, label=label, score=0.5, scores=np.zeros(2))

    labels = ["sit", UNCERTAIN, "sit", "wave", "sit", UNCERTAIN]
    assert label_order(list(map(segment, labels))) == ["sit", "wave", "sit"]
    assert label_order([segment(UNCERTAIN)]) == []


def test_segments_cover_the_video_without_gaps_or_overlaps():
    segments = find_segments(prediction((0, 20, 0.9), (10, 30, 0.8), (20, 40, 0.1)), RAW)
    assert [(s.start, s.end, s.label) for s in segments] == [(0, 25, "a"), (25, 40, "b")]
    assert [(s.start_s, s.end_s) for s in segments] == [(0.0, 2.5), (2.5, 4.0)]
    assert segments[0].score == pytest.approx((15 * 0.9 + 10 * 0.8) / 25)  # weighted by each window's frames
    assert segments[1].score == pytest.approx(0.9)
    assert segments[1].scores == pytest.approx([0.1, 0.9])


def test_one_window_is_one_segment():
    [segment] = find_segments(prediction((0, 7, 0.3), num_frames=7))
    assert (segment.start, segment.end, segment.label) == (0, 7, "b")
    assert segment.score == pytest.approx(0.7)


def test_uncovered_frames_get_the_label_of_the_nearest_window():
    segments = find_segments(prediction((0, 5, 0.9), (20, 25, 0.2), (35, 40, 0.9)))
    assert [(s.start, s.end, s.label) for s in segments] == [(0, 13, "a"), (13, 30, "b"), (30, 40, "a")]


@pytest.mark.parametrize("span", [15, 16, 17])
@pytest.mark.parametrize("clip_step", [1, 2, 3])
def test_every_window_gets_frames(span, clip_step):
    """With alternating labels, every window is its own segment."""
    windows = [(start, start + span, 0.9 if start // clip_step % 2 else 0.1) for start in range(0, 30, clip_step)]
    segments = find_segments(prediction(*windows, num_frames=windows[-1][1]), RAW)
    assert len(segments) == len(windows)
    assert all(a.end == b.start and a.start < a.end for a, b in pairwise(segments))


def test_a_single_outlier_is_smoothed_away():
    windows = [(start, start + 20, 0.8) for start in range(0, 100, 10)]
    windows[4] = (40, 60, 0.35)
    assert [s.label for s in find_segments(prediction(*windows, num_frames=110), RAW)] == ["a", "b", "a"]
    [segment] = find_segments(prediction(*windows, num_frames=110))
    assert segment.label == "a"
    assert segment.score == pytest.approx((0.8 * 100 + 0.35 * 10) / 110)  # the mean of unsmoothed scores


def test_smoothing_with_a_triangular_kernel():
    scores = np.array([[0.0], [0.0], [1.0], [0.0], [0.0]])
    times = np.arange(5) * 1.0
    assert smooth_scores(scores, times, smooth_s=2.0)[:, 0] == pytest.approx([0, 0.25, 0.5, 0.25, 0])
    # The kernel's weight reaches zero at the neighbours.
    assert smooth_scores(scores, times, smooth_s=1.0)[:, 0] == pytest.approx([0, 0, 1, 0, 0])
    constant = np.full((7, 3), [0.2, 0.3, 0.5])
    uneven = np.array([0, 0.1, 0.5, 0.6, 2, 2.1, 9])
    # Weights are normalised, also at the ends and around gaps.
    assert smooth_scores(constant, uneven, smooth_s=0.7) == pytest.approx(constant)


def labels(*scores: tuple[float, ...], **settings: float) -> list[int | None]:
    labeller = Labeller(TimelineConfig(**settings))
    return [labeller.update(np.array(row)) for row in scores]


def test_a_label_stays_until_another_leads_by_the_hysteresis():
    rows = (0.6, 0.4), (0.49, 0.51), (0.46, 0.54), (0.44, 0.56), (0.46, 0.54), (0.54, 0.46), (0.56, 0.44)
    assert labels(*rows, hysteresis=0.1) == [0, 0, 0, 1, 1, 1, 0]
    assert labels(*rows, hysteresis=0) == [0, 1, 1, 1, 1, 0, 0]


def test_uncertain_below_min_score_with_hysteresis():
    rows = (0.25, 0.2, 0.2), (0.35, 0.2, 0.2), (0.25, 0.1, 0.1), (0.15, 0.1, 0.1), (0.28, 0.1, 0.1), (0.1, 0.31, 0.1)
    # A label starts at 0.3 and lasts down to 0.2.
    assert labels(*rows, min_score=0.3, hysteresis=0.1) == [None, 0, 0, None, None, 1]


def test_a_lost_label_is_replaced_at_once():
    assert labels((0.5, 0.2), (0.19, 0.3), min_score=0.3, hysteresis=0.2) == [0, 0]  # within the hysteresis
    assert labels((0.5, 0.2), (0.14, 0.3), min_score=0.3, hysteresis=0.2) == [0, 1]


def test_uncertain_segments_have_the_best_score():
    config = TimelineConfig(min_score=0.7, smooth_s=0)
    segments = find_segments(prediction((0, 20, 0.9), (20, 40, 0.45)), config)
    assert [(s.label, s.score) for s in segments] == [("a", pytest.approx(0.9)), (UNCERTAIN, pytest.approx(0.55))]


def test_the_score_of_an_uncertain_segment_is_below_min_score():
    """A single window may score above min_score before smoothing."""
    rows = np.full((3, 6), 0.02)
    rows[[0, 1, 2], [0, 1, 2]] = 0.9, 0.42, 0.9
    rows[1, 3:] = 0.18
    windows = [Window(start=10 * n, end=10 * n + 20, scores=row) for n, row in enumerate(rows)]
    video = replace(prediction(num_frames=40), class_names=list("abcdef"), windows=windows)
    segments = find_segments(video, TimelineConfig(min_score=0.3, hysteresis=0))
    [uncertain] = [segment for segment in segments if segment.label == UNCERTAIN]
    assert uncertain.score == uncertain.scores.max() < 0.3
    assert uncertain.scores.argmax() != 1


def test_json_keys():
    video = prediction((0, 20, 0.9), (20, 40, 0.1))
    content = to_json(video, find_segments(video), model="m", k=1)
    assert list(content) == [
        *(
            "video",
            "model",
            "fps",
            "num_frames",
            "num_damaged_frames",
            "duration_s",
            "timeline",
            "top_k",
            "segments",
            "windows",
        )
    ]
    assert content["duration_s"] == 4.0
    assert content["timeline"] == {"smooth_s": 2.0, "min_score": 0.3, "hysteresis": 0.1}
    assert content["top_k"] == [{"label": "a", "score": pytest.approx(0.5)}]
    second = {"start_frame": 20, "end_frame": 40, "start_s": 2.0, "end_s": 4.0}
    assert content["windows"][1] == {**second, "top_k": [{"label": "b", "score": 0.9}]}
    answer = {"label": "b", "is_uncertain": False, "score": 0.9, "top_k": [{"label": "b", "score": 0.9}]}
    assert content["segments"][1] == {**second, **answer}


def test_csv(tmp_path):
    write_csv(tmp_path / "w.csv", prediction((0, 20, 0.9), (20, 40, 0.1)))
    assert (tmp_path / "w.csv").read_text().splitlines() == [
        "start_frame,end_frame,start_s,end_s,label,score",
        "0,20,0.000,2.000,a,0.900000",
        "20,40,2.000,4.000,b,0.900000",
    ]


def test_subtitles(tmp_path):
    windows = [Window(start=s, end=s + 20, scores=np.array(p)) for s, p in ((0, [0.9, 0.1]), (20, [0.55, 0.45]))]
    hour = Window(start=40, end=36_100, scores=np.array([0.1, 0.9]))
    video = VideoPrediction(
        path=Path("v.avi"), fps=10.0, num_frames=36_100, class_names=["a <&> b", "c"], windows=[*windows, hour]
    )
    segments = find_segments(video, TimelineConfig(smooth_s=0, min_score=0.6, hysteresis=0))
    write_vtt(tmp_path / "v.vtt", segments)
    assert (tmp_path / "v.vtt").read_text().splitlines() == [
        "WEBVTT",
        "",
        "00:00:00.000 --> 00:00:02.000",
        "a &lt;&amp;&gt; b 90%",
        "",
        "00:15:05.000 --> 01:00:10.000",
        "c 90%",
    ]


def test_times_follow_a_variable_frame_rate():
    """The video has 20 frames at 10 frames/s and then 20 at 20 frames/s."""
    edges_s = np.array([*np.arange(20) / 10, *(2 + np.arange(21) / 20)])
    video = VideoPrediction(
        path=Path("x.mp4"),
        fps=40 / 3,
        num_frames=40,
        class_names=["sit", "wave"],
        windows=[Window(start=s, end=s + 20, scores=np.array(p)) for s, p in ((0, [0.9, 0.1]), (20, [0.1, 0.9]))],
        edges_s=edges_s,
    )
    segments = find_segments(video, TimelineConfig(smooth_s=0))
    assert [(s.start_s, s.end_s, s.label) for s in segments] == [(0.0, 2.0, "sit"), (2.0, 3.0, "wave")]
    content = to_json(video, segments, model="m", k=1)
    assert content["duration_s"] == 3.0
    assert [(w["start_s"], w["end_s"]) for w in content["windows"]] == [(0.0, 2.0), (2.0, 3.0)]


def test_a_class_named_uncertain_differs_from_an_uncertain_segment(tmp_path):
    named = replace(prediction((0, 20, 0.9), (20, 40, 0.5), num_frames=40), class_names=["uncertain", "b"])
    segments = find_segments(named, TimelineConfig(smooth_s=0, min_score=0.6, hysteresis=0))
    assert [str(s.label) for s in segments] == ["uncertain", "uncertain"]
    assert [s.label == UNCERTAIN for s in segments] == [False, True]
    assert [shown_label(s.label) for s in segments] == ["uncertain", "(uncertain)"]
    assert label_order(segments) == ["uncertain"]
    content = json.loads(json.dumps(to_json(named, segments, model="m", k=1)))
    assert [(s["label"], s["is_uncertain"]) for s in content["segments"]] == [("uncertain", False), ("uncertain", True)]
    write_vtt(tmp_path / "x.vtt", segments)
    assert (tmp_path / "x.vtt").read_text().count("uncertain") == 1
    colors = segment_colors(named.class_names)
    assert len({colors[s.label] for s in segments}) == 2
