"""The newest state of a run in X_last.pth: when it is saved, and whether another run may go on from it."""

import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from video_module.config import AUTO, TrainConfig
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.progress import PartialEpoch, Progress
from video_module.errors import InputError
from video_module.files import move

# what versions without these settings did
_EARLIER = {
    "num_repeats": 1,
    "lr_batch": None,
    "layer_decay": 1.0,
    "freeze_epochs": 0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "mix_off_epochs": 3,
    "ema_decay": 0.0,
    "head_dropout": 0.0,
    "patience": 0,
}
# What may differ from one part of a run to the next: how fast it goes, and when it ends or is given up. The clips of a
# step and its mean loss stay; with another batch_size dropout draws anew, and batch norm sees other batches
_FREE = ("batch_size", "checkpoint_activations", "compile", "save_every", "max_failed_share", "patience")

_CLIP_FLAGS = {
    "num_frames": "--clip_len",
    "crop": "--img_size",
    **{name: f"--{name}" for name in ("frame_stride", "target_fps")},
}
_NUM_DIFFERENCES = 8  # that are named


def last_path(save_path: Path) -> Path:
    """Where the newest state of a run is kept."""
    return save_path.with_name(f"{save_path.stem}_last.pth")


def earlier_path(path: Path) -> Path:
    """Where the state of an earlier run is kept while the first epoch of another, in its place, is not done."""
    return path.with_name(f"{path.stem}_earlier.pth")


class StateKeeper:
    """Saves the state of a run when config.save_every says so.

    The state of an earlier run under the same name is kept aside until an epoch is done: who notices by then that this
    run should have been another has lost nothing.
    """

    def __init__(self, path: Path, trainer, template: Checkpoint, progress: Progress, *, is_resumed: bool):
        self.path, self.trainer, self.template, self.progress = path, trainer, template, progress
        self.every_steps, self.every_s = trainer.config.save_interval
        self._steps, self._time = 0, time.monotonic()
        self._may_be_anothers = not is_resumed

    def count_step(self) -> None:
        self._steps += 1

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._steps >= self.every_steps or time.monotonic() - self._time >= self.every_s

    def checkpoint(self) -> Checkpoint:
        """The model as it is, without the state of the run."""
        weights = {name: value.detach().cpu() for name, value in self.trainer.validated.backbone.state_dict().items()}
        return replace(self.template, weights=weights, epoch=self.progress.num_epochs)

    def save(self, checkpoint: Checkpoint | None = None) -> None:
        """Save the state, with the model as it is or as a checkpoint holds it already."""
        progress = self.progress
        state = {
            "trainer": self.trainer.state_dict(),
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
            with suppress(PermissionError):  # Windows: while another program reads it; asked again at the next save
                aside.unlink(missing_ok=True)
        self._steps, self._time = 0, time.monotonic()


def resume(trainer, template: Checkpoint, path: Path) -> Progress | None:
    """Bring a trainer to where X_last.pth stands; None where there is none.

    Raises InputError if that is of another run, naming the differences.
    """
    # The first process alone writes it, so that on a machine with a disk of its own it is missing, or of an earlier
    # run: processes that each looked for themselves would go on from different places. Given to all it serves any
    # cluster, at the price of seconds and, for a moment, of four times its size in each process; to refuse would ask
    # for a copy on each machine before each --resume. It travels by gloo, as all objects do here: no GPU holds it.
    checkpoint = trainer.group.first(lambda: load_checkpoint(path) if path.is_file() else None)
    if checkpoint is None:
        return None
    if checkpoint.training is None:
        raise InputError(f"{path}: holds no training state")
    if differences := find_differences(checkpoint, template):
        raise InputError(_refusal(path, differences))
    state = checkpoint.training
    # files of earlier versions hold the trained weights alone
    trainer.load_state_dict({"model": checkpoint.weights} | state["trainer"])
    partial = PartialEpoch(**state.get("partial", {}))
    return Progress(logs=state["logs"], best_epoch=state["best_epoch"], partial=partial)


def find_differences(saved: Checkpoint, wanted: Checkpoint) -> list[str]:
    """What makes two runs different ones, in words and by the flags that set it: "--lr 0.001 (here 0.5)"."""
    found = [] if saved.model == wanted.model else [f"--model_type {saved.model} (here {wanted.model})"]
    if saved.class_names != wanted.class_names:
        found.append(_other_classes(saved.class_names, wanted.class_names))
    clips = _differing(saved.clip.to_dict(), wanted.clip.to_dict(), names=_CLIP_FLAGS)
    clips.pop("resize" if "crop" in clips else "", None)  # it follows from the crop
    found += clips.values()
    if saved.split_digest != wanted.split_digest:
        found.append(f"another split, of digest {saved.split_digest} (here {wanted.split_digest})")
    found += _differing(_comparable(saved.train_config), _comparable(wanted.train_config)).values()
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


def _differing(saved: dict[str, Any], wanted: dict[str, Any], *, names: dict[str, str] | None = None) -> dict[str, str]:
    """The settings that differ, in words; None is what is recorded of one that is not used.

    Of another version, `saved` can hold settings that this one lacks, and lack some.
    """
    found = {}
    for key in [*wanted, *(key for key in saved if key not in wanted)]:
        one, other = saved.get(key), wanted.get(key)
        flag = f"--{key}" if names is None else names.get(key, f"clip.{key}")
        if one == other:
            continue
        if key not in wanted:
            found[key] = f"{key} {one}, which this version has no setting for"
        elif key == "class_weights":  # one for each class
            found[key] = f"{'no' if one is None else 'other'} {flag}"
        else:
            found[key] = f"no {flag} (here {other})" if one is None else f"{flag} {one} (here {_or_none(other)})"
    return found


def _or_none(value: Any) -> Any:
    return "none" if value is None else value


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


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """Settings as this version would have recorded them, without those that may differ."""
    if "effective_batch" not in config and config.get("batch_size", AUTO) != AUTO:
        config = {**_EARLIER, "effective_batch": config["batch_size"], **config}
        config["lr_batch"] = config["effective_batch"]
    config = TrainConfig().to_dict() | config
    return {name: value for name, value in config.items() if name not in _FREE}
