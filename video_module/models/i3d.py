"""I3D (Carreira & Zisserman, Quo Vadis, Action Recognition?, CVPR 2017): Inception-v1 inflated to video, RGB stream.

Parameters are named as in the common PyTorch port, so that its files (rgb_imagenet.pt) load unchanged.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_module.config import ClipConfig

Size3 = tuple[int, int, int]  # T, H, W

# The layers in order. Conv3d: output channels, kernel side, stride. MaxPool3d: kernel and stride. Mixed: channels of
# branch 0, of the two layers of branch 1, of the two layers of branch 2, and of branch 3, from Inception-v1's table.
_TRUNK: dict[str, tuple] = {
    "Conv3d_1a_7x7": (64, 7, 2),
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": (64, 1, 1),
    "Conv3d_2c_3x3": (192, 3, 1),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def same_padding(size: Size3, kernel: Size3, stride: Size3) -> list[tuple[int, int]]:
    """Return TensorFlow's SAME padding as (before, after) along T, H and W.

    With this padding, the output has size / stride cells along each axis, rounded up.
    """
    # If the total is odd, TensorFlow pads one cell more after than before. PyTorch's layers always pad both ends
    # equally. The weights were trained with TensorFlow, so _pad_uneven() adds the difference by hand.
    totals = [
        max(0, (-(-length // step) - 1) * step + extent - length)
        for length, extent, step in zip(size, kernel, stride, strict=True)
    ]
    return [(total // 2, total - total // 2) for total in totals]


def _pad_uneven(x: Tensor, kernel: Size3, stride: Size3) -> tuple[Tensor, Size3]:
    """Apply the uneven part of SAME padding. Returns the padded input and the remaining padding, equal on both ends."""
    # The remaining padding is left to the convolution or pooling, which pads without copying its input.
    pads = same_padding(tuple(x.shape[2:]), kernel, stride)
    if any(before != after for before, after in pads):
        x = F.pad(x, [value for before, after in reversed(pads) for value in (0, after - before)])
    return x, tuple(before for before, _ in pads)


class Unit3D(nn.Module):
    """Convolution with SAME padding, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x, padding = _pad_uneven(x, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(F.conv3d(x, self.conv3d.weight, None, self.conv3d.stride, padding)))


class SamePool3d(nn.Module):
    """Max pooling with SAME padding."""

    # F.pad() fills with zeros, although max pooling should be padded with minus infinity. The results are equal,
    # because every input comes from a ReLU and is never negative.

    def __init__(self, kernel: Size3, stride: Size3):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        x, padding = _pad_uneven(x, self.kernel, self.stride)
        return F.max_pool3d(x, self.kernel, self.stride, padding)


class _InceptionModule(nn.Module):
    def __init__(self, inputs: int, channels: tuple[int, ...]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = channels
        self.b0 = Unit3D(inputs, b0, 1)
        self.b1a, self.b1b = Unit3D(inputs, b1a, 1), Unit3D(b1a, b1b, 3)
        # The paper gives 5 for this kernel, but the authors' code and all published weights have 3.
        self.b2a, self.b2b = Unit3D(inputs, b2a, 1), Unit3D(b2a, b2b, 3)
        self.b3a, self.b3b = SamePool3d((3, 3, 3), (1, 1, 1)), Unit3D(inputs, b3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class I3D(nn.Module):
    """I3D network that takes (N, 3, T, H, W) and, like the authors' code, averages the logits over time."""

    def __init__(self, *, num_classes: int, clip: ClipConfig):
        super().__init__()
        channels = 3
        for name, settings in _TRUNK.items():
            if name.startswith("MaxPool3d"):
                self.add_module(name, SamePool3d(*settings))
            elif name.startswith("Conv3d"):
                outputs, kernel, stride = settings
                self.add_module(name, Unit3D(channels, outputs, kernel, stride=stride))
                channels = outputs
            else:
                self.add_module(name, _InceptionModule(channels, settings))
                b0, _, b1, _, b2, b3 = settings
                channels = b0 + b1 + b2 + b3
        # The authors average 2 x 7 x 7 cells, where 7 x 7 is the whole grid at 224 pixels. Smaller clips have fewer.
        time, side = -(-clip.num_frames // 8), -(-clip.crop // 32)
        self.avg_pool = nn.AvgPool3d((min(2, time), min(7, side), min(7, side)), stride=1)
        self.dropout = nn.Dropout(0.5)
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(channels, num_classes, 1)))

    def forward(self, x: Tensor) -> Tensor:
        for name in _TRUNK:
            x = self.get_submodule(name)(x)
        return self.logits(self.dropout(self.avg_pool(x))).mean(dim=(2, 3, 4))
