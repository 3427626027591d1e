"""Checkpoints (.pth): weights under torchvision's names, and everything needed to use or resume them."""

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
    """A trained model and where it comes from. Everything is tensors and plain values, so it loads without code."""

    model: str
    weights: dict[str, torch.Tensor]
    """The backbone's state dict, as it was validated: the running mean where training kept one."""
    clip: ClipConfig
    class_names: list[str]
    split_digest: str | None = None
    train_sources: list[str] = field(default_factory=list)
    """Hashed names of the sources in train and val: enough to notice a leak, too little to tell what was filmed."""
    train_clips: list[str] = field(default_factory=list)
    """Hashes of the videos themselves; empty in files written before these were kept."""
    train_config: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    """Logits are divided by it before the softmax. The weights do not know of it."""
    min_score: float | None = None
    """Score of the best class below which an answer is uncertain; None where no validation videos were there."""
    epoch: int = 0
    """Epochs done."""
    num_train_videos: int | None = None
    num_val_videos: int | None = None
    """None in files written before these were kept, and for published weights."""
    program_version: str | None = None
    """Of the program that wrote the file; save_checkpoint() sets it."""
    training: dict[str, Any] | None = None
    """State of the run, the weights that learn among it; only in X_last.pth."""

    def training_record(self) -> dict[str, Any] | None:
        """How it was trained, for the results of tests; None for weights that train_model.py did not train."""
        if not self.train_sources:
            return None
        names = ("num_train_videos", "num_val_videos", "epoch", "program_version")
        return {**{name: getattr(self, name) for name in names}, "settings": self.train_config}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an earlier one stays whole until the new one is on the disk.

    Raises InputError where it cannot be written, on a full disk above all.
    """
    content = {
        **vars(checkpoint),
        "clip": checkpoint.clip.to_dict(),
        "format_version": FORMAT_VERSION,
        "program_version": __version__,
    }
    try:
        # What runs left that were killed while they saved would fill the disk, a checkpoint each time
        remove_partial(path)
        with replacing(path) as partial, open(partial, "wb") as file:
            torch.save(content, file)
            # The file is renamed once it is written. Without fsync the new name could reach the disk before the
            # content, and a power cut would leave an empty checkpoint in the place of a whole one.
            file.flush()
            os.fsync(file.fileno())
    # torch makes a RuntimeError of some errors of writing, with the disk's own error behind it
    except (OSError, RuntimeError) as error:
        on_disk = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
        reason = (on_disk and on_disk.strerror) or error
        is_full = on_disk is None or on_disk.errno in FULL_DISK
        left = "the previous one is intact" if path.is_file() else "there is none"
        # A probe is done in one go, from its features, which are kept
        again = "run it again" if checkpoint.train_config.get("probe") else "go on with --resume"
        again = f"Free some space and {again}" if is_full else again.capitalize()
        raise InputError(
            f"{path}: cannot write the checkpoint ({str(reason).splitlines()[0]}); {left}. {again}"
        ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, onto the CPU. Raises InputError if it is missing, damaged or not of this project."""
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
    """Published weights as a checkpoint, ready to export and to use: by name, or a file with the names of its classes.

    `clip`: None for the model's own. Raises InputError if the file's last layer is for another number of classes.
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
    """The trained model, in evaluation mode, on the CPU. No published weights are fetched for it."""
    model = build_model(checkpoint.model, num_classes=len(checkpoint.class_names), clip=checkpoint.clip)
    try:
        model.backbone.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        # It may name every parameter of the network
        reason = textwrap.shorten(str(error).splitlines()[-1], 200, placeholder=" …")
        raise InputError(f"the checkpoint's weights do not fit {checkpoint.model}: {reason}") from None
    return model.eval()
