"""How many clips fit through the network at once."""

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint  # noqa: F401 (imported before fake tensors are on, which it must be)

from video_module.config import ClipConfig
from video_module.machine import ram_bytes
from video_module.models import swin3d
from video_module.models.registry import get_spec

_MARGIN = 0.9
"""Share of the memory that may be used: fragmentation and other programs take the rest."""


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest of 1, 2, 4, … and `most` that fits; 0 if not even 1 does. `fits` is asked in ascending order."""
    sizes, size = [], 1
    while size < most:
        sizes.append(size)
        size *= 2
    best = 0
    for size in [*sizes, most]:
        if not fits(size):
            break
        best = size
    return best


def fits_on_cuda(step: Callable[[int], None], device: torch.device) -> Callable[[int], bool]:
    """Whether `step(size)`, a forward and backward pass, leaves a margin of the card's memory."""

    def fits(size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        free, _ = torch.cuda.mem_get_info(device)
        available = free + torch.cuda.memory_reserved(device)
        try:
            step(size)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved(device) < _MARGIN * available

    return fits


def fits_in_ram(
    model: str, clip: ClipConfig, *, num_classes: int, checkpointed: bool, num_processes: int = 1
) -> Callable[[int], bool]:
    """Whether the activations of so many clips, and the weights with their optimiser, take half of the RAM at most."""
    available = 0.5 * ram_bytes() / num_processes
    saved = activation_bytes(model, clip, num_classes=num_classes, checkpointed=checkpointed)
    return lambda size: saved.weights * 5 + size * (saved.kept + saved.largest_block) < available


@dataclass(frozen=True, kw_only=True)
class ActivationBytes:
    """What one clip makes a network keep for its gradients."""

    weights: int
    """Of the parameters, in fp32."""
    kept: int
    """From the forward to the backward pass."""
    largest_block: int
    """On top while one block is computed again; 0 without checkpointing."""


def activation_bytes(
    model: str, clip: ClipConfig, *, num_classes: int = 51, checkpointed: bool = False, precision: str = "fp32"
) -> ActivationBytes:
    """Count the tensors that autograd saves for one clip, without computing any: on torch's fake tensors.

    `precision` bf16 follows the rules of autocast on CUDA and takes its attention kernel, for which no card is needed.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        network = get_spec(model).build(num_classes=num_classes, clip=clip).train()
    device, largest = "cpu" if precision == "fp32" else "cuda", 0
    swin3d.forget_constants()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            network = network.to_empty(device=device)
            if checkpointed:
                blocks = [block for block in network.modules() if hasattr(block, "recomputed")]
                largest = max(_saved_within(network, blocks, clip, device=device))
                for block in blocks:
                    block.recomputed = True
            kept = _saved_bytes(network, clip, device=device)
    finally:
        swin3d.forget_constants()  # those of now are fake
    weights = sum(parameter.numel() * 4 for parameter in network.parameters())
    return ActivationBytes(weights=weights, kept=kept, largest_block=largest)


class _Count:
    """Sums up the storages that are saved, each once, parameters apart."""

    def __init__(self, network: nn.Module):
        self._known = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        self.total = 0
        self._keep: list[torch.Tensor] = []  # else a storage's address could come again

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._keep.append(tensor)
            self.total += storage.nbytes()
        return tensor


def _forward(network: nn.Module, clip: ClipConfig, *, device: str) -> None:
    clips = torch.empty(1, 3, clip.num_frames, clip.crop, clip.crop, device=device)
    if device == "cpu":
        network(clips)
        return
    # torch.autocast() turns itself off where there is no card, and attention cannot choose its kernel
    earlier = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with mock.patch.object(F, "scaled_dot_product_attention", _memory_efficient_attention):
            network(clips)
    finally:
        torch.set_autocast_enabled("cuda", earlier[0])
        torch.set_autocast_dtype("cuda", earlier[1])
        torch.clear_autocast_cache()


def _memory_efficient_attention(q, k, v, *, attn_mask: torch.Tensor, dropout_p: float) -> torch.Tensor:
    """The kernel that CUDA has for a bias with a gradient."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, True, dropout_p)[0]


def _saved_bytes(network: nn.Module, clip: ClipConfig, *, device: str) -> int:
    count = _Count(network)
    with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda tensor: tensor):
        _forward(network, clip, device=device)
    return count.total


def _saved_within(network: nn.Module, blocks: list[nn.Module], clip: ClipConfig, *, device: str) -> list[int]:
    """What is saved while each block computes."""
    count, marks = _Count(network), []
    handles = [block.register_forward_pre_hook(lambda *_: marks.append(-count.total)) for block in blocks]
    handles += [block.register_forward_hook(lambda *_: marks.append(count.total + marks.pop())) for block in blocks]
    with torch.autograd.graph.saved_tensors_hooks(count.pack, lambda tensor: tensor):
        _forward(network, clip, device=device)
    for handle in handles:
        handle.remove()
    return marks
