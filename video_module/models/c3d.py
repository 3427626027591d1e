"""C3D (Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks, ICCV 2015).

Parameters are named as in the published Sports-1M weights for PyTorch (conv1 ... conv5b, fc6 to fc8).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from video_module.config import ClipConfig

# Name, output channels, and the kernel and stride (T, H, W) of the pooling that follows, if any.
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
# Number of outputs of fc6 and of fc7.
_HIDDEN = 4096


class C3D(nn.Module):
    """C3D network of eight 3x3x3 convolutions, five poolings and three linear layers.

    Takes RGB (N, 3, T, H, W) and returns logits (N, num_classes).
    """

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
        # There is no normalisation, so with torch's default initialisation the signal would vanish in eleven layers.
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        # The first layer's inputs are pixels minus their mean, with a standard deviation of about 64 instead of 1. The
        # last layer starts small, because dropout increases the spread of its inputs.
        self.conv1.weight.data /= 64
        nn.init.normal_(self.fc8.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        # The published weights were trained in Caffe, which reads BGR.
        x = x.flip(1)
        for name, _, pool in _CONVOLUTIONS:
            x = F.relu(self.get_submodule(name)(x))
            if pool:
                # As in Caffe, windows start at the first cell and the last one may extend past the end. Other PyTorch
                # ports pad the last pooling on both sides, which shifts every window by one cell.
                x = F.max_pool3d(x, kernel_size=pool, stride=pool, ceil_mode=True)
        x = self.dropout(F.relu(self.fc6(x.flatten(1))))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)
