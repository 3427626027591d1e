"""Measure how fast a whole video is recognised and annotated, compared with the original and with the fastest possible.

The original project kept a buffer of full frames. Once the buffer was full, it resized the whole buffer again and ran
the network for each new frame.
"""

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np

from video_module.config import ClipConfig
from video_module.data import sampling, transforms
from video_module.data.decoding import read_info
from video_module.errors import InputError
from video_module.inference.overlay import annotated_frames, write_annotated
from video_module.inference.predictor import Predictor, load_predictor
from video_module.inference.windows import iter_windows


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows for recognising, for reading alone and for writing the annotated video.

    Runs that are compared in a ratio take turns.
    """
    predictor = load_predictor(args.model, device=args.device, num_threads=args.num_threads)
    with tempfile.TemporaryDirectory() as folder:
        return [
            *_measure_recognition(predictor, args.video_path, max_windows=args.max_windows),
            *_measure_reading(predictor.clip, args.video_path, num_repeats=args.num_repeats),
            *_measure_writing(predictor, args.video_path, Path(folder), num_repeats=args.num_repeats),
        ]


def _measure_recognition(predictor: Predictor, video: Path, *, max_windows: int) -> list[dict[str, Any]]:
    """Time the whole video with windows half a clip apart, then like the original.

    The original is timed for `max_windows` windows and extrapolated, because each further frame costs the same.
    """
    # The first call allocates memory and is slower.
    predictor.predict_clips(np.zeros((1, *predictor.clip.shape), np.uint8))
    begin = time.perf_counter()
    prediction = predictor.predict_video(video)
    ours_s = time.perf_counter() - begin
    num_timed, timed_s, fill_s = _as_the_original(predictor, video, max_windows=max_windows)
    if num_timed == 0:
        raise InputError(f"{video}: shorter than a clip of {predictor.model}; choose a longer video")
    num_windows = max(1, prediction.num_frames - sampling.clip_span(predictor.clip, prediction.fps) + 1)
    original_s = fill_s + timed_s * num_windows / num_timed
    note = f"{num_windows} windows" + (f", {num_timed} of them timed" if num_timed < num_windows else "")
    return [
        _row(f"recognise: {len(prediction.windows)} windows, half a clip apart", ours_s, original_s),
        _row(f"  as the original: {note}", original_s, original_s),
    ]


def _as_the_original(predictor: Predictor, video: Path, *, max_windows: int) -> tuple[int, float, float]:
    """Recognise a video like the original.

    Returns (number of windows, their time in seconds, time until the buffer was full in seconds).
    """
    fps = read_info(video).fps
    span = sampling.clip_span(predictor.clip, fps)
    capture = cv2.VideoCapture(str(video))
    buffer: deque[np.ndarray] = deque(maxlen=span)
    num_windows, begin = 0, time.perf_counter()
    fill_s = 0.0
    while num_windows < max_windows:
        came, frame = capture.read()
        if not came:
            break
        buffer.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        if len(buffer) < span:
            fill_s = time.perf_counter() - begin
            continue
        chosen = [buffer[index] for index in sampling.clip_indices(0, span, predictor.clip, fps=fps)]
        resized = [transforms.resize_frame(frame, predictor.clip) for frame in chosen]
        predictor.predict_clips(transforms.center_crop(np.stack(resized), predictor.clip)[None])
        num_windows += 1
    capture.release()
    return num_windows, time.perf_counter() - begin - fill_s, fill_s


def _measure_reading(clip: ClipConfig, video: Path, *, num_repeats: int) -> list[dict[str, Any]]:
    info = read_info(video)
    height, width = transforms.resized_size(info.height, info.width, clip.resize)

    def windows() -> None:
        deque(iter_windows(video, clip, clip_step=None), 0)

    def bare(num_threads: int) -> None:
        capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, num_threads])
        while True:
            came, frame = capture.read()
            if not came:
                return
            cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (width, height), interpolation=cv2.INTER_LINEAR_EXACT)

    ours_s, bare_s, ratio = _in_turns(windows, lambda: bare(1), num_repeats=num_repeats)
    return [
        _row("read, resize, cut windows", ours_s, ratio=ratio),
        _row("  bare OpenCV read, to RGB, resize", bare_s, ratio=1.0),
    ]


def _measure_writing(predictor: Predictor, video: Path, folder: Path, *, num_repeats: int) -> list[dict[str, Any]]:
    prediction = predictor.predict_video(video)
    # Draw the frames beforehand, so that the bare encoder only encodes.
    drawn = list(annotated_frames(prediction))

    def ours() -> None:
        write_annotated(folder / "ours.mp4", prediction)

    def bare() -> None:
        with av.open(str(folder / "bare.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=round(prediction.fps))
            stream.height, stream.width = (side - side % 2 for side in drawn[0].shape[:2])
            stream.pix_fmt, stream.options = "yuv420p", {"preset": "veryfast", "crf": "23"}
            for frame in drawn:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))

    ours_s, bare_s, ratio = _in_turns(ours, bare, num_repeats=num_repeats)
    return [
        _row("decode, draw, write .mp4", ours_s, ratio=ratio),
        _row("  bare PyAV encode of the drawn frames", bare_s, ratio=1.0),
    ]


def _in_turns(ours: Callable[[], None], bare: Callable[[], None], *, num_repeats: int) -> tuple[float, float, float]:
    """Return the median seconds of both, and the median ratio ours / bare within a turn, after a warm-up turn."""
    times: list[Sequence[float]] = []
    for _ in range(num_repeats + 1):
        marks = [time.perf_counter()]
        for way in (ours, bare):
            way()
            marks.append(time.perf_counter())
        times.append(np.diff(marks).tolist())
    ours_s, bare_s = zip(*times[1:], strict=True)
    return median(ours_s), median(bare_s), median(a / b for a, b in zip(ours_s, bare_s, strict=True))


def _row(what: str, seconds: float, original_s: float | None = None, *, ratio: float | None = None) -> dict[str, Any]:
    return {
        "what": what,
        "s": seconds,
        "times the original": None if original_s is None else original_s / seconds,
        "over bare": ratio,
    }
