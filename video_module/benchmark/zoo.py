"""Compare the cost per clip and the speed of training and serving of all architectures.

All networks have random weights. Accuracy is not measured, because that takes published weights or hours of training
on a GPU.
"""

import argparse
import gc
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from video_module.benchmark.predict import untrained_files
from video_module.benchmark.train import time_step
from video_module.benchmark.zoo_picture import draw_zoo
from video_module.config import PRECISIONS
from video_module.engine.device import choose_device
from video_module.engine.step import Trainer
from video_module.files import check_output
from video_module.inference.latency import measure_latency
from video_module.inference.predictor import load_predictor
from video_module.models.cost import measure_cost
from video_module.models.recognizer import build_model
from video_module.models.registry import NO_WEIGHTS, get_spec
from video_module.report.style import save

# As in Kinetics-400 and in the table of train_model.py --list_models.
_NUM_CLASSES = 400
# A training batch has at most this many pixel values, or one clip. swin3d_b takes 9 GB for a clip of 32x224x224.
_BATCH_VALUES = 2**23
# Training steps are timed for about this long.
_TRAINING_S = 20.0


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each model."""
    check_output(args.output_dir, folder=True)
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    rows = []
    for name in tqdm(dict.fromkeys(args.models), unit="model"):
        cost = measure_cost(name, num_classes=_NUM_CLASSES)
        row = {"model": name, "M params": cost.num_parameters / 1e6, "GMACs": cost.gmacs}
        row["train clips/s"] = _measure_training(name, choose_device(args.device))
        rows.append(row | _measure_serving(name, num_threads=args.num_threads))
        # Free gigabytes before the next network is built.
        gc.collect()
    return rows


def draw(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> Path:
    """Write the picture of the rows and return its path."""
    picture = args.output_dir / "zoo.png"
    save(draw_zoo(rows), picture)
    return picture


def batch_size_for(name: str) -> int:
    """Return the batch size of the model's recipe, or a smaller one if its clips are large."""
    spec = get_spec(name)
    recipe = spec.train_config(weights=NO_WEIGHTS, given={}).effective_batch
    return max(1, min(recipe, _BATCH_VALUES // math.prod(spec.clip.shape)))


def _measure_training(name: str, device: torch.device) -> float:
    """Measure the clips per second of training steps on noise, without reading, mixing or averaging."""
    size = batch_size_for(name)
    given = {"effective_batch": size, "batch_size": size, "num_repeats": 1}
    given |= {"mixup": 0.0, "cutmix": 0.0, "ema_decay": 0.0}
    config = get_spec(name).train_config(weights=NO_WEIGHTS, given=given)
    model = build_model(name, num_classes=_NUM_CLASSES, drop_path=config.drop_path, seed=config.seed)
    trainer = Trainer(model, config, device=device, steps_per_epoch=1000)
    trainer.set_mode(0)
    clips = torch.randint(0, 256, (size, *model.clip.shape), dtype=torch.uint8)
    batch = [(clips, torch.randint(0, _NUM_CLASSES, (size,)), [])]
    step = partial(trainer.train_step, batch)
    # The second step tells how many steps fit. The first one is slower, because it also allocates memory.
    estimate_s = time_step(step, device, num_steps=1, num_warmup=1)
    num_steps = max(1, round(_TRAINING_S / estimate_s))
    return size / time_step(step, device, num_steps=num_steps, num_warmup=0)


def _measure_serving(name: str, *, num_threads: int | None) -> dict[str, float]:
    """Return the size of each ONNX file and its median latency for one clip on the CPU."""
    noise = np.random.default_rng(0).integers(0, 256, (1, *get_spec(name).clip.shape), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        _, *files = untrained_files(name, Path(folder), num_classes=_NUM_CLASSES)
        paths = dict(zip(PRECISIONS, files, strict=True))
        predictors = {
            precision: load_predictor(path, device="cpu", num_threads=num_threads) for precision, path in paths.items()
        }
        latencies = measure_latency(
            {precision: partial(predictor.score_clips, noise) for precision, predictor in predictors.items()}
        )
        return {
            **{f"{precision} ms": latencies[precision].median_ms for precision in PRECISIONS},
            **{f"{precision} MB": path.stat().st_size / 1e6 for precision, path in paths.items()},
        }
