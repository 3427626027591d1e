"""Compare this project's training recipe with the original's on the same folds, network and time on one core.

The original trained with Adam at a learning rate of 1e-4, on two clips per step and every window of consecutive frames,
with its own augmentation and no schedule. Both use this project's loader, so that only the recipes differ.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch

from video_module.config import ClipConfig, TrainConfig
from video_module.data.augmentation import Augmentation
from video_module.data.dataset import (
    EvaluationLoader,
    EvaluationViews,
    TrainingClips,
    Views,
    label_indices,
    read_steps,
    training_loader,
)
from video_module.data.records import VideoRecord, groups_source, name_source, scan
from video_module.data.splits import assign_sources
from video_module.engine.evaluation import score_videos, torch_scorer
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.files import read_text, write_json
from video_module.models.recognizer import Recognizer, build_model
from video_module.models.registry import get_spec
from video_module.report.statistics import intervals

_NUM_FOLDS = 5
_MODEL = "swin3d_nano"


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """A training recipe to compare."""

    what: str
    config: dict[str, Any]
    """Settings that differ from the model's recipe."""
    frame_stride: int | None = None
    is_scheduled: bool = True
    is_original: bool = False
    """Whether to use Adam and the original's augmentation."""


_RECIPES = {
    "recipe": _Recipe(what="the recipe", config={}),
    "original": _Recipe(
        what="the original's",
        config={
            "lr": 1e-4,
            "effective_batch": 2,
            "lr_batch": 2,
            "label_smoothing": 0.0,
            "sampling": "windows",
            "ema_decay": 0.0,
            "clip_grad_norm": 1e9,  # the original did not clip gradients
        },
        frame_stride=1,
        is_scheduled=False,
        is_original=True,
    ),
    "dense": _Recipe(what="recipe, all windows of stride 1", config={"sampling": "windows"}, frame_stride=1),
    "slow": _Recipe(what="recipe, 2 clips per step, lr 1e-4", config={"lr": 1e-4, "effective_batch": 2, "lr_batch": 2}),
    "flat": _Recipe(what="recipe, rate without schedule", config={"warmup_epochs": 0.0}, is_scheduled=False),
}


class _OriginalChanges(Augmentation):
    """The original's augmentation with random crop, flip, colours and a small rotation, drawn once per clip."""

    def __init__(self, clip: ClipConfig):
        super().__init__(clip, "none")
        self._rest = A.Compose(
            [
                A.RandomCrop(clip.crop, clip.crop),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, p=0.5),
                A.Rotate(limit=10, p=0.5),
            ]
        )

    def cropper(self, seed: int):
        height, width = self._clip.resize_hw
        return lambda frame: cv2.resize(frame, (width, height))


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Make the runs missing in `args.output_dir`, and return a row for each recipe whose runs are complete."""
    # Use one thread, so that several of these processes, each on its own core, do not slow each other down.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if args.core is not None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {args.core})
        else:
            raise InputError("--core: not supported on this system; leave it out")
    source_of = groups_source(args.groups) if args.groups else name_source
    videos, _, _ = scan(args.data_dir, source_of=source_of, num_workers=1)
    # One of the folds is called train, because assign_sources() expects a split of that name.
    names = ["train", *map(str, range(1, _NUM_FOLDS))]
    fold_of = assign_sources(videos, dict.fromkeys(names, 1 / _NUM_FOLDS), seed=0)
    runs = [(name, seed, fold) for seed in args.seeds for fold in range(_NUM_FOLDS) for name in args.recipes]
    for name, seed, fold in runs[args.part :: args.num_parts]:
        path = _path(args, name, seed, fold)
        if path.is_file():
            continue
        sides = [[v for v in videos if (fold_of[v.source] == names[fold]) == test] for test in (False, True)]
        result = _train_and_test(args.data_dir, *sides, recipe=_RECIPES[name], seed=seed, seconds=args.seconds)
        write_json(path, result)
        print(
            f"{name}, seed {seed}, fold {fold}: {np.mean(result['hits']):.3f}, {result['num_steps']} steps", flush=True
        )
    return [_summarise(name, args) for name in args.recipes if _results(name, args)]


def _path(args: argparse.Namespace, name: str, seed: int, fold: int) -> Path:
    return args.output_dir / f"{name}_{seed}_{fold}.json"


def _train_and_test(
    root: Path, train: Sequence[VideoRecord], test: Sequence[VideoRecord], *, recipe: _Recipe, seed: int, seconds: float
) -> dict[str, Any]:
    """Train for `seconds` of CPU time, which includes reading, and score the test videos."""
    spec = get_spec(_MODEL)
    clip = spec.clip_config(frame_stride=recipe.frame_stride)
    config = replace(spec.train_config(weights="none", given=recipe.config), seed=seed, max_failed_share=0.0)
    class_names = sorted({video.label for video in (*train, *test)})
    clips = TrainingClips(root, train, class_names, clip, config)
    if recipe.is_original:
        clips.augment = _OriginalChanges(clip)
    loader, sampler = training_loader(
        clips, effective_batch=config.effective_batch, num_workers=0, pin_memory=False, num_repeats=config.num_repeats
    )
    model = build_model(_MODEL, num_classes=len(class_names), clip=clip, drop_path=config.drop_path, seed=seed)
    begin, num_clips, epoch = time.process_time(), 0, 0

    def elapsed() -> float:
        return (time.process_time() - begin) / seconds

    trainer = _make_trainer(model, config, recipe, elapsed, steps_per_epoch=sampler.num_steps)
    while elapsed() < 1:
        sampler.epoch = epoch
        trainer.set_mode(0)
        for step, batches in enumerate(read_steps(loader, sampler)):
            if elapsed() >= 1:
                break
            trainer.train_step(batches, epoch, step=step)
            num_clips += sum(len(labels) for _, labels, _ in batches)
        epoch += 1
    taken = time.process_time() - begin  # CPU time, which does not depend on other load on the machine
    views = EvaluationViews(root, test, clip, Views())
    scores = score_videos(
        torch_scorer(trainer.validated, device=torch.device("cpu")),
        EvaluationLoader(views, num_workers=0),
        batch_size=12,
    )
    labels = label_indices(test, class_names)
    return {
        "sources": [video.source for video in test],
        "hits": (scores.video_scores.argmax(axis=1) == labels).astype(int).tolist(),
        "log_losses": (-np.log(scores.video_scores[np.arange(len(labels)), labels])).tolist(),
        "num_steps": trainer.step,
        "num_clips": num_clips,
        "num_epochs": num_clips / len(clips),
        "seconds": taken,
    }


def _make_trainer(
    model: Recognizer, config: TrainConfig, recipe: _Recipe, elapsed: Callable[[], float], *, steps_per_epoch: int
) -> Trainer:
    """Create a trainer whose learning rate follows `elapsed()`, the share of time used, instead of the step number."""
    trainer = Trainer(model, config, device=torch.device("cpu"), steps_per_epoch=steps_per_epoch)
    if recipe.is_original:
        trainer.optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    warmup = config.warmup_epochs / config.num_epochs

    def factor(_: int) -> float:
        if not recipe.is_scheduled:
            return 1.0
        progress = elapsed()
        if progress < warmup:
            return max(0.01, progress / warmup)
        return 0.5 * (1 + np.cos(np.pi * (min(1.0, progress) - warmup) / (1 - warmup)))

    trainer.schedule = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, factor)
    return trainer


def _summarise(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the top-1 over all videos, each tested once per seed, and its difference from the original's.

    Intervals are resampled by source.
    """
    results, others = _results(name, args), _results("original", args)
    hits = np.concatenate([result["hits"] for result in results])
    sources = [source for result in results for source in result["sources"]]
    row = {
        "what": _RECIPES[name].what,
        "top-1": float(hits.mean()),
        "interval": _interval(hits, sources),
        "by seed": " ".join(f"{part.mean():.3f}" for part in np.split(hits, len(args.seeds))),
        "log loss": float(np.mean(np.concatenate([result["log_losses"] for result in results]))),
        "clips seen": float(np.mean([result["num_clips"] for result in results])),
        "seconds": float(np.mean([result["seconds"] for result in results])),
        "above the original": None,
        "its interval": None,
    }
    if others and name != "original":
        difference = hits - np.concatenate([result["hits"] for result in others])
        row |= {"above the original": float(difference.mean()), "its interval": _interval(difference, sources)}
    return row


def _results(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the results of all seeds and folds, or an empty list if any is missing."""
    paths = [_path(args, name, seed, fold) for seed in args.seeds for fold in range(_NUM_FOLDS)]
    return [json.loads(read_text(path)) for path in paths] if all(path.is_file() for path in paths) else []


def _interval(values: np.ndarray, sources: Sequence[str]) -> str | None:
    tallies = {"values": np.column_stack([values, np.ones(len(values))])}
    interval = intervals(tallies, sources, lambda sums: {"mean": sums["values"][..., 0] / sums["values"][..., 1]})
    return " to ".join(f"{value:.3f}" for value in interval["mean"]) if interval["mean"] else None
