import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import video as torchvision_video

from tests.data.test_times import write_timed
from video_module.config import ClipConfig, TrainConfig
from video_module.data import decoding
from video_module.data.encoding import write_video
from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.inference import explain
from video_module.models import registry
from video_module.models.recognizer import Recognizer

CLIP = ClipConfig(num_frames=8, frame_stride=1, resize=32, crop=32, mean=(0, 0, 0), std=(1, 1, 1))
RED, BLUE = (255, 0, 0), (0, 0, 255)


def recognizer(monkeypatch, backbone: nn.Module, *, features: str, channels_last: bool, clip=CLIP) -> Recognizer:
    """Return a model with `backbone`, registered as "made" for the test."""
    spec = registry.ModelSpec(
        name="made", clip=clip, builder="", head="head", features=features, channels_last=channels_last
    )
    monkeypatch.setitem(registry.MODELS, "made", spec)
    return Recognizer(backbone, name="made", clip=clip).eval()


class ColourNet(nn.Module):
    """The logits are the mean red (class 0) and blue (class 1) of the clip, from a grid of T/2 x H/4 x W/4."""

    def __init__(self, *, channels_last: bool):
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool3d((2, 4, 4)))
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
        self.channels_last = channels_last
        if channels_last:
            self.features.append(ToChannelsLast())

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(1, 2, 3) if self.channels_last else (2, 3, 4)))


class ToChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 4, 1)


def red_then_blue() -> np.ndarray:
    """Return a clip with red at the upper left in frames 0 to 3 and blue at the lower right in frames 4 to 7."""
    clip = np.zeros((8, 32, 32, 3), np.uint8)
    clip[:4, 4:12, 4:12] = RED
    clip[4:, 20:28, 20:28] = BLUE
    return clip


@pytest.mark.parametrize("channels_last", [False, True])
def test_heat_is_where_and_when_the_evidence_is(monkeypatch, channels_last):
    net = ColourNet(channels_last=channels_last)
    model = recognizer(monkeypatch, net, features="features", channels_last=channels_last)
    for target, (frames, place) in enumerate([(slice(0, 4), slice(4, 12)), (slice(4, 8), slice(20, 28))]):
        heat = explain.grad_cam(model, red_then_blue(), target=target)
        assert heat.shape == (8, 32, 32)
        assert heat.dtype == np.float32
        assert (heat.min(), heat.max()) == (0, 1)
        inside = heat[frames, place, place].sum()
        # The region is about 3 % of the clip. Trilinear upsampling spreads the heat by one cell around it.
        assert inside > 0.6 * heat.sum()
        assert np.unravel_index(heat.argmax(), heat.shape)[1] in range(place.start, place.stop)


def test_the_predicted_class_is_the_default(monkeypatch):
    model = recognizer(monkeypatch, ColourNet(channels_last=False), features="features", channels_last=False)
    clip = red_then_blue()
    clip[4:] //= 2  # more red than blue
    np.testing.assert_array_equal(explain.grad_cam(model, clip), explain.grad_cam(model, clip, target=0))


def test_no_evidence_gives_no_heat(monkeypatch):
    model = recognizer(monkeypatch, ColourNet(channels_last=False), features="features", channels_last=False)
    assert not explain.grad_cam(model, np.zeros((8, 32, 32, 3), np.uint8)).any()


class OnePlaceNet(nn.Module):
    """The features cover the whole clip, but class 0 depends on only one cell of them, through a flattened layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.AvgPool3d((2, 8, 8))
        self.head = nn.Linear(3 * 4 * 4 * 4, 2, bias=False)
        weight = torch.zeros(2, 3, 4, 4, 4)
        weight[0, :, 1, 2, 3] = 1
        self.head.weight.data = weight.reshape(2, -1)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def test_regions_that_do_not_affect_the_class_have_no_heat(monkeypatch):
    """The original Grad-CAM, with its mean gradient, would highlight the whole clip here."""
    model = recognizer(monkeypatch, OnePlaceNet(), features="features", channels_last=False)
    heat = explain.grad_cam(model, np.full((8, 32, 32, 3), 200, np.uint8), target=0)
    assert heat[2:4, 16:24, 24:].min() > 0.2
    assert not heat[5:].any()
    assert not heat[:, :12].any()
    assert not heat[:, :, :16].any()


@pytest.mark.parametrize("builder", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_equals_grad_cam_for_networks_with_a_final_mean(monkeypatch, builder):
    torch.manual_seed(0)
    net = getattr(torchvision_video, builder)(weights=None, num_classes=3)
    clip = ClipConfig(num_frames=8, frame_stride=1, resize=64, crop=64)
    model = recognizer(monkeypatch, net, features="layer4", channels_last=False, clip=clip)
    frames = np.random.default_rng(0).integers(0, 256, clip.shape, dtype=np.uint8)
    seen = {}
    net.layer4.register_forward_hook(lambda module, inputs, output: seen.update(features=output))
    logits = model(torch.from_numpy(frames)[None])
    [gradient] = torch.autograd.grad(logits[0, 1], seen["features"])
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)  # as in the Grad-CAM paper
    expected = (weights * seen["features"]).sum(dim=1, keepdim=True).relu()
    expected = nn.functional.interpolate(expected, size=clip.shape[:3], mode="trilinear")[0, 0].detach().numpy()
    heat = explain.grad_cam(model, frames, target=1)
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-4)


@pytest.mark.parametrize("name", registry.MODELS)
def test_every_architecture_has_a_feature_layer(name):
    spec = registry.get_spec(name)
    with torch.device("meta"):
        net = spec.build(num_classes=2)
        outputs = []
        net.get_submodule(spec.features).register_forward_hook(lambda module, inputs, output: outputs.append(output))
        net(torch.zeros(1, 3, *spec.clip.shape[:3]))
    [output] = outputs
    if isinstance(output, tuple):
        grid = output[1]
        assert output[0].shape[1] == 1 + math.prod(grid)
    else:
        grid = output.shape[1:4] if spec.channels_last else output.shape[2:5]
    assert min(grid) >= 4  # fine enough to locate evidence in space and time


class TokenNet(nn.Module):
    """Like MViT, has tokens behind a class token; the logits are the mean red (class 0) and blue (class 1)."""

    def __init__(self):
        super().__init__()
        self.features = Tokens()
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])

    def forward(self, x):
        tokens, _ = self.features(x)
        return self.head(tokens[:, 0] + tokens[:, 1:].mean(dim=1))


class Tokens(nn.Module):
    def forward(self, x):
        x = nn.functional.avg_pool3d(x, (2, 4, 4))
        tokens = x.flatten(2).transpose(1, 2)
        return torch.cat([torch.ones_like(tokens[:, :1]), tokens], dim=1), tuple(x.shape[2:])


def test_tokens_are_mapped_to_their_grid(monkeypatch):
    cells = recognizer(monkeypatch, ColourNet(channels_last=False), features="features", channels_last=False)
    expected = explain.grad_cam(cells, red_then_blue(), target=1)
    tokens = recognizer(monkeypatch, TokenNet(), features="features", channels_last=False)
    np.testing.assert_allclose(explain.grad_cam(tokens, red_then_blue(), target=1), expected, atol=1e-6)


def test_a_missing_feature_layer_is_an_error(monkeypatch):
    model = recognizer(monkeypatch, ColourNet(channels_last=False), features="", channels_last=False)
    with pytest.raises(InputError, match=r"made: .* its registry entry names no feature layer"):
        explain.grad_cam(model, red_then_blue())


@pytest.fixture(scope="module")
def model(trained) -> Recognizer:
    return build_from_checkpoint(load_checkpoint(trained))


@pytest.fixture(scope="module")
def drawn_video(drawn_data):
    return sorted((drawn_data / "test").rglob("*.avi"))[0]


def middle_clip(path, clip: ClipConfig) -> np.ndarray:
    from video_module.inference.windows import iter_windows

    return next(iter_windows(path, clip, clip_step=None)).frames


def test_heat_of_a_trained_model(model, drawn_video):
    clip = middle_clip(drawn_video, model.clip)
    heat = explain.grad_cam(model, clip)
    assert heat.shape == clip.shape[:3]
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() == 1
    assert heat.std() > 0.05
    np.testing.assert_array_equal(explain.grad_cam(model, clip), heat)


def test_the_model_is_not_changed(model, drawn_video):
    clip = middle_clip(drawn_video, model.clip)
    model.train()
    model.backbone.norm.eval()  # differs from the rest of the model
    before = {name: module.training for name, module in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    explain.grad_cam(model, clip)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not model.backbone.get_submodule("features.0")._forward_hooks
    assert torch.is_grad_enabled()
    model.eval()


def test_hiding_the_hottest_regions_lowers_the_logit_most(model, drawn_data):
    """Replacing the hottest fifth of a clip by grey lowers the logit more than replacing the coldest fifth.

    The model must rely on something for this, so it is first overfitted to the six clips.
    """
    clips = [middle_clip(path, model.clip) for path in sorted((drawn_data / "test").rglob("*.avi"))]
    model = copy.deepcopy(model).train()
    config = TrainConfig(
        num_epochs=40, warmup_epochs=2, backbone_lr_scale=1.0, drop_path=0.0, label_smoothing=0.0, mixup=0, cutmix=0
    )
    trainer = Trainer(model, config, device=torch.device("cpu"), steps_per_epoch=1)
    step = [(torch.from_numpy(np.stack(clips)), torch.arange(6), [])]
    losses = [trainer.train_step(step)[0] for _ in range(40)]
    assert losses[-1] < 0.2
    model.eval()
    drops = {"hottest": [], "coldest": []}
    for clip in clips:
        with torch.inference_mode():
            logits = model(torch.from_numpy(clip)[None])[0]
        target = int(logits.argmax())
        heat = explain.grad_cam(model, clip, target=target)
        for which, chosen in (("hottest", heat >= np.quantile(heat, 0.8)), ("coldest", heat <= np.quantile(heat, 0.2))):
            hidden = np.where(chosen[..., None], clip.mean(axis=(0, 1, 2)).astype(np.uint8), clip)
            with torch.inference_mode():
                drops[which].append(float(logits[target] - model(torch.from_numpy(hidden)[None])[0, target]))
    assert np.mean(drops["hottest"]) > np.mean(drops["coldest"]) + 0.05


def coloured_video(path, num_frames: int, *, red: range) -> None:
    """Write a black video with a red square at the upper left in the frames of `red`."""
    frames = np.zeros((num_frames, 64, 64, 3), np.uint8)
    frames[red.start : red.stop, 8:24, 8:24] = RED
    write_video(path, frames, fps=25)


def test_heat_of_a_video_is_in_the_frames_that_show_the_class(monkeypatch, tmp_path):
    model = recognizer(monkeypatch, ColourNet(channels_last=False), features="features", channels_last=False)
    coloured_video(tmp_path / "v.avi", 45, red=range(20, 30))
    heat = explain.explain_video(model, tmp_path / "v.avi", target=0, batch_size=3)
    assert heat.grids.shape == (45, 8, 8)
    moments = heat.grids[:, 1:3, 1:3].mean(axis=(1, 2))
    assert moments[21:29].min() > 0.5
    assert max(moments[:16].max(), moments[34:].max()) < 0.05
    assert heat.scores[25] > heat.scores[5] == pytest.approx(0.5, abs=0.05)
    again = explain.explain_video(model, tmp_path / "v.avi", target=0, batch_size=1)
    np.testing.assert_allclose(again.grids, heat.grids, atol=1e-5)


def test_a_short_event_in_a_long_video_has_heat(monkeypatch, tmp_path):
    model = recognizer(monkeypatch, ColourNet(channels_last=False), features="features", channels_last=False)
    coloured_video(tmp_path / "v.avi", 300, red=range(200, 204))
    grids = explain.explain_video(model, tmp_path / "v.avi", target=0).grids
    assert grids[201:203, 1:3, 1:3].min() > 0.5
    assert max(grids[:190].max(), grids[214:].max()) < 0.05


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8, 9])
def test_videos_of_any_length(monkeypatch, tmp_path, num_frames):
    model = recognizer(monkeypatch, ColourNet(channels_last=False), features="features", channels_last=False)
    coloured_video(tmp_path / "v.avi", num_frames, red=range(num_frames))
    heat = explain.explain_video(model, tmp_path / "v.avi", target=0)
    assert heat.grids.shape == (num_frames, 8, 8)
    assert heat.scores.shape == (num_frames,)
    assert heat.grids[:, 1:3, 1:3].min() > 0.5
    assert heat.grids[:, 4:, 4:].max() < 0.05


@pytest.mark.parametrize(("height", "width"), [(60, 120), (120, 60), (90, 90)])
def test_heat_is_drawn_on_the_crop_that_the_model_sees(height, width):
    frame = np.full((height, width, 3), 100, np.uint8)
    grid = np.zeros((4, 4), np.float32)
    grid[0, 3] = 1  # the upper right cell of the centre square
    explain.draw_heat(frame, grid, CLIP)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    hot = np.argwhere(frame[..., 0] > 150)
    assert len(hot)
    assert hot.min(axis=0)[0] >= top
    assert hot.max(axis=0)[0] < top + side / 2
    assert hot.min(axis=0)[1] >= left + side / 2
    assert hot.max(axis=0)[1] < left + side
    assert (frame[top + side - 5 : top + side, left : left + 5] == 100).all()  # in the crop, but without heat
    if side < max(height, width):
        assert (frame[:3, :3] == 45).all()  # outside the crop


@pytest.mark.parametrize("size", [(120, 160), (240, 426)])
def test_the_overlay_video_keeps_frame_rate_and_count(model, tmp_path, size):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "in.avi", rng.integers(0, 256, (13, *size, 3), dtype=np.uint8), fps=12.5)
    heat = explain.explain_video(model, tmp_path / "in.avi", target=1)
    names = ["a", "ёлка и очень-очень длинное название действия"] + list("cdef")
    explain.write_attention(tmp_path / "out.mp4", heat, names, label="c")
    num_frames, info = decoding.count_frames(tmp_path / "out.mp4")
    assert num_frames == 13
    assert info.fps == pytest.approx(12.5, abs=0.01)
    assert info.width >= size[1]
    first = next(explain.attention_frames(heat, names))
    named = next(explain.attention_frames(heat, names, label="c"))
    assert len(named) > len(first)  # for a wrong prediction, the label is shown on an extra line
    np.testing.assert_array_equal(next(explain.attention_frames(heat, names, label=names[1])), first)


def test_the_overlay_video_keeps_frame_times(model, tmp_path):
    source = write_timed(tmp_path / "in.mp4", [*range(0, 60, 6), *range(60, 80)], rate=60)
    heat = explain.explain_video(model, source, target=1)
    explain.write_attention(tmp_path / "out.mp4", heat, list("abcdef"))
    readers = decoding.VideoReader(source), decoding.VideoReader(tmp_path / "out.mp4")
    assert [sum(1 for _ in reader) for reader in readers] == [30, 30]
    assert readers[1].times_s == pytest.approx(readers[0].times_s, abs=1e-5)
    assert readers[1].duration_s == pytest.approx(readers[0].duration_s, abs=1e-5)


def test_scores_match_the_predictor(model, trained, drawn_video):
    from video_module.inference.predictor import load_predictor

    predictor = load_predictor(trained, device="cpu")
    assert predictor.temperature != 1
    prediction = predictor.predict_video(drawn_video)
    heat = explain.explain_video(model, drawn_video, target=2, temperature=predictor.temperature)
    first, last = prediction.windows[0], prediction.windows[-1]
    assert heat.scores[0] == pytest.approx(first.scores[2], abs=1e-5)
    assert heat.scores[-1] == pytest.approx(last.scores[2], abs=1e-5)
    assert len(heat.scores) == prediction.num_frames
