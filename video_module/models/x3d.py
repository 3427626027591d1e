"""X3D (Feichtenhofer, X3D: Expanding Architectures for Efficient Video Recognition, CVPR 2020).

Parameters are named as in pytorchvideo, so that its published files, such as X3D_XS.pyth, load unchanged.
"""

import math
from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from video_module.config import ClipConfig

# Channels and blocks of the four stages in the paper's basic network, before widening and deepening.
_CHANNELS = (12, 24, 48, 96)
_DEPTHS = (1, 2, 5, 3)
# Factors shared by XS, S and M, which differ only in their clips.
_WIDTH = 2.0
_DEPTH = 2.2
_BOTTLENECK = 2.25
_SQUEEZE = 0.0625
# Channels before the last layer.
_HIDDEN = 2048


def round_width(channels: int, factor: float) -> int:
    """Multiply a number of channels by `factor` and round to a multiple of 8, but not below 0.9 of the product."""
    product = channels * factor
    rounded = max(8, int(product + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * product else rounded


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor in 0..1 that depends on the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = round_width(channels, _SQUEEZE)
        self.block = nn.Sequential(
            nn.Conv3d(channels, squeezed, 1), nn.ReLU(), nn.Conv3d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.block(x.mean(dim=(2, 3, 4), keepdim=True))


class _Bottleneck(nn.Module):
    """Expands the channels, convolves each channel separately (3x3x3), and reduces the channels."""

    def __init__(self, inputs: int, inner: int, outputs: int, *, stride: int, squeezes: bool):
        super().__init__()
        self.conv_a = nn.Conv3d(inputs, inner, 1, bias=False)
        self.norm_a = nn.BatchNorm3d(inner)
        self.conv_b = nn.Conv3d(inner, inner, 3, stride=(1, stride, stride), padding=1, groups=inner, bias=False)
        self.norm_b = nn.Sequential(nn.BatchNorm3d(inner), SqueezeExcitation(inner) if squeezes else nn.Identity())
        self.conv_c = nn.Conv3d(inner, outputs, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm_a(self.conv_a(x)))
        # torch calls the paper's swish SiLU.
        x = F.silu(self.norm_b(self.conv_b(x)))
        return self.norm_c(self.conv_c(x))


class _Block(nn.Module):
    def __init__(self, inputs: int, inner: int, outputs: int, *, stride: int, squeezes: bool):
        super().__init__()
        # As in the published files, a shortcut that only strides has no norm.
        self.branch1_conv = (
            nn.Conv3d(inputs, outputs, 1, stride=(1, stride, stride), bias=False)
            if inputs != outputs or stride > 1
            else nn.Identity()
        )
        self.branch1_norm = nn.BatchNorm3d(outputs) if inputs != outputs else nn.Identity()
        self.branch2 = _Bottleneck(inputs, inner, outputs, stride=stride, squeezes=squeezes)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch1_norm(self.branch1_conv(x)) + self.branch2(x))


class _Stem(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        # pytorchvideo's names are swapped: conv_t convolves over space and conv_xy over time.
        self.conv = nn.Sequential(
            OrderedDict(
                conv_t=nn.Conv3d(3, outputs, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
                conv_xy=nn.Conv3d(outputs, outputs, (5, 1, 1), padding=(2, 0, 0), groups=outputs, bias=False),
            )
        )
        self.norm = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


def _stage(inputs: int, outputs: int, *, num_blocks: int) -> nn.Module:
    inner = int(_BOTTLENECK * outputs)
    # Every other block has squeeze-and-excitation, starting with the first one of a stage.
    blocks = [
        _Block(outputs if number else inputs, inner, outputs, stride=1 if number else 2, squeezes=number % 2 == 0)
        for number in range(num_blocks)
    ]
    return nn.Sequential(OrderedDict(res_blocks=nn.Sequential(*blocks)))


class _Pool(nn.Module):
    def __init__(self, inputs: int, window: tuple[int, int, int]):
        super().__init__()
        inner = int(_BOTTLENECK * inputs)
        self.pre_conv = nn.Conv3d(inputs, inner, 1, bias=False)
        self.pre_norm = nn.BatchNorm3d(inner)
        self.pool = nn.AvgPool3d(window, stride=1)
        self.post_conv = nn.Conv3d(inner, _HIDDEN, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.pre_norm(self.pre_conv(x)))
        return F.relu(self.post_conv(self.pool(x)))


class _Head(nn.Module):
    def __init__(self, inputs: int, num_classes: int, *, window: tuple[int, int, int]):
        super().__init__()
        self.pool = _Pool(inputs, window)
        self.dropout = nn.Dropout(0.5)
        self.proj = nn.Linear(_HIDDEN, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # Average over positions before the last layer, so that its input is one vector per clip. That layer is linear,
        # so averaging after it would give the same logits. pytorchvideo's hub averages the probabilities of the
        # positions instead, which makes no difference if there is only one position, as in training.
        return self.proj(self.dropout(self.pool(x).mean(dim=(2, 3, 4))))


class X3D(nn.Module):
    """X3D network that takes (N, 3, T, H, W) and strides five times in space but never in time."""

    def __init__(self, *, num_classes: int, window: tuple[int, int, int]):
        super().__init__()
        widths = [round_width(channels, _WIDTH) for channels in _CHANNELS]
        self.blocks = nn.Sequential(_Stem(widths[0]))
        for (inputs, outputs), depth in zip(pairwise([widths[0], *widths]), _DEPTHS, strict=True):
            self.blocks.append(_stage(inputs, outputs, num_blocks=math.ceil(_DEPTH * depth)))
        self.blocks.append(_Head(widths[-1], num_classes, window=window))
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
            elif isinstance(module, _Bottleneck):
                # As in the authors' training, a block starts as its shortcut alone (Goyal et al. 2017).
                nn.init.zeros_(module.norm_c.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def _build(*, num_classes: int, clip: ClipConfig, trained_on: tuple[int, int]) -> nn.Module:
    """Build an X3D whose last pooling covers a whole clip of the authors' training size, (frames, side)."""
    # The authors test on larger clips, which leave 2 x 2 positions. Smaller clips get a smaller pooling window.
    cells = math.ceil(min(trained_on[1], clip.crop) / 32)
    return X3D(num_classes=num_classes, window=(min(trained_on[0], clip.num_frames), cells, cells))


def x3d_xs(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return _build(num_classes=num_classes, clip=clip, trained_on=(4, 160))


def x3d_s(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return _build(num_classes=num_classes, clip=clip, trained_on=(13, 160))


def x3d_m(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return _build(num_classes=num_classes, clip=clip, trained_on=(16, 224))
