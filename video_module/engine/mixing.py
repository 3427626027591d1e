"""Mixup and CutMix: mix the clips and labels of two videos (Zhang et al. 2018, Yun et al. 2019)."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class Mixer:
    """Mixes each clip of a batch with the one before it, by mixup or CutMix as torchvision draws them."""

    # torchvision's transforms want the channels before the frames' sides, and leave clips with permuted strides, other
    # ones than clips have that are not mixed. Here every clip is contiguous, so the network sees one layout.

    def __init__(self, *, num_classes: int, mixup: float, cutmix: float):
        """`mixup` and `cutmix` are the alphas of their Beta distributions; 0 leaves one out."""
        self._num_classes = num_classes
        self._ways = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        self._ways += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []

    def __call__(
        self, clips: Tensor, labels: Tensor, *, begin: int, end: int, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Rows begin..end of the mixed batch, on `device`: (clips (n, T, H, W, 3), targets (n, num_classes)).

        The clips are contiguous, float from mixup and uint8 from CutMix. A batch mixed in parts gives the same rows as
        mixed whole, since the draw follows from `seed` alone. Seeds torch's generator.
        """
        assert 0 <= begin < end <= len(clips) == len(labels)
        clips, labels = (_send_with_partner(rows, begin, end, device) for rows in (clips, labels))
        torch.manual_seed(seed)
        way = self._ways[int(torch.randint(len(self._ways), ()))]
        draw = way.make_params([clips[..., 0]])  # which tells the sides (H, W) of a frame
        if isinstance(way, v2.MixUp):
            share = draw["lam"]
            mixed = _blend(clips, share)
        else:
            share, (left, top, right, bottom) = draw["lam_adjusted"], draw["box"]
            mixed = clips[1:].clone()
            mixed[:, :, top:bottom, left:right] = clips[:-1, :, top:bottom, left:right]
        # one_hot() would read the labels on the CPU.
        is_class = labels[:, None] == torch.arange(self._num_classes, device=device)
        return mixed, _blend(is_class, share)


def _send_with_partner(rows: Tensor, begin: int, end: int, device: torch.device) -> Tensor:
    """Rows begin - 1..end on the device, the last row of all in the place of row -1."""
    # Slices of the loader's batch are pinned as it is; rows picked by a list of indices would be a new tensor that is
    # not, and the program would wait for its copy.
    parts = [rows[begin - 1 : end]] if begin else [rows[-1:], rows[:end]]
    parts = [part.to(device, non_blocking=True) for part in parts]
    return parts[0] if begin else torch.cat(parts)


def _blend(rows: Tensor, share: float) -> Tensor:
    """Float: `share` of each row and the rest of the one before it, which the first row lacks."""
    return rows[:-1].mul(1.0 - share).add_(rows[1:].mul(share))
