"""The models by name: what each takes, how it is trained, where it is built. Imports no torch."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from video_module.config import ClipConfig, TrainConfig
from video_module.errors import InputError

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "swin3d_b"
NO_WEIGHTS = "none"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One architecture. `builder` is "module:function", called as function(num_classes=…, drop_path=…)."""

    name: str
    clip: ClipConfig
    builder: str
    head: str
    """Name of the last layer inside the built module."""
    features: str = ""
    """Name of the layer inside it that shows where the model looks: the last whose grid is fine enough to tell places
    apart."""
    channels_last: bool = False
    """Whether that layer gives (N, T, H, W, C), as Swin does, or (N, C, T, H, W)."""
    weights: tuple[str, ...] = ()
    """Names of torchvision's weights for it; the first is the default."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What differs from TrainConfig's defaults."""
    paper: str = ""

    @property
    def default_weights(self) -> str:
        return self.weights[0] if self.weights else NO_WEIGHTS

    def build(self, *, num_classes: int, drop_path: float = 0.0) -> "nn.Module":
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)(num_classes=num_classes, drop_path=drop_path)

    def clip_config(
        self,
        *,
        clip_len: int | None = None,
        frame_stride: int | None = None,
        target_fps: float | None = None,
        img_size: int | None = None,
    ) -> ClipConfig:
        """The model's ClipConfig with what the user wants otherwise; resizing keeps its proportion to the crop."""
        clip = self.clip
        if img_size:
            scale = img_size / clip.crop
            resize = clip.resize
            resize = round(resize * scale) if isinstance(resize, int) else tuple(round(side * scale) for side in resize)
            clip = replace(clip, crop=img_size, resize=resize)
        return replace(
            clip,
            num_frames=clip_len or clip.num_frames,
            frame_stride=frame_stride or clip.frame_stride,
            target_fps=target_fps or clip.target_fps,
        )

    def train_config(self, *, weights: str, given: Mapping[str, Any]) -> TrainConfig:
        """TrainConfig from its defaults, this model's recipe, and what the user gave, the later winning."""
        settings = dict(self.recipe)
        if weights == NO_WEIGHTS:
            settings["backbone_lr_scale"] = 1.0  # nothing to preserve: the whole net starts from scratch
        settings.update(given)
        try:
            return TrainConfig(**settings)
        except ValueError as error:
            raise InputError(str(error)) from None


_VIDEO_SWIN = "Liu et al., Video Swin Transformer, CVPR 2022"


def _swin3d(size: str, weights: tuple[str, ...], **recipe: Any) -> ModelSpec:
    return ModelSpec(
        name=f"swin3d_{size}",
        clip=ClipConfig(num_frames=32, frame_stride=2, resize=256, crop=224),
        builder=f"video_module.models.swin3d:swin3d_{size}",
        head="head",
        features="features.6",  # T/2 x 7 x 7
        channels_last=True,
        weights=weights,
        recipe=recipe,
        paper=_VIDEO_SWIN,
    )


_SPECS = (
    _swin3d("t", ("KINETICS400_V1",), lr=1e-3, weight_decay=0.02, drop_path=0.1),
    _swin3d("s", ("KINETICS400_V1",), lr=1e-3, weight_decay=0.02, drop_path=0.1),
    _swin3d("b", ("KINETICS400_IMAGENET22K_V1", "KINETICS400_V1"), lr=3e-4, weight_decay=0.05, drop_path=0.3),
    ModelSpec(
        name="swin3d_nano",
        clip=ClipConfig(num_frames=8, frame_stride=4, resize=72, crop=64),
        builder="video_module.models.swin3d:swin3d_nano",
        head="head",
        features="features.0",  # 4 x 8 x 8; the last stage's 2 x 2 tokens hold no place
        channels_last=True,
        recipe={
            "num_epochs": 32,
            "batch_size": 16,
            "lr": 1e-3,
            "weight_decay": 0.05,
            "warmup_epochs": 1.0,
            "drop_path": 0.0,
        },
        paper=f"{_VIDEO_SWIN}; a relative of 0.33 M parameters that learns on a laptop",
    ),
)
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}


def get_spec(name: str) -> ModelSpec:
    """Look a model up. Raises InputError naming those there are."""
    if name not in MODELS:
        raise InputError(f"no model named {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]
