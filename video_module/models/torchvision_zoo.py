"""torchvision's other video networks, under their own parameter names, for clips of any size that they can take."""

from torch import nn
from torchvision.models.video import mvit, resnet
from torchvision.models.video import s3d as torchvision_s3d

from video_module.config import ClipConfig


def r2plus1d_18(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return resnet.r2plus1d_18(num_classes=num_classes)


def r3d_18(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return resnet.r3d_18(num_classes=num_classes)


def mc3_18(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    return resnet.mc3_18(num_classes=num_classes)


def s3d(*, num_classes: int, clip: ClipConfig) -> nn.Module:
    """torchvision's mean over 2 x 7 x 7 cells asks for 14 frames of 224 x 224; smaller clips get a smaller mean."""
    net = torchvision_s3d(num_classes=num_classes)
    time = -(-clip.num_frames // 4) // 2  # the last pooling alone rounds down
    side = -(-clip.crop // 16) // 2
    net.avgpool = nn.AvgPool3d((min(2, time), min(7, side), min(7, side)), stride=1)
    return net


def mvit_v1_b(*, num_classes: int, clip: ClipConfig, drop_path: float) -> nn.Module:
    return _mvit(
        num_classes=num_classes,
        clip=clip,
        drop_path=drop_path,
        widens_early=True,
        pools_all_queries=False,
        residual_pool=False,
        rel_pos_embed=False,
        proj_after_attn=False,
    )


def mvit_v2_s(*, num_classes: int, clip: ClipConfig, drop_path: float) -> nn.Module:
    return _mvit(
        num_classes=num_classes,
        clip=clip,
        drop_path=drop_path,
        widens_early=False,
        pools_all_queries=True,
        residual_pool=True,
        rel_pos_embed=True,
        proj_after_attn=True,
    )


_STAGES = (1, 2, 11, 2)  # blocks of each; with every stage tokens are halved along both sides, heads doubled


def _mvit(
    *,
    num_classes: int,
    clip: ClipConfig,
    drop_path: float,
    widens_early: bool,
    pools_all_queries: bool,
    residual_pool: bool,
    rel_pos_embed: bool,
    proj_after_attn: bool,
) -> nn.Module:
    """torchvision's builders hold the clip at 16 x 224 x 224; tables of positions follow it, so the net is built here.

    `widens_early`: a stage's last block, not the next one's first, doubles the channels, as in MViT before version 2.
    """
    stages = [stage for stage, count in enumerate(_STAGES) for _ in range(count)]
    firsts = [sum(_STAGES[:stage]) for stage in range(1, len(_STAGES))]
    channels = [96 * 2**stage for stage in stages]
    if widens_early:
        inputs, outputs = channels, [*channels[1:], channels[-1]]
    else:
        inputs, outputs = [channels[0], *channels[:-1]], channels
    blocks = []
    for index, stage in enumerate(stages):
        strides = index in firsts
        pooled = strides or pools_all_queries
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
    return mvit.MViT(
        spatial_size=(clip.crop, clip.crop),
        temporal_size=clip.num_frames,
        block_setting=blocks,
        residual_pool=residual_pool,
        residual_with_cls_embed=False,
        rel_pos_embed=rel_pos_embed,
        proj_after_attn=proj_after_attn,
        stochastic_depth_prob=drop_path,
        num_classes=num_classes,
    )
