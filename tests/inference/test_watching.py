import io
import sys

import numpy as np

from video_module.inference import watching
from video_module.inference.live import Reading


def reading(label: str, *, rate: float) -> Reading:
    return Reading(time_s=1.0, label=label, score=0.5, scores=np.array([0.5]), latency_s=0.01, windows_per_s=rate)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines as an old console leaves them: a return goes back to the line's beginning, and clears nothing."""
        lines = []
        for text in self.getvalue().split("\n"):
            line = ""
            for part in text.split("\r"):
                line = part + line[len(part) :]
            lines.append(line.rstrip())
        return lines


def test_the_status_line_needs_no_code_that_consoles_may_not_know(monkeypatch):
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


def test_elsewhere_changes_alone_are_told(capsys):
    first, second, third = reading("a", rate=1.0), reading("a", rate=2.0), reading("b", rate=3.0)
    for news, last in ((first, None), (second, first), (third, second)):
        watching._report(news, last)
    assert capsys.readouterr().out == "1.0 s  a 50%\n1.0 s  b 50%\n"
