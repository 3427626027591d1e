"""Tests of the page's examples, without a browser."""

import dataclasses
import shutil
import threading
import time

import pytest

from video_module.config import TimelineConfig
from video_module.errors import InputError
from video_module.inference.predictor import load_predictor
from video_module.web.api import Service
from video_module.web.examples import Examples, find_examples
from video_module.web.jobs import Jobs
from video_module.web.limits import Limits
from video_module.web.storage import Storage


@pytest.fixture
def service(exported, tmp_path) -> Service:
    """Return a service with a model of the drawn actions and one with other classes."""
    limits, drawn = Limits(max_seconds=20), load_predictor(exported)
    other = dataclasses.replace(drawn, class_names=[f"class {n}" for n in range(len(drawn.class_names))])
    return Service(
        predictors={"drawn": drawn, "other": other},
        storage=Storage(tmp_path / "files", keep_s=60, max_bytes=1e9, max_bytes_each=1e9),
        jobs=Jobs(limits),
        live_jobs=Jobs(limits),
        limits=limits,
        config=TimelineConfig(min_score=0.0),
    )


def finish(steps) -> str:
    """Exhaust a generator and return its return value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_drawn_examples_are_shown_only_for_a_model_with_their_classes(service):
    examples = Examples(service, None)
    assert [example.names["en"] for example in examples.of("drawn")] == [
        "Wave, sit, stand",
        "Push, pull, jump",
        "Six actions",
    ]
    assert examples.of("other") == examples.of("nobody") == []
    assert examples.boxes("drawn", "ru").count("data-example=") == 3 and "Шесть действий" in examples.boxes(
        "drawn", "ru"
    )
    assert examples.boxes("other", "en") == ""


def test_an_answer_is_computed_once(service):
    examples = Examples(service, None)
    example = examples.of("drawn")[0]
    assert examples.known_answer("drawn", example, "ru") is None
    answer = finish(examples.answer("drawn", example, language="ru", visitor="a"))
    assert "Пример: Машет, садится, встаёт" in answer
    assert examples.known_answer("drawn", example, "ru") == answer
    steps = examples.answer("drawn", example, language="ru", visitor="b")
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize("num_at_once", [1, 2])
def test_several_visitors_who_click_at_once_get_the_same_answer(service, num_at_once):
    """The second one waits in the queue or is being processed when the first answer is there."""
    limits = dataclasses.replace(service.limits, concurrency=num_at_once)
    service = dataclasses.replace(service, limits=limits, jobs=Jobs(limits))
    examples = Examples(service, None)
    before = set(service.storage.examples.iterdir())
    one, other = (examples.answer("drawn", examples.of("drawn")[0], language="en", visitor=name) for name in "ab")
    next(one), next(other)
    answer = finish(one)
    assert finish(other) == answer
    [folder] = set(service.storage.examples.iterdir()) - before
    assert folder.name in answer and any(folder.iterdir())


def test_an_abandoned_answer_leaves_no_file(service):
    examples = Examples(service, None)
    before = set(service.storage.examples.rglob("*"))
    steps = examples.answer("drawn", examples.of("drawn")[0], language="en", visitor="a")
    next(steps)
    steps.close()
    assert set(service.storage.examples.rglob("*")) == before


def test_preparing_stops_at_the_end_of_its_block_and_leaves_no_partial_result(service):
    examples = Examples(service, None)
    before, threads = set(service.storage.examples.rglob("*")), set(threading.enumerate())
    with examples.preparing():
        while len(set(service.storage.examples.rglob("*")) - before) < 2:  # a folder and the file in it
            assert examples.is_preparing
            time.sleep(0.001)
    assert not examples.is_preparing and set(threading.enumerate()) <= threads
    assert set(service.storage.examples.rglob("*")) == before
    assert examples.known_answer("drawn", examples.of("drawn")[0], "en") is None


def test_own_examples_are_named_after_their_files(service, recording, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    shutil.copy(recording, folder / "at_the_door.avi")
    (folder / "notes.txt").write_text("no video")
    found = find_examples(folder, service.storage.examples, service.limits)
    examples = Examples(service, found)
    assert [example.names["ru"] for example in examples.of("other")] == ["at the door"]
    assert service.storage.find(str(found[0].path)) == found[0].path


def test_bad_examples_are_refused(service, tmp_path, long_video):
    with pytest.raises(InputError, match="not a folder"):
        find_examples(tmp_path / "nowhere", tmp_path / "copies", service.limits)
    folder = tmp_path / "own"
    folder.mkdir()
    with pytest.raises(InputError, match="found 0 videos; expected 1 to 12"):
        find_examples(folder, tmp_path / "copies", service.limits)
    shutil.copy(long_video, folder)
    with pytest.raises(InputError, match=r"long\.avi: This video is longer than 20 s"):
        find_examples(folder, tmp_path / "copies", service.limits)
    (folder / long_video.name).write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        find_examples(folder, tmp_path / "copies", service.limits)
