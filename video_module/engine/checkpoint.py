"""Checkpoints (.pth): weights under torchvision's parameter names and all that is needed to use or resume them."""

import os
import textwrap
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from video_module import __version__
from video_module.config import ClipConfig
from video_module.errors import InputError
from video_module.files import FORMAT_VERSION, FULL_DISK, READABLE_VERSIONS, remove_partial, replacing
from video_module.models.recognizer import Recognizer, build_model, load_torch_file, published_class_names
from video_module.models.registry import get_spec


@dataclass(kw_only=True)
class Checkpoint:
    """A trained model and its origin, all in tensors and plain values, so that loading runs no pickled code."""

    model: str
    weights: dict[str, torch.Tensor]
    """State dict of the validated backbone: the running mean of the weights if training kept one."""
    clip: ClipConfig
    class_names: list[str]
    split_digest: str | None = None
    train_sources: list[str] = field(default_factory=list)
    """Hashed names of the sources in train and val, which reveal a leak but not what was filmed."""
    train_clips: list[str] = field(default_factory=list)
    """Hashes of the videos' classes and names; empty in older checkpoints, which did not store them."""
    train_config: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    """Divisor of the logits before the softmax; not folded into the weights."""
    min_score: float | None = None
    """Score of the best class below which an answer is uncertain; None without validation videos."""
    epoch: int = 0
    """Number of finished epochs."""
    num_train_videos: int | None = None
    num_val_videos: int | None = None
    """None in older checkpoints and for published weights."""
    program_version: str | None = None
    """Version of the program that wrote the file; set by save_checkpoint()."""
    training: dict[str, Any] | None = None
    """State of the run, including the weights being trained; only in X_last.pth."""

    def training_record(self) -> dict[str, Any] | None:
        """How the model was trained, for test results; None for weights that train_model.py did not train."""
        if not self.train_sources:
            return None
        names = ("num_train_videos", "num_val_videos", "epoch", "program_version")
        return {**{name: getattr(self, name) for name in names}, "settings": self.train_config}


def describe(path: Path) -> dict[str, Any]:
    """Return everything a checkpoint records except tensors, with the training videos' hashes replaced by counts."""
    checkpoint = load_checkpoint(path)
    recorded = {name: value for name, value in vars(checkpoint).items() if name not in ("weights", "training")}
    counts = {name: len(recorded[name]) for name in ("train_sources", "train_clips")}
    return {**recorded, **counts, "clip": checkpoint.clip.to_dict()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, leaving an existing file intact until the new one is on the disk.

    Raises InputError if it cannot be written, for example because the disk is full.
    """
    content = {
        **vars(checkpoint),
        "clip": checkpoint.clip.to_dict(),
        "format_version": FORMAT_VERSION,
        "program_version": __version__,
    }
    try:
        # Partial files of runs that were killed while saving are as large as a checkpoint and would fill the disk.
        remove_partial(path)
        with replacing(path) as partial, open(partial, "wb") as file:
            torch.save(content, file)
            # The file is renamed once it is written. Without fsync the new name could reach the disk before the
            # content, and a power cut would leave an empty checkpoint in the place of a whole one.
            file.flush()
            os.fsync(file.fileno())
    # torch turns some write errors into a RuntimeError whose context is the original OSError.
    except (OSError, RuntimeError) as error:
        on_disk = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
        reason = (on_disk and on_disk.strerror) or error
        is_full = on_disk is None or on_disk.errno in FULL_DISK
        left = "the previous one is intact" if path.is_file() else "there is none"
        # A probe cannot be resumed, but its features are cached, so running it again is cheap.
        again = "run it again" if checkpoint.train_config.get("probe") else "continue with --resume"
        again = f"Free some space and {again}" if is_full else again.capitalize()
        raise InputError(
            f"{path}: cannot write the checkpoint ({str(reason).splitlines()[0]}); {left}. {again}"
        ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint onto the CPU. Raises InputError if it is missing, damaged or not from train_model.py."""
    content = load_torch_file(path)
    version = content.get("format_version")
    if version is None:
        raise InputError(
            f"{path}: not a checkpoint of train_model.py; export other weights with "
            "convert_model.py --model_type MODEL --weights FILE"
        )
    if version not in READABLE_VERSIONS or "weights" not in content or "class_names" not in content:
        raise InputError(
            f"{path}: not a checkpoint of train_model.py (format {version}, expected {FORMAT_VERSION} or older)"
        )
    try:
        content["clip"] = ClipConfig.from_dict(content["clip"])
        known = {entry.name for entry in fields(Checkpoint)}
        return Checkpoint(**{key: value for key, value in content.items() if key in known})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a checkpoint that this version can read ({error!r})") from None


def published_checkpoint(
    model: str, weights: str | None, *, class_names: list[str] | None = None, clip: ClipConfig | None = None
) -> Checkpoint:
    """Return published weights as a checkpoint that can be exported and used.

    `weights` is a name, or a file whose classes are given by `class_names`. `clip` defaults to the model's own. Raises
    InputError if the file's last layer has another number of classes.
    """
    weights = weights or get_spec(model).default_weights
    class_names = class_names or published_class_names(model, weights)
    built = build_model(model, num_classes=len(class_names), weights=weights, clip=clip, keeps_head=True)
    return Checkpoint(
        model=model,
        weights=built.backbone.state_dict(),
        clip=built.clip,
        class_names=class_names,
        train_config={"weights": weights},
    )


def build_from_checkpoint(checkpoint: Checkpoint) -> Recognizer:
    """Build the trained model on the CPU, in evaluation mode, without downloading published weights."""
    model = build_model(checkpoint.model, num_classes=len(checkpoint.class_names), clip=checkpoint.clip)
    try:
        model.backbone.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        # The error may list every parameter of the network.
        reason = textwrap.shorten(str(error).splitlines()[-1], 200, placeholder=" …")
        raise InputError(f"the checkpoint's weights do not fit {checkpoint.model}: {reason}") from None
    return model.eval()
