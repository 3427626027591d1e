# A network of one's own, as a file of video_module/models.
from torch import Tensor, nn

from video_module.config import ClipConfig


class Tiny3D(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv3d(3, 16, (3, 7, 7), stride=(1, 4, 4), padding=(1, 3, 3)),
            nn.BatchNorm3d(16),
            nn.ReLU(),
            nn.Conv3d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm3d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, T, H, W), normalised as the ClipConfig says
        return self.head(self.trunk(x).mean(dim=(2, 3, 4)))


def tiny3d(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return Tiny3D(num_classes)
