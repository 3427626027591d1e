"""X3D compared with pytorchvideo's network, whose parameter names it shares."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from video_module.errors import InputError
from video_module.models import recognizer, x3d
from video_module.models.cost import measure_cost
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec

NAMES = ("x3d_xs", "x3d_s", "x3d_m")
# (frames, side) of the training clips, for which pytorchvideo builds its networks.
TRAINED_ON = {"x3d_xs": (4, 160), "x3d_s": (13, 160), "x3d_m": (16, 224)}


def theirs(name: str, num_classes: int) -> nn.Module:
    """Build pytorchvideo's network like its hub, but with logits as output."""
    hub = pytest.importorskip("pytorchvideo.models.hub", reason="pytorchvideo is not installed")
    return getattr(hub, name)(model_num_class=num_classes, head_activation=None).eval()


@torch.no_grad()
def as_after_training(net: nn.Module, video: Tensor) -> nn.Module:
    """Give the norms the statistics of this video, and weights that are not zero, as some are at the start."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = 0.9
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    net.train()(video)
    return net.eval()


def compare(name: str, video: Tensor, *, clip=None) -> None:
    torch.manual_seed(0)
    net = as_after_training(theirs(name, 7), video)
    ours = get_spec(name).build(num_classes=7, clip=clip).eval()
    ours.load_state_dict(net.state_dict(), strict=True)
    with torch.inference_mode():
        expected = net(video)
        result = ours(video)
    print(f"{name}: logits' deviation {expected.std():.2g}, largest difference {(result - expected).abs().max():.1e}")
    assert 0.3 < expected.std() < 30
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_pytorchvideos(name):
    """The hub's clips are larger than the training clips, so that four positions are pooled and averaged."""
    compare(name, torch.randn(1, 3, *get_spec(name).clip.shape[:3]))


@pytest.mark.parametrize(("num_frames", "side"), [(4, 160), (9, 200), (6, 224)])
def test_logits_of_other_clips_are_those_of_the_hubs_network(num_frames, side):
    clip = get_spec("x3d_xs").clip_config(clip_len=num_frames, img_size=side)
    compare("x3d_xs", torch.randn(1, 3, num_frames, side, side), clip=clip)


@pytest.mark.parametrize(
    ("num_frames", "side", "window"), [(1, 32, (1, 1, 1)), (3, 65, (3, 3, 3)), (5, 112, (4, 4, 4))]
)
def test_of_clips_smaller_than_the_trainings_all_is_pooled(num_frames, side, window):
    clip = get_spec("x3d_xs").clip_config(clip_len=num_frames, img_size=side)
    net = get_spec("x3d_xs").build(num_classes=3, clip=clip).eval()
    assert net.blocks[-1].pool.pool.kernel_size == window
    with torch.inference_mode():
        assert net(torch.zeros(2, 3, num_frames, side, side)).shape == (2, 3)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_cost_are_the_published_ones(name):
    """The figures are from table 2 of the paper, which are for the training clips."""
    cost = measure_cost(name, clip=get_spec(name).clip_config(img_size=TRAINED_ON[name][1]))
    assert cost.num_parameters == 3_794_274
    assert cost.gmacs == pytest.approx({"x3d_xs": 0.60, "x3d_s": 1.96, "x3d_m": 4.73}[name], abs=0.006)


def test_clips_are_those_of_pytorchvideos_hub():
    settings = {"x3d_xs": (4, 12, 182), "x3d_s": (13, 6, 182), "x3d_m": (16, 5, 256)}
    for name, (num_frames, stride, side) in settings.items():
        clip = get_spec(name).clip
        assert (clip.num_frames, clip.frame_stride, clip.resize, clip.crop) == (num_frames, stride, side, side)
        assert (clip.target_fps, set(clip.mean), set(clip.std)) == (30, {0.45}, {0.225})


def test_a_new_network_begins_as_its_shortcuts():
    net = get_spec("x3d_xs").build(num_classes=3)
    blocks = [module for module in net.modules() if isinstance(module, x3d._Bottleneck)]
    assert len(blocks) == 3 + 5 + 11 + 7
    assert not any(block.norm_c.weight.any() for block in blocks)


# ---- published files


@pytest.fixture
def torch_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_the_published_file_loads_by_name_and_as_a_file(torch_cache, monkeypatch, capsys):
    """The file only has the layout of pytorchvideo's, because the published one could not be downloaded."""
    donor = build_model("x3d_s", num_classes=400, seed=1).backbone.state_dict()
    asked = []

    def download(url, path, *, hash_prefix):
        asked.append((url, hash_prefix))
        torch.save({"model_state": donor, "epoch": 300}, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        model = build_model("x3d_s", num_classes=400, weights="KINETICS400_V1")
        assert all(torch.equal(value, donor[key]) for key, value in model.backbone.state_dict().items())
    url = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/X3D_S.pyth"
    assert asked == [(url, None)]
    assert f"downloading {url} to {torch_cache / 'X3D_S.pyth'}; no checksum to verify it" in capsys.readouterr().out
    model = build_model("x3d_s", num_classes=5, weights=str(torch_cache / "X3D_S.pyth"))
    assert torch.equal(model.backbone.state_dict()["blocks.0.conv.conv_t.weight"], donor["blocks.0.conv.conv_t.weight"])
    assert "new last layer for 5 classes" in capsys.readouterr().out


def test_a_damaged_download_without_a_checksum_is_not_kept(torch_cache, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, **_: Path(path).write_bytes(b"half"))
    with pytest.raises(InputError, match=r"download of https://.*/X3D_XS\.pyth is damaged .*; try again"):
        build_model("x3d_xs", num_classes=400, weights="KINETICS400_V1")
    assert list(torch_cache.iterdir()) == []


def test_classes_are_kinetics_in_pytorchvideos_order():
    names = recognizer.published_class_names("x3d_m", "KINETICS400_V1")
    assert (len(names), len(set(names))) == (400, 400)
    # Entries of kinetics_classnames.json, to which pytorchvideo's hub page links.
    assert {number: names[number] for number in (81, 115, 290)} == {
        81: "cutting nails",
        115: "eating ice cream",
        290: "sharpening knives",
    }
    with pytest.raises(InputError, match="--weights KINETICS600: neither a file nor known weights for x3d_m"):
        recognizer.published_class_names("x3d_m", "KINETICS600")
