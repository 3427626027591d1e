"""Tests of the answer's HTML, without a browser."""

import re
from pathlib import Path

import numpy as np
import pytest

from video_module.config import TimelineConfig
from video_module.inference.predictor import VideoPrediction, Window
from video_module.inference.timeline import UNCERTAIN, find_segments
from video_module.web.result import _clock, _ink, result_html
from video_module.web.texts import TEXTS

CLASSES = ["wave", "sit", "<b>"]


def answer(scores: list[list[float]], *, language: str = "en", name="sample.avi", **settings) -> str:
    """Return the HTML for a video with one window per second; `scores` has a row per window."""
    windows = [Window(start=25 * n, end=25 * n + 25, scores=np.array(row, np.float64)) for n, row in enumerate(scores)]
    prediction = VideoPrediction(
        path=Path(name), class_names=CLASSES, fps=25.0, num_frames=25 * len(scores), windows=windows, **settings
    )
    config = TimelineConfig(min_score=0.5, smooth_s=0.0, hysteresis=0.0)
    texts = TEXTS[language]
    return result_html(
        prediction,
        find_segments(prediction, config),
        files=[("annotated_video", Path("/tmp/x/sample & co.mp4"))],
        config=config,
        texts=texts,
        name_of=lambda label: texts["uncertain"] if label == UNCERTAIN else label.upper(),
    )


def heading(html: str) -> str:
    return re.sub(r"<[^>]+>", "", re.search(r"<h2[^>]*>(.*?)</h2>", html)[1])


WAVE, SIT, NOTHING = [0.9, 0.1, 0.0], [0.3, 0.7, 0.0], [0.4, 0.35, 0.25]


def test_the_heading_lists_actions_in_order_with_scores():
    assert heading(answer([WAVE, NOTHING, WAVE, SIT, SIT])) == "WAVE 90% → SIT 70%"


def test_a_video_without_known_actions_shows_the_best_guess():
    html = answer([NOTHING, NOTHING])
    assert heading(html) == "No known action"
    assert "The best guess is WAVE at 40%; this model needs 50% to name an action." in html
    assert heading(answer([NOTHING], language="ru")) == "Знакомых действий не найдено"


def test_mean_scores_are_open_only_for_a_single_action():
    assert '<details class="means" open>' in answer([WAVE, WAVE])
    assert '<details class="means">' in answer([WAVE, SIT])


def test_the_timeline_and_the_list_show_each_segment():
    html = answer([WAVE, WAVE, NOTHING, SIT])
    spans = re.findall(r'<span style="left: ([\d.]+)%; width: ([\d.]+)%', html)
    assert [tuple(map(float, span)) for span in spans] == [(0, 50), (50, 25), (75, 25)]
    assert re.findall(r'data-start="([\d.]+)" data-end="([\d.]+)"', html) == [
        ("0.000", "2.000"),
        ("2.000", "3.000"),
        ("3.000", "4.000"),
    ]
    assert "0 – 2 s" in html and "(uncertain)" in html


def test_names_of_classes_and_files_are_escaped():
    html = answer([[0.0, 0.1, 0.9]], name='"><script>.avi')
    assert "<script>" not in html and "<b></b>" not in html and "&lt;B&gt;" in html
    assert "sample%20%26%20co.mp4" in html


def test_text_has_enough_contrast_on_every_colour():
    def luminance(color):
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in ((r, g, b) for r in range(0, 256, 15) for g in range(0, 256, 15) for b in range(0, 256, 15)):
        light, dark = luminance(color) + 0.05, (1.0 if _ink(color) == "#fff" else 0.0) + 0.05
        assert max(light, dark) / min(light, dark) >= 4.5, color


@pytest.mark.parametrize(
    ("seconds", "unit", "text"), [(0, "s", "0 s"), (2.54, "s", "2.5 s"), (62.5, "", "1:02.5"), (59.99, "", "1:00")]
)
def test_clock_format(seconds, unit, text):
    assert _clock(seconds, unit) == text
