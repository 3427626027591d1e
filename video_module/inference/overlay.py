"""Labels and score bars drawn on frames, and the annotated video."""

import colorsys
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from video_module.background import in_background
from video_module.data.decoding import iter_frames
from video_module.data.encoding import MAX_SIDE, open_video
from video_module.errors import InputError
from video_module.fonts import load_font, shorten
from video_module.inference.predictor import VideoPrediction
from video_module.inference.timeline import UNCERTAIN, Segment, find_segments, shown_label

_PANEL_ALPHA = 0.62
_BAR_BACK = (90, 90, 90)
_UNCERTAIN_COLOR = (150, 150, 150)

_WINDOW_HEIGHT = 540
"""Of --show's window: small videos are hard to see, and large ones would not fit the screen."""

# Pages and slides show a .webp as large as it is; a video of 160 pixels would be unreadable there.
_MIN_WEBP_WIDTH = 480

# Decoded and drawn in another thread while the encoder works. Four are enough for the two to run side by side.
_FRAMES_AHEAD = 4


def class_colors(class_names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """A bright RGB colour for each class."""
    # Evenly spaced hues tell a few classes apart best. Of many, neighbours would look alike; steps of the golden ratio
    # keep those apart that follow one another, however many there are.
    step = 1 / len(class_names) if len(class_names) <= 12 else 0.618034
    colors = [colorsys.hsv_to_rgb((0.57 + index * step) % 1.0, 0.62, 0.97) for index in range(len(class_names))]
    return {name: tuple(round(c * 255) for c in color) for name, color in zip(class_names, colors, strict=True)}


def segment_colors(class_names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """class_colors(), and grey for stretches that are uncertain."""
    return {UNCERTAIN: _UNCERTAIN_COLOR, **class_colors(class_names)}


@lru_cache(maxsize=256)
def _text_mask(text: str, size: int, max_width: int) -> np.ndarray:
    """Coverage of the drawn text, float32 (H, W, 1) in 0..1, shortened by an ellipsis to fit max_width."""
    font = load_font(size)
    text = shorten(text, font, max_width)
    ascent, descent = font.getmetrics()
    image = Image.new("L", (max(1, int(np.ceil(font.getlength(text)))), ascent + descent))
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    return np.asarray(image, np.float32)[..., None] / 255


def put_text(frame: np.ndarray, text: str, *, left: int, top: int, size: int, right: int) -> None:
    """Draw white text into frame, cut off at `right`."""
    mask = _text_mask(text, size, max(1, right - left))
    part = frame[top : top + mask.shape[0], left : max(left, min(left + mask.shape[1], right))]
    mask = mask[: part.shape[0], : part.shape[1]]
    part[:] = (part + (255.0 - part) * mask).astype(np.uint8)


def _label_layout(height: int, width: int) -> tuple[int, int]:
    """Text size and padding, in pixels."""
    size = int(np.clip(min(height, width) * 0.075, 9, 64))
    return size, max(2, size // 3)


def label_height(height: int, width: int) -> int:
    """Height in pixels of the panel that draw_label() draws."""
    size, pad = _label_layout(height, width)
    return min(height, size + 4 * pad)


@lru_cache(maxsize=64)
def _label_panel(
    height: int, width: int, label: str, score: float, color: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What draw_label() puts over a frame of this size: what remains of the frame, 0..255, and what is added to it."""
    # A label stays for many frames, and drawing letters takes longer than all the rest. Everything that is drawn is a
    # blend, frame * remaining + added, whatever the frame. So it is drawn once on black, which gives `added`, and once
    # on white, whose difference from that is `remaining`; each frame then takes one multiplication and one addition.
    on_black, on_white = (np.full((label_height(height, width), width, 3), value, np.uint8) for value in (0, 255))
    size, pad = _label_layout(height, width)
    for panel in (on_black, on_white):
        panel[:] = (panel * (1 - _PANEL_ALPHA)).astype(np.uint8)
        percent = f"{score:.0%}"
        percent_width = _text_mask(percent, size, width).shape[1]
        put_text(panel, label, left=pad, top=pad // 2, size=size, right=width - percent_width - 2 * pad)
        put_text(panel, percent, left=max(0, width - percent_width - pad), top=pad // 2, size=size, right=width)
        top, bottom = size + 2 * pad, size + 3 * pad
        cv2.rectangle(panel, (pad, top), (width - pad - 1, bottom), _BAR_BACK, -1)
        if round((width - 2 * pad - 1) * score):
            cv2.rectangle(panel, (pad, top), (pad + round((width - 2 * pad - 1) * score), bottom), color, -1)
    return on_white - on_black, on_black


def draw_label(frame: np.ndarray, label: str, score: float, *, color: tuple[int, int, int]) -> None:
    """Draw a panel with the label and a bar as long as the score into the top of frame, uint8 RGB (H, W, 3)."""
    remaining, added = _label_panel(*frame.shape[:2], label, score, color)
    panel = frame[: len(added)]
    cv2.add(cv2.multiply(panel, remaining, scale=1 / 255), added, dst=panel)


def _segment_strip(segments: list[Segment], colors: Mapping[str, tuple[int, int, int]], width: int) -> np.ndarray:
    """The whole video from left to right in the colours of its segments: uint8 RGB (width, 3)."""
    strip = np.zeros((width, 3), np.uint8)
    duration_s = segments[-1].end_s
    for segment in segments:
        left, right = (round(edge_s * width / duration_s) for edge_s in (segment.start_s, segment.end_s))
        strip[left:right] = colors[segment.label]
    return strip


def _draw_strip(frame: np.ndarray, strip: np.ndarray, *, progress: float) -> None:
    """Draw _segment_strip() along the bottom of frame, with a mark at `progress` (0..1) of its width."""
    height, width = frame.shape[:2]
    thick = max(3, height // 45)
    frame[height - thick :] = strip
    mark = round(progress * (width - 1))
    frame[height - 2 * thick :, max(0, mark - 1) : mark + 2] = 255


def annotated_frames(
    prediction: VideoPrediction,
    segments: list[Segment] | None = None,
    *,
    name_of: Callable[[str], str] = shown_label,
    has_strip: bool = True,
    min_width: int = 1,
) -> Iterator[np.ndarray]:
    """Yield the video's frames, uint8 RGB, with the current segment's label, its score bar and the strip drawn in.

    `segments` default to find_segments(prediction); `name_of` gives what a label is called. Frames narrower than
    `min_width` are enlarged first, by a whole number.
    """
    segments = segments or find_segments(prediction)
    colors = segment_colors(prediction.class_names)
    remaining = iter(segments)
    segment, strip = next(remaining), None
    last_s = prediction.time_of(prediction.num_frames - 1) or 1.0
    for position, frame in enumerate(iter_frames(prediction.path)):
        if position >= segment.end:
            # A file that is still being written may have grown since it was scored; its last label then stays.
            segment = next(remaining, segment)
        scale = min(-(-min_width // frame.shape[1]), MAX_SIDE // max(frame.shape[:2]))
        if scale > 1:
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        if strip is None:
            strip = _segment_strip(segments, colors, frame.shape[1])
        draw_label(frame, name_of(segment.label), segment.score, color=colors[segment.label])
        if has_strip:
            _draw_strip(frame, strip, progress=prediction.time_of(position) / last_s)
        yield frame


def write_annotated(
    path: Path,
    prediction: VideoPrediction,
    segments: list[Segment] | None = None,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write annotated_frames() as an .mp4 of the video's own times and size (made even), or as a .webp."""
    for done in iter_write_annotated(path, prediction, segments):
        on_progress(done, prediction.num_frames)


def iter_write_annotated(
    path: Path,
    prediction: VideoPrediction,
    segments: list[Segment] | None = None,
    *,
    name_of: Callable[[str], str] = shown_label,
    has_strip: bool = True,
) -> Generator[int, None, None]:
    """write_annotated() for callers that may stop midway; yields the number of frames written so far.

    The file appears when the iterator ends. Closed earlier, it leaves none.
    """
    min_width = _MIN_WEBP_WIDTH if path.suffix.lower() == ".webp" else 1
    with open_video(path, fps=prediction.fps) as writer:
        frames = annotated_frames(prediction, segments, name_of=name_of, has_strip=has_strip, min_width=min_width)
        frames = in_background(frames, depth=_FRAMES_AHEAD)
        for position, frame in enumerate(frames):
            is_even = prediction.edges_s is None
            writer.write(frame, None if is_even else (prediction.time_of(position), prediction.time_of(position + 1)))
            yield position + 1


def show_annotated(prediction: VideoPrediction, segments: list[Segment] | None = None) -> None:
    """Play annotated_frames() in a window at the video's speed until the end, or until q or the window is closed.

    Raises InputError where there is no display.
    """
    with DisplayWindow(prediction.path.name) as window:
        begin = time.monotonic()
        for position, frame in enumerate(annotated_frames(prediction, segments)):
            if not window.show(frame, wait_s=begin + prediction.time_of(position + 1) - time.monotonic()):
                return


class DisplayWindow:
    """A window on the screen for RGB frames. Raises InputError on entering where none can be opened."""

    def __init__(self, title: str) -> None:
        self._title = title

    def __enter__(self) -> "DisplayWindow":
        check_display()
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._has_size = False
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()

    def show(self, frame: np.ndarray, *, wait_s: float = 0.0) -> bool:
        """Show a frame, uint8 RGB, for at least `wait_s` seconds; False once q was pressed or the window closed."""
        if not self._has_size:
            height, width = frame.shape[:2]
            cv2.resizeWindow(self._title, round(width * _WINDOW_HEIGHT / height), _WINDOW_HEIGHT)
            self._has_size = True
        cv2.imshow(self._title, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(max(1, round(wait_s * 1000))) & 0xFF
        return key != ord("q") and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1


def check_display() -> None:
    """Raise InputError where no window can be opened."""
    gui = next((line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")), "")
    if gui.split()[-1:] == ["NONE"]:
        # The wheel without windows was installed over the other one. Both hold the module cv2, so they must be of one
        # version.
        raise InputError(
            f"--show: this OpenCV has no windows; run pip install --force-reinstall --no-deps "
            f"opencv-python=={version('opencv-python-headless')}, or use --save_video"
        )
    # Where there is no display, Qt does not raise but ends the process. So it is tried in a process of its own.
    trial = subprocess.run([sys.executable, "-c", "import cv2; cv2.namedWindow('trial')"], capture_output=True)
    if trial.returncode != 0:
        raise InputError("--show: no display to open a window on; use --save_video")
