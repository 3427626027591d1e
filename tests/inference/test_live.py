import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.conftest import frame_numbers
from video_module.config import ClipConfig, TimelineConfig
from video_module.data import sampling
from video_module.data.capture import TimedFrame, paced_frames
from video_module.data.decoding import VideoError, iter_frames
from video_module.inference.live import LiveLabeller, LiveSession, Reading, RecentFrames
from video_module.inference.predictor import Predictor
from video_module.inference.timeline import UNCERTAIN

CLIP = ClipConfig(num_frames=4, frame_stride=3, resize=48, crop=40)  # spans 10 frames


def predictor_of(score: Callable[[np.ndarray], np.ndarray], clip: ClipConfig = CLIP) -> Predictor:
    return Predictor(model="m", class_names=["a", "b"], clip=clip, score_clips=score, provider="cpu")


def timed_frames(num_frames: int, *, fps: float = 100.0, gap_at: int | None = None) -> Iterator[TimedFrame]:
    begin = time.monotonic()
    for number in range(num_frames):
        time.sleep(max(0.0, begin + number / fps - time.monotonic()))
        frame = np.full((48, 64, 3), number % 256, np.uint8)
        yield TimedFrame(
            frame=frame, time_s=number / fps, arrival_s=time.monotonic(), fps=fps, after_gap=number == gap_at
        )


def collect(session: LiveSession) -> list[Reading]:
    readings = []
    while True:
        was_over = session.is_over
        if reading := session.next_reading(timeout_s=0.2):
            readings.append(reading)
        elif was_over:
            return readings


def test_clips_are_those_that_files_give(make_video):
    """At each frame, the clip that ends there is the window of the file that ends there."""
    recent = RecentFrames(CLIP, fps=25)
    for number, frame in enumerate(iter_frames(make_video(40))):
        recent.push(frame, number / 25)
        clip = recent.cut()
        if number < 9:
            assert clip is None
        else:
            assert frame_numbers(clip) == sampling.clip_indices(number - 9, 40, CLIP).tolist()
            assert clip.shape == CLIP.shape


def test_clips_go_by_time_where_frames_are_missing(make_video):
    frames = list(iter_frames(make_video(40)))
    recent = RecentFrames(CLIP, fps=25)
    for number in range(40):
        if number in (0, 3, 9) or number >= 12:  # others were lost
            recent.push(frames[number], number / 25)
        if number == 12:
            assert frame_numbers(recent.cut()) == [3, 3, 9, 12]  # 6 was lost: 3 and 9 are as near, the earlier is taken
    assert frame_numbers(recent.cut()) == [30, 33, 36, 39]


def test_a_rate_of_its_own_beats_the_sources(make_video):
    frames = list(iter_frames(make_video(40)))
    clip = ClipConfig(num_frames=4, frame_stride=1, target_fps=12.5, resize=48, crop=40)
    recent = RecentFrames(clip, fps=25)
    for number, frame in enumerate(frames):
        recent.push(frame, number / 25)
    assert frame_numbers(recent.cut()) == [33, 35, 37, 39]


def test_only_a_clip_is_kept():
    recent = RecentFrames(CLIP, fps=25)
    for number in range(10_000):
        recent.push(np.zeros((48, 64, 3), np.uint8), number / 25)
    assert len(recent._frames) == 10


def test_labels_are_smoothed_over_the_past_alone():
    labeller = LiveLabeller(["a", "b"], TimelineConfig(min_score=0.6, hysteresis=0), smooth_s=2.0)
    assert labeller.update(0.0, np.array([0.9, 0.1]))[:2] == ("a", pytest.approx(0.9))
    label, score, scores = labeller.update(1.0, np.array([0.3, 0.7]))  # weights 1/2 and 1
    assert scores == pytest.approx([0.5, 0.5])
    assert (label, score) == (UNCERTAIN, pytest.approx(0.5))
    label, score, _ = labeller.update(9.0, np.array([0.2, 0.8]))  # all else is long past
    assert (label, score) == ("b", pytest.approx(0.8))


def test_a_slow_network_gives_fewer_answers_not_late_ones():
    def slow(clips: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return np.array([[1.0, 0.0]])

    with LiveSession(timed_frames(150), predictor_of(slow), clip_step=1) as session:
        readings = collect(session)
    assert session.num_frames == 150  # the reader never waited
    assert 8 <= len(readings) <= 15  # of 1.4 s after the first clip
    assert max(reading.latency_s for reading in readings) < 0.2  # one pass, not a queue of them
    assert readings[-1].time_s > 1.2
    assert readings[-1].windows_per_s == pytest.approx(10, rel=0.3)


def test_answers_come_at_the_step_that_was_asked_for():
    seen = []

    def quick(clips: np.ndarray) -> np.ndarray:
        seen.append(int(clips[0, -1, 0, 0, 0]))
        return np.array([[1.0, 0.0]])

    with LiveSession(timed_frames(60), predictor_of(quick), clip_step=10) as session:
        collect(session)
    assert seen == [9, 19, 29, 39, 49, 59][: len(seen)]
    assert len(seen) >= 5


def test_nothing_is_scored_across_a_gap():
    starts = []

    def note(clips: np.ndarray) -> np.ndarray:
        starts.append(int(clips[0, 0, 0, 0, 0]))
        return np.array([[1.0, 0.0]])

    with LiveSession(timed_frames(60, gap_at=30), predictor_of(note), clip_step=1) as session:
        collect(session)
    assert [start for start in starts if 20 < start < 30] == []
    assert {start for start in starts if start >= 30}
    assert {start for start in starts if start <= 20}


def test_errors_of_the_source_and_the_network_are_raised_to_the_caller(tmp_path):
    (tmp_path / "x.avi").write_text("text")

    def broken(clips: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    with (
        LiveSession(paced_frames(tmp_path / "x.avi"), predictor_of(broken)) as session,
        pytest.raises(VideoError, match="not a video"),
    ):
        collect(session)
    with LiveSession(timed_frames(60), predictor_of(broken)) as session, pytest.raises(RuntimeError, match="memory"):
        collect(session)


def test_live_scores_are_the_files(exported, drawn_data):
    """Frame by frame, the scores of the moment are those of the file's window that ends there."""
    from video_module.inference.predictor import load_predictor

    predictor = load_predictor(exported, num_threads=1)
    video = next((drawn_data / "test").rglob("*.avi"))
    prediction = predictor.predict_video(video, clip_step=1)
    recent = RecentFrames(predictor.clip, fps=prediction.fps)
    scores = []
    for number, frame in enumerate(iter_frames(video)):
        recent.push(frame, number / prediction.fps)
        if (clip := recent.cut()) is not None:
            scores.append(predictor.predict_clips(clip[None])[0])
    assert np.stack(scores) == pytest.approx(np.stack([window.scores for window in prediction.windows]), abs=1e-5)
