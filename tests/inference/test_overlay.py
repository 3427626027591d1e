from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from PIL import Image

from tests.data.test_times import write_timed
from video_module.data import decoding
from video_module.errors import InputError
from video_module.inference import overlay
from video_module.inference.predictor import VideoPrediction, Window, load_predictor


def predict(path, num_frames: int, *, fps: float = 25, cut: int | None = None) -> VideoPrediction:
    """Return a prediction of "sit" up to frame `cut` and "wave" from there."""
    parts = [(0, num_frames, 0.9)] if cut is None else [(cut - 6, cut, 0.9), (cut, cut + 6, 0.2)]
    windows = [Window(start=s, end=e, scores=np.array([p, 1 - p])) for s, e, p in parts]
    return VideoPrediction(path=path, fps=fps, num_frames=num_frames, class_names=["sit", "wave"], windows=windows)


@pytest.mark.parametrize("fps", [25, 29.97])
def test_frame_rate_count_and_size_are_kept(make_video, tmp_path, fps):
    source = make_video(33, fps=fps, height=120, width=160)
    overlay.write_annotated(tmp_path / "out.mp4", predict(source, 33, fps=fps))
    num_frames, info = decoding.count_frames(tmp_path / "out.mp4")
    assert (num_frames, info.height, info.width) == (33, 120, 160)
    assert info.fps == pytest.approx(fps, abs=0.01)


@pytest.mark.parametrize(("width", "expected"), [(160, 480), (176, 528), (480, 480), (640, 640)])
def test_animations_of_small_videos_are_enlarged(make_video, tmp_path, width, expected):
    """They are enlarged by a whole number before text is drawn, so that it is readable."""
    source = make_video(10, width=width, height=120)
    overlay.write_annotated(tmp_path / "out.webp", predict(source, 10))
    with Image.open(tmp_path / "out.webp") as picture:
        assert picture.size == (expected, 120 * expected // width)
        assert picture.n_frames == 10


def test_label_changes_with_the_segment(make_video):
    source = make_video(20, height=120, width=160)
    frames = list(overlay.annotated_frames(predict(source, 20, cut=8)))
    originals = list(decoding.iter_frames(source))
    colors = overlay.class_colors(["sit", "wave"])

    def has_color(frame: np.ndarray, label: str) -> bool:
        return bool((np.abs(frame[:40].astype(int) - colors[label]).max(axis=-1) < 3).any())

    assert [has_color(frame, "sit") for frame in frames] == [True] * 8 + [False] * 12
    assert [has_color(frame, "wave") for frame in frames] == [False] * 8 + [True] * 12
    for frame, original in zip(frames, originals, strict=True):
        assert np.array_equal(frame[45:105], original[45:105])  # nothing is drawn on the rest of the frame


def test_the_strip_shows_all_segments_and_the_position(make_video):
    """The strip at the bottom shows the segments and a white mark that moves from left to right."""
    frames = list(overlay.annotated_frames(predict(make_video(20, height=120, width=160), 20, cut=8)))
    colors = overlay.class_colors(["sit", "wave"])
    for frame in frames:
        bottom = frame[-1].astype(int)
        seen = [np.abs(bottom - colors[label]).max(axis=-1) == 0 for label in ("sit", "wave")]
        assert not seen[0][64:].any() and not seen[1][:64].any()  # 8 of 20 frames
        assert seen[0].sum() + seen[1].sum() >= 157  # all except the mark
    marks = [int(np.flatnonzero((frame[-1] == 255).all(axis=-1)).mean()) for frame in frames]
    assert marks == sorted(marks)
    assert marks[0] <= 1 and marks[-1] >= 158
    assert marks[10] == pytest.approx(159 * 10 / 19, abs=1)


def test_the_label_of_uncertain_segments_can_be_changed(make_video):
    source = make_video(5, height=120, width=160)
    unsure = VideoPrediction(
        path=source,
        fps=25,
        num_frames=5,
        class_names=["a", "b"],
        windows=[Window(start=0, end=5, scores=np.array([0.2, 0.1]))],
    )
    names = ({}, {"name_of": lambda label: f"({label})"}, {"name_of": lambda label: "неуверенно"})
    english, same, russian = (next(overlay.annotated_frames(unsure, **settings)) for settings in names)
    assert np.array_equal(english, same)
    assert not np.array_equal(english[:40], russian[:40])
    assert np.array_equal(english[40:], russian[40:])


def test_the_strip_can_be_left_out(make_video):
    source = make_video(5, height=120, width=160)
    windows = [Window(start=0, end=5, scores=np.array([0.9, 0.1]))]
    prediction = VideoPrediction(path=source, fps=25, num_frames=5, class_names=["a", "b"], windows=windows)
    whole, bare = (next(overlay.annotated_frames(prediction, has_strip=has)) for has in (True, False))
    assert np.array_equal(whole[:100], bare[:100]) and not np.array_equal(whole[-3:], bare[-3:])


def test_the_length_of_the_bar_is_proportional_to_the_score():
    def bar_length(score: float) -> int:
        frame = np.zeros((240, 320, 3), np.uint8)
        overlay.draw_label(frame, "x", score, color=(255, 0, 0))
        return int((frame[:, :, 0] == 255).sum(axis=1).max()) if score else 0

    assert bar_length(1.0) == pytest.approx(2 * bar_length(0.5), abs=4)
    assert bar_length(1.0) > 280


@pytest.mark.parametrize("size", [(16, 16), (9, 200), (240, 40), (720, 1280)])
@pytest.mark.parametrize("label", ["ёлка и ещё очень-очень длинное название действия", "a"])
def test_any_size_and_alphabet(size, label):
    frame, bare = (np.full((*size, 3), 90, np.uint8) for _ in range(2))
    overlay.draw_label(frame, label, 0.4, color=(255, 0, 0))
    overlay.draw_label(bare, " ", 0.4, color=(255, 0, 0))
    assert (bare != 90).any()
    assert (frame != bare).any() or size[1] < 60  # narrow frames only have room for the score


def test_the_font_has_all_letters():
    """A font without them would draw the same box for each."""
    masks = [overlay._text_mask(letter, 24, 100).tobytes() for letter in "abcёжщИЯβ"]
    assert len(set(masks)) == len(masks)


def test_class_colours_differ():
    for count in (2, 6, 12):
        colors = np.array(list(overlay.class_colors([str(n) for n in range(count)]).values()), int)
        apart = np.abs(colors[:, None] - colors[None]).sum(axis=-1)[~np.eye(count, dtype=bool)]
        assert apart.min() > 60


@pytest.mark.parametrize("installed", [["opencv-python", "opencv-python-headless"], ["opencv-python-headless"]])
def test_opencv_without_gui_is_an_error(monkeypatch, installed):
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return "5.0"

    monkeypatch.setattr(overlay.cv2, "getBuildInformation", lambda: "  GUI:                           NONE")
    monkeypatch.setattr(overlay, "version", version)
    with pytest.raises(InputError, match=r"no windows; run pip install .* opencv-python==5\.0, or use --save_video"):
        overlay.check_display()


def test_no_display_is_an_error(make_video, monkeypatch):
    import cv2

    def no_window(*_):
        raise cv2.error("no display")

    monkeypatch.setattr(cv2, "namedWindow", no_window)
    with pytest.raises(InputError, match="no display to open a window on"):
        overlay.show_annotated(predict(make_video(5), 5))


def test_an_annotated_video_keeps_frame_times(tmp_path, exported):
    source = write_timed(tmp_path / "x.mp4", [*range(0, 120, 6), *range(120, 180)], rate=60)
    prediction = load_predictor(exported).predict_video(source)
    overlay.write_annotated(tmp_path / "out.mp4", prediction)
    readers = decoding.VideoReader(source), decoding.VideoReader(tmp_path / "out.mp4")
    counts = [sum(1 for _ in reader) for reader in readers]
    assert counts == [80, 80]
    assert readers[1].times_s == pytest.approx(readers[0].times_s, abs=1e-5)
    assert readers[1].duration_s == pytest.approx(readers[0].duration_s, abs=1e-5)
    assert readers[0].times_s[20] == pytest.approx(2.0)
