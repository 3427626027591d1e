import csv
import json
import math
import re
import shutil
import sys
import types
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import train_model
from tests.conftest import link
from video_module.config import TrainConfig
from video_module.engine import run as engine_run
from video_module.engine.checkpoint import load_checkpoint
from video_module.engine.optim import parameter_groups, rate_factor
from video_module.engine.progress import Progress
from video_module.engine.training import Trainer
from video_module.errors import InputError
from video_module.models.recognizer import build_model

CPU = torch.device("cpu")


def small_config(**settings) -> TrainConfig:
    plain = {"num_epochs": 2, "batch_size": 4, "backbone_lr_scale": 1.0, "drop_path": 0.0, "mixup": 0, "cutmix": 0}
    return TrainConfig(**{**plain, **settings})


def four_clips() -> tuple[torch.Tensor, torch.Tensor, list]:
    """A load."""
    clips = torch.randint(0, 256, (4, 8, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return clips, torch.tensor([0, 1, 2, 3]), []


def test_overfits_four_clips():
    model = build_model("swin3d_nano", num_classes=4)
    config = small_config(lr=1e-3, label_smoothing=0.0, num_epochs=25, warmup_epochs=2)
    trainer = Trainer(model, config, device=CPU, steps_per_epoch=1)
    model.train()
    losses = [trainer.train_step([four_clips()])[0].item() for _ in range(25)]
    assert losses[0] > 1.0
    assert losses[-1] < 0.05


def test_parameter_groups():
    model = build_model("swin3d_nano", num_classes=4)
    config = small_config(lr=1e-2, backbone_lr_scale=0.1, weight_decay=0.3)
    groups = parameter_groups(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names.values()) == sorted(names[id(p)] for group in groups for p in group["params"])
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            is_head = name.startswith("backbone.head.")
            assert group["lr"] == pytest.approx(1e-2 if is_head else 1e-3), name
            decays = name.endswith("weight") and "norm" not in name
            assert group["weight_decay"] == (0.3 if decays else 0.0), name


def test_layers_decay_towards_the_input():
    model = build_model("swin3d_nano", num_classes=4)
    groups = parameter_groups(model, small_config(lr=1e-2, backbone_lr_scale=0.5, layer_decay=0.8))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in model.backbone.named_parameters()}
    assert len(named) == len(list(model.parameters()))
    assert named["head.weight"] == named["head.bias"] == pytest.approx(1e-2)
    order = ("norm", "features.4.0", "features.3", "features.2.0", "features.1", "features.0.1", "features.0.0")
    for below, layer in enumerate((*order, "patch_embed")):
        values = [rate for name, rate in named.items() if name.startswith(layer + ".")]
        assert values == [pytest.approx(5e-3 * 0.8**below)] * len(values) != [], layer


def test_rates_follow_the_effective_batch():
    model = build_model("swin3d_nano", num_classes=4)
    rates = [parameter_groups(model, small_config(effective_batch=size))[0]["lr"] for size in (64, 16, 128)]
    assert rates == [pytest.approx(1e-3), pytest.approx(2.5e-4), pytest.approx(2e-3)]


def test_frozen_layers_wait_until_they_are_thawed():
    model = build_model("swin3d_nano", num_classes=4)
    trainer = Trainer(model, small_config(freeze_epochs=1, ema_decay=0), device=CPU, steps_per_epoch=1)
    states = [{name: value.clone() for name, value in model.named_parameters()}]
    for epoch in range(2):
        trainer.train_epoch([[four_clips()]], epoch, num_items=4)
        states.append({name: value.clone() for name, value in model.named_parameters()})
    moved = [
        {name for name, value in after.items() if not torch.equal(value, before[name])}
        for before, after in pairwise(states)
    ]
    assert moved[0] == {"backbone.head.weight", "backbone.head.bias"}
    assert moved[1] == set(states[0])


def test_the_running_mean_is_what_is_validated():
    """It follows closely while it is young: (1 + n) / (10 + n) of itself, up to the decay that was asked for."""
    model = build_model("swin3d_nano", num_classes=4)
    trainer = Trainer(model, small_config(ema_decay=0.15), device=CPU, steps_per_epoch=9)
    mean = None
    for number in range(5):
        trainer.train_step([four_clips()], step=number)
        value = model.head.weight.detach().clone()
        decay = min(0.15, (1 + number) / (10 + number))
        mean = value if mean is None else decay * mean + (1 - decay) * value
        assert torch.allclose(trainer.validated.head.weight, mean, atol=1e-7)
    assert not torch.equal(trainer.validated.head.weight, model.head.weight)
    plain = Trainer(build_model("swin3d_nano", num_classes=4), small_config(ema_decay=0), device=CPU, steps_per_epoch=9)
    assert plain.validated is plain.model


def test_mixing_ends_before_the_last_epochs(monkeypatch):
    config = small_config(num_epochs=3, mixup=0.8, mix_off_epochs=1)
    trainer = Trainer(build_model("swin3d_nano", num_classes=4), config, device=CPU, steps_per_epoch=1)
    mixer, mixed = trainer.mixer, []
    monkeypatch.setattr(trainer, "mixer", lambda *a, **settings: mixed.append(epoch) or mixer(*a, **settings))
    for epoch in range(3):
        trainer.train_epoch([[four_clips()]], epoch, num_items=4)
    assert mixed == [0, 1]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_where_compiling_fails_training_goes_on_without_it(where, monkeypatch, capsys):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if where == "forward":
                raise RuntimeError("no compiler\nand much more")
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no compiler\nand much more")

    def compile(model):
        compiled = torch.nn.Module()
        compiled.forward = lambda clips: Fails.apply(model(clips))
        return compiled

    plain = Trainer(build_model("swin3d_nano", num_classes=4, seed=1), small_config(), device=CPU, steps_per_epoch=1)
    monkeypatch.setattr(torch, "compile", compile)
    config = small_config(compile=True)
    trainer = Trainer(build_model("swin3d_nano", num_classes=4, seed=1), config, device=CPU, steps_per_epoch=1)
    losses = [one.train_step([four_clips()])[0] for one in (plain, trainer)]
    assert torch.equal(*losses)
    assert capsys.readouterr().out.count("torch.compile failed (no compiler): going on without it") == 1
    assert all(torch.equal(v, trainer.model.state_dict()[k]) for k, v in plain.model.state_dict().items())


def test_patience_ends_a_run():
    progress = Progress()
    for number, top1 in enumerate((0.5, 0.7, 0.6, 0.7), start=1):
        assert not progress.is_over(num_epochs=9, patience=2)
        progress.append({"epoch": number, "val_top1": top1, "val_loss": 1.0})
    assert progress.is_over(num_epochs=9, patience=2)
    assert not progress.is_over(num_epochs=9, patience=0)
    assert progress.is_over(num_epochs=4, patience=0)


@pytest.mark.parametrize(("name", "num_tables"), [("mvit_v1_b", 2), ("mvit_v2_s", 48), ("swin3d_t", 12)])
def test_position_tables_do_not_decay(name, num_tables):
    with torch.device("meta"):
        model = build_model(name, num_classes=4)
    [decay_free] = [
        group
        for group in parameter_groups(model, small_config(weight_decay=0.3))
        if group["weight_decay"] == 0 and len(group["params"]) > 1
    ]
    assert sum(parameter.ndim == 2 for parameter in decay_free["params"]) == num_tables


def test_clips_that_fail_are_left_out_counted_and_named(capsys):
    clips, labels, _ = four_clips()
    trainer = Trainer(
        build_model("swin3d_nano", num_classes=4), small_config(max_failed_share=0.5), device=CPU, steps_per_epoch=3
    )
    loads = [(clips, labels, []), (None, labels[:0], ["a.avi: gone"]), (clips[:3], labels[:3], ["b.avi: short"])]
    row = trainer.train_epoch([[load] for load in loads], 0, num_items=9)
    assert row["num_failed"] == 2
    assert row["train_top1"] * 7 == pytest.approx(round(row["train_top1"] * 7))  # of the seven clips there were
    assert trainer.step == 2
    assert capsys.readouterr().out == "skipped: a.avi: gone\nskipped: b.avi: short\n"


def test_too_many_failures_stop_the_run():
    clips, labels, _ = four_clips()
    trainer = Trainer(build_model("swin3d_nano", num_classes=4), small_config(), device=CPU, steps_per_epoch=2)
    failing = [(clips, labels, ["a.avi: gone"])]
    trainer.train_epoch([failing], 0, num_items=100)  # 1 % is allowed, more is not
    with pytest.raises(
        InputError, match=r"2 of 100 clips cannot be read, more than --max_failed_share 0.01 allows; a.avi"
    ):
        trainer.train_epoch([failing, failing], 1, num_items=100)


def test_a_file_lost_after_the_split_costs_its_clip_alone(drawn_data, tmp_path, capsys):
    """From the shell: two of 24 files are cut short; training goes on without them, validation does not."""
    data = tmp_path / "data"
    shutil.copytree(drawn_data, data)
    broken = sorted((data / "train").rglob("*.avi"))[:2]
    for path in broken:
        path.write_bytes(path.read_bytes()[:3000])
    command = ["--data_dir", str(data), "--model_type", "swin3d_nano", "--save_path", str(tmp_path / "m.pth")]
    command += ["--num_epochs", "1", "--num_workers", "1", "--device", "cpu"]
    with pytest.raises(InputError, match=r"cannot be read, more than --max_failed_share 0.01"):
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


def test_rate_rises_then_falls_to_zero():
    factors = [rate_factor(step, num_steps=100, num_warmup_steps=10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0)
    assert factors[55] == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_stops_with_the_step():
    model = build_model("swin3d_nano", num_classes=4)
    trainer = Trainer(model, small_config(), device=CPU, steps_per_epoch=3)
    clips, labels, _ = four_clips()
    poisoned = clips.float()
    poisoned[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match=r"the loss is nan at step 2 \(epoch 1\)"):
        trainer.train_epoch([[(batch, labels, [])] for batch in (clips, poisoned, clips)], 0, num_items=12)


def test_weights_that_blow_up_in_the_last_step_are_not_kept(drawn_data, tmp_path):
    with pytest.raises(InputError, match=r"the (validation )?loss is (nan|inf)"):
        run(drawn_data, tmp_path / "nano.pth", "--lr", "1e30", "--warmup_epochs", "0", "--effective_batch", "24")
    assert not (tmp_path / "nano.pth").exists()


def test_best_epoch_is_by_accuracy_then_loss():
    progress = Progress()
    rows = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1), (0.7, 0.85)]
    kept = [
        progress.append({"epoch": number, "val_top1": top1, "val_loss": loss})
        for number, (top1, loss) in enumerate(rows, start=1)
    ]
    assert kept == [True, True, True, False, False]
    assert progress.best_epoch == 3


def test_precision_follows_the_device():
    from video_module.engine.device import choose_precision

    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(InputError, match="fp16 needs CUDA"):
        choose_precision("fp16", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_where_there_is_none_is_an_error():
    from video_module.engine.device import choose_device

    assert choose_device("auto") == CPU
    with pytest.raises(InputError, match="finds no CUDA GPU"):
        choose_device("cuda")


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
    assert len(checkpoint.train_sources) == 5  # of 6: the sixth tests
    assert checkpoint.training is None
    assert checkpoint.train_config["drop_path"] == 0.2
    logs = json.loads(unbroken.with_name("nano_logs.json").read_text())
    assert {len(column) for column in logs.values()} == {3}
    assert logs["epoch"] == [1, 2, 3]
    assert unbroken.with_name("nano_curves.png").stat().st_size > 5000
    assert load_checkpoint(unbroken.with_name("nano_last.pth")).training is not None


def test_a_resumed_run_ends_where_the_unbroken_one_does(unbroken, drawn_data, tmp_path, monkeypatch, capsys):
    """Bit for bit, with stochastic depth on, broken off while the second epoch trains."""
    path = tmp_path / "nano.pth"
    train_step, steps = Trainer._step, []

    def dies(self, *arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", dies)
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
    monkeypatch.setattr(engine_run, "_LARGEST_WAIT", 0.0)  # without workers, reading is waiting
    run(drawn_data, tmp_path / "nano.pth", "--num_epochs", "2")
    out = capsys.readouterr().out
    assert re.search(r"epoch   1/2  loss \d\.\d+ .* clips/s  data wait \d+%", out)
    assert re.search(r"\n +epoch +train loss +train top-1 +val loss +val top-1\n +kept +[12] ", out)
    warning = r"warning: \d+% of the epoch was spent waiting for clips; raise --num_workers above 0"
    assert len(re.findall(warning, out)) == 1  # and not at each epoch
    monkeypatch.setattr(engine_run, "default_num_workers", lambda: 0)  # no core is left for another reader
    run(drawn_data, tmp_path / "nano.pth", "--num_epochs", "2")
    assert "waiting for clips" not in capsys.readouterr().out


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
    with pytest.raises(InputError, match=r"--tensorboard needs a package .*: pip install tensorboard"):
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
    run(*flags)  # anew, and not told
    run(*flags, "--tensorboard", "--resume")
    assert_each_epoch_is_shown_once()


def test_resume_with_nothing_there_starts_afresh_and_says_so(drawn_data, tmp_path, capsys):
    run(drawn_data, tmp_path / "nano.pth", "--resume", "--num_epochs", "1")
    assert "starting afresh" in capsys.readouterr().out
    run(drawn_data, tmp_path / "nano.pth", "--resume", "--num_epochs", "1")  # finished: nothing left to do
    assert "resuming after epoch 1 of 1" in capsys.readouterr().out


def test_resume_of_another_run_is_refused(unbroken, drawn_data):
    with pytest.raises(InputError, match=r"trained with --lr 0\.001 \(here 0\.5\)"):
        run(drawn_data, unbroken, "--resume", "--lr", "0.5")


def test_one_class_is_refused(drawn_data, tmp_path):
    (tmp_path / "train").mkdir()
    link(tmp_path / "train" / "wave", drawn_data / "train" / "wave")
    with pytest.raises(InputError, match="at least two classes"):
        train_model.main(["--data_dir", str(tmp_path), "--model_type", "swin3d_nano"])


def test_class_weights_weigh_the_loss():
    clips, labels, _ = four_clips()
    config = small_config(label_smoothing=0.0, lr=1e-9)
    plain, weighted = (
        Trainer(build_model("swin3d_nano", num_classes=4), config, device=CPU, steps_per_epoch=1, class_weights=weights)
        for weights in (None, [1.0, 2.0, 3.0, 10.0])
    )
    each = [plain.train_step([(clips[[row]], labels[[row]], [])])[0].item() for row in range(4)]
    expected = sum(loss * weight for loss, weight in zip(each, [1, 2, 3, 10], strict=True)) / 16
    assert weighted.train_step([(clips, labels, [])])[0].item() == pytest.approx(expected, rel=1e-4)
