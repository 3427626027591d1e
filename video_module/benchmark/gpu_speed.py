"""Parts of `benchmark gpu` that measure speed: steps, longest kernels, other networks, evaluation and loaders."""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from video_module.benchmark.gpu_checks import compare, gradient
from video_module.benchmark.gpu_kernels import AttentionAsItWas, copy_rate
from video_module.benchmark.gpu_setup import (
    MIXED,
    PLAIN,
    Setup,
    captured,
    is_out_of_memory,
    replace_attention,
    unmixed,
)
from video_module.benchmark.train import (
    hmdb51_clips,
    matrix_rate,
    measure_with_loader,
    original_step,
    peak_gb,
    time_step,
)
from video_module.engine.step import Trainer
from video_module.machine import available_cores, describe_machine
from video_module.models.registry import get_spec


def versions(setup: Setup) -> None:
    """Print the machine, its GPU and the versions of packages that affect speed."""
    setup.emit("machine", **describe_machine(("torch", "torchvision", "triton", "numpy", "opencv-python-headless")))
    if Path("/dev/shm").is_dir():
        setup.emit("/dev/shm, through which loaders send clips", gb=shutil.disk_usage("/dev/shm").total / 1e9)
    if setup.is_tiny:
        setup.emit("card", skipped="no CUDA")
        return
    card = torch.cuda.get_device_properties(setup.device)
    setup.emit(
        "card",
        name=card.name,
        memory_gb=card.total_memory / 1e9,
        processors=card.multi_processor_count,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        driver=_driver(),
    )


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0] or None
    except (OSError, subprocess.TimeoutExpired):
        return None


# ---- whole steps


def speed(setup: Setup) -> None:
    """Measure time and memory of whole steps, of the original and of this trainer with its old and new attention."""
    for precision in dict.fromkeys(("fp32", setup.precision)):
        setup.emit(f"matrix products, {precision}", tflops=2 * matrix_rate(precision, setup.device) / 1e12)
    setup.emit("copies, read and written", gb_per_s=copy_rate(setup) / 1e9)
    few, many = setup.micro_batches[-2:]
    for name in setup.models:
        baseline = _time_original(setup, name)
        _time_trainer(setup, name, "as it was", few, baseline, attention=AttentionAsItWas)
        for at_once in (many, few):
            _time_trainer(setup, name, "eager", at_once, baseline)
            _time_trainer(setup, name, "checkpointed", at_once, baseline, checkpoint_activations=True)
        _time_trainer(setup, name, "eager, mixed, with the running mean", many, baseline, **MIXED)
        _measure_peaks(setup, name)


def _time_original(setup: Setup, name: str) -> float | None:
    """Measure clips/s of torchvision's network in fp32 with Adam and two clips per step.

    Returns None for networks that the original project does not have.
    """
    if name not in ("swin3d_t", "swin3d_s", "swin3d_b"):
        setup.emit(f"{name}: the original's way", skipped="the original does not have this network")
        return None
    setup.free_memory()
    step = original_step(get_spec(name), setup.clip(name), setup.device)
    rate = 2 / time_step(step, setup.device, num_steps=5, num_warmup=2)
    _emit_rate(setup, name, "the original's way", rate, precision="fp32", clips_at_once=2)
    return rate


def _time_trainer(
    setup: Setup,
    name: str,
    what: str,
    at_once: int,
    baseline: float | None = None,
    *,
    attention: type[nn.Module] | None = None,
    **given: Any,
) -> None:
    """Emit clips/s of whole steps, with `at_once` clips per pass."""
    setup.free_memory()
    trainer = setup.trainer(name, at_once, **{**unmixed(name), **given})
    if attention is not None:
        replace_attention(trainer.model, attention)
    num_clips = setup.effective_batch
    batches = setup.batches(name, num_clips, largest=max(16, at_once))
    begin = time.perf_counter()
    with captured() as printed:
        trainer.train_step(batches)
        first_s = time.perf_counter() - begin
        seconds = time_step(lambda: trainer.train_step(batches), setup.device, **setup.timing)
    what = f"{what}, {at_once} at once"
    if is_out_of_memory(trainer, at_once):
        setup.emit(f"{name}: {what}", skipped="out of memory")
        return
    if "torch.compile failed" in printed.getvalue():
        raise RuntimeError(printed.getvalue())
    rate = num_clips / seconds
    figures = {"times_the_original": rate / baseline} if baseline else {}
    _emit_rate(setup, name, what, rate, precision=trainer.precision, clips_at_once=at_once, first_s=first_s, **figures)


def compile(setup: Setup) -> None:
    """Compare loss and gradients of compiled and eager steps, and measure speed and the longest kernels."""
    at_once = setup.micro_batches[-1]
    for name in setup.models:
        batches = setup.batches(name, at_once)
        results = []
        for is_compiled in (False, True):
            trainer = setup.trainer(name, at_once, compile=is_compiled, **unmixed(name))
            with captured():
                loss, _ = trainer.train_step(batches)
            results.append((loss.item(), gradient(trainer.model)))
        compare(setup, f"{name} compiled against eager", results[1], results[0])
        del trainer
        for what, given in (("compiled", {}), ("compiled, mixed, with the running mean", MIXED)):
            _time_trainer(setup, name, what, at_once, compile=True, **given)
        # Profile a whole step as in the recipe, to compare its time with that of its kernels.
        trainer = setup.trainer(name, at_once, compile=True, **{**unmixed(name), **MIXED})
        _emit_kernels(setup, f"{name} compiled, mixed", trainer, num_clips=setup.effective_batch)


def _emit_rate(setup: Setup, name: str, what: str, rate: float, *, precision: str, **figures: Any) -> None:
    hours = hmdb51_clips(get_spec(name)) / rate / 3600
    figures |= {"peak_gb": peak_gb(setup.device), "hours_for_hmdb51": hours}
    setup.emit(f"{name}: {what}", precision=precision, **setup.rate(name, rate, precision), **figures)


def _measure_peaks(setup: Setup, name: str) -> None:
    """Measure the peak memory of a step of a single pass for each number of clips."""
    trainer = setup.trainer(name, 1, **PLAIN)
    peaks = {}
    for at_once in setup.micro_batches:
        trainer.micro_batch = at_once
        batches = setup.batches(name, at_once)
        trainer.train_step(batches)  # creates the optimiser's state
        setup.free_memory()
        trainer.train_step(batches)
        peaks[str(at_once)] = peak_gb(setup.device)
    setup.emit(f"{name}: peak memory in GB by clips at once", **peaks)


# ---- the longest kernels


def profile(setup: Setup) -> None:
    """Emit the longest kernels of a step of a single pass."""
    at_once = setup.micro_batches[-1]
    trainer = setup.trainer(setup.model, at_once, **PLAIN)
    _emit_kernels(setup, f"{setup.model} eager", trainer, num_clips=at_once)


def _emit_kernels(setup: Setup, what: str, trainer: Trainer, *, num_clips: int, most: int = 25) -> None:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    batches = setup.batches(trainer.model.name, num_clips)
    seconds = time_step(lambda: trainer.train_step(batches), setup.device, **setup.timing)
    activity, kind = ProfilerActivity.CUDA, DeviceType.CUDA
    if setup.is_tiny:
        activity, kind = ProfilerActivity.CPU, DeviceType.CPU
    else:
        torch.cuda.synchronize(setup.device)
    with profiler(activities=[activity]) as recorded:
        trainer.train_step(batches)
        if not setup.is_tiny:
            torch.cuda.synchronize(setup.device)
    name = "self_cpu_time_total" if setup.is_tiny else "self_device_time_total"
    times = [
        (getattr(event, name), event)
        for event in recorded.key_averages()
        if event.device_type == kind and not event.is_user_annotation  # annotations would count kernels twice
    ]
    total = sum(duration for duration, _ in times)
    figures = {"step_ms": 1e3 * seconds, "kernels_ms": total / 1e3, "clips": num_clips, "kinds": len(times)}
    setup.emit(f"{what}: a step and all its kernels", **figures)
    longest = sorted(times, key=lambda pair: -pair[0])[:most]
    for rank, (duration, event) in enumerate(longest, start=1):
        figures = {"rank": rank, "ms": duration / 1e3, "calls": event.count, "share": duration / total}
        setup.emit(f"{what}: {event.key[:80]}", **figures)


# ---- other networks, and evaluation


def networks(setup: Setup) -> None:
    """Time evaluation in each precision, then other networks with and without cuDNN's search and channels last."""
    for name in setup.models:
        for precision in ("bf16", "fp32") if setup.is_tiny else ("bf16", "fp32", "tf32"):
            setup.free_memory()
            _time_evaluation(setup, name, precision)
    at_once = setup.micro_batches[-1]
    for name in ("r2plus1d_18", "mvit_v2_s"):
        ways = [(False, False), (True, True)] if setup.is_tiny else product((False, True), repeat=2)
        for searches, channels_last in ways:
            with _cudnn_search(searches):
                _time_layout(setup, name, at_once, channels_last=channels_last, searches=searches)


@contextmanager
def _cudnn_search(is_on: bool) -> Iterator[None]:
    earlier = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = earlier


def _time_layout(setup: Setup, name: str, at_once: int, *, channels_last: bool, searches: bool) -> None:
    setup.free_memory()
    given = {key: value for key, value in PLAIN.items() if key != "drop_path"}
    trainer = setup.trainer(name, at_once, **given)
    torch.backends.cudnn.benchmark = searches  # the trainer may have changed it
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    trainer.model.to(memory_format=layout)
    # Clips come as (N, T, H, W, 3), which is already channels last.
    hook = lambda module, inputs: (inputs[0].contiguous(memory_format=layout),)
    trainer.model.backbone.register_forward_pre_hook(hook)
    batches = setup.batches(name, at_once)
    seconds = time_step(lambda: trainer.train_step(batches), setup.device, **setup.timing)
    words = [f"{name}, {at_once} at once", "channels last" if channels_last else "channels first"]
    words.append("cuDNN benchmark on" if searches else "cuDNN benchmark off")
    rate = setup.rate(name, at_once / seconds, trainer.precision)
    setup.emit(", ".join(words), **rate, peak_gb=peak_gb(setup.device))


def _time_evaluation(setup: Setup, name: str, precision: str) -> None:
    """Emit clips/s of the scorer of test_model.py with 12 views at once."""
    from video_module.engine.evaluation import torch_scorer

    [(clips, _, _)] = setup.batches(name, 2 if setup.is_tiny else 12)
    score = torch_scorer(setup.build(name), device=setup.device, precision=precision)
    seconds = time_step(lambda: score(clips.numpy()), setup.device, **setup.timing)
    setup.emit(f"{name}: evaluation, {precision}", clips_per_s=len(clips) / seconds, peak_gb=peak_gb(setup.device))


# ---- from files


def loader(setup: Setup) -> None:
    """Time the training loader alone, then training from files in comparison with clips in memory."""
    import albumentations  # noqa: F401 (the loader needs it)

    from video_module.benchmark.loader import draw_videos

    num_videos = 8 if setup.is_tiny else 512
    with tempfile.TemporaryDirectory() as folder:
        root = setup.data_dir or draw_videos(Path(folder), min(48, num_videos))
        rates = {}
        for num_workers in sorted({min(available_cores(), number) for number in (8, 16)}):
            rates[num_workers] = _loader_rate(setup, root, num_videos, num_workers)
            setup.emit(f"loader alone, {num_workers} workers", clips_per_s=rates[num_workers])
        best = max(rates, key=rates.get)
        for name, compiled in product(setup.models, (False, True)):
            _time_files(setup, name, root, compiled=compiled, num_videos=num_videos, num_workers=best)


def _time_files(setup: Setup, name: str, root: Path, *, compiled: bool, num_videos: int, num_workers: int) -> None:
    """Emit clips/s of training on files and on clips in memory. A compiled network is harder to keep supplied."""
    setup.free_memory()
    trainer = setup.trainer(name, setup.micro_batches[-1], compile=compiled, **unmixed(name))
    batches = setup.batches(name, setup.effective_batch)
    in_memory = setup.effective_batch / time_step(lambda: trainer.train_step(batches), setup.device, **setup.timing)
    given = {"data_dir": root, "num_videos": num_videos, "num_workers": num_workers}
    rate = measure_with_loader(trainer, setup.clip(name), argparse.Namespace(**given))
    figures = {"clips_per_s": rate, "in_memory_per_s": in_memory, "of_in_memory": rate / in_memory}
    way = "compiled" if compiled else "eager"
    setup.emit(f"{name}: from files, {way}, {num_workers} workers", **figures)


def _loader_rate(setup: Setup, root: Path, num_videos: int, num_workers: int) -> float:
    """Measure clips/s of an epoch, after a first one in which the workers start."""
    from video_module.benchmark.loader import repeat_to
    from video_module.data.dataset import TrainingClips, training_loader
    from video_module.data.records import load_videos

    videos = repeat_to(load_videos(root, num_workers=num_workers), num_videos)
    config = get_spec(setup.model).train_config(weights="none", given={})
    clips = TrainingClips(root, videos, sorted({video.label for video in videos}), setup.clip(setup.model), config)
    reader, sampler = training_loader(
        clips, effective_batch=setup.effective_batch, num_workers=num_workers, pin_memory=not setup.is_tiny
    )
    for sampler.epoch in range(2):
        begin = time.perf_counter()
        num_clips = sum(len(labels) for _, labels, _ in reader)
    return num_clips / (time.perf_counter() - begin)
