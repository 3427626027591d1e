"""Parameter groups, their learning rates, and the schedule."""

import math
import re
from typing import Any

from torch import nn

from video_module.config import TrainConfig
from video_module.models.recognizer import Recognizer

# Swin's position tables, then MViT's. Their authors' recipes leave them out of weight decay.
_POSITION_TABLES = (
    "relative_position_bias_table",
    *(f".{name}" for name in ("rel_pos_t", "rel_pos_h", "rel_pos_w", "temporal_pos", "spatial_pos")),
)


def parameter_groups(model: Recognizer, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's groups, the head's first. Norms, biases and position tables do not decay.

    The backbone learns at its share of the rate, and with config.layer_decay slower with each layer below the head
    (BEiT, Bao et al. 2021).
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
    assert sum(map(len, groups.values())) == len(list(model.parameters())), "a parameter in no group never learns"
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
    assert 0 <= num_warmup_steps <= num_steps
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def describe_rates(config: TrainConfig) -> str:
    """The peak rates in use, in a line: they differ from --lr where a step has other than --lr_batch clips."""
    head = config.lr * config.rate_scale
    text = f"peak learning rates: head {head:.2g}, backbone {head * config.backbone_lr_scale:.2g}"
    if config.layer_decay < 1:
        text += f" at its top, times {config.layer_decay:g} for each layer further down"
    if config.rate_scale != 1:
        text += (
            f" (--lr {config.lr:g} times {config.effective_batch}/{config.lr_batch}: --effective_batch over --lr_batch)"
        )
    return text
