import pytest
import torch

from video_module.engine.device import choose_device, choose_precision
from video_module.errors import InputError

CPU = torch.device("cpu")


def test_precision_follows_the_device():
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(InputError, match="fp16 needs CUDA"):
        choose_precision("fp16", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_where_there_is_none_is_an_error():
    assert choose_device("auto") == CPU
    with pytest.raises(InputError, match="finds no CUDA GPU"):
        choose_device("cuda")


@pytest.mark.parametrize(("device", "index"), [("cuda:1", 1), ("auto", 0)])
def test_a_gpu_becomes_the_current_one(device, index, monkeypatch):
    """Without it, events would be recorded on the first one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device(device) == torch.device("cuda", index)
    assert current == [index]
    with pytest.raises(InputError, match="only 2 GPUs"):
        choose_device("cuda:2")
    assert current == [index]
