"""Read --device and --num_threads, for torch and onnxruntime alike."""

import os
import re

from video_module.errors import InputError
from video_module.machine import share_of_cores


def parse_device(device: str) -> tuple[str, int]:
    """Split `auto`, `cpu`, `cuda` or `cuda:1` into kind and index. Raises InputError on anything else.

    `auto:1`, which torchrun's second process gets, is cuda:1 where there is CUDA.
    """
    match = re.fullmatch(r"(cpu)|(auto|cuda)(?::(\d+))?", device)
    if match is None:
        raise InputError(f"--device {device}: not a device; use auto, cpu, cuda or cuda:<number>")
    return match[1] or match[2], int(match[3] or 0)


def own_device(device: str) -> str:
    """The device of one of several processes on a machine: the GPU of its LOCAL_RANK, if the launcher sets one.

    Raises InputError if --device names one GPU for all of them.
    """
    kind, _ = parse_device(device)
    if "LOCAL_RANK" not in os.environ:
        return device
    if ":" in device:
        raise InputError(f"--device {device}: each of several processes takes its own GPU; use auto, cuda or cpu")
    return "cpu" if kind == "cpu" else f"{kind}:{os.environ['LOCAL_RANK']}"


def own_threads(num_threads: int | None) -> int | None:
    """The threads of one of several processes on a machine: by default its share of the cores."""
    # If each took all cores, they would wait for one another.
    return share_of_cores() if num_threads is None and "LOCAL_WORLD_SIZE" in os.environ else num_threads
