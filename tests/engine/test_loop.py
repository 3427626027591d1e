import csv
import io
import json
import math
import re
import shutil
import sys
import time
import types
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

import train_model
from tests.conftest import link
from tests.engine.test_step import CPU, four_clips, fp16_trainer, small_config
from video_module.config import TrainConfig
from video_module.engine import loop, waiting
from video_module.engine.checkpoint import load_checkpoint
from video_module.engine.loop import train_epoch, validate
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.models.recognizer import build_model


def test_frozen_layers_wait_until_they_are_thawed():
    model = build_model("swin3d_nano", num_classes=4)
    trainer = Trainer(model, small_config(freeze_epochs=1, ema_decay=0), device=CPU, steps_per_epoch=1)
    states = [{name: value.clone() for name, value in model.named_parameters()}]
    for epoch in range(2):
        train_epoch(trainer, [[four_clips()]], epoch, num_items=4)
        states.append({name: value.clone() for name, value in model.named_parameters()})
    moved = [
        {name for name, value in after.items() if not torch.equal(value, before[name])}
        for before, after in pairwise(states)
    ]
    assert moved[0] == {"backbone.head.weight", "backbone.head.bias"}
    assert moved[1] == set(states[0])


def test_a_network_that_does_not_compile_is_validated(monkeypatch):
    """Without a running mean, the validated network is the one that was to be compiled."""

    def backend(graph, _):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    config = small_config(compile=True, ema_decay=0)
    trainer = Trainer(build_model("swin3d_nano", num_classes=4), config, device=CPU, steps_per_epoch=1)
    clips, labels, _ = four_clips()
    loader = [(iter([clip]), index) for index, clip in enumerate(clips.numpy())]
    train_epoch(trainer, [[four_clips()]], 0, num_items=4)
    row, _ = validate(trainer, loader, labels.tolist())
    assert math.isfinite(row["val_loss"])


def test_mixing_ends_before_the_last_epochs(monkeypatch):
    config = small_config(num_epochs=3, mixup=0.8, mix_off_epochs=1)
    trainer = Trainer(build_model("swin3d_nano", num_classes=4), config, device=CPU, steps_per_epoch=1)
    mixer, mixed = trainer.mixer, []
    monkeypatch.setattr(trainer, "mixer", lambda *a, **settings: mixed.append(epoch) or mixer(*a, **settings))
    for epoch in range(3):
        train_epoch(trainer, [[four_clips()]], epoch, num_items=4)
    assert mixed == [0, 1]


def test_clips_that_fail_are_left_out_counted_and_named(capsys):
    clips, labels, _ = four_clips()
    trainer = Trainer(
        build_model("swin3d_nano", num_classes=4), small_config(max_failed_share=0.5), device=CPU, steps_per_epoch=3
    )
    loads = [(clips, labels, []), (None, labels[:0], ["a.avi: gone"]), (clips[:3], labels[:3], ["b.avi: short"])]
    row = train_epoch(trainer, [[load] for load in loads], 0, num_items=9)
    assert row["num_failed"] == 2
    assert row["train_top1"] * 7 == pytest.approx(round(row["train_top1"] * 7))  # a share of the seven clips read
    assert trainer.step == 2
    assert capsys.readouterr().out == "skipped: a.avi: gone\nskipped: b.avi: short\n"


def test_too_many_failures_stop_the_run():
    clips, labels, _ = four_clips()
    trainer = Trainer(build_model("swin3d_nano", num_classes=4), small_config(), device=CPU, steps_per_epoch=2)
    failing = [(clips, labels, ["a.avi: gone"])]
    train_epoch(trainer, [failing], 0, num_items=100)  # 1 % is allowed, more is not
    with pytest.raises(
        InputError, match=r"2 of 100 clips could not be read, more than --max_failed_share 0.01 allows; a.avi"
    ):
        train_epoch(trainer, [failing, failing], 1, num_items=100)


def test_a_file_lost_after_the_split_costs_its_clip_alone(drawn_data, tmp_path, capsys):
    """From the shell: two of 24 files are cut short; training goes on without them, validation does not."""
    data = tmp_path / "data"
    shutil.copytree(drawn_data, data)
    broken = sorted((data / "train").rglob("*.avi"))[:2]
    for path in broken:
        path.write_bytes(path.read_bytes()[:3000])
    command = ["--data_dir", str(data), "--model_type", "swin3d_nano", "--save_path", str(tmp_path / "m.pth")]
    command += ["--num_epochs", "1", "--num_workers", "1", "--device", "cpu"]
    with pytest.raises(InputError, match=r"could not be read, more than --max_failed_share 0.01"):
        train_model.main(command)
    train_model.main([*command, "--max_failed_share", "0.1"])
    out = capsys.readouterr().out
    assert all(f"skipped: {path}" in out for path in broken)
    logs = json.loads((tmp_path / "m_logs.json").read_text())
    assert logs["num_failed"] == [2]
    victim = next((data / "val").rglob("*.avi"))
    victim.write_bytes(victim.read_bytes()[:3000])
    with pytest.raises(InputError, match=victim.name):
        train_model.main([*command, "--max_failed_share", "0.1"])


def test_a_loss_that_is_not_finite_stops_with_the_step():
    model = build_model("swin3d_nano", num_classes=4)
    trainer = Trainer(model, small_config(), device=CPU, steps_per_epoch=3)
    clips, labels, _ = four_clips()
    poisoned = clips.float()
    poisoned[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match=r"the loss is nan at step 2 \(epoch 1\)"):
        train_epoch(trainer, [[(batch, labels, [])] for batch in (clips, poisoned, clips)], 0, num_items=12)


def test_weights_that_blow_up_in_the_last_step_are_not_kept(drawn_data, tmp_path):
    with pytest.raises(InputError, match=r"the (validation )?loss is (nan|inf)"):
        run(drawn_data, tmp_path / "nano.pth", "--lr", "1e30", "--warmup_epochs", "0", "--effective_batch", "24")
    assert not (tmp_path / "nano.pth").exists()


def bar_of_an_epoch(monkeypatch, *, batch_size: int, pass_s: float, num_epochs: int = 1) -> str:
    """Return what the bar shows in an epoch of one step of four clips, with `pass_s` seconds per pass."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    shown, passes, ticks = io.StringIO(), [], count()
    monkeypatch.setattr(loop, "tqdm", partial(tqdm, file=shown, disable=False, mininterval=0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) * 1e-3 + len(passes) * pass_s)
    model = build_model("swin3d_nano", num_classes=4)
    model.register_forward_hook(lambda *_: passes.append(1))
    config = TrainConfig(num_epochs=num_epochs, batch_size=batch_size, drop_path=0.0, mixup=0, cutmix=0)
    trainer = Trainer(model, config, device=CPU, steps_per_epoch=1)
    train_epoch(trainer, [[four_clips()]], 0, num_items=4)
    return shown.getvalue()


def test_the_bar_counts_clips_within_a_step(monkeypatch):
    shown = bar_of_an_epoch(monkeypatch, batch_size=2, pass_s=3)
    assert "epoch 1/1  50% 2/4" in shown
    assert "epoch 1/1 100% 4/4, loss " in shown
    assert " ," not in shown


@pytest.mark.parametrize(
    ("pass_s", "num_epochs", "told"),
    [
        (10, 500, "this run will take about 6 hours on this CPU, 0.7 minutes per epoch"),  # 20,000 s
        (1000, 1, None),  # 4,000 s, less than two hours
        (1, 5000, None),  # timed for less than 20 s
    ],
)
def test_a_run_on_a_cpu_says_how_long_it_takes(pass_s, num_epochs, told, monkeypatch, capsys):
    bar_of_an_epoch(monkeypatch, batch_size=1, pass_s=pass_s, num_epochs=num_epochs)
    out = capsys.readouterr().out
    assert out.count("this run will take") == (told is not None)
    assert told is None or f"{told}; to speed it up, use a GPU, or a smaller --clip_len" in out


# ---- the script


def run(data: Path, save_path: Path, *flags: str) -> None:
    train_model.main(
        ["--data_dir", str(data), "--model_type", "swin3d_nano", "--save_path", str(save_path), "--device", "cpu"]
        + ["--num_epochs", "3", "--drop_path", "0.2", "--num_workers", "0", *flags]
    )


@pytest.fixture(scope="module")
def unbroken(drawn_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("unbroken") / "nano.pth"
    run(drawn_data, path)
    return path


def test_files_of_a_run(unbroken, drawn_data):
    checkpoint = load_checkpoint(unbroken)
    assert checkpoint.class_names == ["jump", "pull", "push", "sit", "stand", "wave"]
    assert checkpoint.split_digest == json.loads((drawn_data / "split.json").read_text())["digest"]
    assert len(checkpoint.train_sources) == 5  # the sixth source is for testing
    assert checkpoint.training is None
    assert checkpoint.train_config["drop_path"] == 0.2
    logs = json.loads(unbroken.with_name("nano_logs.json").read_text())
    assert {len(column) for column in logs.values()} == {3}
    assert logs["epoch"] == [1, 2, 3]
    assert unbroken.with_name("nano_curves.png").stat().st_size > 5000
    assert load_checkpoint(unbroken.with_name("nano_last.pth")).training is not None


def test_a_resumed_run_ends_where_the_unbroken_one_does(unbroken, drawn_data, tmp_path, monkeypatch, capsys):
    """The run is interrupted in the second epoch, with stochastic depth on, and must be equal bit for bit."""
    path = tmp_path / "nano.pth"
    train_step, steps = Trainer.train_step, []

    def dies(self, *arguments, **settings):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return train_step(self, *arguments, **settings)

    monkeypatch.setattr(Trainer, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(drawn_data, path)
    monkeypatch.undo()
    run(drawn_data, path, "--resume", "--num_workers", "2")
    assert "resuming after epoch 1 of 3" in capsys.readouterr().out
    for name in ("nano.pth", "nano_last.pth"):
        expected, got = load_checkpoint(unbroken.with_name(name)), load_checkpoint(path.with_name(name))
        assert all(torch.equal(expected.weights[key], got.weights[key]) for key in expected.weights)
        assert expected.epoch == got.epoch
    logs = [json.loads(p.with_name("nano_logs.json").read_text()) for p in (unbroken, path)]
    assert logs[0]["train_loss"] == logs[1]["train_loss"]
    assert logs[0]["val_loss"] == logs[1]["val_loss"]


def test_what_is_seen_of_a_run(unbroken, drawn_data, tmp_path, monkeypatch, capsys):
    logs = json.loads(unbroken.with_name("nano_logs.json").read_text())
    assert all(0 <= share <= 1 for share in logs["data_wait"])
    assert all(0.1 < gigabytes < 100 for gigabytes in logs["memory_gb"])
    with open(unbroken.with_name("nano_logs.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{key: float(value) for key, value in row.items()} for row in rows] == [
        dict(zip(logs, map(float, values), strict=True)) for values in zip(*logs.values(), strict=True)
    ]
    monkeypatch.setattr(loop.WaitMeter, "total", lambda self: 100.0)  # seconds, as if all time was spent waiting
    run(drawn_data, tmp_path / "nano.pth", "--num_epochs", "2")
    out = capsys.readouterr().out
    assert re.search(r"\n\* marks the best epoch so far, saved as \S+nano\.pth; with 6 validation videos,", out)
    assert re.search(r"epoch   1/2  loss \d\.\d+ .* clips/s  data wait \d+%", out)
    assert re.search(r"\n +epoch +train loss +train top-1 +val loss +val top-1\n +kept +[12] ", out)
    warning = r"warning: \d+% of the epoch was spent waiting for clips; raise --num_workers above 0"
    assert len(re.findall(warning, out)) == 1  # and not after each epoch
    monkeypatch.setattr(waiting, "default_num_workers", lambda: 0)  # no core is left for another reader
    run(drawn_data, tmp_path / "nano.pth", "--num_epochs", "2")
    assert "waiting for clips" not in capsys.readouterr().out


def test_messages_stand_apart_from_the_bar(drawn_data, tmp_path):
    """In a log, finished bars stay."""
    log = io.StringIO()
    with redirect_stdout(log), redirect_stderr(log):
        run(drawn_data, tmp_path / "nano.pth", "--num_epochs", "1")
    lines = log.getvalue().split("\n")
    for message in ("--batch_size auto", "epoch   1/1  loss"):
        [line] = [line for line in lines if message in line]
        # Text before a carriage return is a bar that was overwritten.
        assert line.rpartition("\r")[2].startswith(message)
        before = line.rpartition("\r")[0].split("\r")[-1]
        assert not before.strip()


def test_a_caller_is_told_of_each_epoch_after_its_logs(drawn_data, tmp_path):
    seen = []

    def look(progress) -> None:
        logs = json.loads((tmp_path / "nano_logs.json").read_text())
        seen.append((progress.num_epochs, logs["epoch"]))

    train_model.main(
        ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano", "--save_path", str(tmp_path / "nano.pth")]
        + ["--num_epochs", "2", "--num_workers", "0", "--device", "cpu"],
        on_epoch=look,
    )
    assert seen == [(1, [1]), (2, [1, 2])]


def test_tensorboard_is_told_of_each_epoch_or_how_to_install_it(drawn_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"--tensorboard requires .*pip install tensorboard"):
        run(drawn_data, tmp_path / "nano.pth", "--tensorboard")
    assert not list(tmp_path.iterdir())
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step=None):
            assert folder == str(tmp_path / "nano_tensorboard")
            if purge_step is not None:  # as TensorBoard reads it
                written[:] = [entry for entry in written if entry[1] < purge_step]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_scalar(self, name, value, global_step):
            written.append((name, global_step, value))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)

    def assert_each_epoch_is_shown_once() -> None:
        logs = json.loads((tmp_path / "nano_logs.json").read_text())
        for name, column in (("loss/train", "train_loss"), ("top1/val", "val_top1"), ("data_wait/run", "data_wait")):
            assert [entry for entry in written if entry[0] == name] == [
                (name, epoch, value) for epoch, value in enumerate(logs[column], start=1)
            ]

    flags = [drawn_data, tmp_path / "nano.pth", "--num_epochs", "2"]
    run(*flags, "--tensorboard")
    assert_each_epoch_is_shown_once()
    run(*flags, "--tensorboard", "--resume")
    assert_each_epoch_is_shown_once()
    run(*flags)  # a new run without TensorBoard
    run(*flags, "--tensorboard", "--resume")
    assert_each_epoch_is_shown_once()


def test_resume_with_nothing_there_starts_afresh_and_says_so(drawn_data, tmp_path, capsys):
    run(drawn_data, tmp_path / "nano.pth", "--resume", "--num_epochs", "1")
    assert "starting a new run" in capsys.readouterr().out
    run(drawn_data, tmp_path / "nano.pth", "--resume", "--num_epochs", "1")  # already finished
    assert "resuming after epoch 1 of 1" in capsys.readouterr().out


def test_resume_of_another_run_is_refused(unbroken, drawn_data):
    with pytest.raises(InputError, match=r"trained with --lr 0\.001 \(here 0\.5\)"):
        run(drawn_data, unbroken, "--resume", "--lr", "0.5")


def test_one_class_is_refused(drawn_data, tmp_path):
    (tmp_path / "train").mkdir()
    link(tmp_path / "train" / "wave", drawn_data / "train" / "wave")
    with pytest.raises(InputError, match="at least two classes"):
        train_model.main(["--data_dir", str(tmp_path), "--model_type", "swin3d_nano"])


@pytest.mark.parametrize(("at", "goes_on"), [({3}, True), (set(range(3, 99)), False)])
def test_a_run_in_fp16_goes_on_after_an_overflow(at, goes_on, monkeypatch):
    trainer = fp16_trainer(monkeypatch, at, num_steps=30)
    steps = [[four_clips()]] * 30
    if not goes_on:
        with pytest.raises(InputError, match=r"the loss is (nan|inf) at step 23 \(epoch 1\)"):
            train_epoch(trainer, steps, 0, num_items=120)
        return
    row = train_epoch(trainer, steps, 0, num_items=120)
    assert math.isfinite(row["train_loss"])
    assert trainer.step == 30
