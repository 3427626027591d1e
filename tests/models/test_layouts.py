"""Weights files of other projects: the layout is found, results agree with theirs, and mismatches are listed."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import googlenet

from video_module.engine.checkpoint import Checkpoint, save_checkpoint
from video_module.errors import InputError
from video_module.models import c3d, layouts, swin3d
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec

WINDOW = (4, 4, 4)


class OfficialAttention(nn.Module):
    """Attention within windows, as Video-Swin-Transformer and mmaction define it."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.randn(7 * 7 * 7, num_heads))
        places = torch.stack(torch.meshgrid(*map(torch.arange, WINDOW), indexing="ij")).flatten(1)
        offsets = (places[:, :, None] - places[:, None, :]).permute(1, 2, 0) + 3
        self.register_buffer("relative_position_index", (offsets * torch.tensor([49, 7, 1])).sum(-1))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, mask):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index[:n, :n].flatten()].view(n, n, -1)
        scores = q * (c // self.num_heads) ** -0.5 @ k.transpose(-2, -1) + bias.permute(2, 0, 1)
        scores = scores.view(-1, len(mask), self.num_heads, n, n) + mask[:, None]
        x = scores.softmax(-1).flatten(0, 1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


def to_windows(x):
    n, t, h, w, c = x.shape
    x = x.view(n, t // 4, 4, h // 4, 4, w // 4, 4, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, 64, c)


class OfficialBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, shifted: bool):
        super().__init__()
        self.shifted = shifted
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = OfficialAttention(dim, num_heads)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        size = x.shape[1:4]
        shift = [2 if self.shifted and length > 4 else 0 for length in size]
        regions = torch.zeros(1, *size, 1)
        for axis, offset in enumerate(shift, start=1):
            number = torch.zeros(size[axis - 1])
            if offset:
                number[-4:-2], number[-2:] = 1, 2
            shape = [1] * 5
            shape[axis] = -1
            regions = regions * 3 + number.view(shape)
        regions = to_windows(regions).squeeze(-1)
        mask = (regions[:, :, None] != regions[:, None, :]) * -100.0
        y = torch.roll(self.norm1(x), [-offset for offset in shift], (1, 2, 3))
        y = self.attn(to_windows(y), mask)
        n, (t, h, w), c = len(x), size, x.shape[-1]
        y = y.view(n, t // 4, h // 4, w // 4, 4, 4, 4, c).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape)
        x = x + torch.roll(y, shift, (1, 2, 3))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class OfficialMerging(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * dim, 2 * dim, bias=False), nn.LayerNorm(4 * dim)

    def forward(self, x):
        parts = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class OfficialSwin(nn.Module):
    """A small version of Video-Swin-Transformer's recogniser with its parameter names, for sizes without padding."""

    def __init__(self):
        super().__init__()
        self.backbone, self.cls_head = nn.Module(), nn.Module()
        self.backbone.patch_embed = nn.Module()
        self.backbone.patch_embed.proj = nn.Conv3d(3, 24, (2, 4, 4), stride=(2, 4, 4))
        self.backbone.patch_embed.norm = nn.LayerNorm(24)
        self.backbone.layers = nn.ModuleList()
        for dim, num_heads in ((24, 2), (48, 4)):
            layer = nn.Module()
            layer.blocks = nn.ModuleList(OfficialBlock(dim, num_heads, shifted) for shifted in (False, True))
            if dim == 24:
                layer.downsample = OfficialMerging(dim)
            self.backbone.layers.append(layer)
        self.backbone.norm = nn.LayerNorm(48)
        self.cls_head.fc_cls = nn.Linear(48, 5)

    def forward(self, x):
        embed = self.backbone.patch_embed
        x = embed.norm(embed.proj(x).permute(0, 2, 3, 4, 1))
        for layer in self.backbone.layers:
            for block in layer.blocks:
                x = block(x)
            if hasattr(layer, "downsample"):
                x = layer.downsample(x)
        return self.cls_head.fc_cls(self.backbone.norm(x).mean((1, 2, 3)))


@pytest.mark.parametrize("final_norm", ["norm", "norm3"])
def test_video_swin_gives_the_answers_of_its_own_code(final_norm):
    torch.manual_seed(0)
    theirs = OfficialSwin().eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3 if parameter.ndim > 1 else 0.5)  # large enough to show
    ours = swin3d._build(
        num_classes=5,
        drop_path=0.0,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4, 4],
        patch_size=[2, 4, 4],
    ).eval()
    state = {
        key.replace("backbone.norm.", f"backbone.{final_norm}."): value for key, value in theirs.state_dict().items()
    }
    assert "backbone.layers.0.blocks.1.attn.relative_position_index" in state
    layout, weights = layouts.match_layout(state, ours.state_dict())
    assert "mmaction" in layout.name
    ours.load_state_dict(weights, strict=True)
    video = torch.randn(2, 3, 16, 64, 32)
    with torch.inference_mode():
        expected = theirs(video)
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(video), expected, rtol=1e-4, atol=1e-4)


def to_video_swin(key: str) -> str:
    """Convert torchvision's name of a tensor to that of Video-Swin-Transformer."""
    if key.startswith("head."):
        return key.replace("head.", "cls_head.fc_cls.")
    if match := re.match(r"features\.(\d+)\.(.*)", key):
        stage, rest = divmod(int(match[1]), 2)[0], match[2]
        key = f"layers.{stage}.downsample.{rest}" if int(match[1]) % 2 else f"layers.{stage}.blocks.{rest}"
        key = key.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    return f"backbone.{key}"


def test_a_video_swin_checkpoint_as_a_file(tmp_path, capsys):
    donor = build_model("swin3d_t", num_classes=7, seed=1).backbone.state_dict()
    content = {"meta": {"epoch": 30}, "state_dict": {to_video_swin(key): value for key, value in donor.items()}}
    torch.save(content, tmp_path / "swin_tiny_patch244_window877.pth")
    model = build_model("swin3d_t", num_classes=7, weights=str(tmp_path / "swin_tiny_patch244_window877.pth"))
    assert all(torch.equal(value, donor[key]) for key, value in model.backbone.state_dict().items())
    assert capsys.readouterr().out.strip().endswith("read as Video-Swin-Transformer and mmaction")
    # A file with another window size, as for Something-Something.
    table = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    content["state_dict"][table] = torch.zeros(31 * 13 * 13, 3)
    torch.save(content, tmp_path / "window1677.pth")
    with pytest.raises(InputError, match=r"different shape features\.0\.0\.attn\.rel.*_table 5239x3 for 2535x3$"):
        build_model("swin3d_t", num_classes=7, weights=str(tmp_path / "window1677.pth"))


def test_video_swin_on_something_something_has_windows_as_long_as_its_clips(tmp_path, monkeypatch, capsys):
    """swin_base_patch244_window1677_sthv2.pth needs its own model, which the error of swin3d_b names."""
    build = swin3d._build
    monkeypatch.setattr(
        swin3d,
        "_build",
        lambda *, depths, embed_dim, **settings: build(depths=[1] * len(depths), embed_dim=32, **settings),
    )
    clip = get_spec("swin3d_b_w16").clip_config(img_size=32)
    donor = build_model("swin3d_b_w16", num_classes=174, clip=clip, seed=1).eval()
    table = "features.0.0.attn.relative_position_bias_table"
    assert donor.backbone.state_dict()[table].shape[0] == 31 * 13 * 13
    path = tmp_path / "swin_base_patch244_window1677_sthv2.pth"
    state = donor.backbone.state_dict()
    torch.save({"state_dict": {to_video_swin(key): value for key, value in state.items()}}, path)
    model = build_model("swin3d_b_w16", num_classes=174, clip=clip, weights=str(path), keeps_head=True).eval()
    assert "read as Video-Swin-Transformer" in capsys.readouterr().out
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())
    assert {block.attn.window_size[0] for block in model.backbone.features[0]} == {16}
    with pytest.raises(InputError, match=r"does not fit swin3d_b; it is for swin3d_b_w16: use --model_type swin3d_b_w"):
        build_model("swin3d_b", num_classes=174, clip=clip, weights=str(path))


@pytest.fixture(autouse=True)
def narrow_c3d(monkeypatch):
    """Shrink C3D to about a hundredth of its 78 M parameters, under the same names."""
    layers = tuple((name, width // 8, pool) for name, width, pool in c3d._CONVOLUTIONS)
    monkeypatch.setattr(c3d, "_CONVOLUTIONS", layers)
    monkeypatch.setattr(c3d, "_HIDDEN", 512)


def c3d_state(num_classes: int) -> dict[str, torch.Tensor]:
    return get_spec("c3d").build(num_classes=num_classes, clip=SMALL_C3D).state_dict()


SMALL_C3D = get_spec("c3d").clip_config(img_size=16)
CAFFE = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3a": "features.6",
    "conv3b": "features.8",
    "conv4a": "features.11",
    "conv4b": "features.13",
    "conv5a": "features.16",
    "conv5b": "features.18",
    "fc6": "classifier.0",
    "fc7": "classifier.3",
    "fc8": "classifier.6",
}
MMACTION = {"conv1": "conv1a.conv", "conv2": "conv2a.conv", "fc8": "cls_head.fc_cls"}


@pytest.mark.parametrize("layout", ["plain", "caffe", "mmaction"])
def test_c3d_in_all_its_layouts(tmp_path, capsys, layout):
    donor = c3d_state(11)
    names = {
        "plain": {},
        "caffe": CAFFE,
        "mmaction": {name: MMACTION.get(name, f"{name}.conv" if "conv" in name else name) for name in CAFFE},
    }[layout]
    prefix = "backbone." if layout == "mmaction" else ""
    state = {}
    for key, value in donor.items():
        module, kind = key.split(".")
        name = names.get(module, module)
        state[f"{'' if name.startswith('cls_head') else prefix}{name}.{kind}"] = value
    torch.save(state, tmp_path / "c3d.pickle")
    model = build_model("c3d", num_classes=11, clip=SMALL_C3D, weights=str(tmp_path / "c3d.pickle"))
    assert all(torch.equal(value, donor[key]) for key, value in model.backbone.state_dict().items())
    other = build_model("c3d", num_classes=3, clip=SMALL_C3D, weights=str(tmp_path / "c3d.pickle"))
    assert torch.equal(other.backbone.conv5b.weight, donor["conv5b.weight"])
    assert "new last layer for 3 classes" in capsys.readouterr().out


def test_an_i3d_file_from_before_batch_norm_counted(tmp_path, capsys):
    """rgb_imagenet.pt is a plain state dict for 400 classes, from before PyTorch had num_batches_tracked."""
    donor = get_spec("i3d").build(num_classes=400).state_dict()
    old = {key: value for key, value in donor.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "rgb_imagenet.pt", _use_new_zipfile_serialization=False)
    model = build_model("i3d", num_classes=51, weights=str(tmp_path / "rgb_imagenet.pt"))
    state = model.backbone.state_dict()
    assert all(torch.equal(state[key], value) for key, value in old.items() if not key.startswith("logits."))
    assert capsys.readouterr().out.splitlines() == [f"{tmp_path / 'rgb_imagenet.pt'}: new last layer for 51 classes"]


def test_googlenet_is_inflated_into_i3d(tmp_path, capsys):
    donor = googlenet(weights=None, init_weights=False).state_dict()
    torch.save(donor, tmp_path / "googlenet.pth")
    state = build_model("i3d", num_classes=51, weights=str(tmp_path / "googlenet.pth")).backbone.state_dict()
    pairs = {
        "Conv3d_1a_7x7": "conv1",
        "Conv3d_2c_3x3": "conv3",
        "Mixed_3b.b0": "inception3a.branch1",
        "Mixed_4f.b1b": "inception4e.branch2.1",
        "Mixed_5c.b2b": "inception5b.branch3.1",
        "Mixed_5c.b3b": "inception5b.branch4.1",
    }
    for ours, theirs in pairs.items():
        torch.testing.assert_close(state[f"{ours}.conv3d.weight"].sum(dim=2), donor[f"{theirs}.conv.weight"])
        assert torch.equal(state[f"{ours}.bn.weight"], donor[f"{theirs}.bn.weight"])
    printed = capsys.readouterr().out
    assert "read as torchvision's GoogLeNet, inflated" in printed
    assert "unused tensors: aux1.*, aux2.*" in printed
    assert "new last layer for 51 classes" in printed


NANO = "swin3d_nano"


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_state_dict"])
def test_wrappers_and_prefixes_of_training_programs(tmp_path, wrap):
    donor = build_model(NANO, num_classes=4, seed=3)
    state = {f"module.{key}": value for key, value in donor.state_dict().items()}  # module.backbone.…
    torch.save({wrap: state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "x.pth")
    model = build_model(NANO, num_classes=4, weights=str(tmp_path / "x.pth"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), donor.parameters(), strict=True))


def test_this_projects_own_checkpoint(tmp_path, capsys):
    donor = build_model(NANO, num_classes=4, seed=3)
    save_checkpoint(
        tmp_path / "own.pth",
        Checkpoint(model=NANO, weights=donor.backbone.state_dict(), clip=donor.clip, class_names=list("abcd")),
    )
    model = build_model(NANO, num_classes=4, weights=str(tmp_path / "own.pth"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), donor.parameters(), strict=True))
    assert capsys.readouterr().out == ""


def test_everything_that_does_not_match_is_listed(tmp_path, capsys):
    state = build_model(NANO, num_classes=4).backbone.state_dict()
    path = tmp_path / "x.pth"
    torch.save({**state, "extra.a.weight": torch.zeros(1), "extra.b": torch.zeros(1), "ema": torch.zeros(2)}, path)
    build_model(NANO, num_classes=4, weights=str(path))
    assert capsys.readouterr().out == f"{path}: 3 unused tensors: extra.*, ema\n"
    short = {key: value for key, value in state.items() if not key.startswith("features.2.")}
    short["norm.bias"] = torch.zeros(3)
    torch.save(short, path)
    with pytest.raises(InputError) as error:
        build_model(NANO, num_classes=4, weights=str(path))
    assert "missing features.2.*; different shape norm.bias 3 for 128" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_one_line(tmp_path):
    torch.save(c3d_state(2), tmp_path / "c3d.pth")
    with pytest.raises(
        InputError, match=r"it has none of the .* tensors; the file contains conv1\.\*, conv2\.\*, .*fc8"
    ):
        build_model(NANO, num_classes=4, weights=str(tmp_path / "c3d.pth"))
    torch.save({"epoch": 3, "config": "text"}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="contains no weights; its entries: epoch, config"):
        build_model(NANO, num_classes=4, weights=str(tmp_path / "none.pth"))


class Payload:
    pass


def test_a_file_with_code_is_refused_with_the_way_to_convert_it(tmp_path, monkeypatch):
    """Training programs save such files, with their settings as objects."""
    monkeypatch.chdir(tmp_path)
    donor = build_model(NANO, num_classes=4, seed=3)
    torch.save({"state_dict": donor.backbone.state_dict(), "args": Payload()}, "run.pth")
    with pytest.raises(InputError, match=r"contains code, which is never run \(\S*Payload here\)") as error:
        build_model(NANO, num_classes=4, weights="run.pth")
    assert "\n" not in str(error.value)
    program = re.search(r'python -c "(.*)"$', str(error.value))[1]
    exec(program)
    model = build_model(NANO, num_classes=4, weights="plain.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), donor.parameters(), strict=True))
