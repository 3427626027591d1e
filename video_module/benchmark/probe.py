"""Test how well a probe learns new actions from few videos, compared with training from scratch on the same videos.

The probed networks come from `python -m video_module.demo --seed N`. Their last layers are fitted to four drawn actions
that the demo does not have, while other networks learn these from scratch. Both are tested in unseen scenes.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from video_module.config import TrainConfig
from video_module.data.dataset import EvaluationLoader, EvaluationViews, Views, label_indices, read_steps
from video_module.data.drawing import FURTHER_ACTIONS, FURTHER_REVERSED_PAIRS, draw_dataset
from video_module.data.records import VideoRecord, name_source, scan
from video_module.engine.distributed import Group
from video_module.engine.evaluation import score_videos, torch_scorer
from video_module.engine.features import expose_features, network_digest, replace_head
from video_module.engine.probe import fit_probe, load_examples
from video_module.engine.step import Trainer
from video_module.engine.training_data import TrainingData
from video_module.machine import default_num_workers
from video_module.models.recognizer import Recognizer, build_model
from video_module.models.registry import NO_WEIGHTS, get_spec

_MODEL = "swin3d_nano"
_NUM_TEST_SOURCES = 20
_CPU = torch.device("cpu")
_WAYS = ("probe", "fine-tuned from it", "from scratch")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each number of videos per class and way to learn, with the top-1 mean and that of each seed."""
    results: dict[tuple[int, str], list[dict[str, float]]] = {}
    for seed, weights in enumerate(args.weights):
        with TemporaryDirectory() as folder:
            for key, result in _run_seed(Path(folder), seed, weights, args).items():
                results.setdefault(key, []).append(result)
    return [
        {
            "videos per class": number,
            "way": way,
            "top-1": float(np.mean([result["all"] for result in results[number, way]])),
            "by seed": " ".join(f"{result['all']:.3f}" for result in results[number, way]),
            "lift and lower": float(np.mean([result["pair"] for result in results[number, way]])),
            "seconds": float(np.mean([result["seconds"] for result in results[number, way]])),
        }
        for number in args.num_videos
        for way in _WAYS
    ]


def _run_seed(
    folder: Path, seed: int, weights: Path, args: argparse.Namespace
) -> dict[tuple[int, str], dict[str, float]]:
    """Return {(videos per class, way): {"all": top-1, "pair": top-1 of lift and lower, "seconds": …}}."""
    most = max(args.num_videos)
    draw_dataset(
        folder / "clips",
        actions=FURTHER_ACTIONS,
        num_sources=most + _NUM_TEST_SOURCES,
        clips_per_source=1,
        # Demos have small seeds, so their scenes are different.
        seed=seed + 1000,
        num_workers=default_num_workers(),
    )
    data = _data(folder / "clips", FURTHER_ACTIONS)
    scenes = sorted({video.source for video in data.train_videos})
    test = [video for video in data.train_videos if video.source in scenes[most:]]
    results = {}
    for number in args.num_videos:
        few = replace(data, train_videos=[v for v in data.train_videos if v.source in scenes[:number]])
        for way in _WAYS:
            begin = time.perf_counter()
            if way == "probe":
                model = probed = _probe(few, weights, folder / f"features_{number}.npz", seed=seed)
            else:
                start = probed if way == "fine-tuned from it" else None
                model = _train(few, start, seed=seed, num_clips=args.num_clips)
            seconds = time.perf_counter() - begin
            results[number, way] = result = _test(model, few, test) | {"seconds": seconds}
            print(f"seed {seed}, {number} videos per class, {way}: {result['all']:.3f}", flush=True)
    return results


def _data(root: Path, class_names: tuple[str, ...]) -> TrainingData:
    videos, _, _ = scan(root, source_of=name_source, num_workers=default_num_workers())
    clip = get_spec(_MODEL).clip
    return TrainingData(
        train_dir=root, val_dir=root, clip=clip, class_names=list(class_names), train_videos=videos, val_videos=[]
    )


def _train(data: TrainingData, start: Recognizer | None, *, seed: int, num_clips: int) -> Recognizer:
    """Train with the model's recipe, from scratch or from a probe, for about `num_clips` clips."""
    given = {"seed": seed, "num_epochs": max(1, round(num_clips / len(data.train_videos)))}
    config = get_spec(_MODEL).train_config(weights="a probe" if start else NO_WEIGHTS, given=given)
    loaders = data.loaders(config, group=Group(device="cpu"), num_workers=default_num_workers(), pin_memory=False)
    model = build_model(_MODEL, num_classes=len(data.class_names), drop_path=config.drop_path, seed=seed)
    if start:
        model.backbone.load_state_dict(start.backbone.state_dict())
    trainer = Trainer(model, config, device=_CPU, steps_per_epoch=loaders.sampler.num_steps)
    for epoch in range(config.num_epochs):
        loaders.sampler.epoch = epoch
        trainer.set_mode(epoch)
        for step, batches in enumerate(read_steps(loaders.train, loaders.sampler)):
            trainer.train_step(batches, epoch, step=step)
    return trainer.validated


def _probe(data: TrainingData, weights: Path, cache: Path, *, seed: int) -> Recognizer:
    """Fit a probe like train_model.py --probe, but run the network in torch, because it is small."""
    model = build_model(_MODEL, num_classes=len(data.class_names), weights=str(weights), seed=seed).eval()
    network = network_digest(model, precision="fp32")
    expose_features(model)
    examples = load_examples(
        data,
        TrainConfig(seed=seed),
        cache,
        lambda: torch_scorer(model, device=_CPU),
        network=network,
        num_workers=default_num_workers(),
    )
    head = fit_probe(examples, seed=seed).head
    replace_head(model, torch.from_numpy(head.weight), torch.from_numpy(head.bias))
    return model


def _test(model: Recognizer, data: TrainingData, videos: list[VideoRecord]) -> dict[str, float]:
    views = EvaluationViews(data.train_dir, videos, data.clip, Views())
    loader = EvaluationLoader(views, num_workers=default_num_workers())
    scores = score_videos(torch_scorer(model, device=_CPU), loader, batch_size=8)
    hits = scores.video_scores.argmax(axis=1) == np.array(label_indices(videos, data.class_names))
    [pair] = FURTHER_REVERSED_PAIRS
    return {"all": float(hits.mean()), "pair": float(hits[[video.label in pair for video in videos]].mean())}
