"""Measure how fast a trained model runs in torch, eager and compiled, and as ONNX files on each runtime."""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from video_module.config import DEFAULT_OPSET, PRECISIONS, ClipConfig
from video_module.data.decoding import count_frames
from video_module.data.drawing import ACTIONS, draw_recording
from video_module.data.sampling import window_starts
from video_module.errors import InputError
from video_module.inference.latency import measure_latency
from video_module.inference.predictor import Predictor, cpu_batch_size, load_predictor
from video_module.inference.runtimes import runs_on_cpu, usable_runtimes


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each way of running the model."""
    with tempfile.TemporaryDirectory() as folder:
        paths = args.model or untrained_files(args.model_type, Path(folder))
        predictors = _load_candidates(paths, args)
        clip = next(iter(predictors.values())).clip
        if others := [name for (name, _), predictor in predictors.items() if predictor.clip != clip]:
            raise InputError(f"{others[0]}: its clips differ from those of {paths[0].name}; compare files of one model")
        video = args.video_path or _draw_video(Path(folder), args.duration_s)
        return _measure(predictors, video, clip=clip, batch_size=args.batch_size)


def untrained_files(model_type: str, folder: Path, *, num_classes: int = 51) -> list[Path]:
    """Write a checkpoint and one ONNX file per precision with random weights, which run as fast as trained ones."""
    from video_module.engine.checkpoint import Checkpoint, save_checkpoint
    from video_module.inference import export
    from video_module.inference.precisions import in_precision
    from video_module.models.recognizer import build_model

    class_names = [f"class {number}" for number in range(num_classes)]
    model = build_model(model_type, num_classes=num_classes).eval()
    checkpoint = Checkpoint(
        model=model_type, weights=model.backbone.state_dict(), clip=model.clip, class_names=class_names
    )
    paths = [folder / f"{model_type}.pth"]
    save_checkpoint(paths[0], checkpoint)
    fp32 = export.trace(model)
    for precision in PRECISIONS:
        paths.append(folder / f"{model_type}_{precision}.onnx")
        metadata = export.metadata_of(checkpoint, precision=precision, opset=DEFAULT_OPSET)
        export.save_onnx(in_precision(fp32, precision), paths[-1], metadata)
    return paths


def _load_candidates(paths: Sequence[Path], args: argparse.Namespace) -> dict[tuple[str, str], Predictor]:
    """Load the predictors and return them by (file name, way of running it).

    A .pth file runs eager and compiled. An .onnx file runs on each runtime of the machine, unless --device names one.
    """
    predictors = {}
    runtimes = usable_runtimes() if args.device == "auto" else [args.device]
    for path in paths:
        if any(name == path.name for name, _ in predictors):
            raise InputError(f"{path}: two files are named {path.name}; rename one to tell them apart in the table")
        if path.suffix.lower() == ".onnx":
            for device in runtimes:
                predictor = load_predictor(path, device=device, num_threads=args.num_threads)
                predictors[path.name, f"onnxruntime, {device}"] = predictor
        else:
            predictor = load_predictor(path, device=args.device, num_threads=args.num_threads)
            predictors[path.name, f"torch eager, {predictor.device}"] = predictor
            if args.compile:
                compiled = replace(predictor, score_clips=_compiled(path, predictor))
                predictors[path.name, f"torch compiled, {predictor.device}"] = compiled
    return predictors


def _compiled(path: Path, predictor: Predictor) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint
    from video_module.engine.evaluation import torch_scorer

    device = torch.device(predictor.device)
    score_clips = torch_scorer(torch.compile(build_from_checkpoint(load_checkpoint(path)).to(device)), device=device)
    try:
        score_clips(np.zeros((1, *predictor.clip.shape), np.uint8))
    except Exception as error:
        # Compiling can fail in many ways, such as without a C++ compiler, and torch has no common exception class.
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"torch.compile failed ({type(error).__name__}: {reason}); skip it with --no-compile"
        ) from None
    return score_clips


def _draw_video(folder: Path, duration_s: float) -> Path:
    """Draw a video of whole actions, 1.4 s each."""
    each_s = 1.4
    actions = islice(cycle(ACTIONS), max(1, round(duration_s / each_s)))
    draw_recording(folder / "drawn.avi", list(actions), seconds_each=each_s)
    return folder / "drawn.avi"


def _measure(
    predictors: dict[tuple[str, str], Predictor], video: Path, *, clip: ClipConfig, batch_size: int
) -> list[dict[str, Any]]:
    num_frames, info = count_frames(video)
    duration_s = num_frames / info.fps
    num_windows = len(window_starts(num_frames, clip, None, fps=info.fps))
    noise = np.random.default_rng(0).integers(0, 256, (batch_size, *clip.shape), np.uint8)
    # Run each batch size once untimed, because compiled networks compile again for it and others allocate memory.
    for predictor in predictors.values():
        most = cpu_batch_size(clip) if runs_on_cpu(predictor.device) else batch_size
        for size in {min(most, size) for size in (1, batch_size, num_windows % batch_size)} - {0}:
            predictor.score_clips(noise[:size])
    one = measure_latency({key: partial(predictor.score_clips, noise[:1]) for key, predictor in predictors.items()})
    taken_s = {}
    for key, predictor in predictors.items():
        begin = time.perf_counter()
        predictor.predict_video(video, batch_size=batch_size)
        taken_s[key] = time.perf_counter() - begin
    best_ms, best_s = min(latency.median_ms for latency in one.values()), min(taken_s.values())
    return [
        {
            "file": key[0],
            "on": key[1],
            "one clip, ms": one[key].median_ms,
            "p95": one[key].p95_ms,
            "over best": one[key].median_ms / best_ms,
            f"{duration_s:.0f} s of video ({num_windows} clips), s": taken_s[key],
            "times real time": duration_s / taken_s[key],
            "over best of these": taken_s[key] / best_s,
        }
        for key in predictors
    ]
