"""Our networks and preprocessing compared with torchvision's networks, published weights and presets."""

import math

import numpy as np
import pytest
import torch
import torchvision.models.video as zoo
from torchvision.models import get_model_weights
from torchvision.models.video import mvit

from video_module.data.drawing import draw_frames, make_scene
from video_module.data.transforms import center_crop, resize_frame
from video_module.errors import InputError
from video_module.models import torchvision_zoo
from video_module.models.cost import measure_cost
from video_module.models.recognizer import build_model
from video_module.models.registry import MODELS, get_spec

OF_TORCHVISION = [name for name, spec in MODELS.items() if spec.weights and not spec.weights_url]


def published(name: str):
    """Return torchvision's entry for the default weights."""
    return get_model_weights(name)[get_spec(name).default_weights]


def test_all_of_torchvisions_video_networks_are_there():
    theirs = {name for name in vars(zoo) if hasattr(zoo, f"{_weights_class(name)}_Weights")}
    assert set(OF_TORCHVISION) == theirs


def _weights_class(name: str) -> str:
    return next((key.removesuffix("_Weights") for key in vars(zoo) if key.lower() == f"{name}_weights"), "no such")


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_clips_are_the_published_preset(name):
    clip, meta = get_spec(name).clip, published(name).meta
    preset = published(name).transforms()
    assert [clip.crop, clip.crop] == preset.crop_size
    assert ([clip.resize] if isinstance(clip.resize, int) else list(clip.resize)) == preset.resize_size
    assert (list(clip.mean), list(clip.std)) == (preset.mean, preset.std)
    settings = dict(part.split("=") for part in meta["_docs"].split("`") if "=" in part)
    assert clip.num_frames == int(settings["clip_len"])
    frame_rate = clip.target_fps / clip.frame_stride if clip.target_fps else 30 / clip.frame_stride
    assert frame_rate == float(settings["frame_rate"])


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_parameters_and_cost_are_torchvisions(name):
    with torch.device("meta"):
        theirs = getattr(zoo, name)(num_classes=400).state_dict()
        ours = get_spec(name).build(num_classes=400).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    clip, meta = get_spec(name).clip, published(name).meta
    # torchvision's operation counts of Swin and S3D are for shorter clips than its accuracies.
    counted_on = min(clip.num_frames, 16)
    cost = measure_cost(name, clip=get_spec(name).clip_config(clip_len=counted_on))
    assert cost.num_parameters == meta["num_params"]
    assert math.isclose(cost.gmacs, meta["_ops"], rel_tol=0.001)


def drawn_frames(num_frames: int, *, height: int = 240, width: int = 320) -> np.ndarray:
    """Return uint8 RGB (T, H, W, 3) with noise, because every method resizes flat areas to the same values."""
    frames = np.stack(list(draw_frames("wave", make_scene(1, 2), num_frames=num_frames, rng=np.random.default_rng(0))))
    tiled = np.tile(frames, (1, 2, 2, 1))[:, :height, :width]
    noise = np.random.default_rng(1).integers(-20, 21, tiled.shape)
    return (tiled + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_pixels_are_torchvisions(name):
    """The network's input equals torchvision's up to rounding for the same resized frames.

    From raw frames, a few values differ by one level of 255.
    """
    model = build_model(name, num_classes=2).eval()
    frames, seen = drawn_frames(4), []
    model.backbone = torch.nn.Identity()
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    resized = np.stack([resize_frame(frame, model.clip) for frame in frames])
    model(torch.from_numpy(center_crop(resized, model.clip))[None])
    preset = published(name).transforms()
    from_resized, from_raw = (preset(torch.from_numpy(x).permute(0, 3, 1, 2)) for x in (resized, frames))
    torch.testing.assert_close(seen[0], from_resized, rtol=0, atol=1e-5)
    difference = (seen[0] - from_raw).abs() * min(model.clip.std) * 255
    assert difference.max() < 1.01
    assert (difference > 0.5).float().mean() < 0.02


# Swin gets two frames of full height and width, which also tests the padding along time.
LOGITS = [("s3d", 16), ("swin3d_t", 2)]
LARGE = [
    ("r3d_18", 16),
    ("mc3_18", 16),
    ("r2plus1d_18", 16),
    ("mvit_v1_b", 16),
    ("mvit_v2_s", 16),
    ("swin3d_s", 2),
    ("swin3d_b", 2),
]


@pytest.mark.parametrize(
    ("name", "num_frames"), [*LOGITS, *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE)]
)
def test_logits_are_torchvisions(name, num_frames):
    torch.manual_seed(0)
    theirs = getattr(zoo, name)(num_classes=7).eval()
    if name == "s3d":  # with torch's default initialisation, signals would vanish in its 77 layers
        for module in theirs.modules():
            if isinstance(module, torch.nn.Conv3d):
                torch.nn.init.kaiming_normal_(module.weight)
    model = build_model(name, num_classes=7, clip=get_spec(name).clip_config(clip_len=num_frames)).eval()
    model.backbone.load_state_dict(theirs.state_dict())
    frames = drawn_frames(num_frames)
    resized = np.stack([resize_frame(frame, model.clip) for frame in frames])
    preset = published(name).transforms()
    with torch.inference_mode():
        ours = model(torch.from_numpy(center_crop(resized, model.clip))[None])
        from_resized, from_raw = theirs(
            torch.stack([preset(torch.from_numpy(x).permute(0, 3, 1, 2)) for x in (resized, frames)])
        )[:, None]
    print(
        f"{name}: spread {ours.std():.2g}; largest difference from equal resized frames "
        f"{(ours - from_resized).abs().max():.1e}, end to end {(ours - from_raw).abs().max():.1e}"
    )
    assert ours.std() > 0.05
    torch.testing.assert_close(ours, from_resized, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, from_raw, rtol=0, atol=1e-3)
    assert not torch.equal(ours, from_raw)


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
@pytest.mark.parametrize("size", [{"clip_len": 4, "img_size": 64}, {"clip_len": 8, "img_size": 96}])
def test_mvit_without_assignments_equals_torchvisions(name, size):
    torch.manual_seed(0)
    ours = get_spec(name).build(num_classes=5, clip=get_spec(name).clip_config(**size)).eval()
    for key, parameter in ours.named_parameters():
        if "_pos" in key:
            torch.nn.init.normal_(parameter, std=0.2)  # large enough to show
    video = torch.randn(2, 3, size["clip_len"], size["img_size"], size["img_size"])
    with torch.inference_mode():
        result = ours(video)
        for block in ours.blocks:
            block.attn.__class__ = mvit.MultiscaleAttention
        torch.testing.assert_close(result, ours(video), rtol=0, atol=1e-5)


def test_logits_are_compared_for_all_of_torchvision():
    assert {name for name, _ in LOGITS + LARGE} == set(OF_TORCHVISION)


def test_mvit_of_torchvisions_size_is_torchvisions_network():
    """The blocks are defined in this project, because torchvision's builders have a fixed size.

    This compares the attributes that the shapes of the tensors do not show.
    """
    for name in ("mvit_v1_b", "mvit_v2_s"):
        with torch.device("meta"):
            nets = [getattr(zoo, name)(num_classes=4), get_spec(name).build(num_classes=4, drop_path=0.2)]
        texts = [str(net).replace("PooledAttention", "MultiscaleAttention") for net in nets]  # strides, sizes, shares
        assert texts[0] == texts[1]
        for theirs, ours in zip(nets[0].blocks, nets[1].blocks, strict=True):
            for attribute in ("num_heads", "head_dim", "scaler", "residual_pool", "residual_with_cls_embed"):
                assert getattr(theirs.attn, attribute) == getattr(ours.attn, attribute)
            assert theirs.proj_after_attn == ours.proj_after_attn
            assert theirs.stochastic_depth.p == pytest.approx(ours.stochastic_depth.p)


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if not spec.has_drop_path])
def test_stochastic_depth_where_there_is_none_is_an_error(name):
    spec = get_spec(name)
    assert spec.train_config(weights="none", given={}).drop_path == 0
    with pytest.raises(InputError, match=rf"--drop_path 0.2: not supported by {name}; leave it out"):
        spec.train_config(weights="none", given={"drop_path": 0.2})
    with pytest.raises(InputError, match="drop_path must be 0"):
        spec.build(num_classes=2, drop_path=0.2)


@pytest.mark.parametrize("name", ["mvit_v1_b", "swin3d_t"])
def test_stochastic_depth_reaches_the_last_block(name):
    with torch.device("meta"):
        net = get_spec(name).build(num_classes=2, drop_path=0.25)
    blocks = net.blocks if name == "mvit_v1_b" else net.features[-1]
    assert blocks[-1].stochastic_depth.p == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("s3d", {"clip_len": 2, "img_size": 64}),
        ("s3d", {"clip_len": 16, "img_size": 16}),
        ("mvit_v1_b", {"clip_len": 3}),
        ("mvit_v1_b", {"clip_len": 4, "img_size": 70}),
    ],
)
def test_clips_that_a_network_cannot_take_are_one_line(name, size):
    clip = get_spec(name).clip_config(**size)
    with pytest.raises(InputError, match=rf"{name} does not support clips of .*--clip_len") as error:
        build_model(name, num_classes=2, clip=clip)
    assert "\n" not in str(error.value)


def test_s3d_of_small_clips_gives_one_answer():
    for size in ({"clip_len": 8, "img_size": 64}, {"clip_len": 5, "img_size": 33}, {"clip_len": 14}):
        clip = get_spec("s3d").clip_config(**size)
        model = build_model("s3d", num_classes=3, clip=clip).eval()
        with torch.inference_mode():
            assert model(torch.zeros(1, *clip.shape, dtype=torch.uint8)).shape == (1, 3)


def test_mvit_makes_its_distances_once_and_trains_after_it_was_validated(monkeypatch):
    clip = get_spec("mvit_v2_s").clip_config(clip_len=4, img_size=32)
    model = build_model("mvit_v2_s", num_classes=3, clip=clip)
    clips = torch.zeros(1, *clip.shape, dtype=torch.uint8)
    torchvision_zoo._distance_tensor.cache_clear()
    with torch.inference_mode():
        model.eval()(clips)
    monkeypatch.setattr(torch, "tensor", None)  # each call would send a tensor to the device and wait for it
    model.train()(clips).sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.blocks.parameters())
