"""Transfers between a step and the device, which could make the program wait for a GPU."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.test_step import small_config
from video_module.engine.step import Trainer
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec

# Tensors on the meta device have no values, so reading one raises an error wherever the program would wait for a GPU.
META = torch.device("meta")


class Transfers(TorchDispatchMode):
    """Records (shape, non_blocking, storage address) of each tensor sent to META."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.copy_.default:
            target, source, can_go_on = args[0], args[1], len(args) > 2 and args[2]
        elif function is torch.ops.aten._to_copy.default:
            target, source, can_go_on = result, args[0], kwargs.get("non_blocking", False)
        else:
            return result
        if target.device == META and source.device != META:
            self.sent.append((tuple(source.shape), can_go_on, source.untyped_storage().data_ptr()))
        return result


def trainer_on_meta(monkeypatch, **settings) -> Trainer:
    # The meta device has no fused kernel.
    monkeypatch.setattr(torch.optim, "AdamW", partial(_adamw, torch.optim.AdamW))
    clip = get_spec("r3d_18").clip_config(clip_len=4, img_size=32)
    with META:
        model = build_model("r3d_18", num_classes=4, clip=clip)
    config = small_config(batch_size=2, precision="fp32", label_smoothing=0.1, **settings)
    return Trainer(model, config, device=META, steps_per_epoch=9, class_weights=[1.0, 2.0, 3.0, 4.0])


def _adamw(optimizer_class, groups, *, fused: bool):
    return optimizer_class(groups, foreach=True)


@pytest.mark.parametrize(
    ("mixing", "clips_sent", "labels_sent"),
    [
        ({}, [2, 2], [2, 2]),
        ({"mixup": 0.8}, [1, 2, 3], [1, 2, 3]),  # the first pass's partner is the last clip
        ({"cutmix": 1.0}, [1, 2, 3], [1, 2, 3]),
    ],
)
def test_a_step_sends_slices_of_the_batch_and_nothing_else(mixing, clips_sent, labels_sent, monkeypatch):
    """The loader pins its batches, so a slice is sent while the GPU computes, but a copy would not be."""
    trainer = trainer_on_meta(monkeypatch, ema_decay=0.99, mix_off_epochs=0, **mixing)
    clips, labels = torch.zeros(4, 4, 32, 32, 3, dtype=torch.uint8), torch.arange(4)
    make = torch.tensor

    def make_on_cpu(*arguments, device="cpu", **settings):
        assert str(device) == "cpu", "a tensor made of numbers on a device is sent there"
        return make(*arguments, **settings)

    monkeypatch.setattr(torch, "tensor", make_on_cpu)
    for step in range(2):  # the first step copies the weights to the running mean, later ones blend them
        with Transfers() as transfers:
            trainer.train_step([(clips, labels, [])], step=step)
        for tensor, expected in ((clips, clips_sent), (labels, labels_sent)):
            place = tensor.untyped_storage().data_ptr()
            sent = [(shape[0], can_go_on) for shape, can_go_on, storage in transfers.sent if storage == place]
            assert sent == [(number, True) for number in expected]
        assert len(transfers.sent) == len(clips_sent) + len(labels_sent)
