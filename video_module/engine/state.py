"""The newest state of a run in X_last.pth: what it holds, when it is saved, and which run may go on from it."""

import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from video_module.config import AUTO
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.progress import PartialEpoch, Progress
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.files import move

# Settings that may differ from one part of a run to the next: they decide how fast it goes, and when it ends. A step
# keeps its clips and its mean loss; only dropout and batch norm notice another batch_size.
_FREE = ("batch_size", "checkpoint_activations", "compile", "save_every", "max_failed_share", "patience")
# Settings of the clip whose flags have other names.
_CLIP_FLAGS = {"num_frames": "--clip_len", "crop": "--img_size"}
_NUM_DIFFERENCES = 8  # that a refusal names
# Of what is kept of a run, not of a model: an older X_last.pth still serves as a model, but is not resumed.
_VERSION = 2


def last_path(save_path: Path) -> Path:
    """Where the newest state of a run is kept."""
    return save_path.with_name(f"{save_path.stem}_last.pth")


def earlier_path(path: Path) -> Path:
    """Where the state of an earlier run is kept until the new run in its place has finished an epoch."""
    return path.with_name(f"{path.stem}_earlier.pth")


def capture(trainer: Trainer) -> dict[str, Any]:
    """Everything of a trainer that changes while it learns, in tensors and plain values."""
    state = {
        "step": trainer.step,
        "precision": trainer.precision,
        "micro_batch": trainer.micro_batch,
        "model": _weights(trainer.model),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "scaler": trainer.scaler.state_dict(),
    }
    if trainer.ema:
        state |= {"num_averaged": int(trainer.ema.n_averaged), "ema": _weights(trainer.validated)}
    return state


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Undo capture(). Raises InputError where the trainer computes in another precision."""
    if state["precision"] != trainer.precision:
        raise InputError(
            f"the run was trained in {state['precision']}, here it would go on in {trainer.precision}; add "
            f"--precision {state['precision']}"
        )
    trainer.step = state["step"]
    trainer.model.backbone.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.scaler.load_state_dict(state["scaler"])
    if trainer.config.batch_size == AUTO:
        trainer.micro_batch = state["micro_batch"]
    if trainer.ema:
        trainer.validated.backbone.load_state_dict(state["ema"])
        trainer.ema.n_averaged.fill_(state["num_averaged"])


def _weights(model) -> dict[str, Any]:
    return {name: value.detach().cpu() for name, value in model.backbone.state_dict().items()}


class StateKeeper:
    """Saves the state of a run, in the first process, when config.save_every says so.

    The state of an earlier run under the same name is kept aside until an epoch is done: who notices by then that
    this run should have been another has lost nothing.
    """

    def __init__(self, path: Path, trainer: Trainer, template: Checkpoint, progress: Progress, *, is_resumed: bool):
        """`template` is a checkpoint without weights: what is recorded beside them."""
        self.path, self.trainer, self.template, self.progress = path, trainer, template, progress
        self.every_steps, self.every_s = trainer.config.save_interval
        self._steps, self._time = 0, time.monotonic()
        self._may_be_anothers = not is_resumed

    def count_step(self) -> None:
        self._steps += 1

    def is_due(self) -> bool:
        """Whether it is time to save."""
        is_late = self._steps >= self.every_steps or time.monotonic() - self._time >= self.every_s
        return is_late and self.trainer.group.is_first

    def checkpoint(self) -> Checkpoint:
        """The model as it is, without the state of the run."""
        return replace(self.template, weights=_weights(self.trainer.validated), epoch=self.progress.num_epochs)

    def save(self, checkpoint: Checkpoint | None = None) -> None:
        """Save the state, with the model as it is or as a checkpoint holds it already."""
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
        if self._may_be_anothers and self.path.is_file() and not aside.exists():
            move(self.path, aside)
        self._may_be_anothers = False
        save_checkpoint(self.path, replace(checkpoint or self.checkpoint(), training=state))
        if progress.num_epochs:
            # Windows does not remove a file that another program reads. The next save tries again.
            with suppress(PermissionError):
                aside.unlink(missing_ok=True)
        self._steps, self._time = 0, time.monotonic()


def resume(trainer: Trainer, template: Checkpoint, path: Path) -> Progress | None:
    """Bring a trainer to where X_last.pth stands; None where there is none.

    Raises InputError if it is of another run, naming the differences, or of another version of this program.
    """
    # Only the first process writes the file, so on a machine with a disk of its own it is missing or of an earlier
    # run: processes that each looked for themselves would go on from different places. So the first one reads it for
    # all, at the price of seconds and, for a moment, of four times its size in each process.
    checkpoint = trainer.group.broadcast(lambda: load_checkpoint(path) if path.is_file() else None)
    if checkpoint is None:
        return None
    if checkpoint.training is None:
        raise InputError(f"{path}: holds no training state")
    state, config = checkpoint.training, checkpoint.train_config
    if state.get("version") != _VERSION or config.keys() != template.train_config.keys():
        raise InputError(
            f"{path}: another version of this program saved this run, and only that one can resume it; drop --resume "
            f"and start a new run from it with --weights {path}"
        )
    if differences := find_differences(checkpoint, template):
        raise InputError(_refusal(path, differences))
    restore(trainer, state["trainer"])
    return Progress(logs=state["logs"], best_epoch=state["best_epoch"], partial=PartialEpoch(**state["partial"]))


def find_differences(saved: Checkpoint, wanted: Checkpoint) -> list[str]:
    """What makes two runs different ones, in words and by the flags that set it: "--lr 0.001 (here 0.5)"."""
    found = [] if saved.model == wanted.model else [f"--model_type {saved.model} (here {wanted.model})"]
    if saved.class_names != wanted.class_names:
        found.append(_other_classes(saved.class_names, wanted.class_names))
    clip, wanted_clip = saved.clip.to_dict(), wanted.clip.to_dict()
    for name, value in clip.items():
        follows_from_crop = name == "resize" and clip["crop"] != wanted_clip["crop"]
        if value != wanted_clip[name] and not follows_from_crop:
            found.append(_difference(_CLIP_FLAGS.get(name, f"--{name}"), value, wanted_clip[name]))
    if saved.split_digest != wanted.split_digest:
        found.append(f"another split, of digest {saved.split_digest} (here {wanted.split_digest})")
    for name, value in wanted.train_config.items():
        other = saved.train_config.get(name)
        if name not in _FREE and other != value:
            found.append(_difference(f"--{name}", other, value))
    if saved.train_clips and set(saved.train_clips) != set(wanted.train_clips):
        gone = len(set(saved.train_clips) - set(wanted.train_clips))
        new = len(set(wanted.train_clips) - set(saved.train_clips))
        found.append(f"other videos ({gone} of them are not here, {new} here are new)")
    return found


def _other_classes(saved: list[str], wanted: list[str]) -> str:
    if set(saved) == set(wanted):
        return "its classes in another order"
    gone, new = sorted(set(saved) - set(wanted)), sorted(set(wanted) - set(saved))
    return f"{len(saved)} classes (here {len(wanted)}; no longer: {gone or 'none'}; new: {new or 'none'})"


def _difference(flag: str, saved: Any, wanted: Any) -> str:
    if isinstance(saved, list) or isinstance(wanted, list):  # class_weights: one number for each class
        return f"{'no' if saved is None else 'other'} {flag}"
    if saved is None:
        return f"no {flag} (here {wanted})"
    return f"{flag} {saved} (here {'none' if wanted is None else wanted})"


def _refusal(path: Path, differences: list[str]) -> str:
    more = len(differences) - _NUM_DIFFERENCES
    shown = ", ".join(differences[:_NUM_DIFFERENCES]) + (f", and {more} more" if more > 0 else "")
    text = f"{path} was trained with {shown}"
    has_other_length = any(difference.startswith("--num_epochs ") for difference in differences)
    if has_other_length and not differences[0].startswith("--model_type "):  # whose weights would not fit
        best = path.with_name(path.name.removesuffix("_last.pth") + ".pth")
        text += (
            "; the length of a run cannot be changed, its rates follow from it: to train on, start a new run from it "
            f"with --weights {best} and"
        )
    else:
        text += "; give"
    return f"{text} another --save_path, or drop --resume to replace it"
