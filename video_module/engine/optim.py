"""Parameter groups, their learning rates, and the learning rate schedule."""

import math
import re
from typing import Any

from torch import nn

from video_module.config import TrainConfig
from video_module.models.recognizer import Recognizer

# Position tables of Swin, then of MViT. Their authors' recipes exclude them from weight decay.
_POSITION_TABLES = (
    "relative_position_bias_table",
    *(f".{name}" for name in ("rel_pos_t", "rel_pos_h", "rel_pos_w", "temporal_pos", "spatial_pos")),
)


def parameter_groups(model: Recognizer, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the parameter groups for AdamW, those of the head first.

    Norms, biases and position tables get no weight decay. The backbone learns at config.backbone_lr_scale times the
    rate, multiplied by config.layer_decay for each layer further below the head (BEiT, Bao et al. 2021).
    """
    head = {id(parameter) for parameter in model.head.parameters()}
    layers = _layer_numbers(
        [name for name, parameter in model.backbone.named_parameters() if id(parameter) not in head]
    )
    # Keys are (in the backbone, layers below the top, free of decay), so that the head sorts first.
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
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
    """Return the block of a parameter, such as features.4.11 for features.4.11.attn.qkv.weight."""
    return re.match(r"[^.]+(\.\d+)*", name)[0]


def _layer_numbers(names: list[str]) -> dict[str, int]:
    """Number the blocks from the input up, in the order in which the network lists its parameters."""
    return {layer: number for number, layer in enumerate(dict.fromkeys(map(_layer_of, names)))}


def rate_factor(step: int, *, num_steps: int, num_warmup_steps: int) -> float:
    """Return the share of the peak rate at `step`: linear warm-up, then half a cosine down to zero."""
    assert 0 <= num_warmup_steps <= num_steps
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def describe_rates(config: TrainConfig) -> str:
    """Describe the peak rates in one line. They differ from --lr if a step does not have --lr_batch clips."""
    head = config.lr * config.rate_scale
    text = f"peak learning rates: head {head:.2g}, backbone {head * config.backbone_lr_scale:.2g}"
    if config.layer_decay < 1:
        text += f" at its top, times {config.layer_decay:g} for each layer further down"
    if config.rate_scale != 1:
        text += (
            f" (--lr {config.lr:g} times {config.effective_batch}/{config.lr_batch}: --effective_batch over --lr_batch)"
        )
    return text
