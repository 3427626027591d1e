"""The part `kernels` of `benchmark gpu`, which measures Swin's window attention now and in its old form."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from video_module.benchmark.gpu_setup import Setup, exact_products, relative_error
from video_module.benchmark.train import matrix_rate, time_step
from video_module.engine.device import autocast
from video_module.models.registry import get_spec
from video_module.models.swin3d import Size3, WindowAttention3d, _from_windows, _to_windows


class AttentionAsItWas(ShiftedWindowAttention3d):
    """Swin's attention before it was optimised for GPUs, for comparison. The input must divide into whole windows."""

    # In blocks without a shift, the bias keeps the strides of its lookup. torch's kernels with a mask do not support
    # these and fall back to products and a softmax in fp32. In the other blocks, the gradient of the bias is written
    # for each window and then summed.

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention to `x` (N, T, H, W, C); the result has the same shape."""
        size, c, heads = tuple(x.shape[1:4]), x.shape[4], self.num_heads
        axes = list(zip(size, self.window_size, self.shift_size, strict=True))
        window = tuple(min(extent, length) for length, extent, _ in axes)
        shift = tuple(0 if length <= extent else offset for length, extent, offset in axes)
        assert all(length % extent == 0 for length, extent in zip(size, window, strict=True)), (size, window)
        if any(shift):
            x = torch.roll(x, shifts=[-offset for offset in shift], dims=(1, 2, 3))
        x, tokens = _to_windows(x, window), math.prod(window)
        windows = x.shape[1] // tokens
        q, k, v = self.qkv(x).view(-1, windows, tokens, 3, heads, c // heads).permute(3, 0, 1, 4, 2, 5)
        index = self.relative_position_index[:tokens, :tokens]
        bias = F.embedding(index, self.relative_position_bias_table).permute(2, 0, 1)
        if any(shift):
            regions = _regions(size, window, shift, x.device)
            together = regions[:, None, :, None] == regions[:, None, None, :]
            bias = bias + torch.where(together, 0.0, -100.0)
        first = 0 if bias.ndim == 3 else 1
        flat = [tensor.flatten(first, first + 1) for tensor in (q, k, v)]
        mask = bias.reshape(1, -1, tokens, tokens).to(q.dtype).expand(len(flat[0]), -1, -1, -1)
        x = F.scaled_dot_product_attention(*flat, attn_mask=mask).reshape(q.shape)
        x = _from_windows(self.proj(x.transpose(2, 3).reshape(-1, windows, tokens, c)), window, size)
        return torch.roll(x, shifts=shift, dims=(1, 2, 3)) if any(shift) else x


@lru_cache
def _regions(size: Size3, window: Size3, shift: Size3, device: torch.device) -> Tensor:
    """Return the region number of each token, (windows, tokens); the shift brings several regions into one window."""
    numbers = np.zeros(1, np.int32)
    for length, extent, offset in zip(size, window, shift, strict=True):
        axis = np.zeros(length, np.int32)
        if offset:
            axis[-extent:-offset], axis[-offset:] = 1, 2
        numbers = numbers[..., None] * 3 + axis
    return _to_windows(torch.from_numpy(numbers)[..., None], window).view(-1, math.prod(window)).to(device)


def kernels(setup: Setup) -> None:
    """Measure Swin's attention in each stage, shifted or not.

    The results are the error against torchvision's attention in fp32, the kernel that torch chooses, and the speed.
    """
    ceiling = matrix_rate(setup.precision, setup.device)
    copied = copy_rate(setup)
    for stage, shape, like in _stages(setup.model):
        what = f"stage {stage}, {'shifted' if any(like.shift_size) else 'not shifted'}"
        ours = _drawn_attention(like, setup.device)
        x = torch.randn(2, *shape, device=setup.device).bfloat16().float()
        errors = _attention_errors(ours, x, setup.precision)
        figures = {f"error_{name}": error for name, error in errors.items()}
        figures |= {"largest": max(errors.values()), "bound": 1e-2, "ok": max(errors.values()) <= 1e-2}
        setup.emit(f"{what}: against fp32", shape=list(shape), **figures)

        x = torch.randn(setup.micro_batches[-2], *shape, device=setup.device)
        tokens = ours.window_size[0] * ours.window_size[1] * ours.window_size[2]
        macs = x.numel() * (4 * shape[-1] + 2 * tokens)
        for name, attention in (("now", ours), ("as it was", copy.deepcopy(ours))):
            if name == "as it was":
                attention.__class__ = AttentionAsItWas
            figures = _attention_speed(attention, x, setup)
            seconds = figures["forward_ms"] / 1e3
            # Any attention at least reads each value in fp32 and writes it in two bytes.
            shares = {"share": macs / seconds / ceiling, "copy_share": 6 * x.numel() / seconds / copied}
            setup.emit(f"{what}: {name}", clips=len(x), **figures, **shares)
        setup.free_memory()


def _stages(name: str) -> Iterator[tuple[int, tuple[int, ...], nn.Module]]:
    """Yield (stage number, shape (T, H, W, C) for one clip, attention) for the first two attentions of each stage."""
    seen: dict[int, list[tuple[tuple[int, ...], nn.Module]]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        seen.setdefault(inputs[0].shape[-1], []).append((tuple(inputs[0].shape[1:]), module))

    spec = get_spec(name)
    with torch.device("meta"), torch.no_grad():
        network = spec.build(num_classes=2, clip=spec.clip).eval()
        for module in network.modules():
            if isinstance(module, WindowAttention3d):
                module.register_forward_hook(note)
        network(torch.zeros(1, 3, *spec.clip.shape[:3]))
    for stage, attentions in enumerate(seen.values(), start=1):
        yield from ((stage, *attention) for attention in attentions[:2])


def _drawn_attention(like: nn.Module, device: torch.device) -> WindowAttention3d:
    """Create an attention with scores and biases large enough to matter, and with weights that are exact in bf16."""
    dim = like.qkv.in_features
    attention = WindowAttention3d(dim, list(like.window_size), list(like.shift_size), like.num_heads)
    with torch.no_grad():
        nn.init.normal_(attention.qkv.weight, std=dim**-0.5)
        nn.init.normal_(attention.relative_position_bias_table, std=0.5)
        for parameter in attention.parameters():
            parameter.copy_(parameter.bfloat16())
    return attention.to(device)


def _attention_errors(ours: nn.Module, x: Tensor, precision: str) -> dict[str, float]:
    """Return relative errors against torchvision's attention in fp32.

    They are those of the output and of the gradients of `x`, the weights of q, k and v, and the position table.
    """
    explicit = copy.deepcopy(ours)
    explicit.__class__ = ShiftedWindowAttention3d  # scores, mask and softmax one by one
    weights = torch.randn_like(x).bfloat16().float()
    results = []
    for attention, kind in ((ours, precision), (explicit, "fp32")):
        clips = x.clone().requires_grad_()
        with exact_products(), autocast(kind, x.device):
            out = attention(clips)
            (out.float() * weights).sum().backward()
        q, k, v = attention.qkv.weight.grad.chunk(3)
        table = attention.relative_position_bias_table.grad
        results.append({"out": out.detach(), "dx": clips.grad, "dq": q, "dk": k, "dv": v, "dtable": table})
    ours.zero_grad()
    return {name: relative_error(value, results[1][name]) for name, value in results[0].items()}


def _attention_speed(attention: nn.Module, x: Tensor, setup: Setup) -> dict[str, Any]:
    """Measure milliseconds, and the kernel that torch chooses if its fused attention is called at all."""
    x = x.requires_grad_()
    timing = setup.timing if setup.is_tiny else {"num_steps": 10, "num_warmup": 3}

    def forward() -> Tensor:
        with autocast(setup.precision, setup.device):
            return attention(x)

    with _noted_choices() as choices:
        weights = torch.randn_like(forward())
    with _noted_choices() as choices_without_gradients, torch.no_grad():
        forward()

    def both() -> None:
        x.grad = None
        attention.zero_grad()
        forward().backward(weights)

    with torch.no_grad():
        forward_s = time_step(forward, setup.device, **timing)
    both_s = time_step(both, setup.device, **timing)
    kernels = {"kernel": choices, "kernel_without_gradients": choices_without_gradients}
    names = {name: noted[0] if noted else None for name, noted in kernels.items()}
    return {**names, "forward_ms": 1e3 * forward_s, "both_ms": 1e3 * both_s}


@contextmanager
def _noted_choices() -> Iterator[list[str]]:
    """Yield a list that records the backend torch chooses in each call of its fused attention."""
    from torch.nn.attention import SDPBackend

    attend, choices = F.scaled_dot_product_attention, []

    def note(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **settings: Any) -> Tensor:
        choices.append(SDPBackend(torch._fused_sdp_choice(q, k, v, attn_mask)).name)
        return attend(q, k, v, attn_mask, **settings)

    with mock.patch.object(F, "scaled_dot_product_attention", note):
        yield choices


def copy_rate(setup: Setup) -> float:
    """Measure the bytes per second, read and written, of a copy within the device's memory."""
    values = torch.randint(0, 256, (2**22 if setup.is_tiny else 2**30,), dtype=torch.uint8, device=setup.device)
    other = torch.empty_like(values)
    return 2 * len(values) / time_step(lambda: other.copy_(values), setup.device, num_steps=10, num_warmup=3)
