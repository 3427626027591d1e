"""Measure the speed of training steps by this trainer and by the original, and the device's peak speed, in one run.

The original trained torchvision's network in fp32 with Adam and two clips per step. The share of the device in use is
the rate of a step's multiply-adds, forward and backward, divided by the device's own rate in large matrix products.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from video_module.benchmark.loader import draw_videos, repeat_to
from video_module.config import ClipConfig
from video_module.data.dataset import Batch, TrainingClips, read_steps, training_loader
from video_module.data.records import load_videos
from video_module.engine.device import choose_device
from video_module.engine.loop import train_epoch
from video_module.engine.step import Trainer
from video_module.models.cost import measure_cost
from video_module.models.recognizer import build_model
from video_module.models.registry import ModelSpec, get_spec

_HMDB51_VIDEOS = 2857  # training videos of fold 1, without validation
NUM_CLASSES = 51
_BATCH = 16  # clips per batch, as in the loader
_COLUMNS = (
    *("clips/s", "times the original", "clips per pass", "peak TMAC/s", "share of peak", "over clips in memory"),
    *("peak GB", "h for HMDB51"),
)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    device = choose_device(args.device)
    rows = []
    for name in args.model_type:
        spec = get_spec(name)
        clip = spec.clip_config(clip_len=args.clip_len, img_size=args.img_size)
        rows += _measure_model(spec, clip, device, args)
    return rows


def _measure_model(
    spec: ModelSpec, clip: ClipConfig, device: torch.device, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return rows for one model: the original, and this trainer on clips in memory and from files."""
    # The backward pass computes two products for each product of the forward pass, for the weights and for the inputs.
    work = 3e9 * measure_cost(spec.name, clip=clip).gmacs
    timing = {"num_steps": args.num_steps, "num_warmup": args.num_warmup}
    rows, baseline = [], None
    if args.original and spec.name in ("swin3d_t", "swin3d_s", "swin3d_b"):
        reset_peak(device)
        baseline = 2 / time_step(original_step(spec, clip, device), device, **timing)
        ceiling = matrix_rate("fp32", device)
        row = {"clips/s": baseline, "times the original": 1.0, "clips per pass": 2, "peak TMAC/s": ceiling / 1e12}
        row |= {"share of peak": baseline * work / ceiling, "peak GB": peak_gb(device)}
        rows.append(_row(spec, "torchvision, fp32, 2 clips, Adam", row))

    reset_peak(device)
    settings = {"effective_batch": args.effective_batch, "batch_size": args.batch_size, "num_repeats": 1}
    settings |= {"checkpoint_activations": args.checkpoint_activations, "compile": args.compile}
    config = spec.train_config(weights="none", given=settings)
    model = build_model(spec.name, num_classes=NUM_CLASSES, clip=clip, drop_path=config.drop_path)
    trainer = Trainer(model, config, device=device, steps_per_epoch=1000)
    trainer.set_mode(0)
    batches = [
        drawn(clip, min(_BATCH, config.effective_batch - begin)) for begin in range(0, config.effective_batch, _BATCH)
    ]
    in_memory = config.effective_batch / time_step(lambda: trainer.train_step(batches), device, **timing)
    ceiling = matrix_rate(trainer.precision, device)
    row = {"clips/s": in_memory, "times the original": in_memory / baseline if baseline else None}
    row |= {"clips per pass": trainer.micro_batch, "peak TMAC/s": ceiling / 1e12}
    row |= {"share of peak": in_memory * work / ceiling}
    rows.append(_row(spec, f"this trainer, {trainer.precision}", row | {"peak GB": peak_gb(device)}))
    if args.num_videos:
        rate = measure_with_loader(trainer, clip, args)
        row = {"clips/s": rate, "times the original": rate / baseline if baseline else None}
        rows.append(_row(spec, "the same from files", row | {"over clips in memory": rate / in_memory}))
    return rows


def _row(spec: ModelSpec, what: str, figures: dict[str, Any]) -> dict[str, Any]:
    rate = figures.get("clips/s")
    row = {"what": f"{spec.name}: {what}", **dict.fromkeys(_COLUMNS)} | figures
    return row | {"h for HMDB51": hmdb51_clips(spec) / rate / 3600 if rate else None}


def hmdb51_clips(spec: ModelSpec) -> int:
    """Return the number of clips in a training run on one fold of HMDB51 with the model's recipe."""
    config = spec.train_config(weights=spec.default_weights, given={})
    return _HMDB51_VIDEOS * config.num_epochs * config.num_repeats


def time_step(step: Callable[[], Any], device: torch.device, *, num_steps: int, num_warmup: int) -> float:
    """Return the median seconds per step after `num_warmup` untimed steps; on CUDA, measured with events."""
    for _ in range(num_warmup):
        step()
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(num_steps):
            step()
            marks.append(time.perf_counter())
        return median(after - before for before, after in pairwise(marks))
    torch.cuda.synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(num_steps + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    events[-1].synchronize()
    return median(a.elapsed_time(b) for a, b in pairwise(events)) / 1e3


def matrix_rate(precision: str, device: torch.device) -> float:
    """Measure the multiply-adds per second of a large square matrix product, an upper limit for any network.

    In fp32, TF32 is off.
    """
    side = 8192 if device.type == "cuda" else 1024
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    earlier = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        seconds = time_step(lambda: a @ b, device, num_steps=20, num_warmup=5)
    finally:
        torch.set_float32_matmul_precision(earlier)
    return side**3 / seconds


def original_step(spec: ModelSpec, clip: ClipConfig, device: torch.device) -> Callable[[], None]:
    """Return a training step like the original's, with torchvision's attention, float clips and all in fp32."""
    from torchvision.models import get_model

    earlier = torch.get_float32_matmul_precision()
    network = get_model(spec.name, weights=None, num_classes=NUM_CLASSES).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    clips, labels, _ = drawn(clip, 2)
    clips = (clips.float() / 255).permute(0, 4, 1, 2, 3).contiguous().to(device)
    labels = labels.to(device)

    def step() -> None:
        torch.set_float32_matmul_precision("highest")
        optimizer.zero_grad()
        F.cross_entropy(network(clips), labels).backward()
        optimizer.step()
        torch.set_float32_matmul_precision(earlier)

    return step


def measure_with_loader(trainer: Trainer, clip: ClipConfig, args: argparse.Namespace) -> float:
    """Measure clips/s over an epoch of real files, after a first one as warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        root = args.data_dir or draw_videos(Path(folder), min(48, args.num_videos))
        videos = repeat_to(load_videos(root, num_workers=args.num_workers or 1), args.num_videos)
        clips = TrainingClips(root, videos, sorted({video.label for video in videos}), clip, trainer.config)
        loader, sampler = training_loader(
            clips,
            effective_batch=trainer.config.effective_batch,
            num_workers=args.num_workers,
            pin_memory=trainer.device.type == "cuda",
        )
        rows = []
        for sampler.epoch in range(2):
            rows.append(train_epoch(trainer, read_steps(loader, sampler), sampler.epoch, num_items=len(clips)))
    return rows[1]["clips_per_s"]


def drawn(clip: ClipConfig, num_clips: int) -> Batch:
    clips = torch.randint(0, 256, (num_clips, *clip.shape), dtype=torch.uint8)
    labels = torch.arange(num_clips) % NUM_CLASSES
    if torch.cuda.is_available():
        clips, labels = clips.pin_memory(), labels.pin_memory()
    return clips, labels, []


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
