import dataclasses
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from video_module.config import TimelineConfig
from video_module.inference.predictor import load_predictor
from video_module.web import backlog
from video_module.web.api import Service
from video_module.web.handlers import Handlers
from video_module.web.jobs import Jobs
from video_module.web.limits import Limits
from video_module.web.storage import Storage


@pytest.fixture
def service(exported, tmp_path) -> Service:
    limits = Limits(max_seconds=20, concurrency=1)
    return Service(
        predictors={"nano": load_predictor(exported)},
        storage=Storage(tmp_path / "files", keep_s=60, max_bytes=1e9, max_bytes_each=1e9),
        jobs=Jobs(limits),
        live_jobs=Jobs(limits),
        limits=limits,
        config=TimelineConfig(min_score=0.0),
    )


def request(session: str = "a", address: str = "203.0.113.7") -> SimpleNamespace:
    """Return the parts of a gr.Request that the handlers use."""
    return SimpleNamespace(session_hash=session, client=SimpleNamespace(host=address), headers={})


def file(path: Path) -> dict[str, str]:
    return {"path": str(path)}


@pytest.mark.parametrize("data", [None, "number", 7, [], {}, {"number": "0"}, {"number": 5}, {"number": True}])
def test_a_click_with_bad_data_selects_no_example(data):
    """The data of the event comes from the browser and cannot be trusted."""
    service = SimpleNamespace(storage=None, limits=Limits())
    handlers = Handlers(service, SimpleNamespace(of=lambda model: ["an example"]))
    assert handlers._clicked("nano", gr.EventData(None, data)) is None
    assert handlers._clicked("nano", gr.EventData(None, {"number": 0})) == "an example"


@pytest.mark.parametrize("full", ["max_bytes", "max_bytes_each"])
def test_results_do_not_fill_the_disk(service, make_video, tmp_path, full):
    """One upload may be recognised again and again, each time by a page that claims to be new."""
    storage = Storage(tmp_path / "files", keep_s=60, **{"max_bytes": 1e9, "max_bytes_each": 1e9} | {full: 1})
    handlers, path = Handlers(dataclasses.replace(service, storage=storage), None), make_video(40)
    ends = [list(handlers.recognise(file(path), None, request(session)))[-1] for session in "abc"]
    assert "answer" in ends[0][1] and ends[0][0] == ""
    assert all("no space" in status for status, *_ in ends[1:])
    assert len(list(storage.root.iterdir())) == 1


def test_a_live_file_ends_at_the_longest_session_if_the_model_is_slow(service, recording, clock):
    """The clock advances by twenty seconds for each clip."""
    quick = service.predictors["nano"]

    def slow(clips):
        clock.now += 20
        return quick.score_clips(clips)

    service = dataclasses.replace(
        service,
        predictors={"nano": dataclasses.replace(quick, score_clips=slow)},
        live_jobs=Jobs(service.limits, clock=clock),
    )
    steps = list(Handlers(service, None).watch(file(recording), None, 5, request()))
    assert "The limit of 20 s is reached" in steps[-1][0]
    assert clock.now <= 100 + 40


def test_closing_ends_live_files(service, recording):
    steps = Handlers(service, None).watch(file(recording), None, 1, request())
    next(steps)
    service.live_jobs.close()
    assert "shutting down" in list(steps)[-1][0]


def test_pictures_are_skipped_while_the_browser_does_not_read_them(service, recording, monkeypatch):
    """Gradio would keep all of them in memory."""
    monkeypatch.setattr(backlog, "_MAX_WAITING", 30_000)
    handlers = Handlers(service, None)
    pictures = [picture for _, picture, *_ in handlers.watch(file(recording), None, 5, request()) if "url" in picture]
    assert 0 < sum(len(picture["url"]) for picture in pictures) < 60_000
    service.backlog.remove("a", 60_000)
    assert any("url" in picture for _, picture, *_ in handlers.watch(file(recording), None, 10, request()))
    assert any("url" in picture for _, picture, *_ in handlers.watch(file(recording), None, 10, request("b")))
