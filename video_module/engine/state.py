"""The latest state of a run in X_last.pth: its content, when it is saved, and which run may resume it."""

import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from video_module.config import AUTO
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.progress import PartialEpoch, Progress
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.files import move

# Settings that may change when a run is resumed, since they affect only its speed and its end. Each step keeps its
# clips and its mean loss. A different batch_size changes only dropout and batch norm, the others at most the rounding.
# Of the precision, the one that was used counts: restore() compares it, because "auto" depends on the device.
_FREE = (
    *("precision", "batch_size", "checkpoint_activations", "compile", "deterministic"),
    *("save_every", "max_failed_share", "patience", "min_precision"),
)
# More differences would make the error message unreadable, and the first ones are enough.
_NUM_DIFFERENCES = 8
# Version of the training state, not of the checkpoint around it. An older X_last.pth still loads as a model but cannot
# be resumed.
_VERSION = 2


def last_path(save_path: Path) -> Path:
    """Return the path of the newest state of a run."""
    return save_path.with_name(f"{save_path.stem}_last.pth")


def earlier_path(path: Path) -> Path:
    """Return the path to which an earlier run's state is moved until the new run has finished an epoch."""
    return path.with_name(f"{path.stem}_earlier.pth")


def show_replaced(save_path: Path) -> None:
    """Say which files of an earlier run will be replaced.

    This is not an error, because demos and scripts are run repeatedly.
    """
    last = last_path(save_path)
    if last.is_file() or save_path.is_file():
        found = save_path if save_path.is_file() else last
        way = "use --resume to continue it" if last.is_file() else "use another --save_path to keep it"
        print(f"note: {found} of an earlier run will be replaced after the first epoch; {way}")


def capture(trainer: Trainer) -> dict[str, Any]:
    """Return the state of a trainer that changes during training, in tensors and plain values."""
    state = {
        "step": trainer.step,
        "precision": trainer.precision,
        "micro_batch": None if trainer.is_frozen else trainer.micro_batch,
        "model": _weights(trainer.model),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "scaler": trainer.scaler.state_dict(),
    }
    if trainer.ema:
        state |= {"num_averaged": trainer.ema.num_averaged, "ema": _weights(trainer.validated)}
    return state


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Load the state returned by capture(). Raises InputError if the trainer uses another precision."""
    if state["precision"] != trainer.precision:
        raise InputError(
            f"this run was trained in {state['precision']}, and would continue in {trainer.precision}; add --precision "
            f"{state['precision']}"
        )
    trainer.step = state["step"]
    trainer.model.backbone.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    for parameter, moments in trainer.optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            # The fused AdamW requires the memory format of the parameter, and that differs between CUDA and the CPU.
            moments[name] = torch.empty_like(parameter).copy_(moments[name])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.scaler.load_state_dict(state["scaler"])
    assert trainer.schedule.last_epoch == trainer.step, "the schedule counts steps, whatever it calls them"
    if trainer.config.batch_size == AUTO and state["micro_batch"]:
        trainer.micro_batch = min(state["micro_batch"], trainer.largest_batch)
    if trainer.ema:
        trainer.validated.backbone.load_state_dict(state["ema"])
        trainer.ema.num_averaged = state["num_averaged"]


def _weights(model) -> dict[str, Any]:
    return {name: value.detach().cpu() for name, value in model.backbone.state_dict().items()}


class StateKeeper:
    """Saves the state of a run in the first process, as often as config.save_every says.

    The state of an earlier run of the same name is moved aside until an epoch is done, so that nothing is lost if a
    forgotten --resume or --save_path is noticed by then.
    """

    def __init__(self, path: Path, trainer: Trainer, template: Checkpoint, progress: Progress, *, is_resumed: bool):
        """`template` is a checkpoint without weights, which holds everything else to be recorded."""
        self.path, self.trainer, self.template, self.progress = path, trainer, template, progress
        self.every_steps, self.every_s = trainer.config.save_interval
        self._steps, self._time = 0, time.monotonic()
        self._may_replace_earlier_run = not is_resumed

    def count_step(self) -> None:
        self._steps += 1

    def is_due(self) -> bool:
        """Return whether this process should save now; always False in all but the first."""
        is_late = self._steps >= self.every_steps or time.monotonic() - self._time >= self.every_s
        return is_late and self.trainer.group.is_first

    def checkpoint(self) -> Checkpoint:
        """Return the current model as a checkpoint, without the state of the run."""
        return replace(self.template, weights=_weights(self.trainer.validated), epoch=self.progress.num_epochs)

    def save(self, checkpoint: Checkpoint | None = None) -> None:
        """Save the state together with the model, taken from `checkpoint` if it is given."""
        if not self.trainer.group.is_first:
            return
        progress = self.progress
        state = {
            "version": _VERSION,
            "trainer": capture(self.trainer),
            "logs": progress.logs,
            "best_epoch": progress.best_epoch,
            "partial": asdict(progress.partial),
        }
        aside = earlier_path(self.path)
        if self._may_replace_earlier_run and self.path.is_file() and not aside.exists():
            move(self.path, aside)
        self._may_replace_earlier_run = False
        save_checkpoint(self.path, replace(checkpoint or self.checkpoint(), training=state))
        if progress.num_epochs:
            # Windows does not delete a file that another program has open. The next save tries again.
            with suppress(PermissionError):
                aside.unlink(missing_ok=True)
        self._steps, self._time = 0, time.monotonic()


def resume(trainer: Trainer, template: Checkpoint, path: Path) -> Progress | None:
    """Restore a trainer from X_last.pth and return the run's progress; None if the file does not exist.

    Raises InputError if the file is from a different run, naming the differences, or from a different program version.
    """
    # Only the first process writes the file. On another machine, which has its own disk, it is missing or from an
    # earlier run, so processes that each read it could continue from different steps. Therefore the first process
    # reads it for all, which takes seconds and, for a moment, four times the file's size in each process.
    checkpoint = trainer.group.broadcast(lambda: load_checkpoint(path) if path.is_file() else None)
    if checkpoint is None:
        return None
    if checkpoint.training is None:
        raise InputError(f"{path}: has no training state")
    state, config = checkpoint.training, checkpoint.train_config
    if state.get("version") != _VERSION or config.keys() != template.train_config.keys():
        raise InputError(
            f"{path}: saved by another version of this program; only that version can resume it; to start a new run, "
            f"replace --resume by --weights {path}"
        )
    if differences := find_differences(checkpoint, template):
        raise InputError(_refusal(path, differences))
    restore(trainer, state["trainer"])
    return Progress(logs=state["logs"], best_epoch=state["best_epoch"], partial=PartialEpoch(**state["partial"]))


def find_differences(saved: Checkpoint, wanted: Checkpoint) -> list[str]:
    """Describe how two runs differ by the flags that cause it, as in "--lr 0.001 (here 0.5)"."""
    found, other = [], _flags(wanted)
    for flag, value in _flags(saved).items():
        if value == other[flag]:
            continue
        if isinstance(value, list) or isinstance(other[flag], list):  # class_weights: one number for each class
            found.append(f"{'no' if value is None else 'other'} {flag}")
        elif value is None:
            found.append(f"no {flag} (here {other[flag]})")
        else:
            found.append(f"{flag} {value} (here {'none' if other[flag] is None else other[flag]})")
    if saved.class_names != wanted.class_names:
        found.insert(0, _other_classes(saved.class_names, wanted.class_names))
    if saved.split_digest != wanted.split_digest:
        found.append(f"another split, digest {saved.split_digest} (here {wanted.split_digest})")
    if saved.train_clips and set(saved.train_clips) != set(wanted.train_clips):
        gone = len(set(saved.train_clips) - set(wanted.train_clips))
        new = len(set(wanted.train_clips) - set(saved.train_clips))
        found.append(f"other videos ({gone} missing here, {new} new)")
    return found


def _flags(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the flags that determine a run, the most telling first.

    All other clip settings follow from the model.
    """
    clip = checkpoint.clip
    return {
        "--model_type": checkpoint.model,
        "--clip_len": clip.num_frames,
        "--frame_stride": clip.frame_stride,
        "--target_fps": clip.target_fps,
        "--img_size": clip.crop,
        **{f"--{name}": value for name, value in checkpoint.train_config.items() if name not in _FREE},
    }


def _other_classes(saved: list[str], wanted: list[str]) -> str:
    if set(saved) == set(wanted):
        return "the classes in another order"
    gone, new = sorted(set(saved) - set(wanted)), sorted(set(wanted) - set(saved))
    return f"{len(saved)} classes (here {len(wanted)}; missing: {gone or 'none'}; new: {new or 'none'})"


def _refusal(path: Path, differences: list[str]) -> str:
    more = len(differences) - _NUM_DIFFERENCES
    shown = ", ".join(differences[:_NUM_DIFFERENCES]) + (f", and {more} more" if more > 0 else "")
    text = f"{path} was trained with {shown}"
    has_other_length = any(difference.startswith("--num_epochs ") for difference in differences)
    if has_other_length and not any(difference.startswith("--model_type ") for difference in differences):
        best = path.with_name(path.name.removesuffix("_last.pth") + ".pth")
        text += (
            "; --num_epochs cannot change, because the learning rates depend on it; to train further, start a new run "
            f"with --weights {best} and"
        )
    else:
        text += "; use"
    return f"{text} another --save_path, or leave out --resume to replace it"
