"""Mixup and CutMix: mix the clips and labels of two videos (Zhang et al. 2018, Yun et al. 2019)."""

import torch
from torch import Tensor
from torchvision.transforms import v2


class Mixer:
    """Mixes each clip of a batch with the previous one, by mixup or CutMix with torchvision's random parameters."""

    # torchvision's transforms expect channels before height and width and return permuted strides, so that mixed and
    # unmixed clips would differ in layout. Here every clip is contiguous.

    def __init__(self, *, num_classes: int, mixup: float, cutmix: float):
        """`mixup` and `cutmix` are the alphas of their Beta distributions; 0 turns the method off."""
        self._num_classes = num_classes
        self._ways = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        self._ways += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []

    def __call__(
        self, clips: Tensor, labels: Tensor, *, begin: int, end: int, seed: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return rows begin..end of the mixed batch on `device`, as clips (n, T, H, W, 3) and targets (n, num_classes).

        The clips are contiguous, float after mixup and uint8 after CutMix. Mixing a batch in parts gives the same rows
        as mixing it whole, because the random parameters depend on `seed` alone. Seeds torch's global generator.
        """
        assert 0 <= begin < end <= len(clips) == len(labels)
        clips, labels = (_send_with_partner(rows, begin, end, device) for rows in (clips, labels))
        torch.manual_seed(seed)
        way = self._ways[int(torch.randint(len(self._ways), ()))]
        draw = way.make_params([clips[..., 0]])  # reads the frame size (H, W) from the last two axes
        if isinstance(way, v2.MixUp):
            share = draw["lam"]
            mixed = _blend(clips, share)
        else:
            share, (left, top, right, bottom) = draw["lam_adjusted"], draw["box"]
            mixed = clips[1:].clone()
            mixed[:, :, top:bottom, left:right] = clips[:-1, :, top:bottom, left:right]
        # one_hot() would read the labels on the CPU and so wait for the GPU.
        is_class = labels[:, None] == torch.arange(self._num_classes, device=device)
        return mixed, _blend(is_class, share)


def _send_with_partner(rows: Tensor, begin: int, end: int, device: torch.device) -> Tensor:
    """Return rows begin - 1..end on the device; row -1 is the last row of the batch."""
    # Use slices, which are pinned like the loader's batch. Indexing with a list would create a new tensor that is not
    # pinned, and the program would wait for its copy.
    parts = [rows[begin - 1 : end]] if begin else [rows[-1:], rows[:end]]
    parts = [part.to(device, non_blocking=True) for part in parts]
    return parts[0] if begin else torch.cat(parts)


def _blend(rows: Tensor, share: float) -> Tensor:
    """Return `share` of each row but the first plus (1 - `share`) of the row before it, as float."""
    return rows[:-1].mul(1.0 - share).add_(rows[1:].mul(share))
