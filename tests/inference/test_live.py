import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import frame_numbers
from video_module.config import ClipConfig, TimelineConfig
from video_module.data import sampling
from video_module.data.capture import TimedFrame, paced_frames
from video_module.data.decoding import iter_frames
from video_module.errors import VideoError
from video_module.inference import live
from video_module.inference.live import LiveLabeller, LiveSession, Reading, RecentFrames
from video_module.inference.predictor import Predictor
from video_module.inference.timeline import UNCERTAIN

CLIP = ClipConfig(num_frames=4, frame_stride=3, resize=48, crop=40)  # spans 10 frames


def predictor_of(score: Callable[[np.ndarray], np.ndarray], clip: ClipConfig = CLIP) -> Predictor:
    return Predictor(model="m", class_names=["a", "b"], clip=clip, score_clips=score, device="cpu")


def collect(session: LiveSession) -> list[Reading]:
    readings = []
    while True:
        was_over = session.is_over
        if reading := session.next_reading(timeout_s=0.2):
            readings.append(reading)
        elif was_over:
            return readings


def test_clips_match_those_of_a_file(make_video):
    """At each frame, the clip that ends there equals the file's window that ends there."""
    recent = RecentFrames(CLIP, fps=25)
    for number, frame in enumerate(iter_frames(make_video(40))):
        recent.push(frame, number / 25)
        clip = recent.cut()
        if number < 9:
            assert clip is None
        else:
            assert frame_numbers(clip) == sampling.clip_indices(number - 9, 40, CLIP).tolist()
            assert clip.shape == CLIP.shape


def test_clips_are_chosen_by_time_if_frames_are_lost(make_video):
    frames = list(iter_frames(make_video(40)))
    recent = RecentFrames(CLIP, fps=25)
    for number in range(40):
        if number in (0, 3, 9) or number >= 12:  # the others are lost
            recent.push(frames[number], number / 25)
        if number == 12:
            # Frame 6 is lost; 3 and 9 are equally close, so the earlier is used.
            assert frame_numbers(recent.cut()) == [3, 3, 9, 12]
    assert frame_numbers(recent.cut()) == [30, 33, 36, 39]


def test_target_fps_of_the_clip(make_video):
    frames = list(iter_frames(make_video(40)))
    clip = ClipConfig(num_frames=4, frame_stride=1, target_fps=12.5, resize=48, crop=40)
    recent = RecentFrames(clip, fps=25)
    for number, frame in enumerate(frames):
        recent.push(frame, number / 25)
    assert frame_numbers(recent.cut()) == [33, 35, 37, 39]


def test_only_the_frames_of_a_clip_are_kept():
    recent = RecentFrames(CLIP, fps=25)
    for number in range(10_000):
        recent.push(np.zeros((48, 64, 3), np.uint8), number / 25)
    assert len(recent._frames) == 10


def test_labels_are_smoothed_over_the_past():
    labeller = LiveLabeller(["a", "b"], TimelineConfig(min_score=0.6, hysteresis=0), smooth_s=2.0)
    assert labeller.update(0.0, np.array([0.9, 0.1]))[:2] == ("a", pytest.approx(0.9))
    label, score, scores = labeller.update(1.0, np.array([0.3, 0.7]))  # weights 1/2 and 1
    assert scores == pytest.approx([0.5, 0.5])
    assert (label, score) == (UNCERTAIN, pytest.approx(0.5))
    label, score, _ = labeller.update(9.0, np.array([0.2, 0.8]))  # earlier scores have no weight any more
    assert (label, score) == ("b", pytest.approx(0.8))


def numbered(number: int, *, after_gap: bool = False) -> TimedFrame:
    """Return frame `number` at 100 frames/s; its brightness is `number`."""
    frame = np.full((48, 64, 3), number, np.uint8)
    return TimedFrame(frame=frame, time_s=number / 100, arrival_s=time.monotonic(), fps=100.0, after_gap=after_gap)


class Network:
    """A fake model that records the first and last frame of each clip and blocks while `go` is cleared."""

    def __init__(self) -> None:
        self.clips: list[tuple[int, int]] = []
        self.scored, self.go = threading.Semaphore(0), threading.Event()
        self.go.set()

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.clips.append((int(clips[0, 0, 0, 0, 0]), int(clips[0, -1, 0, 0, 0])))
        self.scored.release()
        assert self.go.wait(60)
        return np.array([[1.0, 0.0]])

    def wait(self) -> None:
        assert self.scored.acquire(timeout=60)


def test_a_slow_model_skips_clips_instead_of_falling_behind():
    network = Network()
    network.go.clear()

    def source() -> Iterator[TimedFrame]:
        yield from map(numbered, range(10))
        network.wait()  # it is blocked with the first clip
        yield from map(numbered, range(10, 60))
        network.go.set()

    with LiveSession(source(), predictor_of(network), clip_step=1) as session:
        readings = collect(session)
    assert session.num_frames == 60  # reading did not wait for the model
    assert network.clips == [(0, 9), (50, 59)]  # after the first clip comes the newest
    assert [reading.time_s for reading in readings] == [0.09, 0.59]
    assert min(reading.latency_s for reading in readings) > 0


def test_a_clip_is_scored_every_clip_step():
    network = Network()

    def source() -> Iterator[TimedFrame]:
        for number in range(60):
            yield numbered(number)
            if number % 10 == 9:
                network.wait()

    with LiveSession(source(), predictor_of(network), clip_step=10) as session:
        readings = collect(session)
    assert [last for _, last in network.clips] == [9, 19, 29, 39, 49, 59]
    assert len(readings) == 6


def test_rate_is_zero_within_one_tick_of_the_clock(monkeypatch):
    """On Windows, time.monotonic() is coarse, so several answers can come within one tick."""
    network = Network()

    def source() -> Iterator[TimedFrame]:
        for number in range(12):
            yield numbered(number)
            if number >= 9:
                network.wait()

    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: 5.0))
    with LiveSession(source(), predictor_of(network), clip_step=1) as session:
        readings = collect(session)
    assert [reading.windows_per_s for reading in readings] == [0.0] * 3


def test_the_last_clip_is_scored_after_the_source_has_ended():
    def slow(clips: np.ndarray) -> np.ndarray:
        time.sleep(0.5)
        return np.array([[1.0, 0.0]])

    with LiveSession(map(numbered, range(10)), predictor_of(slow)) as session:
        assert len(collect(session)) == 1


def test_closing_waits_for_the_scoring_thread():
    """A thread that is still running would abort the interpreter at exit."""
    network, before = Network(), threading.active_count()
    network.go.clear()

    def endless() -> Iterator[TimedFrame]:
        for number in count():
            yield numbered(number % 250 if number < 250 else 250)
            time.sleep(0.001)

    source = endless()
    with LiveSession(source, predictor_of(network), clip_step=1):
        network.wait()
        threading.Timer(1.5, network.go.set).start()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(source)  # closed, so that a camera is released


def test_a_gap_resets_the_clip_and_the_smoothing():
    network = Network()
    network.go.clear()

    def source() -> Iterator[TimedFrame]:
        for number in range(40):
            yield numbered(number, after_gap=number == 30)
            if number == 9:
                network.wait()  # it is blocked with the first clip until the gap
            if number == 30:
                network.go.set()
            if number > 30:
                time.sleep(0.01)  # enough time to score the frames before the gap, if they had been kept
        network.wait()

    config = TimelineConfig(smooth_s=100.0)
    answers = iter([[4.0, 0.0], *[[0.0, 4.0]] * 40])
    predictor = predictor_of(lambda clips: network(clips) * 0 + next(answers))
    with LiveSession(source(), predictor, clip_step=20, config=config) as session:
        readings = collect(session)
    assert network.clips == [(0, 9), (30, 39)]
    assert readings[0].label == "a"
    assert readings[-1].scores[1] > 0.9  # not smoothed with scores from before the gap


def test_a_gap_requires_a_whole_new_clip():
    with_gap = LiveSession(iter(()), predictor_of(Network()))
    for number in range(45):
        with_gap._take(numbered(number, after_gap=number == 30))
        assert (with_gap._recent.cut() is not None) == (9 <= number < 30 or number >= 39), number


def test_errors_of_the_source_and_the_model_are_raised(tmp_path):
    (tmp_path / "x.avi").write_text("text")

    def broken(clips: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    with (
        LiveSession(paced_frames(tmp_path / "x.avi"), predictor_of(broken)) as session,
        pytest.raises(VideoError, match="not a video"),
    ):
        collect(session)
    with (
        LiveSession(map(numbered, range(60)), predictor_of(broken)) as session,
        pytest.raises(RuntimeError, match="memory"),
    ):
        collect(session)


def test_live_scores_match_those_of_a_file(exported, drawn_data):
    """At each frame, the live scores equal those of the file's window that ends there."""
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
