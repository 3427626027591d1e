"""Every architecture beside the others: cost, accuracy after the same time of training, speed of training and serving.

What is measured of a model is kept in <output_dir>/<model>.json part by part, so that a run that was broken off goes on
where it stopped, and parts can be measured in calls of their own. Only what was measured under the same conditions
comes into one table.
"""

import argparse
import gc
import importlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from video_module.benchmark.predict import untrained_files
from video_module.config import PRECISIONS, ClipConfig, TrainConfig
from video_module.data import audit, dataset, labels, splits
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.device import choose_device
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.files import check_output, read_text, write_json
from video_module.inference.export import weights_digest
from video_module.inference.latency import measure_latency
from video_module.inference.predictor import load_predictor
from video_module.machine import available_cores, describe_machine
from video_module.models.cost import measure_cost
from video_module.models.recognizer import Recognizer, build_model
from video_module.models.registry import NO_WEIGHTS, get_spec
from video_module.report.plots import plot_zoo

NUM_CLASSES = 400
"""Of the networks whose cost, size and speed are measured, as in train_model.py --list_models."""

_BATCH_VALUES = 2**23
"""Pixel values of a training batch at most (one clip at least): for one of 32x224x224, swin3d_b takes 9 GB."""

_LEAST_STEPS = 30  # that training takes, with smaller batches where the network is slow
_SPEED_S = 20.0  # of training steps that are timed
_WARM_UP_SHARE = 0.1  # of the training time; epochs mean nothing where a large network sees twenty clips

Step = Callable[[Sequence[dataset.Batch]], None]


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A model in the comparison: untrained, or as a checkpoint has it."""

    name: str
    clip: ClipConfig
    checkpoint: Path | None = None


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the parts asked for that are not there yet; one row for each model."""
    check_output(args.output_dir, folder=True)
    if args.num_threads:
        torch.set_num_threads(args.num_threads)
    entrants = find_entrants(args.models, args.checkpoints)
    wanted = [part for part in MEASURES if part in args.parts]
    if args.data_dir is None and {"train", "test"} & set(wanted):
        print("no --data_dir: nothing is trained or tested")
        wanted = [part for part in wanted if part not in ("train", "test")]
    for entrant in entrants:
        for part in wanted:
            measure_part(part, entrant, args)
    return make_rows(entrants, args.output_dir)


def draw(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> list[Path]:
    """Write the picture of the rows; returns what a run leaves in the output folder."""
    files = [args.output_dir / f"{row['model']}.json" for row in rows]
    tested = [path for row, path in zip(rows, files, strict=True) if row["top-1"] is not None]
    num_classes = read_parts(tested[0])["test"]["figures"]["num_classes"] if tested else None
    picture = args.output_dir / "zoo.png"
    plot_zoo(picture, rows, chance=1 / num_classes if num_classes else None)
    return [*(path for path in files if path.is_file()), picture]


def find_entrants(models: Sequence[str], checkpoints: Sequence[Path]) -> list[Entrant]:
    """The models by name, each once; a checkpoint stands in for its model, with the clips that it was trained on."""
    trained: dict[str, Entrant] = {}
    for path in checkpoints:
        checkpoint = load_checkpoint(path)
        if checkpoint.model in trained:
            raise InputError(f"{path}: {trained[checkpoint.model].checkpoint} is of {checkpoint.model} too; give one")
        trained[checkpoint.model] = Entrant(name=checkpoint.model, clip=checkpoint.clip, checkpoint=path)
    names = dict.fromkeys([*models, *trained])
    return [trained.get(name) or Entrant(name=name, clip=get_spec(name).clip) for name in names]


def measure_part(part: str, entrant: Entrant, args: argparse.Namespace) -> None:
    """Measure one part of a model unless its file already holds it, measured under the same conditions."""
    if part == "train" and entrant.checkpoint:
        return
    path = args.output_dir / f"{entrant.name}.json"
    conditions = json.loads(json.dumps(CONDITIONS[part](entrant, args)))  # as they come back from the file
    if read_parts(path).get(part, {}).get("conditions") == conditions:
        print(f"{entrant.name}: {part} is in {path}", flush=True)
        return
    begin = time.perf_counter()
    figures = MEASURES[part](entrant, args)
    # read again: other parts may have been measured meanwhile, in a call of their own
    known = read_parts(path) | {part: {"conditions": conditions, "figures": figures}}
    write_json(path, {name: known[name] for name in CONDITIONS if name in known})
    texts = [f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float)]
    print(f"{entrant.name}: {part} took {time.perf_counter() - begin:.0f} s: {', '.join(texts)}", flush=True)
    gc.collect()  # gigabytes, before the next network comes


def read_parts(path: Path) -> dict[str, dict[str, Any]]:
    """What a model's file holds. Raises InputError where it is not one of this benchmark."""
    if not path.is_file():
        return {}
    try:
        parts = json.loads(read_text(path))
        return {name: {key: parts[name][key] for key in ("conditions", "figures")} for name in parts}
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path}: not a file of this benchmark; choose another --output_dir") from None


# Conditions: what a figure depends on beside the model. Of one part, only `own` may differ from model to model.


def train_conditions(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    videos = splits.load_videos(args.data_dir / "train", num_workers=1)
    return {
        "train_s": args.train_s,
        "videos": splits.split_digest(args.data_dir / "train", videos),
        "device": str(choose_device(args.device)),
        **_on(args),
        "least_steps": _LEAST_STEPS,
        "own": {"clip": entrant.clip.to_dict(), "batch_size": batch_size_for(entrant)},
    }


def test_conditions(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    path = checkpoint_path(entrant, args)
    if not path.is_file():
        raise InputError(f"{path}: {entrant.name} is not trained yet; add train to --parts")
    videos = splits.load_videos(args.data_dir / "test", num_workers=1)
    return {
        "videos": splits.split_digest(args.data_dir / "test", videos),
        "num_clips": args.num_clips,
        "num_crops": args.num_crops,
        "own": {"weights": weights_digest(load_checkpoint(path))},
    }


def speed_conditions(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    own = {"clip": entrant.clip.to_dict(), "batch_size": batch_size_for(entrant)}
    return {"device": str(choose_device(args.device)), **_on(args), "own": own}


def latency_conditions(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    return {**_on(args), "own": {"clip": entrant.clip.to_dict()}}


def _on(args: argparse.Namespace) -> dict[str, Any]:
    return {"num_threads": args.num_threads or available_cores(), "machine": describe_machine()}


# Parts


def train(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    """Train from nothing for --train_s seconds, reading and augmenting included, and keep the checkpoint."""
    train_dir = args.data_dir / "train"
    class_names = labels.find_class_names(train_dir)
    videos = splits.load_videos(train_dir, num_workers=1)
    clips = dataset.TrainingClips(train_dir, videos, class_names, entrant.clip, config_for(entrant))
    device = choose_device(args.device)

    def fresh(config: TrainConfig, num_steps: int) -> tuple[Step, Iterator[list[dataset.Batch]], Recognizer]:
        loader, sampler = dataset.training_loader(
            clips, effective_batch=config.effective_batch, num_workers=args.num_workers, pin_memory=False
        )
        model = build_model(
            entrant.name,
            num_classes=len(class_names),
            clip=entrant.clip,
            drop_path=config.drop_path,
            seed=config.seed,
        )
        return stepper(model, config, device=device, num_steps=num_steps), endless(loader, sampler), model

    # how many clips there is time for: from a network that is thrown away, after a step that warms up
    step, batches, _ = fresh(config_for(entrant), num_steps=1000)
    run_steps(step, batches, duration_s=0)
    num_clips, _, taken_s = run_steps(step, batches, duration_s=0.02 * args.train_s)
    expected = args.train_s * num_clips / taken_s
    del step, batches
    gc.collect()
    config = config_for(entrant, at_most=int(expected) // _LEAST_STEPS)
    step, batches, model = fresh(config, num_steps=max(1, round(expected / config.effective_batch)))
    num_clips, num_steps, taken_s = run_steps(step, batches, duration_s=args.train_s)

    checkpoint = Checkpoint(
        model=entrant.name,
        weights={key: value.detach().cpu() for key, value in model.backbone.state_dict().items()},
        clip=entrant.clip,
        class_names=class_names,
        split_digest=splits.split_digest(train_dir, videos),
        train_sources=sorted({audit.hash_source(video.source) for video in videos}),
        train_clips=sorted({audit.hash_clip(video.path) for video in videos}),
        train_config=config.to_dict() | {"weights": NO_WEIGHTS, "class_weights": None},
        epoch=num_clips // len(clips),
    )
    save_checkpoint(checkpoint_path(entrant, args), checkpoint)
    return {
        "num_clips": num_clips,
        "num_steps": num_steps,
        "batch_size": config.effective_batch,
        "duration_s": taken_s,
        "num_videos": len(videos),
    }


def test(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    """What test_model.py says of the checkpoint."""
    path = checkpoint_path(entrant, args)
    importlib.import_module("test_model").main(
        ["--test_dir", str(args.data_dir / "test"), "--checkpoint", str(path)]
        + ["--output_dir", str(args.output_dir / entrant.name), "--device", args.device]
        + ["--num_clips", str(args.num_clips), "--num_crops", str(args.num_crops)]
        + ["--num_workers", str(args.num_workers)]
        + (["--num_threads", str(args.num_threads)] if args.num_threads else [])
    )
    results = json.loads(read_text(args.output_dir / entrant.name / f"{path.stem}_results.json"))
    return {
        "video_top1": results["video_top1"],
        "interval": results["intervals"].get("video_top1"),
        "num_videos": results["num_videos"],
        "num_sources": results["num_sources"],
        "num_classes": len(results["per_class"]),
        "checkpoint": entrant.checkpoint and str(entrant.checkpoint),
    }


def measure_speed(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    """Training steps on noise: what the network takes, without reading."""
    config = config_for(entrant)
    model = build_model(
        entrant.name, num_classes=NUM_CLASSES, clip=entrant.clip, drop_path=config.drop_path, seed=config.seed
    )
    step = stepper(model, config, device=choose_device(args.device), num_steps=1000)
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.integers(0, 256, (config.effective_batch, *entrant.clip.shape), np.uint8))
    noise = repeat([(clips, torch.from_numpy(rng.integers(0, NUM_CLASSES, config.effective_batch)), [])])
    run_steps(step, noise, duration_s=0)  # warms up
    num_clips, num_steps, taken_s = run_steps(step, noise, duration_s=_SPEED_S)
    return {"clips_per_s": num_clips / taken_s, "batch_size": config.effective_batch, "num_steps": num_steps}


def latency(entrant: Entrant, args: argparse.Namespace) -> dict[str, Any]:
    """Sizes of the ONNX files of random weights, and how long each takes for one clip on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        _, *paths = untrained_files(entrant.name, Path(folder), num_classes=NUM_CLASSES, clip=entrant.clip)
        sizes = {precision: path.stat().st_size / 1e6 for precision, path in zip(PRECISIONS, paths, strict=True)}
        noise = np.random.default_rng(0).integers(0, 256, (1, *entrant.clip.shape), np.uint8)
        latencies = measure_latency(
            {
                precision: partial(load_predictor(path, device="cpu", num_threads=args.num_threads).score_clips, noise)
                for precision, path in zip(PRECISIONS, paths, strict=True)
            }
        )
    figures = {f"size_mb_{precision}": size for precision, size in sizes.items()}
    figures |= {f"median_ms_{precision}": latencies[precision].median_ms for precision in PRECISIONS}
    return figures | {f"p95_ms_{precision}": latencies[precision].p95_ms for precision in PRECISIONS}


CONDITIONS = {
    "train": train_conditions,
    "test": test_conditions,
    "speed": speed_conditions,
    "latency": latency_conditions,
}
MEASURES = {"train": train, "test": test, "speed": measure_speed, "latency": latency}


def checkpoint_path(entrant: Entrant, args: argparse.Namespace) -> Path:
    """The given checkpoint, or the one that training for --train_s leaves."""
    return entrant.checkpoint or args.output_dir / entrant.name / f"{entrant.name}.pth"


def batch_size_for(entrant: Entrant) -> int:
    """The recipe's batch, or less where clips are large."""
    recipe = get_spec(entrant.name).train_config(weights=NO_WEIGHTS, given={}).effective_batch
    return max(1, min(recipe, _BATCH_VALUES // math.prod(entrant.clip.shape)))


def config_for(entrant: Entrant, *, at_most: int | None = None) -> TrainConfig:
    """The recipe for a few minutes from nothing: small steps (of `at_most` clips) at the full rate, one draw of a
    video, nothing mixed or averaged."""
    size = batch_size_for(entrant) if at_most is None else max(1, min(batch_size_for(entrant), at_most))
    given = {"effective_batch": size, "lr_batch": size, "batch_size": size, "num_repeats": 1}
    given |= {"mixup": 0.0, "cutmix": 0.0, "ema_decay": 0.0}
    return get_spec(entrant.name).train_config(weights=NO_WEIGHTS, given=given)


def stepper(model: Recognizer, config: TrainConfig, *, device: torch.device, num_steps: int) -> Step:
    """train_model.py's optimiser step under its schedule over `num_steps`, as a function of a step's loads that waits
    until it is done. All that is known of the Trainer here stands here."""
    schedule = replace(config, num_epochs=1, warmup_epochs=_WARM_UP_SHARE)
    trainer = Trainer(model, schedule, device=device, steps_per_epoch=num_steps)
    trainer.set_mode(0)

    def step(loads: Sequence[dataset.Batch]) -> None:
        loss, _ = trainer.train_step(loads, step=trainer.step)
        if not math.isfinite(loss.item()):  # item() waits for the device
            raise InputError(f"{model.name}: the loss is {loss.item()} at step {trainer.step}")

    return step


def endless(loader: DataLoader, sampler: dataset.StepSampler) -> Iterator[list[dataset.Batch]]:
    """The loads of each step, of one epoch after the other."""
    for epoch in count():
        sampler.epoch = epoch
        for loads in dataset.read_steps(loader, sampler):
            if failures := [failure for _, _, failed in loads for failure in failed]:
                raise InputError(failures[0])
            yield loads


def run_steps(step: Step, batches: Iterator[list[dataset.Batch]], *, duration_s: float) -> tuple[int, int, float]:
    """Take steps, one at least, while half of another still fits; returns (clips, steps, seconds taken)."""
    num_clips, num_steps, elapsed, begin = 0, 0, 0.0, time.perf_counter()
    while num_steps == 0 or elapsed + elapsed / num_steps / 2 <= duration_s:
        loads = next(batches)
        step(loads)
        num_clips += sum(len(targets) for _, targets, _ in loads)
        num_steps, elapsed = num_steps + 1, time.perf_counter() - begin
    return num_clips, num_steps, elapsed


# The table


def make_rows(entrants: Sequence[Entrant], output_dir: Path) -> list[dict[str, Any]]:
    """One row for each model, None where nothing was measured.

    Raises InputError where figures of one part were measured under different conditions.
    """
    parts = {}
    for entrant in entrants:
        known = read_parts(output_dir / f"{entrant.name}.json")
        parts[entrant.name] = {part: content for part, content in known.items() if is_of(entrant, part, content)}
    for part in CONDITIONS:
        check_alike(part, {name: known[part]["conditions"] for name, known in parts.items() if part in known})
    return [
        make_row(entrant, {part: known["figures"] for part, known in parts[entrant.name].items()})
        for entrant in entrants
    ]


def is_of(entrant: Entrant, part: str, content: dict[str, Any]) -> bool:
    """Whether a part was measured of this very model: of its checkpoint, if it has one, and of its clips."""
    if part == "test":
        return content["figures"]["checkpoint"] == (entrant.checkpoint and str(entrant.checkpoint))
    if part == "train" and entrant.checkpoint:
        return False
    return ClipConfig.from_dict(content["conditions"]["own"]["clip"]) == entrant.clip


def check_alike(part: str, conditions: dict[str, dict[str, Any]]) -> None:
    names = list(conditions)
    shared = {name: {key: value for key, value in conditions[name].items() if key != "own"} for name in names}
    for name in names[1:]:
        if shared[name] != shared[names[0]]:
            key = next(key for key in shared[name] if shared[name][key] != shared[names[0]].get(key))
            raise InputError(
                f"{part} of {names[0]} and {name} cannot stand in one table: {key} was {shared[names[0]].get(key)} and "
                f"{shared[name][key]}; measure all of them anew with --parts {part}, or name others with --models"
            )


def make_row(entrant: Entrant, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    cost = measure_cost(entrant.name, num_classes=NUM_CLASSES, clip=entrant.clip)
    trained, tested, speed, serving = (figures.get(part, {}) for part in CONDITIONS)
    low, high = tested.get("interval") or (None, None)
    return {
        "model": entrant.name,
        "M params": cost.num_parameters / 1e6,
        "GMACs": cost.gmacs,
        "clips seen": trained.get("num_clips"),
        "top-1": tested.get("video_top1"),
        "low": low,
        "high": high,
        "train clips/s": speed.get("clips_per_s"),
        **{f"{precision} ms": serving.get(f"median_ms_{precision}") for precision in PRECISIONS},
        **{f"{precision} MB": serving.get(f"size_mb_{precision}") for precision in PRECISIONS},
    }
