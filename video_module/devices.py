"""What --device takes, for torch and onnxruntime alike."""

import re

from video_module.errors import InputError


def parse_device(device: str) -> tuple[str, int]:
    """Take `auto`, `cpu`, `cuda` or `cuda:1` apart into kind and index. Raises InputError on anything else.

    `auto:1`, which torchrun's second process gets, is cuda:1 where there is CUDA.
    """
    match = re.fullmatch(r"(cpu)|(auto|cuda)(?::(\d+))?", device)
    if match is None:
        raise InputError(f"--device {device}: not a device; use auto, cpu, cuda or cuda:<number>")
    return match[1] or match[2], int(match[3] or 0)
