"""Count a network's parameters and multiply-adds per clip from the shapes of its tensors alone."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from video_module.config import ClipConfig
from video_module.models.registry import MODELS, NO_WEIGHTS, ModelSpec, get_spec
from video_module.tables import align

_KINETICS_CLASSES = 400
_Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _ModelCost:
    num_parameters: int
    gmacs: float
    """10^9 multiply-adds per clip in convolutions and matrix products; other operations would add a few percent."""


def measure_cost(name: str, *, num_classes: int = _KINETICS_CLASSES, clip: ClipConfig | None = None) -> _ModelCost:
    """Count a model's parameters, and its multiply-adds for a clip of the size in `clip` (None: the model's own)."""
    # On torch's meta device, tensors have a shape but no values, so every network takes less than a second.
    spec = get_spec(name)
    clip = clip or spec.clip
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad():
        net = spec.build(num_classes=num_classes, clip=clip).eval()
        with counter:
            net(torch.zeros(1, 3, *clip.shape[:3]))
    return _ModelCost(
        num_parameters=sum(parameter.numel() for parameter in net.parameters()),
        # The counter counts a multiply-add as two operations, but the literature counts it as one.
        gmacs=counter.get_total_flops() / 2 / 1e9,
    )


def measure_shapes(name: str, *, num_classes: int, clip: ClipConfig | None = None) -> list[tuple[str, _Shape]]:
    """List (module, output shape) in the order of the forward pass, starting with the clip itself."""
    spec = get_spec(name)
    clip = clip or spec.clip
    shapes: list[tuple[str, _Shape]] = [("clip", (1, 3, *clip.shape[:3]))]

    def note_shape(path: str, module: nn.Module, inputs: object, output: Any) -> None:
        # MViT's blocks return a pair of the tensor and its grid size.
        shapes.append((path, tuple((output[0] if isinstance(output, tuple) else output).shape)))

    with torch.device("meta"), torch.no_grad():
        net = spec.build(num_classes=num_classes, clip=clip).eval()
        for path in _listed_modules(net, features=spec.features):
            net.get_submodule(path).register_forward_hook(partial(note_shape, path))
        net(torch.zeros(shapes[0][1]))
    return shapes


def _listed_modules(net: nn.Module, *, features: str) -> list[str]:
    """List the network's parts, the items of each part that is a sequence, and the modules inside one item.

    That item is the one that contains `features`, such as a block of a Swin Transformer. All blocks look alike, so one
    is enough.
    """
    paths = []
    for name, child in net.named_children():
        is_chain = isinstance(child, nn.Sequential | nn.ModuleList)
        paths += [f"{name}.{number}" for number, _ in child.named_children()] if is_chain else [name]
    links = (path for path in paths if f"{features}.".startswith(f"{path}.") or path.startswith(f"{features}."))
    if (block := next(links, None)) is None:
        return paths
    if isinstance(stage := net.get_submodule(block), nn.Sequential):
        block = f"{block}.{next(iter(stage.named_children()))[0]}"
        paths.append(block)
    return paths + [f"{block}.{name}" for name, _ in net.get_submodule(block).named_children()]


def format_shapes(name: str, *, num_classes: int, clip: ClipConfig | None = None) -> str:
    """Format measure_cost() and measure_shapes() as text."""
    cost = measure_cost(name, num_classes=num_classes, clip=clip)
    rows = measure_shapes(name, num_classes=num_classes, clip=clip)
    table = align([(path, " x ".join(map(str, shape))) for path, shape in rows], left=(0, 1))
    return f"{name}: {cost.num_parameters / 1e6:.2f} M parameters, {cost.gmacs:.3g} GMACs per clip\n{table}"


def format_models() -> str:
    """Format a table of all models: cost with 400 classes, input, and available weights."""
    header = ("model", "M parameters", "GMACs", "clip (T x H x W)", "resize", "--weights", "paper")
    rows = [header, *(_row(spec, measure_cost(name)) for name, spec in MODELS.items())]
    return align(rows, left=(0, *range(3, len(header))), indent="")


def _row(spec: ModelSpec, cost: _ModelCost) -> tuple[str, ...]:
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
