"""Where and in which precision torch computes."""

from contextlib import AbstractContextManager, nullcontext

import torch

from video_module.devices import parse_device
from video_module.errors import InputError


def choose_device(device: str) -> torch.device:
    """Resolve auto, cpu, cuda or cuda:1, and make a GPU the current one.

    Raises InputError where CUDA was asked for and there is none.
    """
    kind, index = parse_device(device)
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch finds no CUDA GPU; use --device cpu")
    if index >= torch.cuda.device_count():
        raise InputError(f"--device {device}: there are only {torch.cuda.device_count()} GPUs, counted from 0")
    # Events and streams are made on the current GPU, wherever the tensors are.
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def choose_precision(precision: str, device: torch.device) -> str:
    """Resolve "auto": bf16 on CUDA, fp16 where it lacks bf16, fp32 on the CPU."""
    if precision != "auto":
        if precision == "fp16" and device.type == "cpu":
            raise InputError("precision fp16 needs CUDA; use fp32 or bf16 on the CPU")
        return precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of the forward pass."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
