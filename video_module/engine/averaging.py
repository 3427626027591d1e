"""The running mean of a model's weights."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from video_module.models.recognizer import Recognizer

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Suffixes of the names of batch norm's buffers, the only tensors of a model that a forward pass changes."""


class RunningMean:
    """A copy of a model whose weights are a running mean of the model's weights."""

    # torch's AveragedModel keeps its counter on the GPU, which makes the program wait for the GPU in each step, and it
    # copies every constant buffer of the model.

    def __init__(self, model: Recognizer, *, decay: float):
        self.model, self.decay = copy.deepcopy(model), decay
        self.num_averaged = 0
        """Number of steps averaged so far."""
        # These lists stay valid: loading a state dict copies into a model's tensors and never replaces them.
        self._means, self._values = (list(one.parameters()) for one in (self.model, model))
        self._own_statistics, self._statistics = (
            [buffer for name, buffer in one.named_buffers() if name.endswith(STATISTICS)] for one in (self.model, model)
        )

    @torch.no_grad()
    def update(self) -> None:
        """Update the mean with the model's weights.

        Batch norm's statistics are copied, because they are running means already.
        """
        number = self.num_averaged
        if number == 0:
            copy_tensors(self._means, self._values)
        else:
            # Start with a small decay, like TensorFlow's ExponentialMovingAverage. With 0.999 from the start, a third
            # of the mean would still come from the untrained weights after a thousand steps.
            decay = min(self.decay, (1 + number) / (10 + number))
            torch._foreach_lerp_(self._means, self._values, 1 - decay)
        copy_tensors(self._own_statistics, self._statistics)
        self.num_averaged += 1


@torch.no_grad()
def copy_tensors(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target."""
    # Group the tensors by dtype: one kernel copies all tensors of one dtype, but mixed dtypes take a kernel per tensor.
    pairs = list(zip(targets, sources, strict=True))
    for dtype in {target.dtype for target in targets}:
        alike = [pair for pair in pairs if pair[0].dtype == dtype]
        torch._foreach_copy_([target for target, _ in alike], [source for _, source in alike])
