"""Parse --device and --num_threads for both torch and onnxruntime."""

import os
import re

from video_module.errors import InputError
from video_module.machine import share_of_cores

_WITHOUT_NUMBER = ("cpu", "openvino", "coreml")


def parse_device(device: str) -> tuple[str, int]:
    """Split `auto`, `cpu`, `cuda`, `cuda:1` or the name of another runtime into name and index.

    The second process of torchrun gets `auto:1`, which means cuda:1 if there is CUDA. Raises InputError if `device` is
    none of these.
    """
    match = re.fullmatch(r"([a-z][a-z0-9-]*)(?::(\d+))?", device)
    if match is None or (match[2] and match[1] in _WITHOUT_NUMBER):
        raise InputError(f"--device {device}: not a device; use auto, cpu, cuda or cuda:<number>")
    return match[1], int(match[2] or 0)


def own_device(device: str) -> str:
    """Return the device of this process, the GPU of its LOCAL_RANK if the launcher sets one.

    Raises InputError if --device names a single GPU for all processes on this machine.
    """
    kind, _ = parse_device(device)
    if "LOCAL_RANK" not in os.environ:
        return device
    if ":" in device:
        raise InputError(f"--device {device}: each of several processes takes its own GPU; use auto, cuda or cpu")
    return kind if kind in _WITHOUT_NUMBER else f"{kind}:{os.environ['LOCAL_RANK']}"


def own_threads(num_threads: int | None) -> int | None:
    """Return the number of threads of this process, by default its share of the cores if there are several."""
    # If each process used all cores, they would wait for one another.
    return share_of_cores() if num_threads is None and "LOCAL_WORLD_SIZE" in os.environ else num_threads
