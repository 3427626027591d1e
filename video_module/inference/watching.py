"""Watch a camera or stream for run_model.py, with a status line, a log of answers, and a window."""

import json
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from video_module.config import TimelineConfig
from video_module.data.capture import live_frames, paced_frames
from video_module.errors import InputError, hide_secrets
from video_module.files import check_output
from video_module.inference.live import LiveSession, Reading
from video_module.inference.overlay import DisplayWindow, draw_label, segment_colors
from video_module.inference.predictor import Predictor
from video_module.inference.timeline import UNCERTAIN, shown_label
from video_module.scores import top_k

_LINE_BEGIN = b'{"source": "'

# Without a window, waiting for an answer is interrupted this often to see whether it is time to stop. With a window,
# the loop shows a frame every sixtieth of a second instead, and does not wait for answers.
_WAIT_S = 0.2
_FRAME_S = 1 / 60


def watch(
    stream: str | Path,
    predictor: Predictor,
    *,
    clip_step: int | None = None,
    config: TimelineConfig,
    k: int = 5,
    stop_after_s: float | None = None,
    log_path: Path | None = None,
    show: bool = False,
) -> str:
    """Watch a camera (by number), a stream (by URL) or a file (Path, at its own speed), until it ends, q or Ctrl-C.

    Answers are shown as they arrive, and appended to `log_path` as JSON Lines. Returns a summary to print.
    Raises VideoError if the stream cannot be opened or is lost; InputError if it ends before a whole clip was seen.
    """
    if log_path:
        _check_log(log_path)
        log_path.parent.mkdir(parents=True, exist_ok=True)
    frames = paced_frames(stream) if isinstance(stream, Path) else live_frames(stream, say=_say)
    name = hide_secrets(str(stream))
    latencies: list[float] = []
    reading = None
    with ExitStack() as stack:
        log = stack.enter_context(open(log_path, "a", encoding="utf-8", newline="\n")) if log_path else None
        window = stack.enter_context(DisplayWindow(name)) if show else None
        session = stack.enter_context(LiveSession(frames, predictor, clip_step=clip_step, config=config))
        begin = time.monotonic()
        try:
            while stop_after_s is None or time.monotonic() - begin < stop_after_s:
                was_over = session.is_over
                if news := session.next_reading(timeout_s=0.0 if window else _WAIT_S):
                    _report(news, reading)
                    reading = news
                    latencies.append(news.latency_s)
                    if log:
                        log.write(_log_line(news, predictor, stream=name, k=k))
                        log.flush()
                elif was_over:
                    break
                if window and not _show(window, session, reading, predictor):
                    break
        except KeyboardInterrupt:
            pass  # the usual way to stop; the summary follows
        seconds = time.monotonic() - begin
        if reading and sys.stdout.isatty():
            print()  # the summary goes below the status line
    if not latencies:
        span = "" if session.span_s is None else f" ({session.span_s:.1f} s)"
        raise InputError(f"{name}: stopped after {seconds:.1f} s, before a whole clip of the model was seen{span}")
    # Cameras do not report how many frames they dropped.
    dropped = f", {session.num_dropped} dropped" if isinstance(stream, Path) else ""
    return (
        f"{seconds:.0f} s: {session.num_frames} frames{dropped}; {len(latencies)} windows, "
        f"{len(latencies) / max(seconds, 1e-9):.1f} a second; latency median {np.median(latencies):.3f} s, 95 % within "
        f"{np.quantile(latencies, 0.95):.3f} s"
    )


def _check_log(path: Path) -> None:
    """Raise InputError if the file cannot be written, or holds something other than live answers."""
    check_output(path)
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            if not file.readline().startswith(_LINE_BEGIN):
                raise InputError(f"--save_jsonl {path}: not a log of live answers; choose another file")


def _show(window: DisplayWindow, session: LiveSession, reading: Reading | None, predictor: Predictor) -> bool:
    """Show the newest frame with the newest answer. Returns False once the user closes the window."""
    if session.newest is None:
        time.sleep(_FRAME_S)
        return True
    frame = session.newest.frame.copy()
    if reading:
        color = segment_colors(predictor.class_names)[reading.label]
        draw_label(frame, shown_label(reading.label), round(reading.score, 2), color=color)
    return window.show(frame, wait_s=_FRAME_S)


def _report(reading: Reading, last: Reading | None) -> None:
    """Update the status line on a terminal; elsewhere print a line whenever the label changes."""
    if sys.stdout.isatty():
        # Spaces overwrite the rest of a longer line. There is an escape code that clears a line, but not every Windows
        # console knows it.
        width = 0 if last is None else len(_status_line(last))
        print("\r" + _status_line(reading).ljust(width), end="", flush=True)
        if last is None or last.label != reading.label:
            print(flush=True)
    elif last is None or last.label != reading.label:
        print(_moment(reading).strip(), flush=True)


def _moment(reading: Reading) -> str:
    return f"{reading.time_s:8.1f} s  {shown_label(reading.label)} {reading.score:.0%}"


def _status_line(reading: Reading) -> str:
    return f"{_moment(reading)}  latency {reading.latency_s * 1e3:.0f} ms, {reading.windows_per_s:.1f} windows/s"


def _say(text: str) -> None:
    print(f"\n{text}" if sys.stdout.isatty() else text, file=sys.stderr, flush=True)


def _log_line(reading: Reading, predictor: Predictor, *, stream: str, k: int) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=reading.latency_s)
    line = {
        "source": stream,
        "time": moment.isoformat(timespec="milliseconds"),
        "time_s": reading.time_s,
        "label": str(reading.label),
        "is_uncertain": reading.label == UNCERTAIN,
        "score": reading.score,
        "top_k": top_k(reading.scores, predictor.class_names, k),
        "latency_s": reading.latency_s,
    }
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
