"""Code shared by the parts of `benchmark gpu`: device, sizes, trainers, clips and lines of JSON."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cached_property, lru_cache, partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from video_module.benchmark.train import NUM_CLASSES, drawn, matrix_rate
from video_module.config import ClipConfig
from video_module.data.dataset import Batch
from video_module.engine.device import choose_device, choose_precision
from video_module.engine.step import Trainer
from video_module.models.cost import measure_cost
from video_module.models.recognizer import Recognizer, build_model
from video_module.models.registry import get_spec
from video_module.models.swin3d import WindowAttention3d

# Settings without randomness and without anything that makes a step more than a sum of passes.
PLAIN = {"mixup": 0.0, "cutmix": 0.0, "ema_decay": 0.0, "drop_path": 0.0, "head_dropout": 0.0}
MIXED = {"mixup": 0.8, "cutmix": 1.0, "ema_decay": 0.999}


def unmixed(name: str) -> dict[str, float]:
    """Return PLAIN with the drop path rate of the model's recipe, with which all parts compile networks."""
    return {**PLAIN, "drop_path": get_spec(name).recipe["drop_path"]}


class Setup:
    """Device, models and sizes of one part. On the CPU everything is tiny: swin3d_nano, few clips and few steps."""

    def __init__(self, *, part: str, device: str, model_type: list[str], data_dir: str | None):
        self.part = part
        self.device = choose_device(device)
        self.is_tiny = self.device.type == "cpu"
        self.models = ["swin3d_nano"] if self.is_tiny else model_type
        self.small_model = "swin3d_nano" if self.is_tiny else "swin3d_t"
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.effective_batch = 4 if self.is_tiny else 64
        self.micro_batches = [1, 2] if self.is_tiny else [1, 2, 4, 8, 16]
        self.timing = {"num_steps": 1, "num_warmup": 1} if self.is_tiny else {"num_steps": 5, "num_warmup": 2}
        torch.manual_seed(0)

    @property
    def model(self) -> str:
        return self.models[0]

    @cached_property
    def precision(self) -> str:
        return choose_precision("auto", self.device)

    # ---- printing

    def emit(self, what: str, **figures: Any) -> None:
        """Print a result at once."""
        _print({"part": self.part, "what": what, **figures})

    def end(self, **figures: Any) -> None:
        """Print how the part ended."""
        _print({"part": self.part, **figures})

    # ---- models and clips

    def clip(self, name: str) -> ClipConfig:
        spec = get_spec(name)
        tiny = {"clip_len": 4, "img_size": 32} if self.is_tiny and name != "swin3d_nano" else {}
        return spec.clip_config(**tiny)

    def batches(self, name: str, num_clips: int, *, largest: int = 16) -> list[Batch]:
        """Return random clips in batches like the loader's. Clips of zeros would be faster than real ones."""
        return [drawn(self.clip(name), min(largest, num_clips - begin)) for begin in range(0, num_clips, largest)]

    def build(self, name: str, *, drop_path: float = 0.0) -> Recognizer:
        model = build_model(name, num_classes=NUM_CLASSES, clip=self.clip(name), drop_path=drop_path)
        return model.to(self.device)

    def trainer(self, name: str, micro_batch: int | str, **given: Any) -> Trainer:
        """Create a trainer in training mode with the model's recipe and settings `given`, by default not compiled."""
        settings = {"effective_batch": self.effective_batch, "batch_size": micro_batch, "num_repeats": 1}
        settings |= {"num_epochs": 30, "compile": False, **given}
        config = get_spec(name).train_config(weights="none", given=settings)
        model = build_model(name, num_classes=NUM_CLASSES, clip=self.clip(name), drop_path=config.drop_path)
        # On the CPU, inductor takes a minute even for the smallest network.
        backend = partial(torch.compile, backend="aot_eager") if self.is_tiny else torch.compile
        with mock.patch.object(torch, "compile", backend):
            trainer = Trainer(model, config, device=self.device, steps_per_epoch=1000)
        trainer.set_mode(0)
        return trainer

    def free_memory(self) -> None:
        gc.collect()
        if not self.is_tiny:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def rate(self, name: str, clips_per_s: float, precision: str) -> dict[str, float]:
        """Return clips/s with derived figures; `share` is relative to the device's own rate of matrix products."""
        # The backward pass computes two products for each product of the forward pass.
        macs = 3e9 * _gmacs(name, self.clip(name))
        share = clips_per_s * macs / _matrix_rate(precision, self.device)
        return {
            "clips_per_s": clips_per_s,
            "ms_per_clip": 1e3 / clips_per_s,
            "tflops": 2 * clips_per_s * macs / 1e12,
            "share": share,
        }


@contextmanager
def captured() -> Iterator[StringIO]:
    """Capture printed text without showing it."""
    with redirect_stdout(StringIO()) as text:
        yield text


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute fp32 products without TF32."""
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(earlier)


def replace_attention(model: nn.Module, attention: type[nn.Module]) -> None:
    """Replace the attention of Swin's blocks by another class with the same parameters."""
    for module in model.modules():
        if isinstance(module, WindowAttention3d):
            module.__class__ = attention


def relative_error(value: Tensor, reference: Tensor) -> float:
    return ((value.float() - reference.float()).norm() / reference.float().norm()).item()


def is_out_of_memory(trainer: Trainer, micro_batch: int) -> bool:
    """Return whether the trainer ran out of memory and continued with fewer clips at once."""
    return trainer.micro_batch != micro_batch


@lru_cache
def _gmacs(name: str, clip: ClipConfig) -> float:
    return measure_cost(name, clip=clip).gmacs


@lru_cache
def _matrix_rate(precision: str, device: torch.device) -> float:
    return matrix_rate(precision, device)


def _print(row: dict[str, Any]) -> None:
    rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
    print(json.dumps(rounded), flush=True)
