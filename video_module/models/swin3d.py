"""Video Swin Transformers (Liu et al., CVPR 2022): torchvision's network with a leaner attention.

Parameters have torchvision's names and shapes, so its weights load unchanged.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torchvision.models.video.swin_transformer import PatchEmbed3d, ShiftedWindowAttention3d, SwinTransformer3d

from video_module.config import ClipConfig
from video_module.models import window_attention

Size3 = tuple[int, int, int]  # T, H, W
_Layout = tuple[Size3, Size3, Size3]  # the padded size, the window's and the shift


@lru_cache(maxsize=64)
def _region_numbers(size: Size3, window: Size3, shift: Size3) -> np.ndarray:
    """Number the regions that the cyclic shift brings together in one window.

    Tokens of one window attend to each other only if they come from the same region. Returns int32
    (windows, tokens of a window).
    """
    numbers = np.zeros((), np.int32)
    for length, extent, offset in zip(size, window, shift, strict=True):
        # Rolling by `offset` moves the first `offset` cells behind the last ones, where they share a window with cells
        # from the other end. After the roll, an axis has three regions: whole windows, the cells that were last before,
        # and the cells that were first. Three axes make 27 regions.
        axis = np.zeros(length, np.int32)
        if offset:
            axis[-extent:-offset] = 1
            axis[-offset:] = 2
        numbers = numbers[..., None] * 3 + axis
    return _split_windows(numbers, window)


@lru_cache(maxsize=64)
def _token_orders(size: Size3, window: Size3, shift: Size3) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices that sort tokens by window, after the cyclic shift, and those that undo it.

    Both are int32 (tokens of all windows,).
    """
    numbers = np.roll(
        np.arange(math.prod(size), dtype=np.int32).reshape(size), [-offset for offset in shift], axis=(0, 1, 2)
    )
    order = _split_windows(numbers, window).ravel()
    return order, order.argsort().astype(np.int32)


def _split_windows(numbers: np.ndarray, window: Size3) -> np.ndarray:
    """Reshape (T, H, W) to (windows, tokens of a window)."""
    counts = [axis for length, extent in zip(numbers.shape, window, strict=True) for axis in (length // extent, extent)]
    return numbers.reshape(counts).transpose(0, 2, 4, 1, 3, 5).reshape(-1, math.prod(window))


def _region_spans(size: Size3, window: Size3, shift: Size3) -> np.ndarray:
    """Find each token's region number, and where in the window its region begins and ends.

    Returns int32 (windows, 3, tokens of a window).
    """
    numbers = _region_numbers(size, window, shift)
    same = numbers[:, :, None] == numbers[:, None, :]
    return np.stack([numbers, same.argmax(-1), same.shape[-1] - same[..., ::-1].argmax(-1)], 1).astype(np.int32)


@lru_cache(maxsize=64)
def _region_tensor(layout: _Layout, device: torch.device, *, spans: bool) -> Tensor:
    """_region_spans() or _region_numbers() on a device, sent there once."""
    # The first caller may run in inference mode, whose tensors autograd refuses; a later caller may be training.
    with torch.inference_mode(False):
        return torch.from_numpy(_region_spans(*layout) if spans else _region_numbers(*layout)).to(device)


# The numbers depend only on sizes. Unless torch.compile is told that the result is constant, it traces the NumPy code.
@torch.compiler.assume_constant_result
def _regions(layout: _Layout, device: torch.device, spans: bool) -> Tensor:
    return _region_tensor(layout, device, spans=spans)


def _to_windows(x: Tensor, window: Size3) -> Tensor:
    """(N, T, H, W, C) -> (N, tokens of all windows, C)."""
    n, t, h, w, c = x.shape
    x = x.view(n, t // window[0], window[0], h // window[1], window[1], w // window[2], window[2], c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, -1, c)


def _from_windows(x: Tensor, window: Size3, size: Size3) -> Tensor:
    """Undo _to_windows() for a padded input of `size`."""
    (t, h, w), c = size, x.shape[-1]
    x = x.view(-1, t // window[0], h // window[1], w // window[2], *window, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, t, h, w, c)


class WindowAttention3d(ShiftedWindowAttention3d):
    """torchvision's shifted window attention, with the same results, but without rebuilding the mask at every call."""

    # torchvision assigns the mask region by region, which becomes 306 ScatterND nodes in swin3d_t's exported graph and
    # takes two minutes to export. With masks and biases stored as constants for each window, a file with 112 MB of
    # parameters would have 713 MB. Here an exported graph computes both from small constants.

    def forward(self, x: Tensor) -> Tensor:
        """x and the result: (N, T, H, W, C)."""
        _, t, h, w, _ = x.shape
        fits = [min(extent, length) for extent, length in zip(self.window_size, (t, h, w), strict=True)]
        window: Size3 = tuple(fits)
        # A window that spans a whole axis has no neighbour there to exchange tokens with, so it is not shifted.
        shift: Size3 = tuple(
            0 if length <= extent else offset
            for length, extent, offset in zip((t, h, w), self.window_size, self.shift_size, strict=True)
        )
        pad = [-length % extent for length, extent in zip((t, h, w), window, strict=True)]
        size: Size3 = (t + pad[0], h + pad[1], w + pad[2])
        if any(pad):
            x = F.pad(x, (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
        assert all(length % extent == 0 for length, extent in zip(size, window, strict=True)), (size, window)
        x = self._attend_windows(x, (size, window, shift))
        return x[:, :t, :h, :w]

    def _attend_windows(self, x: Tensor, layout: _Layout) -> Tensor:
        """Divide into windows, attend within each, and put the windows back; x and the result: (N, T, H, W, C)."""
        n, c, (size, window, shift) = x.shape[0], x.shape[-1], layout
        if torch.compiler.is_exporting() or (x.is_cpu and not torch.is_grad_enabled()):
            # Gathering the tokens by index shifts and divides in one copy. Training keeps the form below: it may be
            # compiled, and torch.compile would trace the NumPy code that makes the indices.
            order, back = map(torch.from_numpy, _token_orders(*layout))
            x = x.view(n, -1, c).index_select(1, order)
            x = self._attend_exported(x, layout) if torch.compiler.is_exporting() else self._attend(x, layout)
            return x.index_select(1, back).view(n, *size, c)
        if any(shift):
            x = torch.roll(x, shifts=[-offset for offset in shift], dims=(1, 2, 3))
        x = _from_windows(self._attend(_to_windows(x, window), layout), window, size)
        return torch.roll(x, shifts=shift, dims=(1, 2, 3)) if any(shift) else x

    def _attend(self, x: Tensor, layout: _Layout) -> Tensor:
        """Attend between tokens of the same window and region.

        x: (N, tokens of all windows, C). Returns the same shape.
        """
        n, c, (_, window, shift) = x.shape[0], x.shape[-1], layout
        tokens = math.prod(window)
        qkv = self.qkv(x).view(n, -1, tokens, 3, self.num_heads, c // self.num_heads)
        dropout = self.attention_dropout if self.training else 0.0
        if self.is_fused(qkv) and not dropout and window_attention.is_supported(qkv):
            index = self.relative_position_index[:tokens, :tokens]
            regions = _regions(layout, qkv.device, True) if any(shift) else None
            x = window_attention.window_attention(qkv.flatten(0, 1), self.relative_position_bias_table, index, regions)
        else:
            q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind()  # (N, windows, heads, tokens, C // heads) each
            bias = self.position_bias(tokens)  # (heads, tokens, tokens)
            mask = _shift_mask(_regions(layout, qkv.device, False)) if any(shift) else None
            if self.is_fused(qkv):
                x = _attend_fused(q, k, v, bias if mask is None else bias + mask, dropout=dropout)
            else:
                scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
                if mask is not None:
                    scores = scores + mask.to(scores.dtype)
                x = F.dropout(scores.softmax(dim=-1), p=dropout) @ v
            x = x.transpose(2, 3)
        return F.dropout(self.proj(x.reshape(n, -1, c)), p=self.dropout, training=self.training)

    def _attend_exported(self, x: Tensor, layout: _Layout) -> Tensor:
        """Do what _attend() does in fewer passes over memory, for exported graphs.

        x: (N, tokens of all windows, C). Returns the same shape.
        """
        n, c, (_, window, shift) = x.shape[0], x.shape[-1], layout
        x = x.flatten(0, 1)
        # One product for queries, keys and values together would take another copy to split.
        q, k, v = (
            F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
            .view(n, -1, math.prod(window), self.num_heads, c // self.num_heads)
            .transpose(2, 3)
            for rows in (slice(c), slice(c, 2 * c), slice(2 * c, None))
        )  # (N, windows, heads, tokens, C // heads) each
        scale = q.shape[-1] ** -0.5
        if any(shift):
            q, k = _mask_by_channels(q, k, _region_numbers(*layout), scale=scale)
        scores = (q * scale) @ k.transpose(-2, -1) + self.position_bias(math.prod(window))
        x = scores.softmax(dim=-1) @ v
        return self.proj(x.transpose(2, 3).reshape(-1, c)).view(n, -1, c)

    def is_fused(self, x: Tensor) -> bool:
        """Whether one kernel computes the attention, which saves keeping all scores in memory."""
        # On CUDA the scores would take most of the time. On the CPU the kernel makes swin3d_t a fifth to a third
        # faster, but only without gradients: it has none for a bias, and what torch does then is no faster.
        return x.is_cuda or (x.is_cpu and not torch.is_grad_enabled())

    def position_bias(self, tokens: int) -> Tensor:
        """The bias on the scores for each pair of positions in a window, (heads, tokens, tokens)."""
        # Looked up inside the graph: if biases were stored for each block, an exported file would be twice as large.
        index = self.relative_position_index[:tokens, :tokens]
        return F.embedding(index, self.relative_position_bias_table).permute(2, 0, 1).contiguous()


def _shift_mask(regions: Tensor) -> Tensor:
    """-10,000 between tokens of different regions, else 0: float (windows, 1, tokens, tokens)."""
    together = regions[:, None, :, None] == regions[:, None, None, :]
    # torchvision uses -100, which gives the same logits bit for bit. But exp(-100) is a subnormal float, which makes a
    # CPU many times slower, and exp(-10,000) is 0. Minus infinity would not survive the conversion to fp16.
    return torch.where(together, 0.0, -1e4)


def _mask_by_channels(q: Tensor, k: Tensor, regions: np.ndarray, *, scale: float) -> tuple[Tensor, Tensor]:
    """Append channels to queries and keys so that their product includes the mask of _shift_mask().

    q and k: (N, windows, heads, tokens, channels). regions: (windows, tokens).
    """
    # Adding a mask is one more pass over all scores, which do not fit into a processor's cache. A few more channels
    # cost less: one for each of the regions in a window, at most eight.
    local = np.stack([np.unique(window, return_inverse=True)[1] for window in regions]).astype(np.int32)
    num_regions = int(local.max()) + 1
    own = torch.from_numpy(local)[None, :, None, :, None] == torch.arange(num_regions, dtype=torch.int32)
    own = own.expand(q.shape[0], -1, q.shape[2], -1, -1)
    # Summed over the regions and scaled, this adds 0 for tokens of one region and -10,000 for others.
    return torch.cat([q, ~own * -100.0], -1), torch.cat([k, own * (100.0 / scale)], -1)


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, dropout: float) -> Tensor:
    """q, k, v and the result: (N, windows, heads, tokens, channels of a head).

    `bias` is (heads, tokens, tokens), or (windows, heads, tokens, tokens) if it includes a mask.
    """
    # torch's kernel that takes a bias and computes its gradient needs four axes, but here there are five. If all
    # windows share a bias, the windows are folded into the samples; if each window has its own, into the heads. Either
    # way expand() repeats the bias without a copy in memory.
    first = 0 if bias.ndim == 3 else 1
    flat = [tensor.flatten(first, first + 1) for tensor in (q, k, v)]
    tokens = bias.shape[-1]
    mask = bias.to(q.dtype).contiguous().view(1, -1, tokens, tokens)
    # The kernel needs contiguous rows that begin at a multiple of 16 bytes; for others, torch silently falls back to
    # code that keeps all scores in memory.
    if tokens % 8:  # padding by nothing would copy
        mask = F.pad(mask, (0, -tokens % 8))[..., :tokens]
    mask = mask.expand(len(flat[0]), -1, -1, -1)
    return F.scaled_dot_product_attention(*flat, attn_mask=mask, dropout_p=dropout).reshape(q.shape)


class _PatchEmbed(PatchEmbed3d):
    """torchvision's patch embedding: a convolution whose kernels do not overlap, and a norm."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, patches along T, H and W, channels)."""
        t, h, w = self.tuple_patch_size
        if not x.is_cuda or x.shape[2] % t or x.shape[3] % h or x.shape[4] % w:
            return super().forward(x)
        # As a matrix product: cuDNN's convolution took 1.6 times as long on an H100.
        x = x.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))  # (N, C, T/t, t, H/h, h, W/w, w)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        x = F.linear(x, self.proj.weight.flatten(1), self.proj.bias)
        # Under autocast a norm returns fp32, which the first stage would keep; the others begin with a linear layer.
        return self.norm(x).to(x.dtype)


class _Block(SwinTransformerBlock):
    """torchvision's block around WindowAttention3d."""

    recomputed = False
    """Whether training keeps only the block's input, and recomputes the rest in the backward pass."""
    compiled: Callable[..., Tensor] | None = None
    """Compiled code that training calls instead of transform()."""

    # SwinTransformer3d always passes its own attention class to every block; it is ignored here.
    def __init__(self, *args, attn_layer=None, **kwargs):
        super().__init__(*args, attn_layer=WindowAttention3d, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.transform(x, None)
        transform = self.compiled or _Block.transform
        kept = self._draw_kept(x)
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(transform, self, x, kept, use_reentrant=False)
        return transform(self, x, kept)

    def transform(self, x: Tensor, kept: tuple[Tensor, Tensor] | None) -> Tensor:
        """x and the result: (N, T, H, W, C). `kept` scales the two branches of each sample, (N, 1, 1, 1, 1)."""
        branch = self.attn(self.norm1(x))
        x = x + (branch if kept is None else branch * kept[0])
        branch = self.mlp(self.norm2(x))
        return x + (branch if kept is None else branch * kept[1])

    def _draw_kept(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Stochastic depth (Huang et al. 2016): 0 for the samples that skip a branch, else 1 / share of those kept."""
        # Drawn here and not in transform(), because each block has its own probability, and the compiled code would
        # otherwise differ from block to block.
        survival = 1 - self.stochastic_depth.p
        if survival == 1:
            return None
        empty = x.new_empty(2, len(x), 1, 1, 1, 1)
        return empty[0].bernoulli_(survival).div_(survival), empty[1].bernoulli_(survival).div_(survival)


class _Network(SwinTransformer3d):
    """torchvision's network with these parts."""

    def compile_for_training(self) -> None:
        """Compile the network in parts, at the first pass in training mode.

        In parts, all blocks of a stage share their code, so compiling takes a fraction of the time that the whole
        network takes. And several processes can exchange the gradients of one block while computing those of the next.
        """
        # Each stage needs its own variant of that code, with and without shifted windows. torch gives up after eight
        # variants, and there may be other networks in the process.
        torch._dynamo.config.recompile_limit = 64
        transform = torch.compile(_Block.transform, dynamic=False)
        for module in self.modules():
            if isinstance(module, _Block):
                module.compiled = transform
            elif isinstance(module, PatchEmbed3d | PatchMerging):
                module.compile(dynamic=False)


def _build(
    *,
    num_classes: int,
    drop_path: float,
    embed_dim: int,
    depths: list[int],
    num_heads: list[int],
    window_size: Sequence[int] = (8, 7, 7),
    patch_size: Sequence[int] = (2, 4, 4),
) -> nn.Module:
    # torchvision's builders (swin3d_t() and so on) fix the drop path rate, so the class is called directly.
    return _Network(
        patch_size=list(patch_size),
        embed_dim=embed_dim,
        depths=depths,
        num_heads=num_heads,
        window_size=list(window_size),
        stochastic_depth_prob=drop_path,
        num_classes=num_classes,
        block=_Block,
        patch_embed=_PatchEmbed,
    )


def swin3d_t(*, clip: ClipConfig, **settings: Any) -> nn.Module:
    return _build(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], **settings)


def swin3d_s(*, clip: ClipConfig, **settings: Any) -> nn.Module:
    return _build(embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], **settings)


def swin3d_b(*, clip: ClipConfig, **settings: Any) -> nn.Module:
    return _build(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], **settings)


def swin3d_b_w16(*, clip: ClipConfig, **settings: Any) -> nn.Module:
    """swin3d_b with windows of 16 tokens along time, the whole length of a clip of 32 frames."""
    return swin3d_b(clip=clip, window_size=(16, 7, 7), **settings)


def swin3d_nano(*, num_classes: int, clip: ClipConfig, drop_path: float) -> nn.Module:
    """A network for 8x64x64 clips: patches of 2x8x8, three stages, windows of 4x4x4 tokens that span all of time."""
    net = _build(
        num_classes=num_classes,
        drop_path=drop_path,
        embed_dim=32,
        depths=[2, 1, 1],
        num_heads=[2, 4, 8],
        window_size=(4, 4, 4),
        patch_size=(2, 8, 8),
    )
    # torchvision draws all weights with a deviation of 0.02, which suits layers of 96 channels and more. In layers of
    # 32, signals die out and training stalls for epochs; a deviation of 1 / sqrt(inputs) preserves their size. Wide
    # position biases let attention distinguish before from after from the first step on.
    for name, parameter in net.named_parameters():
        if name.endswith("relative_position_bias_table"):
            nn.init.trunc_normal_(parameter, std=0.5)
        elif parameter.ndim == 2:
            nn.init.trunc_normal_(parameter, std=parameter.shape[1] ** -0.5)
    _see_motion(net.patch_embed.proj.weight)
    return net


@torch.no_grad()
def _see_motion(filters: Tensor, *, gain: float = 8.0) -> None:
    """Turn half of the filters, (out, in, 2, h, w), into differences of a patch's two frames, scaled by `gain`."""
    # Motion changes pixels far less than the scene does, so a network with random filters learns the scene first and
    # motion late. Differences in time see only motion.
    assert filters.ndim == 5 and filters.shape[2] == 2, filters.shape
    half = filters.shape[0] // 2
    filters[:half, :, 1] = -filters[:half, :, 0]
    filters[:half] *= gain
