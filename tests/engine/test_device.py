import os

import pytest
import torch

from video_module.engine.device import choose_device, choose_kernels, choose_precision, is_convolutional, scoring
from video_module.errors import InputError
from video_module.models import window_attention
from video_module.models.registry import MODELS, get_spec

CPU, META = torch.device("cpu"), torch.device("meta")


def test_precision_follows_the_device():
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    for precision in ("fp16", "tf32"):
        with pytest.raises(InputError, match=f"precision {precision} requires CUDA"):
            choose_precision(precision, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_where_there_is_none_is_an_error():
    assert choose_device("auto") == CPU
    with pytest.raises(InputError, match="found no CUDA GPU"):
        choose_device("cuda")


@pytest.mark.parametrize(("device", "index"), [("cuda:1", 1), ("auto", 0)])
def test_a_gpu_becomes_the_current_one(device, index, monkeypatch):
    """Otherwise events would be recorded on the first GPU."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(window_attention, "triton", None)
    assert choose_device(device) == torch.device("cuda", index)
    assert current == [index]
    with pytest.raises(InputError, match="only 2 GPUs"):
        choose_device("cuda:2")
    assert current == [index]


@pytest.mark.parametrize("name", MODELS)
def test_transformers_are_not_laid_out_as_convolutional_networks(name):
    with META:
        network = get_spec(name).build(num_classes=2)
    assert is_convolutional(network) == (not name.startswith(("swin3d", "mvit")))


def test_deterministic_kernels(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    earlier = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        choose_kernels(deterministic=False)
        assert torch.backends.cudnn.benchmark
        assert not torch.are_deterministic_algorithms_enabled()
        choose_kernels(deterministic=True)
        assert not torch.backends.cudnn.benchmark
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(earlier[0])
        torch.backends.cudnn.benchmark = earlier[1]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tf32_where_it_is_asked_for_alone(precision):
    """By default torch allows TF32 in convolutions, and training allows it in matrix products."""
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with scoring(precision, torch.device("cuda")):
            flags = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        assert flags == (("high", True) if precision == "tf32" else ("highest", False))
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision(earlier)
