"""The running mean of a model's weights."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from video_module.models.recognizer import Recognizer

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of the names of batch norm's buffers, all that a forward pass changes in a model."""


class RunningMean:
    """A copy of a model whose weights are a running mean of the model's own."""

    # torch's AveragedModel would make the program wait for the GPU in each step, since it sends its count there, and
    # copy every constant buffer of the model.

    def __init__(self, model: Recognizer, *, decay: float):
        self.model, self.decay = copy.deepcopy(model), decay
        self.num_averaged = 0
        """Steps that the mean is of."""
        # Once made, a model keeps its tensors: what is loaded is copied into them.
        self._means, self._values = (list(one.parameters()) for one in (self.model, model))
        self._own_statistics, self._statistics = (
            [buffer for name, buffer in one.named_buffers() if name.endswith(STATISTICS)] for one in (self.model, model)
        )

    @torch.no_grad()
    def update(self) -> None:
        """Update the mean with the model's weights; batch norm statistics, themselves a mean, are copied."""
        number = self.num_averaged
        if number == 0:
            copy_tensors(self._means, self._values)
        else:
            # While it is young it follows closely, as TensorFlow's ExponentialMovingAverage does: with a decay of 0.999
            # from the start, the untrained weights would still be a third of it after a thousand steps.
            decay = min(self.decay, (1 + number) / (10 + number))
            torch._foreach_lerp_(self._means, self._values, 1 - decay)
        copy_tensors(self._own_statistics, self._statistics)
        self.num_averaged += 1


@torch.no_grad()
def copy_tensors(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target."""
    # One kernel copies all tensors of a type at once; where types are mixed, each tensor would take one.
    pairs = list(zip(targets, sources, strict=True))
    for dtype in {target.dtype for target in targets}:
        alike = [pair for pair in pairs if pair[0].dtype == dtype]
        torch._foreach_copy_([target for target, _ in alike], [source for _, source in alike])
