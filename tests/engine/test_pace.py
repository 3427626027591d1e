"""What is seen while a step goes on, and where it ends; tests/engine/test_recovery.py is about what it leaves."""

import io
import signal
from functools import partial

import pytest
import torch
from tqdm import tqdm

from video_module.config import TrainConfig
from video_module.engine import pace, training
from video_module.engine.interruption import StopWish
from video_module.engine.pace import LongRunNote, StepGivenUp, StepWatch, format_roughly
from video_module.engine.training import Trainer
from video_module.models.recognizer import build_model

RUN = {"clips_per_step": 64, "clips_per_epoch": 768, "num_clips_left": 30 * 768}


def make_watch(bar: tqdm, **settings) -> StepWatch:
    return StepWatch(bar, **{"stop": None, "note": None, "clips_per_epoch": 8, "num_epochs_left": 1, **settings})


def wish() -> StopWish:
    stop = StopWish()
    stop.signal = signal.SIGINT
    return stop


def test_a_wish_ends_a_step_between_its_micro_batches_and_not_after_the_last():
    watch = make_watch(tqdm(disable=True), stop=wish())
    watch.begin(4)
    with pytest.raises(StepGivenUp):
        watch.done(2)
    watch.begin(4)
    watch.done(4)


def test_a_long_run_is_told_of_once_and_by_its_fastest_micro_batch():
    note = LongRunNote("a GPU")
    note.count(1, 19.0)  # the first is slow
    assert note.text(**RUN) is None
    note.count(1, 18.75)
    assert note.text(**RUN) == "on this CPU a step takes about 20 min, an epoch 4 h, the run 5 days; faster: a GPU"
    assert note.text(**RUN) is None


@pytest.mark.parametrize(("num_clips_left", "is_told"), [(7200, False), (7201, True)])
def test_two_hours_are_the_border(num_clips_left, is_told):
    note = LongRunNote("a GPU")
    for _ in range(2):
        note.count(4, 4.0)
        assert note.text(**RUN) is None  # not yet sure of it
    note.count(4, 4.0)
    assert (note.text(**{**RUN, "num_clips_left": num_clips_left}) is not None) == is_told


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 s"), (89, "89 s"), (95, "2 min"), (5300, "88 min"), (5400, "2 h"), (172000, "48 h"), (432000, "5 days")],
)
def test_rough_durations(seconds, text):
    assert format_roughly(seconds) == text


def bar_of_an_epoch(monkeypatch, *, batch_size: int) -> str:
    """What the bar shows in an epoch of one step of four clips, where any step counts as long."""
    monkeypatch.setattr(pace, "_LONG_STEP_S", 0.0)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    shown = io.StringIO()
    monkeypatch.setattr(training, "tqdm", partial(tqdm, file=shown, disable=False))
    config = TrainConfig(num_epochs=1, batch_size=batch_size, drop_path=0.0, mixup=0, cutmix=0)
    model = build_model("swin3d_nano", num_classes=4)
    trainer = Trainer(model, config, device=torch.device("cpu"), steps_per_epoch=1)
    clips = torch.zeros(4, *model.clip.shape, dtype=torch.uint8)
    trainer.train_epoch([[(clips, torch.arange(4), [])]], 0, num_items=4)
    return shown.getvalue()


def test_the_bar_counts_the_clips_of_a_long_step(monkeypatch):
    shown = bar_of_an_epoch(monkeypatch, batch_size=2)
    assert "epoch 1/1   0% 0/1, clip 2/4" in shown
    assert " ," not in shown
    shown = bar_of_an_epoch(monkeypatch, batch_size=4)
    assert "clip" not in shown.replace("clips/s", "")


def test_a_run_on_a_cpu_says_how_long_it_takes(monkeypatch, capsys):
    bar_of_an_epoch(monkeypatch, batch_size=1)
    assert "on this CPU" not in capsys.readouterr().out
    monkeypatch.setattr(pace, "_LONG_RUN_S", 0.0)
    bar_of_an_epoch(monkeypatch, batch_size=1)
    out = capsys.readouterr().out
    assert out.count("on this CPU a step takes about 1 s, an epoch 1 s, the run 1 s; faster: a GPU, or a smaller") == 1
