"""Tests of the live tab for files and cameras, without a browser."""

import base64
import dataclasses
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from video_module.config import TimelineConfig
from video_module.data.decoding import iter_frames, read_info
from video_module.inference.predictor import load_predictor
from video_module.web import live_tab
from video_module.web.handlers import read_picture
from video_module.web.limits import Limits, Refused
from video_module.web.live_tab import CameraWatch, watch_file

CONFIG = TimelineConfig(min_score=0.0)  # a model trained for two epochs has low scores


def name_of(label: str) -> str:
    return label


def watch(path, predictor, *, speed: int, **settings):
    return watch_file(
        path,
        predictor,
        info=read_info(path),
        speed=speed,
        config=CONFIG,
        limits=Limits(**settings),
        name_of=name_of,
        check=lambda: None,
    )


@pytest.mark.parametrize(("speed", "seconds"), [(1, 6.0), (4, 1.5), (10, 0.6)])
def test_a_file_plays_at_the_chosen_speed(exported, recording, speed, seconds, monkeypatch):
    """The clock advances only during sleep(), as if decoding and scoring took no time."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda duration: now.__setitem__(0, now[0] + duration))
    monkeypatch.setattr(live_tab, "time", clock)
    predictor = load_predictor(exported)
    moments = list(watch(recording, predictor, speed=speed))
    assert seconds - 0.2 < now[0] <= seconds  # the time of the last frame
    assert 3 < len(moments) <= 12 * seconds + 2
    assert moments[0][1] is None and moments[-1][1] in predictor.class_names
    assert moments[0][0].shape == (180, 240, 3)


def test_a_single_frame_gets_a_label(exported, make_video):
    *_, (_, label, _) = watch(make_video(1), load_predictor(exported), speed=10)
    assert label is not None


def test_a_file_that_is_too_long_is_refused(exported, make_video):
    with pytest.raises(Refused, match="too_long"):
        list(watch(make_video(60, fps=30), load_predictor(exported), speed=10, max_seconds=1))


@pytest.mark.parametrize(
    ("size", "shown"), [((960, 1280), (480, 640)), ((1280, 720), (480, 270)), ((400, 2562), (133, 854))]
)
def test_large_frames_are_downscaled(exported, make_video, size, shown):
    frame, _, _ = next(watch(make_video(2, height=size[0], width=size[1]), load_predictor(exported), speed=1))
    assert frame.shape == (*shown, 3)


def test_frames_of_a_camera_do_not_wait_for_scores(exported, recording):
    """The model is blocked until half of the frames have been returned."""
    quick, may_score = load_predictor(exported), threading.Event()

    def held(clips):
        assert may_score.wait(60)
        return quick.score_clips(clips)

    frames = list(iter_frames(recording))
    with ThreadPoolExecutor(1) as scorers:
        camera = CameraWatch("nano", dataclasses.replace(quick, score_clips=held), CONFIG, scorers=scorers)
        for number, frame in enumerate(frames):
            if number == len(frames) // 2:
                may_score.set()
                scorers.submit(lambda: None).result()  # wait until the only thread has scored earlier clips
            picture, label, _ = camera.push(frame, number / 30, name_of)
            assert picture.shape == frame.shape
            if number < len(frames) // 2:
                assert label is None
    assert label in quick.class_names


def test_a_pause_of_the_camera_clears_the_label(exported, recording):
    predictor = load_predictor(exported)
    frames = list(iter_frames(recording))
    with ThreadPoolExecutor(1) as scorers:
        camera = CameraWatch("nano", predictor, CONFIG, scorers=scorers)
        for number, frame in enumerate(frames[:90]):
            _, label, _ = camera.push(frame, number / 30, name_of)
            scorers.submit(lambda: None).result()  # wait until earlier clips are scored
        assert label is not None
        assert camera.push(frames[90], 90 / 30 + 5, name_of)[1] is None


def test_a_gap_in_the_camera_resets_the_smoothing(exported, recording):
    """Scores from before a gap do not count after it, however long the smoothing."""
    first, second = np.full(6, -9.0, np.float32), np.full(6, -9.0, np.float32)
    first[0] = second[1] = 9.0
    logits = [first]
    predictor = dataclasses.replace(
        load_predictor(exported), score_clips=lambda clips: np.repeat(logits[-1][None], len(clips), axis=0)
    )
    frames = list(iter_frames(recording))
    config = TimelineConfig(min_score=0.3, smooth_s=100.0)

    def label_after(num_frames: int, *, start_s: float) -> str:
        for number, frame in enumerate(frames[:num_frames]):
            _, label, _ = camera.push(frame, start_s + number / 30, name_of)
            if camera._answer is not None:
                camera._answer[1].result()
        return label

    with ThreadPoolExecutor(1) as scorers:
        camera = CameraWatch("nano", predictor, config, scorers=scorers)
        assert label_after(90, start_s=0.0) == predictor.class_names[0]
        logits.append(second)
        assert label_after(40, start_s=20.0) == predictor.class_names[1]


def picture(array: np.ndarray, suffix: str = ".jpg", kind: str = "image/jpeg") -> dict[str, str]:
    encoded = cv2.imencode(suffix, array)[1]
    return {"url": f"data:{kind};base64,{base64.b64encode(encoded).decode()}"}


def test_frames_of_the_camera_are_rgb():
    red = np.full((48, 64, 3), (20, 30, 200), np.uint8)  # OpenCV writes BGR
    frame = read_picture(picture(red))
    assert np.abs(frame.astype(int) - (200, 30, 20)).max() < 6


def png(side: int, *, extra: tuple[bytes, bytes] | None = None) -> dict[str, str]:
    """A black PNG whose header announces `side` x `side` pixels, with an extra chunk (kind, data) after the pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(8 * 25))),  # the pixels of 8 x 8
        *([extra] if extra else []),
        (b"IEND", b""),
    ]
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    content = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return {"url": f"data:image/png;base64,{base64.b64encode(content).decode()}"}


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_formats_of_browsers_are_read(kind):
    assert read_picture(picture(np.zeros((8, 8, 3), np.uint8), f".{kind}")).shape == (8, 8, 3)
    assert read_picture(png(8)).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "payload",
    [
        {"path": "/etc/passwd"},
        {"url": "http://127.0.0.1/frame.jpg"},
        {"url": "data:image/jpeg;base64,????"},
        {"url": "data:image/jpeg;base64,"},
        {"url": "data:text/html;base64,PGI+"},
        {"url": 7},
        "data:image/jpeg;base64,",
        [],
        picture(np.zeros((5000, 5000, 3), np.uint8), ".png", "image/png"),  # 75 MB in 75 KB
        png(30_000),  # Pillow stops at this size with an exception of its own
        png(8, extra=(b"gAMA", b"")),
        picture(np.zeros((8, 8, 3), np.uint8), ".bmp", "image/bmp"),  # browsers send JPEG, PNG or WebP
    ],
)
def test_invalid_camera_frames_are_refused(payload):
    with pytest.raises(Refused, match="bad_picture"):
        read_picture(payload)
