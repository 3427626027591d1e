"""Read --device and --num_threads, for torch and onnxruntime alike."""

import os
import re

from video_module.errors import InputError
from video_module.machine import share_of_cores

_WITHOUT_NUMBER = ("cpu", "openvino", "coreml")


def parse_device(device: str) -> tuple[str, int]:
    """Split `auto`, `cpu`, `cuda`, `cuda:1` or the name of another runtime into name and index.

    `auto:1`, which torchrun's second process gets, is cuda:1 where there is CUDA. Raises InputError if it is neither.
    """
    match = re.fullmatch(r"([a-z][a-z0-9-]*)(?::(\d+))?", device)
    if match is None or (match[2] and match[1] in _WITHOUT_NUMBER):
        raise InputError(f"--device {device}: not a device; use auto, cpu, cuda or cuda:<number>")
    return match[1], int(match[2] or 0)


def own_device(device: str) -> str:
    """The device of one of several processes on a machine: the GPU of its LOCAL_RANK, if the launcher sets one.

    Raises InputError if --device names one GPU for all of them.
    """
    kind, _ = parse_device(device)
    if "LOCAL_RANK" not in os.environ:
        return device
    if ":" in device:
        raise InputError(f"--device {device}: each of several processes takes its own GPU; use auto, cuda or cpu")
    return kind if kind in _WITHOUT_NUMBER else f"{kind}:{os.environ['LOCAL_RANK']}"


def own_threads(num_threads: int | None) -> int | None:
    """The threads of one of several processes on a machine: by default its share of the cores."""
    # If each took all cores, they would wait for one another.
    return share_of_cores() if num_threads is None and "LOCAL_WORLD_SIZE" in os.environ else num_threads
