import math
import re
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from video_module.config import AUTO, TrainConfig
from video_module.engine.state import capture, restore
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec

CPU = torch.device("cpu")


def small_config(**settings) -> TrainConfig:
    plain = {"num_epochs": 2, "batch_size": 4, "backbone_lr_scale": 1.0, "drop_path": 0.0, "mixup": 0, "cutmix": 0}
    return TrainConfig(**{**plain, **settings})


def four_clips() -> tuple[torch.Tensor, torch.Tensor, list]:
    """Return a batch of four clips, one of each class."""
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


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_gradients_are_those_of_the_mean_loss(batch_size):
    """This holds for any number of clips at once. A wrong scale would hardly change AdamW, but it would clipping."""
    model = build_model("swin3d_nano", num_classes=4)
    config = small_config(batch_size=batch_size, label_smoothing=0.0, head_dropout=0.0, clip_grad_norm=1e9)
    trainer = Trainer(model, config, device=CPU, steps_per_epoch=1)
    clips, labels, _ = four_clips()
    F.cross_entropy(model.train()(clips), labels).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    got = {}

    def look(*_) -> None:
        got.update({name: parameter.grad.clone() for name, parameter in model.named_parameters()})

    trainer.optimizer.register_step_pre_hook(look)
    trainer.train_step([four_clips()])
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_running_mean_is_what_is_validated():
    """The decay after n steps is (1 + n) / (10 + n), up to the configured one."""
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

    def backend(graph, _):
        return lambda *inputs: [Fails.apply(x) for x in graph(*inputs)]

    plain = Trainer(build_model("swin3d_nano", num_classes=4, seed=1), small_config(), device=CPU, steps_per_epoch=1)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    config = small_config(compile=True)
    trainer = Trainer(build_model("swin3d_nano", num_classes=4, seed=1), config, device=CPU, steps_per_epoch=1)
    losses = [one.train_step([four_clips()])[0] for one in (plain, trainer)]
    assert torch.equal(*losses)
    assert capsys.readouterr().out.count("torch.compile failed (no compiler): continuing without it") == 1
    assert all(torch.equal(v, trainer.model.state_dict()[k]) for k, v in plain.model.state_dict().items())


@pytest.mark.parametrize("message", ["", "\n"])
def test_a_compiler_that_fails_without_a_word_is_named_by_its_error(message, monkeypatch, capsys):
    def backend(graph, _):
        raise AssertionError(message)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    trainer_of(compile=True).train_step([four_clips()])
    assert "torch.compile failed (AssertionError): continuing without it" in capsys.readouterr().out


def test_compiling_may_still_fail_when_the_backbone_is_thawed(monkeypatch, capsys):
    """In frozen epochs, the blocks are not compiled, so these do not show that compiling works."""
    works = []

    def backend(graph, _):
        if not works:
            raise RuntimeError("no compiler")
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    trainer = trainer_of(compile=True, freeze_epochs=1)
    trainer.set_mode(0)
    works.append(1)  # the patch embedding compiles, and then the compiler is gone
    trainer.train_step([four_clips()])
    works.clear()
    trainer.set_mode(1)
    trainer.train_step([four_clips()], 1)
    assert "torch.compile failed (no compiler)" in capsys.readouterr().out


def test_each_part_is_compiled_once_for_full_passes_alone(monkeypatch):
    graphs, calls = [], []

    def backend(graph, _):
        graphs.append(graph)
        return lambda *inputs: calls.append(graph) or graph(*inputs)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    trainer = trainer_of(batch_size=2, compile=True, mixup=0.8, cutmix=1.0)
    trainer.set_mode(0)
    clips, labels, _ = four_clips()
    for step in range(4):  # float clips from mixup, uint8 from CutMix
        trainer.train_step([(clips[:3], labels[:3], [])], step=step)
        assert len(graphs) == 7  # four blocks, patch embedding and patch mergings
    assert len(calls) == 4 * 7  # one pass of two clips in each step; the third clip is not compiled


def test_a_network_without_deterministic_kernels_says_so():
    def fails(*_):
        raise RuntimeError("avg_pool3d_backward_cuda does not have a deterministic implementation, but you set 'torch")

    trainer = trainer_of(deterministic=True)
    trainer.model.register_forward_pre_hook(fails)
    assert not torch.are_deterministic_algorithms_enabled()  # not needed on the CPU
    with pytest.raises(InputError, match=r"--deterministic: avg_pool3d_backward_cuda does not .*; leave out the flag"):
        trainer.train_step([four_clips()])


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


def trainer_of(**settings) -> Trainer:
    model = build_model("swin3d_nano", num_classes=4, seed=3)
    return Trainer(model, small_config(ema_decay=0, **settings), device=CPU, steps_per_epoch=5)


def gradients(trainer: Trainer, batches) -> dict[str, torch.Tensor]:
    """Return the gradients after a step, which are not clipped if config.clip_grad_norm is large."""
    trainer.set_mode(0)
    trainer.train_step(batches)
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 3.0, 10.0]])
def test_gradients_do_not_depend_on_how_many_clips_fit(class_weights):
    clips, labels, _ = four_clips()
    batches = [(clips, labels, []), (clips[:3].flip(2), labels[:3], []), (None, labels[:0], ["gone"])]

    def with_micro_batch(size: int) -> dict[str, torch.Tensor]:
        model = build_model("swin3d_nano", num_classes=4, seed=3)
        config = small_config(batch_size=size, clip_grad_norm=1e9)
        return gradients(Trainer(model, config, device=CPU, steps_per_epoch=5, class_weights=class_weights), batches)

    whole = with_micro_batch(4)
    for size in (1, 3):
        for name, gradient in with_micro_batch(size).items():
            assert torch.allclose(gradient, whole[name], rtol=1e-3, atol=1e-6), name


class Scarce:
    """Memory that runs out in the passes numbered in `at`, and whenever a pass has more than `room` clips."""

    def __init__(self, trainer: Trainer, *, room: int = 100, at: tuple[int, ...] = ()):
        self.room, self.at, self.sizes = room, at, []
        trainer.model.register_forward_pre_hook(self.take)

    def take(self, _, inputs) -> None:
        self.sizes.append(len(inputs[0]))
        if len(inputs[0]) > self.room or len(self.sizes) in self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_a_step_without_memory_goes_on_with_fewer_clips_to_the_same_weights(capsys):
    plain, scarce = trainer_of(batch_size=1), trainer_of(batch_size=4)
    network = Scarce(scarce, room=1, at=(9,))  # the ninth pass is in the middle of the second step
    for step in range(3):
        expected = plain.train_step([four_clips()], step=step)
        got = scarce.train_step([four_clips()], step=step)
        assert torch.allclose(got[0], expected[0], rtol=1e-5)
        if step == 0:
            assert network.sizes == [4, 2, 1, 1, 1, 1]
            assert re.findall(
                r"continuing with (\d clips?) at once, still (\d+) per step", capsys.readouterr().out
            ) == [
                ("2 clips", "64"),
                ("1 clip", "64"),
            ]
            network.at, network.room, scarce.micro_batch = (9,), 2, 2  # a GPU with a little more memory again
            plain.micro_batch = 2
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(value, scarce.model.state_dict()[name], rtol=0, atol=1e-5), name
    assert scarce.micro_batch == 1


def test_memory_that_runs_out_in_the_backward_pass_leaves_no_half_gradients():
    plain, scarce = trainer_of(batch_size=2), trainer_of(batch_size=4)
    fails = [True]

    def backward_fails(gradient):
        if fails:
            fails.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient

    next(scarce.model.parameters()).register_hook(backward_fails)  # the first layer, which is the last in backward
    expected, got = (trainer.train_step([four_clips()]) for trainer in (plain, scarce))
    assert not fails
    assert torch.equal(expected[0], got[0])
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, scarce.model.state_dict()[name]), name


def test_no_memory_for_one_clip_says_what_helps():
    trainer = trainer_of(batch_size=4)
    Scarce(trainer, room=0)
    with pytest.raises(InputError, match="out of memory with one clip at a time; try --checkpoint_activations"):
        trainer.train_step([four_clips()])


def test_auto_takes_a_whole_batch_of_small_clips(capsys):
    trainer = trainer_of(batch_size=AUTO)
    trainer.train_step([four_clips()])
    assert trainer.micro_batch == 16
    assert "--batch_size auto: 16 clips at once per process, 64 per step" in capsys.readouterr().out


def test_no_pass_takes_more_clips_than_a_batch_has():
    """Only passes of micro_batch clips run compiled code, so with a larger number none would."""
    trainer = trainer_of(batch_size=64, effective_batch=24)  # read as two batches of 12
    assert trainer.micro_batch == trainer.largest_batch == 12
    state = capture(trainer) | {"micro_batch": 16}  # of a run with fewer processes
    automatic = trainer_of(batch_size=AUTO, effective_batch=24)
    restore(automatic, state)
    assert automatic.micro_batch == 12


def test_auto_searches_again_when_the_backbone_is_thawed():
    """A frozen network keeps no activations, so far more clips fit."""
    trainer = trainer_of(batch_size=AUTO, freeze_epochs=1)
    trainer.set_mode(0)
    trainer.train_step([four_clips()])
    assert trainer.micro_batch and capture(trainer)["micro_batch"] is None
    trainer.set_mode(1)
    assert trainer.micro_batch is None
    trainer.train_step([four_clips()], 1)
    assert trainer.micro_batch and capture(trainer)["micro_batch"] == trainer.micro_batch


def test_blocks_computed_again_give_the_same_gradients_with_drop_path():
    results = []
    for checkpointed in (False, True):
        model = build_model("swin3d_nano", num_classes=4, drop_path=0.5, seed=3)
        config = small_config(batch_size=4, drop_path=0.5, head_dropout=0.3, checkpoint_activations=checkpointed)
        results.append(gradients(Trainer(model, config, device=CPU, steps_per_epoch=1), [four_clips()]))
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name


def test_a_network_without_such_blocks_says_so():
    config = small_config(checkpoint_activations=True)
    clip = get_spec("r3d_18").clip_config(clip_len=8, img_size=32)
    with pytest.raises(InputError, match="--checkpoint_activations: not supported by r3d_18"):
        Trainer(build_model("r3d_18", num_classes=4, clip=clip), config, device=CPU, steps_per_epoch=1)


def test_batch_norm_forgets_passes_that_ran_out_of_memory():
    clip = get_spec("mc3_18").clip_config(clip_len=4, img_size=32)
    clips = torch.randint(0, 256, (4, *clip.shape), dtype=torch.uint8)
    statistics = []
    for fails in (False, True):
        model = build_model("mc3_18", num_classes=4, clip=clip, seed=1)
        trainer = Trainer(model, small_config(batch_size=2 if fails else 1), device=CPU, steps_per_epoch=1)
        if fails:  # fail in the second of two passes, after batch norm has seen the first
            Scarce(trainer, at=(2,))
        trainer.set_mode(0)
        trainer.train_step([(clips, torch.arange(4), [])])
        assert trainer.micro_batch == 1
        statistics.append(dict(model.named_buffers()))
    assert all(torch.equal(value, statistics[1][name]) for name, value in statistics[0].items())


class Overflows(torch.nn.Module):
    """A head whose logits are infinite in some passes."""

    def __init__(self, head: torch.nn.Module, at: set[int]):
        super().__init__()
        self.head, self.at, self.num_passes = head, at, 0
        self.weight = head.weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.num_passes += 1
        return self.head(features) * (math.inf if self.num_passes in self.at else 1.0)


def fp16_trainer(monkeypatch, at: set[int], *, name: str = "swin3d_nano", num_steps: int = 4) -> Trainer:
    """Create an fp16 trainer on the CPU, where fp16 is normally refused."""
    monkeypatch.setattr("video_module.engine.step.choose_precision", lambda *_: "fp16")
    trainer = Trainer(build_model(name, num_classes=4), small_config(), device=CPU, steps_per_epoch=num_steps)
    monkeypatch.setattr(trainer, "precision", "fp16")
    owner = trainer.model.backbone
    attribute = "head" if hasattr(owner, "head") else "fc"
    setattr(owner, attribute, Overflows(getattr(owner, attribute), at))
    return trainer


def test_an_overflow_in_fp16_skips_its_step(monkeypatch):
    trainer = fp16_trainer(monkeypatch, {3})
    trainer.set_mode(0)
    states, scales = [], []
    for number in range(4):
        trainer.train_step([four_clips()], step=number)
        states.append({key: value.clone() for key, value in trainer.model.state_dict().items()})
        states[-1] |= {f"mean {key}": value.clone() for key, value in trainer.validated.state_dict().items()}
        scales.append(trainer.scaler.get_scale())
    assert scales == [2.0**16, 2.0**16, 2.0**15, 2.0**15]
    same = [all(torch.equal(value, after[key]) for key, value in before.items()) for before, after in pairwise(states)]
    assert same == [False, True, False]
    assert all(value.isfinite().all() for value in states[-1].values() if value.is_floating_point())


def test_labels_that_are_no_classes_are_one_line():
    """Such labels come from lists that count from 1. On CUDA, they would trigger a device-side assert."""
    trainer = Trainer(build_model("swin3d_nano", num_classes=4), small_config(), device=CPU, steps_per_epoch=1)
    clips, labels, _ = four_clips()
    for change, wrong in ((1, 4), (-1, -1)):
        with pytest.raises(InputError, match=f"labels of 4 classes must be 0 to 3, got {wrong}"):
            trainer.train_step([(clips, labels + change, [])])
