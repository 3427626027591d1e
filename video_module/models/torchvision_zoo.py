"""torchvision's other video networks under its parameter names, for any clip size that they support."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video import mvit, resnet
from torchvision.models.video import s3d as torchvision_s3d

from video_module.config import ClipConfig

Size3 = tuple[int, int, int]  # T, H, W


def r2plus1d_18(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return resnet.r2plus1d_18(num_classes=num_classes)


def r3d_18(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return resnet.r3d_18(num_classes=num_classes)


def mc3_18(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return resnet.mc3_18(num_classes=num_classes)


def s3d(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    """Build S3D with an average pooling that fits the clip.

    torchvision averages 2 x 7 x 7 cells, which takes 14 frames of 224 x 224. Smaller clips get a smaller window.
    """
    net = torchvision_s3d(num_classes=num_classes)
    # Time is halved three times, height and width five times. Each of these rounds up, except the last pooling.
    time = -(-clip.num_frames // 4) // 2
    side = -(-clip.crop // 16) // 2
    net.avgpool = nn.AvgPool3d((min(2, time), min(7, side), min(7, side)), stride=1)
    return net


def mvit_v1_b(*, num_classes: int, clip: ClipConfig, drop_path: float) -> nn.Module:
    return _mvit(num_classes, clip, drop_path, is_v2=False)


def mvit_v2_s(*, num_classes: int, clip: ClipConfig, drop_path: float) -> nn.Module:
    return _mvit(num_classes, clip, drop_path, is_v2=True)


_STAGES = (1, 2, 11, 2)
"""Number of blocks in each stage. Each later stage has half as many tokens along both sides and twice the heads."""


def _mvit(num_classes: int, clip: ClipConfig, drop_path: float, *, is_v2: bool) -> nn.Module:
    # torchvision's builders only accept clips of 16 x 224 x 224, because the position tables depend on the clip size.
    # So call the class directly.
    stages = [stage for stage, count in enumerate(_STAGES) for _ in range(count)]
    firsts = [sum(_STAGES[:stage]) for stage in range(1, len(_STAGES))]
    channels = [96 * 2**stage for stage in stages]
    # Version 2 doubles the channels in a stage's first block, version 1 in the last block of the stage before.
    if is_v2:
        inputs, outputs = [channels[0], *channels[:-1]], channels
    else:
        inputs, outputs = channels, [*channels[1:], channels[-1]]
    blocks = []
    for index, stage in enumerate(stages):
        strides = index in firsts
        pooled = strides or is_v2
        key_stride = 2 ** (len(_STAGES) - 1 - stage)
        blocks.append(
            mvit.MSBlockConfig(
                num_heads=2**stage,
                input_channels=inputs[index],
                output_channels=outputs[index],
                kernel_q=[3, 3, 3] if pooled else [],
                kernel_kv=[3, 3, 3],
                stride_q=([1, 2, 2] if strides else [1, 1, 1]) if pooled else [],
                stride_kv=[1, key_stride, key_stride],
            )
        )
    net = mvit.MViT(
        spatial_size=(clip.crop, clip.crop),
        temporal_size=clip.num_frames,
        block_setting=blocks,
        residual_pool=is_v2,
        residual_with_cls_embed=False,
        rel_pos_embed=is_v2,
        proj_after_attn=is_v2,
        stochastic_depth_prob=drop_path,
        num_classes=num_classes,
    )
    # MSBlock hard-codes its attention class. Ours has the same parameters and differs only in forward(), so changing
    # the class of the object is enough.
    for block in net.blocks:
        block.attn.__class__ = PooledAttention
    return net


@lru_cache(maxsize=64)
def _distance_numbers(queries: int, keys: int) -> list[list[int]]:
    """Return the row of the relative position table for each query and each key along one axis."""
    # Queries and keys are pooled with different strides. Distances are counted in cells of the finer grid.
    key_step, query_step = max(queries / keys, 1.0), max(keys / queries, 1.0)
    return [[int(q * query_step - (k + 1 - keys) * key_step) for k in range(keys)] for q in range(queries)]


@lru_cache(maxsize=64)
def _distance_tensor(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return _distance_numbers() as a tensor on `device`, copied there only once."""
    # The first call may come from inference mode, whose tensors autograd rejects, and a later one from training.
    with torch.inference_mode(False):
        return torch.tensor(_distance_numbers(queries, keys), device=device)


@torch.compiler.assume_constant_result
def _distances(queries: int, keys: int, device: torch.device) -> Tensor:
    # Tensors created during export are traced and must not end up in the cache.
    if torch.compiler.is_exporting():
        return torch.tensor(_distance_numbers(queries, keys), device=device)
    return _distance_tensor(queries, keys, device)


class PooledAttention(mvit.MultiscaleAttention):
    """torchvision's MViT attention with the same results, but without assignments to slices of tensors."""

    # In the exported graph of mvit_v2_s, these assignments become 96 ScatterND nodes. Here they are replaced by adding
    # tensors that are padded with zeros at the class token.

    def forward(self, x: Tensor, thw: Size3) -> tuple[Tensor, Size3]:
        """Apply attention to `x`, a class token and the cells of grid `thw`, (N, 1 + T * H * W, C).

        Returns the same for the pooled grid, and its (T, H, W).
        """
        n, tokens, _ = x.shape
        qkv = self.qkv(x).view(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (N, heads, tokens, head_dim) each
        k, k_thw = self.pool_k(k, thw) if self.pool_k is not None else (k, thw)
        v = self.pool_v(v, thw)[0] if self.pool_v is not None else v
        q, thw = self.pool_q(q, thw) if self.pool_q is not None else (q, thw)

        scores = (self.scaler * q) @ k.transpose(2, 3)
        if self.rel_pos_h is not None:
            scores = scores + F.pad(self._position_scores(q[:, :, 1:], thw, k_thw), (1, 0, 1, 0))
        x = scores.softmax(dim=-1) @ v
        if self.residual_pool:
            x = x + (q if self.residual_with_cls_embed else F.pad(q[:, :, 1:], (0, 0, 1, 0)))
        return self.project(x.transpose(1, 2).reshape(n, -1, self.output_dim)), thw

    def _position_scores(self, q: Tensor, thw: Size3, k_thw: Size3) -> Tensor:
        """Return the position bias of each pair of cells, (N, heads, T * H * W of queries, T * H * W of keys)."""
        along_t, along_h, along_w = (
            _positions(table, queries, keys)
            for table, queries, keys in zip((self.rel_pos_t, self.rel_pos_h, self.rel_pos_w), thw, k_thw, strict=True)
        )
        assert q.shape[2] == thw[0] * thw[1] * thw[2], (q.shape, thw)
        q = q.unflatten(2, thw)  # (N, heads, T, H, W, head_dim)
        by_t = (q.flatten(3, 4) @ along_t).unflatten(3, thw[1:])
        by_h = q @ along_h
        by_w = (q.transpose(3, 4) @ along_w).transpose(3, 4)
        scores = by_t[..., :, None, None] + by_h[..., None, :, None] + by_w[..., None, None, :]
        return scores.flatten(5).flatten(2, 4)


def _positions(table: Tensor, queries: int, keys: int) -> Tensor:
    """Return the relative position embeddings along an axis, (queries, head_dim, keys)."""
    # Resize a table trained for another grid with torchvision's own function, so that the results agree.
    table = mvit._interpolate(table, 2 * max(queries, keys) - 1)
    return F.embedding(_distances(queries, keys, table.device), table).transpose(1, 2)
