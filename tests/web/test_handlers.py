import threading
from types import SimpleNamespace

import gradio as gr
import pytest

from video_module.web.handlers import Handlers, _UnderWay
from video_module.web.limits import Limits


def steps(ended: list[str], begun: threading.Event, go_on: threading.Event):
    try:
        yield "first"
        begun.set()
        assert go_on.wait(30)
        yield "second"
        yield "third"
    finally:
        ended.append("yes")


def test_work_that_is_cancelled_between_two_steps_ends_at_once():
    ended: list[str] = []
    work = _UnderWay(steps(ended, threading.Event(), threading.Event()))
    assert work.advance() == "first"
    work.cancel()
    assert ended == ["yes"]
    work.cancel()  # said twice


def test_work_that_is_cancelled_in_the_middle_of_a_step_ends_after_it():
    """Though nobody asks it for another step."""
    ended: list[str] = []
    begun, go_on = threading.Event(), threading.Event()
    work = _UnderWay(steps(ended, begun, go_on))
    work.advance()
    thread = threading.Thread(target=work.advance)
    thread.start()
    assert begun.wait(30)
    work.cancel()
    assert ended == []
    go_on.set()
    thread.join(30)
    assert ended == ["yes"]


@pytest.mark.parametrize("data", [None, "number", 7, [], {}, {"number": "0"}, {"number": 5}, {"number": True}])
def test_a_click_on_no_example_chooses_none(data):
    """Anybody may send it."""
    service = SimpleNamespace(storage=None, limits=Limits())
    handlers = Handlers(service, SimpleNamespace(of=lambda model: ["an example"]))
    assert handlers._clicked("nano", gr.EventData(None, data)) is None
    assert handlers._clicked("nano", gr.EventData(None, {"number": 0})) == "an example"
