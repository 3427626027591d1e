"""What --device and --num_threads mean, for torch and onnxruntime alike."""

import os
import re

from video_module.errors import InputError
from video_module.machine import share_of_cores


def parse_device(device: str) -> tuple[str, int]:
    """Take `auto`, `cpu`, `cuda` or `cuda:1` apart into kind and index. Raises InputError on anything else.

    `auto:1`, which torchrun's second process gets, is cuda:1 where there is CUDA.
    """
    match = re.fullmatch(r"(cpu)|(auto|cuda)(?::(\d+))?", device)
    if match is None:
        raise InputError(f"--device {device}: not a device; use auto, cpu, cuda or cuda:<number>")
    return match[1] or match[2], int(match[3] or 0)


def own_device(device: str) -> str:
    """What --device means to one of several processes on a machine: the GPU of its LOCAL_RANK.

    As it is where the launcher sets none. Raises InputError if it names one GPU for all.
    """
    kind, _ = parse_device(device)
    if "LOCAL_RANK" not in os.environ:
        return device
    if ":" in device:
        raise InputError(f"--device {device}: each of several processes takes its own GPU; use auto, cuda or cpu")
    return "cpu" if kind == "cpu" else f"{kind}:{os.environ['LOCAL_RANK']}"


def own_threads(num_threads: int | None) -> int | None:
    """What --num_threads means to one of several processes on a machine: where none is given, its part of the cores.

    Else each would take all, and they would wait for one another.
    """
    return share_of_cores() if num_threads is None and "LOCAL_WORLD_SIZE" in os.environ else num_threads
