"""Which parameters learn at which rate, and how the rate moves over a run."""

import math
import re
from typing import Any

from torch import nn

from video_module.config import TrainConfig
from video_module.models.recognizer import Recognizer

# of Swin; of MViT
_POSITION_TABLES = (
    "relative_position_bias_table",
    *(f".{name}" for name in ("rel_pos_t", "rel_pos_h", "rel_pos_w", "temporal_pos", "spatial_pos")),
)


def parameter_groups(model: Recognizer, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW groups, the head's first: the backbone at its share of the rate, with config.layer_decay less the deeper
    below the head; no decay on norms, biases and position tables.
    """
    head = {id(parameter) for parameter in model.head.parameters()}
    layers = _layer_numbers(
        [name for name, parameter in model.backbone.named_parameters() if id(parameter) not in head]
    )
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}  # in the head, layers below the top, decays
    for name, parameter in model.backbone.named_parameters():
        in_head = id(parameter) in head
        below = 0 if in_head or config.layer_decay == 1 else max(layers.values()) - layers[_layer_of(name)]
        decays = parameter.ndim > 1 and not name.endswith(_POSITION_TABLES)
        groups.setdefault((not in_head, below, not decays), []).append(parameter)
    peak = config.lr * config.rate_scale
    return [
        {
            "params": parameters,
            "lr": peak * (config.backbone_lr_scale * config.layer_decay**below if in_backbone else 1.0),
            "weight_decay": 0.0 if decay_free else config.weight_decay,
        }
        for (in_backbone, below, decay_free), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _layer_of(name: str) -> str:
    """The block that a parameter belongs to: features.4.11 of features.4.11.attn.qkv.weight."""
    return re.match(r"[^.]+(\.\d+)*", name)[0]


def _layer_numbers(names: list[str]) -> dict[str, int]:
    """The blocks numbered from the input up, in the order in which a network lists them."""
    return {layer: number for number, layer in enumerate(dict.fromkeys(map(_layer_of, names)))}


def rate_factor(step: int, *, num_steps: int, num_warmup_steps: int) -> float:
    """Share of the peak rate at `step`: linear warm-up, then half a cosine to zero."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
