"""Mixup and CutMix: clips and labels of two videos become one (Zhang et al. 2018, Yun et al. 2019)."""

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class Mixer:
    """Mixes each clip of a batch with the one before it, by torchvision's mixup or CutMix; one draw for a batch."""

    def __init__(self, *, num_classes: int, mixup: float, cutmix: float):
        """`mixup` and `cutmix` are the alphas of their Beta distributions; 0 leaves one out."""
        self._ways = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        self._ways += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []

    def __call__(
        self, clips: Tensor, labels: Tensor, *, begin: int, end: int, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Rows begin..end of the mixed batch, on `device`: (clips (n, T, H, W, 3), targets (n, num_classes)).

        A batch mixed in parts gives the same rows as mixed whole, since the draw follows from `seed` alone. Seeds
        torch's generator.
        """
        assert 0 <= begin < end <= len(clips) == len(labels)
        # torchvision mixes each row with the one before it, so one more row in front makes a part complete; the mixed
        # row 0, whose partner is missing, is dropped at the end.
        rows = torch.arange(begin - 1, end) % len(clips)
        part, targets = clips[rows].to(device, non_blocking=True), labels[rows].to(device, non_blocking=True)
        torch.manual_seed(seed)
        way = self._ways[int(torch.randint(len(self._ways), ()))]
        if isinstance(way, v2.MixUp):
            part = part.float()
        video, targets = way(tv_tensors.Video(part.permute(0, 1, 4, 2, 3)), targets)  # NTHWC -> NTCHW
        return video.as_subclass(Tensor).permute(0, 1, 3, 4, 2)[1:], targets[1:]
