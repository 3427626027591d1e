import re

import pytest
import torch

from tests.engine.test_training import CPU, four_clips, small_config
from video_module.config import AUTO
from video_module.engine import memory
from video_module.engine.distributed import Group
from video_module.engine.training import Trainer
from video_module.errors import InputError
from video_module.models import recognizer
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec


@pytest.mark.parametrize(
    ("limit", "most", "expected"), [(100, 16, 16), (11, 16, 8), (11, 11, 11), (1, 16, 1), (0, 16, 0), (5, 6, 4)]
)
def test_the_largest_that_fits(limit, most, expected):
    asked = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    assert memory.largest_that_fits(fits, most) == expected
    assert asked == sorted(asked)
    assert len([size for size in asked if size > limit]) <= 1  # no card is driven out of memory twice


def trainer_of(**settings) -> Trainer:
    model = build_model("swin3d_nano", num_classes=4, seed=3)
    return Trainer(model, small_config(ema_decay=0, **settings), device=CPU, steps_per_epoch=5)


def gradients(trainer: Trainer, loads) -> dict[str, torch.Tensor]:
    trainer.model.train()
    trainer._gradients(loads, 0, 0, trainer._weigh(loads))
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 3.0, 10.0]])
def test_gradients_do_not_depend_on_how_many_clips_fit(class_weights):
    clips, labels, _ = four_clips()
    loads = [(clips, labels, []), (clips[:3].flip(2), labels[:3], []), (None, labels[:0], ["gone"])]
    model = build_model("swin3d_nano", num_classes=4, seed=3)
    trainer = Trainer(model, small_config(), device=CPU, steps_per_epoch=5, class_weights=class_weights)
    trainer.micro_batch = 4
    whole = gradients(trainer, loads)
    for trainer.micro_batch in (1, 3):
        for name, gradient in gradients(trainer, loads).items():
            assert torch.allclose(gradient, whole[name], rtol=1e-3, atol=1e-6), name


class Scarce:
    """A network that runs out of memory at chosen calls, and whenever more than `room` clips come at once."""

    def __init__(self, trainer: Trainer, *, room: int = 100, at: tuple[int, ...] = ()):
        self.network, self.room, self.at, self.sizes = trainer._network, room, at, []
        trainer._network = self

    def __call__(self, clips):
        self.sizes.append(len(clips))
        if len(clips) > self.room or len(self.sizes) in self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.network(clips)


def test_a_step_without_memory_goes_on_with_fewer_clips_to_the_same_weights(capsys):
    plain, scarce = trainer_of(batch_size=1), trainer_of(batch_size=4)
    network = Scarce(scarce, room=1, at=(9,))  # the ninth call is in the midst of the second step
    for step in range(3):
        expected = plain.train_step([four_clips()], step=step)
        got = scarce.train_step([four_clips()], step=step)
        assert torch.allclose(got[0], expected[0], rtol=1e-5)
        if step == 0:
            assert network.sizes == [4, 2, 1, 1, 1, 1]
            assert re.findall(r"going on with (\d clips?) at once, still (\d+) per step", capsys.readouterr().out) == [
                ("2 clips", "64"),
                ("1 clip", "64"),
            ]
            network.at, network.room, scarce.micro_batch = (9,), 2, 2  # a card that has a little more room again
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

    next(scarce.model.parameters()).register_hook(backward_fails)  # the input's side: the last to get its gradient
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


def test_auto_takes_a_load_where_there_is_room_and_less_where_there_is_not(monkeypatch, capsys):
    trainer = trainer_of(batch_size=AUTO)
    trainer.train_step([four_clips()])
    assert trainer.micro_batch == 16
    assert "--batch_size auto: 16 clips at once in each process, 64 per step" in capsys.readouterr().out
    needed = memory.activation_bytes("swin3d_nano", get_spec("swin3d_nano").clip, num_classes=4)
    monkeypatch.setattr(memory, "ram_bytes", lambda: 2 * (5 * needed.weights + 2.5 * needed.kept))
    trainer = trainer_of(batch_size=AUTO)
    trainer.train_step([four_clips()])
    assert trainer.micro_batch == 2


def test_processes_on_one_machine_share_its_memory_and_those_of_others_do_not(monkeypatch):
    needed = memory.activation_bytes("swin3d_nano", get_spec("swin3d_nano").clip, num_classes=4)
    monkeypatch.setattr(memory, "ram_bytes", lambda: 2 * 2 * (5 * needed.weights + 4.5 * needed.kept))
    trainer = trainer_of(batch_size=AUTO)
    trainer.group = Group(device="cpu", world_size=8, num_machines=4)
    assert trainer._find_micro_batch() == 4


@pytest.mark.parametrize("checkpointed", [False, True])
def test_counted_bytes_are_those_that_autograd_saves(checkpointed):
    """Without computing anything, what a real pass saves."""
    clip = get_spec("swin3d_nano").clip
    counted = memory.activation_bytes("swin3d_nano", clip, num_classes=4, checkpointed=checkpointed)
    model = build_model("swin3d_nano", num_classes=4).train()
    if checkpointed:
        model.recompute_blocks()
    count = memory._Count(model.backbone)
    with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda tensor: tensor):
        model.backbone(torch.randn(1, 3, *clip.shape[:3]))
    assert counted.kept == pytest.approx(count.total, rel=0.01)
    assert counted.weights == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (counted.largest_block > 0) == checkpointed


def test_swin3d_b_fits_into_16_gb():
    """Full-size clips in bf16 by the rules of autocast on CUDA: counted, for want of a card."""
    clip = get_spec("swin3d_b").clip
    assert clip.shape == (32, 224, 224, 3)
    plain, checkpointed = (
        memory.activation_bytes("swin3d_b", clip, precision="bf16", checkpointed=checkpointed)
        for checkpointed in (False, True)
    )
    for needed, num_clips in ((plain, 4), (checkpointed, 16)):
        # weights, their mean, gradients and AdamW's two moments
        total = 5 * needed.weights + num_clips * (needed.kept + needed.largest_block)
        assert total < 0.9 * 16e9, f"{total / 1e9:.1f} GB"
    assert checkpointed.kept < plain.kept / 10
    assert plain.kept < 3e9  # scores in memory, as on the CPU, would make it 5.8 GB


def test_blocks_computed_again_give_the_same_gradients_with_drop_path():
    loads = [four_clips()]
    results = []
    for checkpointed in (False, True):
        model = build_model("swin3d_nano", num_classes=4, drop_path=0.5, seed=3)
        config = small_config(batch_size=4, drop_path=0.5, head_dropout=0.3, checkpoint_activations=checkpointed)
        results.append(gradients(Trainer(model, config, device=CPU, steps_per_epoch=1), loads))
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name


def test_a_network_without_such_blocks_says_so():
    config = small_config(checkpoint_activations=True)
    clip = get_spec("r3d_18").clip_config(clip_len=8, img_size=32)
    with pytest.raises(InputError, match="--checkpoint_activations: r3d_18 has no blocks"):
        Trainer(recognizer.build_model("r3d_18", num_classes=4, clip=clip), config, device=CPU, steps_per_epoch=1)
