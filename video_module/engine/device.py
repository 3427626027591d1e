"""Choose the device, the precision and the kernels that torch uses."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from video_module.devices import parse_device
from video_module.errors import InputError
from video_module.models import window_attention


def choose_device(device: str) -> torch.device:
    """Resolve auto, cpu, cuda or cuda:1 to a device, and make a chosen GPU the current one.

    Raises InputError if CUDA is requested but not available.
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
    # Events and streams are created on the current GPU, wherever the tensors are.
    torch.cuda.set_device(index)
    window_attention.check_compiler()
    return torch.device("cuda", index)


def choose_precision(precision: str, device: torch.device) -> str:
    """Resolve "auto" to bf16 on CUDA (fp16 if the GPU lacks bf16) and to fp32 on the CPU.

    Raises InputError if fp16 or tf32 is requested on the CPU.
    """
    if precision != "auto":
        if precision in ("fp16", "tf32") and device.type == "cpu":
            raise InputError(f"precision {precision} requires CUDA; use fp32 or bf16 on the CPU")
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return the context in which the forward pass runs in `precision`."""
    if precision in ("fp32", "tf32"):
        return nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])


@contextmanager
def scoring(precision: str, device: torch.device) -> Iterator[None]:
    """Return the context in which a trained network scores clips.

    In fp32, TF32 is off, whatever training or torch's defaults allow.
    """
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
    """Make training on CUDA use the fastest kernels, or those that give bit-identical results in each run."""
    # Use TF32 for the products that autocast leaves in fp32. All clips of a run have the same size, so cuDNN can try
    # its algorithms on the first clip and keep the fastest.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # cuBLAS reads this when it starts, which is at the first matrix product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def send_network(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, on CUDA in the memory layout that its kernels prefer."""
    if device.type == "cuda" and is_convolutional(network):
        network = network.to(memory_format=torch.channels_last_3d)
    return network.to(device)


def is_convolutional(network: nn.Module) -> bool:
    """Return whether a network consists mainly of 3D convolutions.

    Transformers have a single one, for the patch embedding, and MViT's pooling convolutions are depthwise.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d) and module.groups == 1]
    return len(convolutions) > 1
