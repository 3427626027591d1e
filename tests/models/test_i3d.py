import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import googlenet

from video_module.models import i3d
from video_module.models.cost import measure_cost
from video_module.models.layouts import inflate, match_layout
from video_module.models.registry import get_spec


def small_i3d(num_classes: int = 6, *, clip_len: int = 8, img_size: int = 64) -> nn.Module:
    torch.manual_seed(0)
    clip = get_spec("i3d").clip_config(clip_len=clip_len, img_size=img_size)
    return get_spec("i3d").build(num_classes=num_classes, clip=clip).eval()


def test_parameters_are_those_of_the_published_files():
    with torch.device("meta"):
        state = get_spec("i3d").build(num_classes=400).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert shapes["Conv3d_1a_7x7.bn.running_var"] == (64,)
    assert shapes["Mixed_4e.b1b.conv3d.weight"] == (288, 144, 3, 3, 3)
    assert shapes["Mixed_5c.b3b.bn.weight"] == (128,)
    assert shapes["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)
    assert shapes["logits.conv3d.bias"] == (400,)
    # 57 convolutions with a norm (weight, and weight, bias, mean, variance and count of the norm), and the logits.
    assert len(shapes) == 57 * 6 + 2
    assert not [key for key in shapes if key.endswith("conv3d.bias") and not key.startswith("logits")]
    assert measure_cost("i3d", num_classes=400).num_parameters == 12_697_264
    assert measure_cost("i3d", num_classes=51).num_parameters == 12_339_539
    assert {module.eps for module in small_i3d().modules() if isinstance(module, nn.BatchNorm3d)} == {1e-3}


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "expected"),
    [  # as in TensorFlow's documentation, where an odd total is padded after
        (224, 7, 2, (2, 3)),
        (64, 7, 2, (2, 3)),
        (225, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (8, 2, 2, (0, 0)),
        (7, 2, 2, (0, 1)),
        (1, 3, 1, (1, 1)),
        (56, 1, 1, (0, 0)),
        (5, 1, 2, (0, 0)),
    ],
)
def test_same_padding(length, kernel, stride, expected):
    assert i3d.same_padding((length,) * 3, (kernel,) * 3, (stride,) * 3) == [expected] * 3


@pytest.mark.parametrize("size", [(8, 64), (9, 65), (7, 50)])
def test_units_and_poolings_pad_with_zeros_as_tensorflow(size):
    x = torch.rand(1, 3, size[0], size[1], size[1])
    unit = i3d.Unit3D(3, 4, 7, stride=2).eval()
    pads = [value for pair in reversed(i3d.same_padding(x.shape[2:], (7,) * 3, (2,) * 3)) for value in pair]
    expected = F.conv3d(F.pad(x, pads), unit.conv3d.weight, stride=2)
    assert expected.shape[2:] == tuple(-(-length // 2) for length in x.shape[2:])
    torch.testing.assert_close(unit(x), unit.bn(expected).relu(), rtol=0, atol=1e-5)
    pool = i3d.SamePool3d((3, 3, 3), (2, 2, 2))
    pads = [value for pair in reversed(i3d.same_padding(x.shape[2:], (3,) * 3, (2,) * 3)) for value in pair]
    torch.testing.assert_close(pool(x), F.max_pool3d(F.pad(x, pads), 3, 2), rtol=0, atol=0)


def test_logits_are_the_mean_over_time():
    """For 64 frames of 224 pixels, the pooling leaves one cell in space and 64 / 8 - 1 in time, which are averaged."""
    net = small_i3d(clip_len=64, img_size=224)
    features = torch.rand(1, 1024, 8, 7, 7)
    with torch.inference_mode():
        pooled = F.avg_pool3d(features, (2, 7, 7), stride=1)
        assert pooled.shape[2:] == (7, 1, 1)
        expected = net.logits(pooled).squeeze(-1).squeeze(-1).mean(dim=2)
        for name in i3d._TRUNK:
            setattr(net, name, nn.Identity())
        torch.testing.assert_close(net(features), expected)


# ---- inflation


def test_inflate_by_the_definition():
    weight = torch.randn(2, 3, 5, 5)
    inflated = inflate(weight, 7)
    assert inflated.shape == (2, 3, 7, 5, 5)
    for moment in range(7):
        torch.testing.assert_close(inflated[:, :, moment] * 7, weight)
    with pytest.raises(ValueError, match="must be"):
        inflate(inflated, 3)
    with pytest.raises(ValueError, match="at least 1"):
        inflate(weight, 0)


def test_a_boring_video_through_one_kernel_and_what_the_ends_do_to_it():
    weight, image = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 9, 9)
    video = image[:, :, None].expand(-1, -1, 8, -1, -1)
    expected = F.conv2d(image, weight, padding=1)
    answer = F.conv3d(video, inflate(weight, 3), padding=1)
    for moment in range(1, 7):  # the kernel sees only frames, no padding
        torch.testing.assert_close(answer[:, :, moment], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(answer[:, :, 0], expected * 2 / 3, rtol=0, atol=1e-5)  # a third of the kernel sees zeros


def test_a_boring_video_through_the_inflated_network_gives_the_networks_answer(monkeypatch):
    """GoogLeNet on an image is compared with I3D, with inflated weights, on a video that repeats the image.

    With zero padding, the ends of the video differ from its middle, and eleven layers of kernels spread that over a
    short clip. So this test pads time by repeating the end frames, and every kernel sees only the image.
    """
    torch.manual_seed(0)
    image_net = googlenet(weights=None, num_classes=10, aux_logits=False, init_weights=False).eval()
    for module in image_net.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as after training
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    image_net.conv1.conv.padding = (0, 0)
    image = torch.rand(2, 3, 96, 96) * 2 - 1
    with torch.inference_mode():
        expected = image_net(F.pad(image, (2, 3, 2, 3)))  # SAME padding; GoogLeNet's own layer pads 3 on both sides

    net = small_i3d(10, clip_len=16, img_size=96)
    layout, weights = match_layout(image_net.state_dict(), net.state_dict())
    assert layout.inflated
    net.load_state_dict(weights, strict=True)
    same_padding = i3d.same_padding

    def repeat_ends(module: nn.Module, inputs: tuple):
        [x] = inputs
        kernel, stride = (
            (module.conv3d.kernel_size, module.conv3d.stride)
            if hasattr(module, "conv3d")
            else (
                module.kernel,
                module.stride,
            )
        )
        before, after = same_padding(tuple(x.shape[2:]), kernel, stride)[0]
        return (F.pad(x, (0, 0, 0, 0, before, after), mode="replicate"),)

    for module in net.modules():
        if isinstance(module, i3d.Unit3D | i3d.SamePool3d):
            module.register_forward_pre_hook(repeat_ends)
    monkeypatch.setattr(i3d, "same_padding", lambda *sizes: [(0, 0), *same_padding(*sizes)[1:]])
    with torch.inference_mode():
        answer = net(image[:, :, None].expand(-1, -1, 16, -1, -1))
    assert expected.std() > 0.1
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
