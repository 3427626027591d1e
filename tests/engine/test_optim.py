from itertools import pairwise

import pytest
import torch

from tests.engine.test_step import small_config
from video_module.engine.optim import describe_rates, parameter_groups, rate_factor
from video_module.models.recognizer import build_model


def test_parameter_groups():
    model = build_model("swin3d_nano", num_classes=4)
    config = small_config(lr=1e-2, backbone_lr_scale=0.1, weight_decay=0.3)
    groups = parameter_groups(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names.values()) == sorted(names[id(p)] for group in groups for p in group["params"])
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            is_head = name.startswith("backbone.head.")
            assert group["lr"] == pytest.approx(1e-2 if is_head else 1e-3), name
            decays = name.endswith("weight") and "norm" not in name
            assert group["weight_decay"] == (0.3 if decays else 0.0), name


def test_layers_decay_towards_the_input():
    model = build_model("swin3d_nano", num_classes=4)
    groups = parameter_groups(model, small_config(lr=1e-2, backbone_lr_scale=0.5, layer_decay=0.8))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in model.backbone.named_parameters()}
    assert len(named) == len(list(model.parameters()))
    assert named["head.weight"] == named["head.bias"] == pytest.approx(1e-2)
    order = ("norm", "features.4.0", "features.3", "features.2.0", "features.1", "features.0.1", "features.0.0")
    for below, layer in enumerate((*order, "patch_embed")):
        values = [rate for name, rate in named.items() if name.startswith(layer + ".")]
        assert values == [pytest.approx(5e-3 * 0.8**below)] * len(values) != [], layer


def test_rates_follow_the_effective_batch():
    model = build_model("swin3d_nano", num_classes=4)
    rates = [parameter_groups(model, small_config(effective_batch=size))[0]["lr"] for size in (64, 16, 128)]
    assert rates == [pytest.approx(1e-3), pytest.approx(2.5e-4), pytest.approx(2e-3)]


@pytest.mark.parametrize(("name", "num_tables"), [("mvit_v1_b", 2), ("mvit_v2_s", 48), ("swin3d_t", 12)])
def test_position_tables_do_not_decay(name, num_tables):
    with torch.device("meta"):
        model = build_model(name, num_classes=4)
    [decay_free] = [
        group
        for group in parameter_groups(model, small_config(weight_decay=0.3))
        if group["weight_decay"] == 0 and len(group["params"]) > 1
    ]
    assert sum(parameter.ndim == 2 for parameter in decay_free["params"]) == num_tables


def test_rate_rises_then_falls_to_zero():
    factors = [rate_factor(step, num_steps=100, num_warmup_steps=10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0)
    assert factors[55] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "peak learning rates: head 0.001, backbone 0.001"),
        (
            {"lr": 1e-4, "effective_batch": 2, "backbone_lr_scale": 0.1},
            "peak learning rates: head 3.1e-06, backbone 3.1e-07 (--lr 0.0001 times 2/64: --effective_batch over "
            "--lr_batch)",
        ),
        (
            {"layer_decay": 0.8},
            "peak learning rates: head 0.001, backbone 0.001 at its top, times 0.8 for each layer further down",
        ),
    ],
)
def test_the_rates_in_use_are_told(settings, text):
    config = small_config(**settings)
    assert describe_rates(config) == text
    head, *backbone = (group["lr"] for group in parameter_groups(build_model("swin3d_nano", num_classes=4), config))
    assert f"head {head:.2g}, backbone {max(backbone[1:]):.2g}" in text
