from dataclasses import replace
from itertools import pairwise

import pytest

import train_model
from video_module.config import ClipConfig
from video_module.models import cost
from video_module.models.registry import MODELS, ModelSpec, get_spec


def test_by_hand():
    """C3D on one frame of 2 x 2 pixels, where `cells` is the number of positions of each convolution."""
    clip = ClipConfig(num_frames=1, frame_stride=1, resize=2, crop=2)
    cells = [4, 1, 1, 1, 1, 1, 1, 1]
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    products = sum(n * 27 * a * b for n, (a, b) in zip(cells, pairwise(channels), strict=True))
    products += 512 * 4096 + 4096 * 4096 + 4096 * 7
    biases = sum(channels[1:]) + 2 * 4096 + 7
    measured = cost.measure_cost("c3d", num_classes=7, clip=clip)
    assert measured.gmacs * 1e9 == pytest.approx(products)
    assert measured.num_parameters == sum(27 * a * b for a, b in pairwise(channels)) + (
        512 * 4096 + 4096 * 4096 + 4096 * 7 + biases
    )


def test_shapes_on_the_way_of_a_clip():
    shapes = cost.measure_shapes("swin3d_nano", num_classes=6)
    assert shapes[0] == ("clip", (1, 3, 8, 64, 64))
    assert shapes[1] == ("patch_embed", (1, 4, 8, 8, 32))  # patches of 2 x 8 x 8
    block = [path for path, _ in shapes if path.startswith("features.0.0")]
    assert block[-1] == "features.0.0"  # after its parts
    assert {"features.0.0.attn", "features.0.0.mlp"} < set(block)
    assert dict(shapes)["features.3"] == (1, 4, 2, 2, 128)  # merged twice
    assert shapes[-1] == ("head", (1, 6))
    text = cost.format_shapes("swin3d_nano", num_classes=6)
    assert text.startswith("swin3d_nano: 0.33 M parameters, 0.0195 GMACs per clip\n")
    assert "features.0.0.attn " in text
    assert "1 x 4 x 8 x 8 x 32" in text


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_shapes(name):
    shapes = cost.measure_shapes(name, num_classes=7)
    assert len(shapes) > 8
    assert shapes[-1][1][:2] == (1, 7)
    features = get_spec(name).features
    assert any(f"{path}.".startswith((f"{features}.", f"{features.partition('.')[0]}.")) for path, _ in shapes)
    paths = [path for path, _ in shapes]
    deepest = max(path.count(".") for path in paths)
    assert deepest > 0 or name == "c3d"  # C3D has no nested blocks


def test_twice_the_frames_cost_twice_as_much():
    one, two = (cost.measure_cost("r3d_18", clip=get_spec("r3d_18").clip_config(clip_len=n)).gmacs for n in (8, 16))
    assert two == pytest.approx(2 * one, rel=1e-4)


def test_list_models(capsys):
    train_model.main(["--list_models"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(MODELS)
    by_name = {row.split()[0]: row for row in rows}
    assert by_name["r2plus1d_18"].split()[1:3] == ["31.51", "40.52"]
    assert "16 x 112 x 112, 15/s" in by_name["r2plus1d_18"]
    assert "128x171" in by_name["c3d"]
    assert "every 2nd frame" in by_name["swin3d_t"]
    assert "every frame" in by_name["c3d"]
    assert "KINETICS400_IMAGENET22K_V1, KINETICS400_V1, a file" in by_name["swin3d_b"]
    for name, row in by_name.items():
        assert row.endswith(MODELS[name].paper)
    assert header.index("paper") == rows[0].index(MODELS["swin3d_t"].paper)


def test_an_entry_with_little_in_it_is_listed(monkeypatch):
    spec = replace(get_spec("c3d"), name="bare", paper="", weights_files="")
    assert isinstance(spec, ModelSpec)
    monkeypatch.setitem(MODELS, "bare", spec)
    monkeypatch.setattr(cost, "MODELS", {"bare": spec})  # the test above lists the others
    assert cost.format_models().splitlines()[-1].split()[-1] == "none"
