"""Parts of `benchmark gpu` that check correctness: precision, synchronisation, resuming and memory."""

import copy
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from video_module.benchmark.gpu_setup import (
    MIXED,
    PLAIN,
    Setup,
    captured,
    exact_products,
    is_out_of_memory,
    relative_error,
    replace_attention,
)
from video_module.data.dataset import Batch
from video_module.engine import memory
from video_module.engine.device import autocast
from video_module.engine.step import Trainer
from video_module.machine import available_cores
from video_module.models.recognizer import Recognizer

_PACKAGE, _BENCHMARK = Path(__file__).parents[1], Path(__file__).parent

# ---- accuracy


def accuracy(setup: Setup) -> None:
    """Check a whole network on two clips: fused attention, bf16, recomputed activations and the scaler of fp16."""
    [batch] = setup.batches(setup.small_model, 2)
    model = setup.build(setup.small_model)
    explicit = copy.deepcopy(model)
    replace_attention(explicit, ShiftedWindowAttention3d)
    with exact_products():
        logits, loss, gradient = _pass(model, batch, "fp32")
        other, _, other_gradient = _pass(explicit, batch, "fp32")
    error = ((logits - other).abs().max() / max(1.0, other.abs().max())).item()
    gradient_error = relative_error(gradient, other_gradient)
    figures = {"error_logits": error, "error_gradient": gradient_error, "bound": 1e-4, "ok": error <= 1e-4}
    setup.emit("fp32: fused against explicit attention", **figures)
    del explicit, other_gradient
    _, low_loss, low_gradient = _pass(model, batch, "bf16")
    compare(setup, "bf16 against fp32", (low_loss, low_gradient), (loss, gradient))

    model = setup.build(setup.small_model, drop_path=0.1)
    torch.use_deterministic_algorithms(True)
    try:
        logits, _, gradient = _pass(model, batch, setup.precision)
        model.recompute_blocks()
        other, _, other_gradient = _pass(model, batch, setup.precision)
    finally:
        torch.use_deterministic_algorithms(False)
    equal = torch.equal(logits, other) and torch.equal(gradient, other_gradient)
    difference = relative_error(other_gradient, gradient)
    setup.emit("checkpointed against plain, deterministic", error_gradient=difference, equal=equal, ok=equal)
    if setup.is_tiny:
        setup.emit("fp16: a gradient of infinity", skipped="fp16 needs CUDA")
    else:
        _check_scaler(setup, batch)


def _pass(model: Recognizer, batch: Batch, precision: str) -> tuple[Tensor, float, Tensor]:
    """Run a forward and backward pass and return logits, loss, and all gradients in one vector."""
    device = next(model.parameters()).device
    model.train().zero_grad()
    torch.manual_seed(0)
    with autocast(precision, device):
        logits = model(batch[0].to(device)).float()
    loss = F.cross_entropy(logits, batch[1].to(device))
    loss.backward()
    return logits.detach(), loss.item(), gradient(model)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def compare(setup: Setup, what: str, ours: tuple[float, Tensor], reference: tuple[float, Tensor]) -> None:
    """Check that two (loss, gradient) agree: losses within 1e-2, relative, and gradients with a cosine of 0.99."""
    error = abs(ours[0] - reference[0]) / abs(reference[0])
    cosine = F.cosine_similarity(ours[1].double(), reference[1].double(), dim=0).item()
    is_ok = error <= 1e-2 and cosine >= 0.99
    setup.emit(what, error_loss=error, bound=1e-2, cosine=cosine, least_cosine=0.99, ok=is_ok)


def _check_scaler(setup: Setup, batch: Batch) -> None:
    """Check that a step with infinite gradients changes only the scale, and that the model learns afterwards."""
    trainer = setup.trainer(setup.small_model, 2, precision="fp16", **PLAIN)
    trainer.train_step([batch])
    weight = trainer.model.head.weight
    scale, before = trainer.scaler.get_scale(), weight.detach().clone()
    hook = weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.train_step([batch], step=1)
    hook.remove()
    kept, halved = torch.equal(weight, before), trainer.scaler.get_scale() == scale / 2
    for step in (2, 3):  # two steps, because the initial scale is a guess and can still be too large
        loss, _ = trainer.train_step([batch], step=step)
    learned = not torch.equal(weight, before) and bool(loss.isfinite())
    is_ok = kept and halved and learned
    setup.emit("fp16: a gradient of infinity", kept=kept, halved=halved, learned=learned, ok=is_ok)


# ---- syncs


def syncs(setup: Setup) -> None:
    """Find the lines of this project that wait for the GPU in two mixed steps with the running mean."""
    micro_batch = setup.micro_batches[-2]
    trainer = setup.trainer(setup.model, micro_batch, **MIXED)
    batches = setup.batches(setup.model, 4 * micro_batch)
    trainer.train_step(batches)
    lines: Counter[str] = Counter()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing" not in str(message):
            return
        frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(_PACKAGE)]
        frames = [frame for frame in frames if not Path(frame.filename).is_relative_to(_BENCHMARK)]
        lines[f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        _set_sync_warnings(setup, "warn")
        try:
            for step in (1, 2):
                trainer.train_step(batches, step=step)
        finally:
            _set_sync_warnings(setup, "default")
    count = None if setup.is_tiny else sum(lines.values())
    setup.emit("two mixed steps", passes=8, clips_at_once=micro_batch, syncs=count, lines=dict(lines.most_common()))


def _set_sync_warnings(setup: Setup, mode: str) -> None:
    if not setup.is_tiny:
        torch.cuda.set_sync_debug_mode(mode)


# ---- resume

_KILLED = """
import os, signal, sys
from video_module.engine.state import StateKeeper
save = StateKeeper.save
def save_and_die(*args):
    save(*args)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has one way to end a process
StateKeeper.save = save_and_die
import train_model
train_model.main(sys.argv[1:])
"""


def resume(setup: Setup) -> None:
    """Check that a run killed after its third step and resumed ends with the weights of an uninterrupted run."""
    # train_model.py needs these packages. Without them, the part is skipped.
    import albumentations  # noqa: F401
    import matplotlib  # noqa: F401

    from video_module.engine.checkpoint import load_checkpoint
    from video_module.engine.state import last_path

    # On a GPU, cuDNN and index sums add in varying order. On the CPU, all results are equal bit for bit.
    kinds = {"": 0.0} if setup.is_tiny else {"": 1e-2, "--deterministic": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = ["--train_dir", str(_few_videos(setup.data_dir, folder / "videos")), "--num_workers", "0"]
        flags += ["--model_type", "swin3d_nano", "--num_epochs", "2", "--save_every", "3", "--batch_size", "2"]
        flags += ["--effective_batch", "2", "--device", str(setup.device)]
        script = [sys.executable, str(_PACKAGE.parent / "train_model.py"), *flags]
        killed = [sys.executable, "-c", _KILLED, *flags]
        begin, started = time.perf_counter(), {}
        for kind in kinds:
            ours = [*kind.split(), "--save_path"]
            started[kind] = _start([*script, *ours, f"whole{kind}.pth"], folder)
            started[f"{kind} killed"] = _start([*killed, *ours, f"cut{kind}.pth"], folder)
        for kind, process in started.items():
            _finish(process, is_killed=kind.endswith("killed"))
        setup.emit("trained whole and killed, side by side", runs=len(started), took_s=time.perf_counter() - begin)
        resumes = {
            kind: _start([*script, *kind.split(), "--save_path", f"cut{kind}.pth", "--resume"], folder)
            for kind in kinds
        }
        for kind, bound in kinds.items():
            resumed = _finish(resumes[kind])
            assert "and step 3 of" in resumed, resumed
            paths = [last_path(folder / f"{run}{kind}.pth") for run in ("whole", "cut")]
            states = [load_checkpoint(path).training["trainer"] for path in paths]
            setup.emit(f"killed after step 3 and resumed {kind}".strip(), **_compare_states(*states, bound))


def _few_videos(data_dir: Path | None, folder: Path) -> Path:
    """Create a folder of a dozen videos, copied from `data_dir` or drawn."""
    from video_module.benchmark.loader import draw_videos, repeat_to
    from video_module.data.records import load_videos

    if data_dir is None:
        return draw_videos(folder, 12)
    for video in repeat_to(load_videos(data_dir, num_workers=available_cores()), 12):
        path = folder / video.path
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_dir / video.path, path)
    return folder


def _compare_states(whole: dict[str, Any], cut: dict[str, Any], bound: float) -> dict[str, Any]:
    weights, others = (torch.cat([value.flatten() for value in state["model"].values()]) for state in (whole, cut))
    error, equal = relative_error(others, weights), torch.equal(others, weights)
    is_ok = error <= bound and whole["step"] == cut["step"]
    return {"steps": whole["step"], "error_weights": error, "equal": equal, "bound": bound, "ok": is_ok}


def _start(command: list[str], folder: Path) -> subprocess.Popen:
    paths = [str(_PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TQDM_DISABLE": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command, cwd=folder, env=environment, **output)


def _finish(process: subprocess.Popen, *, is_killed: bool = False) -> str:
    printed, _ = process.communicate()
    if is_killed != (process.returncode != 0):
        raise RuntimeError(f"train_model.py ended with {process.returncode}: {printed[-2000:].strip()}")
    return printed


# ---- batch size


def batch_size(setup: Setup) -> None:
    """Record the sizes that --batch_size auto tries and the memory of its choice, then run out of memory in a step."""
    name, tried = setup.model, []
    search = memory.micro_batch_on_cuda

    def noted_search(step: Any, *args: Any, **settings: Any) -> int:
        def noted_step(size: int) -> None:
            tried.append(size)
            step(size)

        return search(noted_step, *args, **settings)

    trainer = setup.trainer(name, "auto", **PLAIN)
    batches = setup.batches(name, setup.effective_batch)
    with mock.patch.object(memory, "micro_batch_on_cuda", noted_search), captured() as printed:
        trainer.train_step(batches)
        trainer.train_step(batches, step=1)
    figures = {
        "tried": list(dict.fromkeys(tried)),
        "clips_at_once": trainer.micro_batch,
        "printed": printed.getvalue().strip(),
    }
    setup.emit(f"{name}: auto", **figures, **_peaks(setup))
    del trainer
    setup.free_memory()
    if setup.is_tiny:
        setup.emit(f"{name}: out of memory", skipped="needs CUDA")
    else:
        _run_out_of_memory(setup, name, batches[0])


def _peaks(setup: Setup) -> dict[str, float]:
    if setup.is_tiny:
        return {}
    statistics = torch.cuda.memory_stats(setup.device)
    kinds = {"peak_gb": "allocated_bytes.all.peak", "reserved_gb": "reserved_bytes.all.peak"}
    return {name: statistics[kind] / 1e9 for name, kind in kinds.items()}


def _run_out_of_memory(setup: Setup, name: str, batch: Batch) -> None:
    """Check that the loss is the same with 8 clips at once when they fit into memory and when they do not.

    The memory limit lies halfway between the memory for 8 and for 4 clips.
    """
    losses, reserved, trainer = [], [], None
    for micro_batch in (8, 4):
        trainer = setup.trainer(name, micro_batch, **PLAIN)
        losses.append(_loss(trainer, batch))
        reserved.append(_peaks(setup)["reserved_gb"])
        del trainer
        setup.free_memory()
    limit = sum(reserved) / 2 * 1e9 / torch.cuda.get_device_properties(setup.device).total_memory
    torch.cuda.set_per_process_memory_fraction(limit, setup.device)
    try:
        trainer = setup.trainer(name, 8, **PLAIN)
        with captured() as printed:
            losses.append(_loss(trainer, batch))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, setup.device)
    error = abs(losses[2] - losses[0]) / losses[0]
    is_ok = is_out_of_memory(trainer, 8) and error <= 1e-3
    figures = {"reserved_gb": reserved, "fraction": limit, "clips_at_once": trainer.micro_batch, "losses": losses}
    setup.emit(f"{name}: out of memory", **figures, printed=printed.getvalue().strip(), error_loss=error, ok=is_ok)


def _loss(trainer: Trainer, batch: Batch) -> float:
    return trainer.train_step([batch])[0].item()
