"""C3D (Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks, ICCV 2015).

Parameters have the names of the Sports-1M weights in circulation for PyTorch (conv1 ... conv5b, fc6 to fc8), and the
network is what those were trained as in Caffe, which the usual ports are not: it reads BGR, since Caffe does, and the
last pooling covers 7 x 7 cells by 4 x 4 windows that begin at the first cell, rounding up, where those ports pad on
both sides and so shift every window by one cell.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from video_module.config import ClipConfig

# name, channels, and the pooling after it: kernel and stride (T, H, W)
_CONVOLUTIONS = (
    ("conv1", 64, (1, 2, 2)),
    ("conv2", 128, (2, 2, 2)),
    ("conv3a", 256, None),
    ("conv3b", 256, (2, 2, 2)),
    ("conv4a", 512, None),
    ("conv4b", 512, (2, 2, 2)),
    ("conv5a", 512, None),
    ("conv5b", 512, (2, 2, 2)),
)
_HIDDEN = 4096  # outputs of fc6 and of fc7


class C3D(nn.Module):
    """Eight convolutions of 3x3x3, five poolings, three linear layers. Takes RGB (N, 3, T, H, W)."""

    def __init__(self, *, num_classes: int, clip: ClipConfig):
        super().__init__()
        inputs, size = 3, clip.shape[:3]
        for name, outputs, pool in _CONVOLUTIONS:
            self.add_module(name, nn.Conv3d(inputs, outputs, kernel_size=3, padding=1))
            inputs = outputs
            if pool:
                size = tuple(-(-length // step) for length, step in zip(size, pool, strict=True))
        self.fc6 = nn.Linear(inputs * size[0] * size[1] * size[2], _HIDDEN)
        self.fc7 = nn.Linear(_HIDDEN, _HIDDEN)
        self.fc8 = nn.Linear(_HIDDEN, num_classes)
        self.dropout = nn.Dropout(0.5)
        for layer in self.modules():
            # without normalisation, torch's own start would let signals die out in eleven layers
            if isinstance(layer, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.conv1.weight.data /= 64  # it takes values of that deviation, not of one
        nn.init.normal_(self.fc8.weight, std=0.001)  # as are all that follow, more so by dropout

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(1)  # RGB -> BGR
        for name, _, pool in _CONVOLUTIONS:
            x = F.relu(self.get_submodule(name)(x))
            if pool:
                x = F.max_pool3d(x, kernel_size=pool, stride=pool, ceil_mode=True)
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)


def c3d(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return C3D(num_classes=num_classes, clip=clip)
