"""Live inputs: cameras, network streams, and files played at their own speed."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from video_module.data.decoding import VideoReader, read_info
from video_module.data.packets import DEFAULT_FPS
from video_module.errors import VideoError, hide_secrets

# A camera's number, or its device on Linux. Longer numbers are file names.
_CAMERA = re.compile(r"(?:/dev/video)?(\d{1,3})")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://.*", re.IGNORECASE)
# OpenCV's default is 30 s, which is too long for a page that waits for a picture.
_TIMEOUT_MS = 10_000
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A frame with its time."""

    frame: np.ndarray
    """uint8 RGB (H, W, 3)."""
    time_s: float
    """Seconds since the input was opened; for a file, the position in the file."""
    arrival_s: float
    """time.monotonic() when the frame arrived."""
    fps: float
    """Frame rate stated by the input, or DEFAULT_FPS."""
    num_dropped: int = 0
    """Frames of a file skipped just before this one, because they were late or damaged."""
    after_gap: bool = False
    """Whether the stream was interrupted just before this frame."""


def is_live(name: str) -> bool:
    """Return whether `name` is a camera (number or device) or a stream (URL) rather than a file."""
    return bool(_CAMERA.fullmatch(name) or _URL.fullmatch(name))


def live_frames(name: str, *, say: Callable[[str], None] = print) -> Iterator[TimedFrame]:
    """Yield the frames of a camera or stream as they arrive.

    `say` gets a line of text whenever a stream is lost and will be reopened. Raises VideoError if the input cannot be
    opened, a camera stops, or a stream does not come back.
    """
    camera = _CAMERA.fullmatch(name)
    return _camera_frames(int(camera[1])) if camera else stream_frames(name, say=say)


def _camera_frames(number: int) -> Iterator[TimedFrame]:
    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise VideoError(f"camera {number}: cannot be opened; check that it is connected and not in use")
        yield from _until_it_stops(capture, begin=time.monotonic())
        raise VideoError(f"camera {number}: stopped sending frames")
    finally:
        capture.release()


def stream_frames(
    url: str,
    *,
    say: Callable[[str], None] = print,
    max_retries: int = 10,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[TimedFrame]:
    """Yield the frames of a stream. When it stops, reopen it after growing pauses.

    A stream of known length (a file on a web server) is played at its own speed and ends. Raises VideoError if the
    stream cannot be opened at first, or if `max_retries` attempts in a row fail.
    """
    begin, num_retries, has_come = clock(), 0, False
    shown = hide_secrets(url)
    while True:
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)
        try:
            is_file = capture.isOpened() and capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
            if is_file:
                fps = _fps(capture)
                timed_grabs = ((position / fps, retrieve) for position, retrieve in enumerate(_grabs(capture)))
                frames = pace(timed_grabs, fps=fps, clock=clock, sleep=sleep)
            else:
                frames = _until_it_stops(capture, begin=begin, after_gap=has_come, clock=clock)
            for timed in frames:
                num_retries, has_come = 0, True
                yield timed
        finally:
            capture.release()
        if not has_come:
            raise VideoError(f"{shown}: {'no frame decodes' if is_file else 'no stream can be opened there'}")
        if is_file:
            return
        if num_retries == max_retries:
            raise VideoError(f"{shown}: the stream stopped and did not come back in {max_retries} attempts")
        wait_s = min(_FIRST_WAIT_S * 2**num_retries, _LONGEST_WAIT_S)
        num_retries += 1
        say(f"{shown}: the stream stopped; attempt {num_retries} of {max_retries} to reconnect in {wait_s:g} s")
        sleep(wait_s)


def _fps(capture: cv2.VideoCapture) -> float:
    claimed = capture.get(cv2.CAP_PROP_FPS)
    return float(claimed) if 0.1 <= claimed <= 1000 else DEFAULT_FPS


def _until_it_stops(
    capture: cv2.VideoCapture,
    *,
    begin: float,
    after_gap: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[TimedFrame]:
    fps = _fps(capture)
    for retrieve in _grabs(capture):
        now, frame = clock(), retrieve()
        if frame is None:
            continue
        yield TimedFrame(frame=frame, time_s=now - begin, arrival_s=now, fps=fps, after_gap=after_gap)
        after_gap = False


def _grabs(capture: cv2.VideoCapture) -> Iterator[Callable[[], np.ndarray | None]]:
    """For each frame that arrives, yield a function that decodes it, or returns None if it is damaged."""

    def retrieve() -> np.ndarray | None:
        decoded, frame = capture.retrieve()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if decoded else None

    while capture.isOpened() and capture.grab():
        yield retrieve


def paced_frames(
    path: Path, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> Iterator[TimedFrame]:
    """Yield a file's frames at its own speed, like a camera. Raises VideoError if the file cannot be read."""
    fps, reader = read_info(path).fps, VideoReader(path)
    yield from pace(((frame.time_s, frame.to_rgb) for frame in reader), fps=fps, clock=clock, sleep=sleep)


def pace(
    frames: Iterator[tuple[float, Callable[[], np.ndarray | None]]],
    *,
    fps: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[TimedFrame]:
    """Yield each of `frames`, pairs of a time in seconds and a function that decodes the frame, when it is due.

    Frames that are damaged or late by more than 1 / fps are skipped and counted.
    """
    begin, num_dropped = None, 0
    for time_s, retrieve in frames:
        now = clock()
        begin = now if begin is None else begin
        wait_s = begin + time_s - now
        if wait_s > 0:
            sleep(wait_s)
        # Decoding takes longer than grabbing, so frames that are already late are not decoded
        frame = retrieve() if wait_s >= -1 / fps else None
        if frame is None:
            num_dropped += 1
            continue
        yield TimedFrame(frame=frame, time_s=time_s, arrival_s=clock(), fps=fps, num_dropped=num_dropped)
        num_dropped = 0
