import io
import json
import sys
import time

import numpy as np
import pytest

from video_module.config import TimelineConfig
from video_module.data.capture import TimedFrame
from video_module.errors import InputError
from video_module.inference import watching
from video_module.inference.live import Reading
from video_module.inference.predictor import load_predictor


def reading(label: str, *, rate: float) -> Reading:
    return Reading(time_s=1.0, label=label, score=0.5, scores=np.array([0.5]), latency_s=0.01, windows_per_s=rate)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """Return the lines as an old console shows them: \\r moves to the start of the line without clearing it."""
        lines = []
        for text in self.getvalue().split("\n"):
            line = ""
            for part in text.split("\r"):
                line = part + line[len(part) :]
            lines.append(line.rstrip())
        return lines


def test_the_status_line_uses_no_escape_codes(monkeypatch):
    terminal, last = Terminal(), None
    monkeypatch.setattr(sys, "stdout", terminal)
    for news in (reading("a", rate=123.4), reading("a", rate=1234.5), reading("a", rate=1.0), reading("b", rate=2.0)):
        watching._report(news, last)
        last = news
    assert "\x1b" not in terminal.getvalue()
    assert terminal.shown() == [
        "     1.0 s  a 50%  latency 10 ms, 123.4 windows/s",
        "     1.0 s  b 50%  latency 10 ms, 2.0 windows/s",
        "",
    ]


def test_only_changes_are_printed_without_a_terminal(capsys):
    first, second, third = reading("a", rate=1.0), reading("a", rate=2.0), reading("b", rate=3.0)
    for news, last in ((first, None), (second, first), (third, second)):
        watching._report(news, last)
    assert capsys.readouterr().out == "1.0 s  a 50%\n1.0 s  b 50%\n"


def test_passwords_of_cameras_are_hidden(monkeypatch, tmp_path, exported):
    clip = load_predictor(exported).clip
    frame = np.zeros((48, 64, 3), np.uint8)
    frames = (
        TimedFrame(frame=frame, time_s=number / 25, arrival_s=time.monotonic(), fps=25.0)
        for number in range(3 * clip.span)
    )
    monkeypatch.setattr(watching, "live_frames", lambda *_, **__: frames)
    log = tmp_path / "x.jsonl"
    url = "rtsp://user:pa55word@h/x"
    watching.watch(url, load_predictor(exported), config=TimelineConfig(), log_path=log)
    assert all(json.loads(line)["source"] == "rtsp://***@h/x" for line in log.read_text().splitlines())
    with pytest.raises(InputError, match=r"^rtsp://\*\*\*@h/x: stopped after"):
        watching.watch(url, load_predictor(exported), config=TimelineConfig())
