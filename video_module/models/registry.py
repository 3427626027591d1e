"""Registry of the models, with their clips, training recipes, weights and builders. Does not import torch."""

import importlib
from collections.abc import Mapping, Sequence
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
    """A model architecture with its clips, weights and training recipe."""

    name: str
    clip: ClipConfig
    builder: str
    """A "module:function", called with num_classes=… and clip=…, and with drop_path=… if `has_drop_path`."""
    head: str
    """Name of the last layer inside the built module."""
    features: str = ""
    """Name of the layer that shows where the model looks, the last one whose grid is fine enough."""
    channels_last: bool = False
    """Whether that layer returns (N, T, H, W, C), as in Swin, instead of (N, C, T, H, W). Layers of MViT return a pair
    of tokens and (T, H, W) and are recognised by that."""
    has_drop_path: bool = False
    """Whether blocks can be skipped at random in training (stochastic depth)."""
    weights: tuple[str, ...] = ()
    """Names of published weights; the first is the default."""
    weights_url: str = ""
    """URL of weights for Kinetics-400 that are not part of torchvision."""
    weights_files: str = ""
    """Published files that `--weights PATH` accepts unchanged."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Training settings that differ from the defaults of TrainConfig."""
    paper: str = ""

    @property
    def default_weights(self) -> str:
        return self.weights[0] if self.weights else NO_WEIGHTS

    def build(self, *, num_classes: int, clip: ClipConfig | None = None, drop_path: float = 0.0) -> "nn.Module":
        """Build the network for clips of the size in `clip` (None: the model's own), which some layers depend on."""
        module, _, function = self.builder.partition(":")
        settings: dict[str, Any] = {"num_classes": num_classes, "clip": clip or self.clip}
        if self.has_drop_path:
            settings["drop_path"] = drop_path
        elif drop_path:
            raise InputError(f"{self.name} does not support stochastic depth: drop_path must be 0, got {drop_path}")
        return getattr(importlib.import_module(module), function)(**settings)

    def clip_config(
        self,
        *,
        clip_len: int | None = None,
        frame_stride: int | None = None,
        target_fps: float | None = None,
        img_size: int | None = None,
        resize: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> ClipConfig:
        """Return the model's ClipConfig with the user's changes.

        If `resize` is not given, it scales with `img_size`. Raises InputError if the settings contradict each other.
        """
        clip = self.clip
        if img_size:
            scale = img_size / clip.crop
            own = clip.resize
            scaled = round(own * scale) if isinstance(own, int) else tuple(round(side * scale) for side in own)
            clip = replace(clip, crop=img_size, resize=scaled)
        try:
            return replace(
                clip,
                num_frames=clip_len or clip.num_frames,
                frame_stride=frame_stride or clip.frame_stride,
                # 0 turns off the model's frame rate, so that every file keeps its own.
                target_fps=clip.target_fps if target_fps is None else target_fps or None,
                resize=resize or clip.resize,
                mean=tuple(mean or clip.mean),
                std=tuple(std or clip.std),
            )
        except ValueError as error:
            raise InputError(f"--{error}") from None

    def train_config(self, *, weights: str, given: Mapping[str, Any]) -> TrainConfig:
        """Return the training settings: the user's if given, else the model's recipe, else TrainConfig's defaults.

        Raises InputError if a setting is invalid or not supported by the model.
        """
        settings = dict(self.recipe)
        if not self.has_drop_path:
            settings["drop_path"] = 0.0
            if given.get("drop_path"):
                raise InputError(f"--drop_path {given['drop_path']}: not supported by {self.name}; leave it out")
        if weights == NO_WEIGHTS:
            settings["backbone_lr_scale"] = 1.0  # there is nothing to preserve in a network trained from scratch
        if given.get("sampling") == "windows":
            settings["num_repeats"] = 1  # an epoch already contains all windows
        settings.update(given)
        try:
            return TrainConfig(**settings)
        except ValueError as error:
            raise InputError(str(error)) from None


_VIDEO_SWIN = "Liu et al., Video Swin Transformer, CVPR 2022"
_R2PLUS1D = "Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018"

# From torchvision's VideoClassification preset.
_KINETICS: dict[str, Any] = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}

_CONVOLUTIONAL = {"lr": 1e-3, "weight_decay": 0.01, "effective_batch": 16, "lr_batch": 16}

# The lengths and rates of torchvision's clips are clip_len and frame_rate in `weights.meta`.
_SWIN: dict[str, Any] = {
    "clip": ClipConfig(num_frames=32, frame_stride=2, resize=256, crop=224),
    "head": "head",
    "features": "features.6",  # T/2 x 7 x 7
    "channels_last": True,
    "has_drop_path": True,
    "weights_files": "Video-Swin and mmaction checkpoints (swin_*_patch244_window877_*.pth)",
    "paper": _VIDEO_SWIN,
}
_VIDEO_RESNET: dict[str, Any] = {
    "clip": ClipConfig(num_frames=16, frame_stride=1, target_fps=15, resize=(128, 171), crop=112, **_KINETICS),
    "head": "fc",
    "recipe": _CONVOLUTIONAL,
    "paper": _R2PLUS1D,
}
_MVIT: dict[str, Any] = {
    "clip": ClipConfig(
        num_frames=16, frame_stride=1, target_fps=7.5, resize=256, crop=224, mean=(0.45,) * 3, std=(0.225,) * 3
    ),
    "head": "head.1",
    "features": "blocks.13",  # 8 x 14 x 14 tokens; the last blocks have 7 x 7
    "has_drop_path": True,
    "recipe": {"lr": 1e-3, "weight_decay": 0.05, "drop_path": 0.2, "num_repeats": 2},  # drop_path: torchvision's
}


def _torchvision(
    name: str, *, module: str = "torchvision_zoo", weights: tuple[str, ...] = ("KINETICS400_V1",), **settings: Any
) -> ModelSpec:
    """Return the spec of a torchvision network with torchvision's weights."""
    return ModelSpec(name=name, builder=f"video_module.models.{module}:{name}", weights=weights, **settings)


def _swin3d(size: str, *, weights: tuple[str, ...] = ("KINETICS400_V1",), **recipe: Any) -> ModelSpec:
    recipe = {"head_dropout": 0.5, "num_repeats": 2, **recipe}
    return _torchvision(f"swin3d_{size}", module="swin3d", weights=weights, recipe=recipe, **_SWIN)


def _x3d(size: str, **clip: Any) -> ModelSpec:
    """Return the spec of a pytorchvideo network with the clips of its hub entry."""
    file = f"X3D_{size.upper()}.pyth"
    return ModelSpec(
        name=f"x3d_{size}",
        clip=ClipConfig(target_fps=30, mean=(0.45,) * 3, std=(0.225,) * 3, **clip),
        builder=f"video_module.models.x3d:x3d_{size}",
        head="blocks.5.proj",
        features="blocks.4",  # T x 6 x 6, or T x 8 x 8 in x3d_m
        weights=("KINETICS400_V1",),
        weights_url=f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file}",
        weights_files=f"{file} of pytorchvideo",
        recipe=_CONVOLUTIONAL,
        paper="Feichtenhofer, X3D: Expanding Architectures for Efficient Video Recognition, CVPR 2020",
    )


_SPECS = (
    _swin3d("t", lr=1e-3, weight_decay=0.02, drop_path=0.1),
    _swin3d("s", lr=1e-3, weight_decay=0.02, drop_path=0.1),
    _swin3d("b", weights=("KINETICS400_IMAGENET22K_V1", "KINETICS400_V1"), lr=3e-4, weight_decay=0.05, drop_path=0.3),
    replace(
        _swin3d("b_w16", weights=(), lr=3e-4, weight_decay=0.05, drop_path=0.4),
        weights_files="Video-Swin's swin_base_patch244_window1677_sthv2.pth (Something-Something v2)",
    ),
    ModelSpec(
        name="swin3d_nano",
        clip=ClipConfig(num_frames=8, frame_stride=4, resize=72, crop=64),
        builder="video_module.models.swin3d:swin3d_nano",
        head="head",
        features="features.0",  # 4 x 8 x 8; the 2 x 2 tokens of the last stage are too coarse to show a place
        channels_last=True,
        has_drop_path=True,
        recipe={
            "num_epochs": 32,
            "effective_batch": 16,
            "lr": 1e-3,
            "lr_batch": 16,
            "weight_decay": 0.05,
            "warmup_epochs": 1.0,
            **dict.fromkeys(("drop_path", "mixup", "cutmix", "ema_decay"), 0.0),
        },
        paper=f"{_VIDEO_SWIN}; a relative of 0.33 M parameters that learns on a laptop",
    ),
    _torchvision("r2plus1d_18", features="layer3", **_VIDEO_RESNET),  # 4 x 14 x 14; layer4 has 2 x 7 x 7
    _torchvision("r3d_18", features="layer3", **_VIDEO_RESNET),
    _torchvision("mc3_18", features="layer4", **_VIDEO_RESNET),  # 16 x 7 x 7, because it never strides in time
    _torchvision(
        "s3d",
        clip=ClipConfig(num_frames=128, frame_stride=1, target_fps=15, resize=(256, 256), crop=224, **_KINETICS),
        head="classifier.1",
        features="features.15",  # 16 x 7 x 7
        recipe=_CONVOLUTIONAL,
        paper="Xie et al., Rethinking Spatiotemporal Feature Learning, ECCV 2018",
    ),
    _torchvision("mvit_v1_b", paper="Fan et al., Multiscale Vision Transformers, ICCV 2021", **_MVIT),
    _torchvision("mvit_v2_s", paper="Li et al., MViTv2, CVPR 2022", **_MVIT),
    _x3d("xs", num_frames=4, frame_stride=12, resize=182, crop=182),
    _x3d("s", num_frames=13, frame_stride=6, resize=182, crop=182),
    _x3d("m", num_frames=16, frame_stride=5, resize=256, crop=256),
    ModelSpec(
        name="c3d",
        # As in the paper, 16 consecutive frames. The mean is that of Sports-1M's mean cube over positions and frames.
        clip=ClipConfig(
            num_frames=16,
            frame_stride=1,
            resize=(128, 171),
            crop=112,
            mean=(101.41 / 255, 97.66 / 255, 90.25 / 255),
            std=(1 / 255, 1 / 255, 1 / 255),
        ),
        builder="video_module.models.c3d:C3D",
        head="fc8",
        features="conv4b",  # 4 x 14 x 14; conv5b has 2 x 7 x 7
        weights_files="c3d.pickle (Sports-1M), ucf101-caffe.pth, mmaction's c3d_sports1m_pretrain*.pth",
        # A tenth of the learning rate of the other networks, because C3D has no normalisation layers.
        recipe={**_CONVOLUTIONAL, "lr": 1e-4},
        paper="Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks, ICCV 2015",
    ),
    ModelSpec(
        name="i3d",
        # The paper trains on 64 frames at 25 per second (and tests on 250), with values in -1..1.
        clip=ClipConfig(
            num_frames=64, frame_stride=1, target_fps=25, resize=256, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3
        ),
        builder="video_module.models.i3d:I3D",
        head="logits.conv3d",
        features="Mixed_5c",  # 8 x 7 x 7
        weights_files="rgb_imagenet.pt, rgb_charades.pt (Kinetics); googlenet-*.pth of torchvision, inflated",
        recipe=_CONVOLUTIONAL,
        paper="Carreira & Zisserman, Quo Vadis, Action Recognition?, CVPR 2017",
    ),
)
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}
assert len(MODELS) == len(_SPECS), "two models have the same name"


def get_spec(name: str) -> ModelSpec:
    """Return the spec of a model. Raises InputError listing all models if there is none of this name."""
    if name not in MODELS:
        raise InputError(f"no model named {name!r}; use one of {', '.join(MODELS)}")
    return MODELS[name]
