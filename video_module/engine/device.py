"""Choose torch's device, precision and kernels."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from video_module.devices import parse_device
from video_module.errors import InputError


def choose_device(device: str) -> torch.device:
    """Resolve auto, cpu, cuda or cuda:1, and make a GPU the current one.

    Raises InputError where CUDA was asked for and there is none.
    """
    kind, index = parse_device(device)
    if kind not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"--device {device}: torch runs on auto, cpu, cuda or cuda:<number>; other devices require an ONNX file"
        )
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch found no CUDA GPU; use --device cpu")
    if index >= torch.cuda.device_count():
        raise InputError(f"--device {device}: only {torch.cuda.device_count()} GPUs found, numbered from 0")
    # Events and streams are made on the current GPU, wherever the tensors are.
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def choose_precision(precision: str, device: torch.device) -> str:
    """Resolve "auto": bf16 on CUDA, fp16 where it lacks bf16, fp32 on the CPU."""
    if precision != "auto":
        if precision in ("fp16", "tf32") and device.type == "cpu":
            raise InputError(f"precision {precision} requires CUDA; use fp32 or bf16 on the CPU")
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of the forward pass."""
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])


@contextmanager
def scoring(precision: str, device: torch.device) -> Iterator[None]:
    """The context in which a trained network scores: fp32 without TF32, whatever training or torch's defaults allow."""
    earlier = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "fp32"  # torch's default is True
    try:
        with torch.inference_mode(), autocast(precision, device):
            yield
    finally:
        torch.set_float32_matmul_precision(earlier[0])
        torch.backends.cudnn.allow_tf32 = earlier[1]


def choose_kernels(*, deterministic: bool) -> None:
    """Let training on CUDA take the fastest kernels, or those that give the same bits each time."""
    # TF32 for the products that autocast leaves in fp32. All clips of a run have one size, so cuDNN may try its
    # algorithms on the first and keep the fastest.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # cuBLAS reads this when it starts, at the first product of matrices.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def send_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Bring a network to a device, on CUDA in the layout that its kernels prefer."""
    if device.type == "cuda" and is_convolutional(network):
        network = network.to(memory_format=torch.channels_last_3d)
    return network.to(device)


def is_convolutional(network: nn.Module) -> bool:
    """Whether 3D convolutions do the work; transformers have one for the patches, and MViT pools by depthwise ones."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d) and module.groups == 1]
    return len(convolutions) > 1
