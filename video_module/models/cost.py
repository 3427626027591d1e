"""What a network costs: parameters, and multiply-adds for one clip, counted on shapes alone."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from video_module.config import ClipConfig
from video_module.models.registry import MODELS, NO_WEIGHTS, ModelSpec, get_spec
from video_module.tables import align

_KINETICS_CLASSES = 400


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    num_parameters: int
    gmacs: float
    """10^9 multiply-adds of one clip's forward pass, in convolutions and matrix products; the rest is a few percent."""


def measure_cost(name: str, *, num_classes: int = _KINETICS_CLASSES, clip: ClipConfig | None = None) -> ModelCost:
    """Count what a model costs for clips of this ClipConfig (None: the model's own).

    The network runs on torch's meta device, where tensors have a shape and no values: a fraction of a second for each.
    """
    spec = get_spec(name)
    clip = clip or spec.clip
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad():
        net = spec.build(num_classes=num_classes, clip=clip).eval()
        with counter:
            net(torch.zeros(1, 3, *clip.shape[:3]))
    return ModelCost(
        num_parameters=sum(parameter.numel() for parameter in net.parameters()),
        gmacs=counter.get_total_flops() / 2 / 1e9,  # it counts a multiplication and an addition as two
    )


def format_models() -> str:
    """A table of all models: what each costs with 400 classes, what it takes, where its weights are from."""
    header = ("model", "M parameters", "GMACs", "clip (T x H x W)", "resize", "--weights", "paper")
    rows = [header, *(_row(spec, measure_cost(name)) for name, spec in MODELS.items())]
    return align(rows, left=(0, *range(3, len(header))), indent="")


def _row(spec: ModelSpec, cost: ModelCost) -> tuple[str, ...]:
    clip = spec.clip
    ordinal = {1: "", 2: " 2nd", 3: " 3rd"}.get(clip.frame_stride, f" {clip.frame_stride}th")
    step = f"every{ordinal} frame"
    rate = f"{clip.target_fps / clip.frame_stride:g}/s" if clip.target_fps else step
    resize = str(clip.resize) if isinstance(clip.resize, int) else "x".join(map(str, clip.resize))
    return (
        spec.name,
        f"{cost.num_parameters / 1e6:.2f}",
        f"{cost.gmacs:.2f}",
        f"{clip.num_frames} x {clip.crop} x {clip.crop}, {rate}",
        resize,
        ", ".join((*spec.weights, *(["a file"] if spec.weights_files else []))) or NO_WEIGHTS,
        spec.paper,
    )
