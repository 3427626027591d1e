"""Settings of clips, training, timelines and export. Imports only the standard library."""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """A model's input: which frames form a clip, and how their pixels are processed.

    It is stored in every checkpoint and ONNX file, so that a file needs no further settings.
    """

    num_frames: int = 32
    frame_stride: int = 2
    """Step between the frames of a clip; 1 takes every frame. With `target_fps`, frames are counted at that rate."""
    target_fps: float | None = None
    """Frame rate in frames/s to which all files are resampled; None keeps each file's own rate."""
    resize: int | tuple[int, int] = 256
    """Length of the short side in pixels, or (height, width)."""
    crop: int = 224
    """Side of the square that the model sees, in pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation per channel. Mean and std are for RGB in 0..1 and are applied inside the model."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "crop"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.target_fps is not None and not 0 < self.target_fps < math.inf:
            raise ValueError(f"target_fps must be positive, got {self.target_fps}")
        if min(self.resize_hw) < self.crop:
            raise ValueError(f"resize {self.resize} is smaller than crop {self.crop}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    @property
    def resize_hw(self) -> tuple[int, int]:
        """(height, width) of a square frame after resizing."""
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    @property
    def span(self) -> int:
        """Number of frames from a clip's first to its last frame, inclusive, at the clip's own rate."""
        return (self.num_frames - 1) * self.frame_stride + 1

    @property
    def default_clip_step(self) -> int:
        """Default number of frames between windows, half a clip, so that each frame is in two windows."""
        return max(1, self.span // 2)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3) of one clip."""
        return (self.num_frames, self.crop, self.crop, 3)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClipConfig":
        """Undo to_dict(), even after a round trip through JSON, which has no tuples.

        Raises ValueError on unknown keys.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown clip settings {unknown}: written by a newer version?")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def setting(value: Any, text: str, **metadata: Any) -> Any:
    """Return a dataclass field that is also a flag; see cli.add_config_arguments()."""
    return field(default=value, metadata={"help": text, **metadata})


LINKS = ("hard", "sym", "copy")
"""Ways to create the files of a split from the videos."""
AUGMENTATIONS = ("none", "light", "strong")
ALL_CLASSES = "all"


AUTO = "auto"


def auto_or_count(text: str) -> int | str:
    """Parse `auto` or a count of at least 1. Raises ValueError on anything else."""
    if text == AUTO:
        return AUTO
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"must be {AUTO} or at least 1, got {text!r}")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training settings. Registry entries replace some defaults, and every field is a flag of train_model.py."""

    # The defaults follow Video Swin's recipe: 30 epochs, 2.5 of them warm-up, a tenth of the new head's learning rate
    # for the backbone, and a weight decay of 0.02.
    num_epochs: int = setting(
        30,
        "number of epochs; each takes --num_repeats clips of every training video, or all its windows",
        default="the model's",
    )
    effective_batch: int = setting(
        64, "clips per optimiser step, summed over processes and micro-batches", default="the model's"
    )
    batch_size: int | str = setting(
        AUTO,
        "clips per forward pass and process; auto: as many as fit into memory. Affects memory and speed, not which "
        "clips make up a step; dropout masks and batch norm statistics do depend on it",
        parse=auto_or_count,
    )
    num_repeats: int = setting(
        1, "random clips per video in each step and epoch (repeated augmentation)", default="the model's"
    )
    lr: float = setting(1e-3, "peak learning rate of the head, for --lr_batch clips per step", default="the model's")
    # The right learning rate depends on the batch size: with half the clips per step there are twice as many steps,
    # which at the same rate would move the weights twice as far (Goyal et al. 2017). With this scaling, --lr can stay
    # the same when the batch changes.
    lr_batch: int = setting(
        64,
        "effective batch that --lr refers to; all rates scale with --effective_batch / --lr_batch",
        default="the model's",
    )
    backbone_lr_scale: float = setting(
        0.1, "learning rate of the backbone, relative to --lr", default="0.1, or 1.0 with --weights none"
    )
    layer_decay: float = setting(
        1.0, "learning rate of each backbone layer relative to the layer above; 1: the same for all"
    )
    freeze_epochs: int = setting(0, "number of epochs at the start that train only the last layer")
    weight_decay: float = setting(
        0.02, "decoupled weight decay; not applied to norms, biases and position tables", default="the model's"
    )
    warmup_epochs: float = setting(2.5, "epochs of linear warm-up before the cosine", default="the model's")
    label_smoothing: float = setting(0.1, "label smoothing, from 0 to below 1", default="the model's")
    # Both alphas are from Swin's recipe for ImageNet. The last epochs use unmixed clips, as the model will see later.
    mixup: float = setting(0.8, "alpha of mixup; 0: off", default="the model's")
    cutmix: float = setting(
        1.0, "alpha of CutMix; 0: off; with mixup on too, one of them is picked at random", default="the model's"
    )
    mix_off_epochs: int = setting(3, "number of epochs at the end without mixup and CutMix")
    clip_grad_norm: float = setting(1.0, "largest gradient norm; larger gradients are scaled down")
    # This averages over about the last thousand steps, which evens out the noise of single steps.
    ema_decay: float = setting(
        0.999, "decay of the running mean of the weights, which is validated and saved; 0: off", default="the model's"
    )
    drop_path: float = setting(
        0.1, "stochastic depth rate of the last block; earlier blocks have less", default="the model's"
    )
    head_dropout: float = setting(0.0, "dropout before the last layer", default="the model's")
    patience: int = setting(0, "stop after this many epochs without improvement; 0: never")
    min_precision: float = setting(
        0.9,
        "wanted precision of the model's answers; scores below the threshold that reaches it on the validation "
        "videos are reported as uncertain",
    )
    sampling: str = setting(
        "random",
        "clips of a video in one epoch; random: --num_repeats clips at random positions; windows: all clips, "
        "--clip_step apart",
        choices=("random", "windows"),
    )
    clip_step: int | None = setting(None, "frames between windows", default="half a clip")
    augment: str = setting(
        "light",
        "augmentation of training clips; light: crop, flip, colours; strong: also rotation, shear, the other "
        "operations of RandAugment, and random erasing",
        choices=AUGMENTATIONS,
    )
    no_flip: tuple[str, ...] = setting(
        (),
        "classes never to flip because their mirror image is another action; all: flip none",
        default="flip every class",
    )
    # A few damaged files should not end a run of several days, but many point to a wrong folder or a failing disk.
    max_failed_share: float = setting(
        0.01,
        "stop if more than this share of an epoch's clips cannot be read; unreadable clips are skipped and reported",
    )
    precision: str = setting(
        "auto",
        "precision of the forward pass; auto: bf16 on CUDA (fp16 if the GPU has no bf16), fp32 on the CPU",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    checkpoint_activations: bool = setting(
        False, "recompute activations in the backward pass: less memory, about a third more time"
    )
    compile: bool | None = setting(
        None,
        "compile the network with torch.compile, which takes a minute or two at the start; continue without if that "
        "fails",
        default="on for Swin on CUDA in runs of at least 20,000 clips",
    )
    deterministic: bool = setting(
        False,
        "use only deterministic CUDA kernels, which are slower; a resumed run then equals an uninterrupted one bit "
        "for bit, and otherwise up to rounding",
    )
    # The default is in minutes, not steps, because a crash costs time, and a step takes milliseconds on a GPU but
    # minutes on a CPU.
    save_every: str = setting(
        "10min", "interval for saving the state within an epoch, in steps (500) or minutes (10min)"
    )
    seed: int = setting(777, "random seed")

    def __post_init__(self) -> None:
        for name in ("num_epochs", "effective_batch", "num_repeats", "lr_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size != AUTO and (isinstance(self.batch_size, str) or self.batch_size < 1):
            raise ValueError(f"batch_size must be {AUTO} or at least 1, got {self.batch_size!r}")
        if self.effective_batch % self.num_repeats:
            raise ValueError(
                f"effective_batch must be a multiple of num_repeats, got {self.effective_batch} and {self.num_repeats}"
            )
        for name in ("lr", "clip_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in (
            *("backbone_lr_scale", "weight_decay", "warmup_epochs", "freeze_epochs"),
            *("mixup", "cutmix", "mix_off_epochs", "patience"),
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("label_smoothing", "drop_path", "head_dropout", "ema_decay", "max_failed_share", "min_precision"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        for item in dataclasses.fields(self):
            choices = item.metadata.get("choices")
            if choices and getattr(self, item.name) not in choices:
                raise ValueError(f"{item.name} must be one of {', '.join(choices)}, got {getattr(self, item.name)!r}")
        if self.sampling == "windows" and self.num_repeats > 1:
            raise ValueError(f"num_repeats requires sampling random, got {self.num_repeats} with windows")
        if self.clip_step is not None and (self.clip_step < 1 or self.sampling != "windows"):
            raise ValueError(f"clip_step must be at least 1 and requires sampling windows, got {self.clip_step}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2**32-1, got {self.seed}")
        self.save_interval  # noqa: B018 (raises)

    @property
    def save_interval(self) -> tuple[float, float]:
        """`save_every` as (steps, seconds), one of which is infinite. Raises ValueError if it cannot be parsed."""
        match = re.fullmatch(r"([1-9]\d*|\d*\.\d+)(min)?", self.save_every)
        if not match or (not match[2] and "." in match[1]):
            raise ValueError(
                f"save_every must be a number of steps or minutes, such as 500 or 10min, got {self.save_every!r}"
            )
        return (math.inf, float(match[1]) * 60) if match[2] else (int(match[1]), math.inf)

    @property
    def rate_scale(self) -> float:
        """Factor that scales all learning rates to the effective batch (Goyal et al. 2017)."""
        return self.effective_batch / self.lr_batch

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


DEFAULT_MIN_SCORE = 0.3
"""Threshold for models whose file has none."""


@dataclass(frozen=True, kw_only=True)
class TimelineConfig:
    """Settings that turn window scores into labelled segments; each is a flag of run_model.py and run_gradio.py."""

    smooth_s: float | None = setting(
        None,
        "average window scores over this many seconds; 0: off",
        default="the clip's length",
    )
    min_score: float | None = setting(
        None, "lowest smoothed score of a label; lower ones are uncertain", default="the model's, or 0.3"
    )
    hysteresis: float = setting(0.1, "lead in score that another class needs before the label changes")

    def __post_init__(self) -> None:
        if self.smooth_s is not None and not 0 <= self.smooth_s < math.inf:
            raise ValueError(f"smooth_s must be finite and not negative, got {self.smooth_s}")
        for name in ("min_score", "hysteresis"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")

    def for_model(self, min_score: float) -> "TimelineConfig":
        """Return these settings with the model's `min_score` if none is set."""
        return self if self.min_score is not None else dataclasses.replace(self, min_score=min_score)


PRECISIONS = ("fp32", "fp16", "int8")
"""Precisions of exported files."""
OPSETS = range(18, 24)
"""Versions of the ONNX operator set in which a network can be exported."""
# The first version with Gelu as a single node.
DEFAULT_OPSET = 20


@dataclass(frozen=True, kw_only=True)
class ExportGates:
    """How closely an exported file must match torch in fp32; every field is a flag of convert_model.py."""

    fp32_tolerance: float = setting(
        1e-4, "fp32: largest allowed difference from torch's logits, relative to max(1, largest logit)"
    )
    fp16_agreement: float = setting(0.995, "fp16: lowest allowed share of clips with the same best class as torch")
    int8_agreement: float = setting(0.99, "int8: lowest allowed share of clips with the same best class as torch")

    def __post_init__(self) -> None:
        if not 0 < self.fp32_tolerance < math.inf:
            raise ValueError(f"fp32_tolerance must be positive, got {self.fp32_tolerance}")
        for name in ("fp16_agreement", "int8_agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
