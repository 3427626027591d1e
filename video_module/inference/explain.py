"""Show where a model looks: compute its evidence for a class over space and time, and draw it into a video.

The map is Grad-CAM (Selvaraju et al., ICCV 2017) with each place weighted by its own gradient instead of the mean over
all places (HiResCAM, Draelos & Carin, 2020). The two agree for networks that end in a global mean and a linear layer,
as R(2+1)D, MC3, R3D and I3D do. Swin has a LayerNorm in between, C3D flattens its features, and MViT's class token
gathers what it needs by attention. There, the mean gradient highlights places that the class does not depend on, as
tests/inference/test_explain.py shows. The package grad-cam implements this as well, but depends on scikit-learn and
others to replace twenty lines.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from video_module.config import ClipConfig
from video_module.data import transforms
from video_module.data.decoding import VideoReader, iter_frames
from video_module.data.encoding import MAX_SIDE, write_video
from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint
from video_module.engine.device import choose_device
from video_module.errors import InputError
from video_module.inference.overlay import class_colors, draw_label, label_height, put_text
from video_module.inference.windows import WindowClip, iter_windows
from video_module.machine import leaves_bars
from video_module.models.recognizer import Recognizer
from video_module.models.registry import get_spec
from video_module.scores import softmax

_HEAT_ALPHA = 0.8
# Brightness of the area outside the model's crop.
_UNSEEN_LIGHT = 0.45
# Smaller frames are enlarged, because heat and label need pixels to be readable.
_MIN_SHORT_SIDE = 360
# Evidence from this quantile on is drawn at full heat. If the maximum set the scale, a single strong token would leave
# the rest of the video dark.
_STRONGEST = 0.995
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, kw_only=True)
class VideoHeat:
    """The evidence for one class in every frame of a video."""

    path: Path
    fps: float
    clip: ClipConfig
    target: int
    """The class, as an index."""
    grids: np.ndarray
    """float32 (num_frames, h, w) in 0..1: a coarse grid over the centre crop; 1 is the video's strongest evidence."""
    scores: np.ndarray
    """Probability of the class at each frame, float64 (num_frames,): the mean over the windows that contain it."""
    edges_s: np.ndarray | None = None
    """When each frame begins and the last one ends, float64 (num_frames + 1,); None: frame n at n / fps."""


def grad_cam(model: Recognizer, clip: np.ndarray, *, target: int | None = None) -> np.ndarray:
    """Evidence for class `target` (None: the predicted one) in a clip, uint8 RGB (T, H, W, 3).

    Returns float32 (T, H, W) in 0..1. The strongest evidence of the clip is 1; without any evidence everything is 0.
    Raises InputError if the registry names no feature layer for this architecture.
    """
    grids, _ = _class_evidence(model, clip[None], target=target)
    heat = F.interpolate(grids[None], size=clip.shape[:3], mode="trilinear")[0, 0].cpu().numpy()
    return heat / max(float(heat.max()), _TINY)


def _class_evidence(model: Recognizer, clips: np.ndarray, *, target: int | None) -> tuple[Tensor, Tensor]:
    """The non-negative evidence, float32 (N, T', H', W'), and the logits, (N, num_classes), of clips."""
    spec = get_spec(model.name)
    if not spec.features:
        raise InputError(f"{model.name}: cannot show where it looks; its registry entry names no feature layer")
    features: list[Tensor] = []
    grids: list[tuple[int, int, int]] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        # Gradients are recorded from this layer on, until the no_grad() block below ends. The layers before it, which
        # are most of the network, keep no activations.
        torch.set_grad_enabled(True)
        if isinstance(output, tuple):  # MViT returns its tokens and the grid (T', H', W') in which they are arranged
            output, grid = output
            grids.append(grid)
        features.append(output.detach().requires_grad_())
        return (features[0], *grids) if grids else features[0]

    training = {module: module.training for module in model.modules()}
    hook = model.backbone.get_submodule(spec.features).register_forward_hook(keep)
    try:
        model.eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(clips).to(model.mean.device))
            wanted = logits.argmax(dim=1) if target is None else torch.full((len(clips),), target, device=logits.device)
            # The clips of a batch do not influence each other, so the sum gives each clip its own gradient.
            gradient = torch.autograd.grad(logits.gather(1, wanted[:, None]).sum(), features[0])[0]
    finally:
        hook.remove()
        for module, flag in training.items():
            module.training = flag
    channels = -1 if spec.channels_last or grids else 1
    evidence = (features[0].detach() * gradient).sum(dim=channels).float().relu()
    if grids:
        # The first token is the class token, which has no place in the grid.
        evidence = evidence[:, 1:].unflatten(1, grids[0])
    assert evidence.ndim == 4, f"expected evidence (N, T', H', W'), got {tuple(evidence.shape)}"
    return evidence, logits.detach().float()


def explain_video(
    model: Recognizer, path: str | Path, *, target: int, batch_size: int = 4, temperature: float = 1.0
) -> VideoHeat:
    """Find the evidence for class `target` in the windows that serving scores, and average it where they overlap.

    Only the coarse grids of a window are kept: less than 100 MB for an hour. Raises VideoError if no frame decodes.
    """
    reader = VideoReader(path)
    windows: list[tuple[int, int, np.ndarray, float]] = []
    stream = iter_windows(reader, model.clip, clip_step=None)
    while batch := list(islice(stream, batch_size)):
        evidence, logits = _class_evidence(model, np.stack([window.frames for window in batch]), target=target)
        scores = softmax(logits.cpu().numpy(), temperature=temperature)
        evidence = F.interpolate(evidence[:, None], size=(model.clip.num_frames, *evidence.shape[2:]), mode="trilinear")
        for window, grids, score in zip(batch, evidence[:, 0].cpu().numpy(), scores[:, target], strict=True):
            windows.append((window.start, window.end, _at_frames(grids, window), float(score)))

    num_frames = windows[-1][1]
    grids, scores = np.zeros((num_frames, *windows[0][2].shape[1:]), np.float32), np.zeros(num_frames)
    num_windows = np.zeros(num_frames)
    for start, end, evidence, score in windows:
        grids[start:end] += evidence
        scores[start:end] += score
        num_windows[start:end] += 1
    assert num_windows.all(), "every frame must be in a window"
    grids /= num_windows[:, None, None].astype(np.float32)
    if (lit := grids[grids > 0]).size:
        grids = np.minimum(grids / np.quantile(lit, _STRONGEST), 1)
    return VideoHeat(
        path=Path(path),
        fps=reader.fps,
        clip=model.clip,
        target=target,
        grids=grids,
        scores=scores / num_windows,
        edges_s=reader.edges_s,
    )


def _at_frames(grids: np.ndarray, window: WindowClip) -> np.ndarray:
    """Interpolate a clip's grids (T, h, w) to the frames window.start to window.end - 1 of its video."""
    # The clip of a short video repeats its last frame: frames that occur several times get the mean of their grids.
    frames, owners = np.unique(window.indices, return_inverse=True)
    grids = np.stack([grids[owners == number].mean(axis=0) for number in range(len(frames))])
    positions = np.interp(np.arange(window.start, window.end), frames, np.arange(len(frames)))
    before = positions.astype(int)
    after = np.minimum(before + 1, len(frames) - 1)
    share = (positions - before).astype(np.float32)[:, None, None]
    return grids[before] * (1 - share) + grids[after] * share


def draw_heat(frame: np.ndarray, grid: np.ndarray, clip: ClipConfig) -> None:
    """Blend evidence, (h, w) in 0..1 over the centre crop, into a frame, and dim everything outside the crop."""
    height, width = frame.shape[:2]
    resized = transforms.resized_size(height, width, clip.resize)
    [(top, left)] = transforms.crop_offsets(*resized, clip.crop, 1)
    rows, columns = (
        slice(round(offset * side / small), round((offset + clip.crop) * side / small))
        for offset, side, small in zip((top, left), (height, width), resized, strict=True)
    )
    seen = frame[rows, columns].copy()
    frame[:] = (frame * _UNSEEN_LIGHT).astype(np.uint8)
    # Cubic interpolation hides the coarse grid's cells, but overshoots, hence the clipping.
    heat = cv2.resize(grid, seen.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    alpha = np.minimum(1.2 * heat, _HEAT_ALPHA)[..., None]
    frame[rows, columns] = (seen * (1 - alpha) + _heat_colors(heat) * alpha).astype(np.uint8)


def _draw_moments(width: int, height: int, moments: np.ndarray, *, position: int) -> np.ndarray:
    """Draw a strip, uint8 RGB (height, width, 3), of the evidence over time, with a white mark at frame `position`.

    `moments` holds 0..1 for each frame of the video.
    """
    strip = np.zeros((height, width, 3), np.uint8)
    row = cv2.resize(moments[None].astype(np.float32), (width, 1), interpolation=cv2.INTER_LINEAR)
    strip[height // 2 :] = _heat_colors(row)
    mark = round(position * (width - 1) / max(1, len(moments) - 1))
    strip[:, max(0, mark - 1) : mark + 2] = 255
    return strip


def _heat_colors(heat: np.ndarray) -> np.ndarray:
    """Colour values: 0..1 (h, w) -> uint8 RGB (h, w, 3)."""
    return cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]


def attention_frames(heat: VideoHeat, class_names: list[str], *, label: str | None = None) -> Iterator[np.ndarray]:
    """Yield the video's frames, uint8 RGB, with the evidence for the class blended in.

    The class and its score are written above the frame, where they hide nothing. Below it are the evidence over time
    and `label`, the video's true class, if it differs.
    """
    name = class_names[heat.target]
    color = class_colors(class_names)[name]
    moments = heat.grids.mean(axis=(1, 2))
    moments /= max(float(moments.max()), _TINY)
    for position, frame in enumerate(iter_frames(heat.path)):
        scale = min(-(-_MIN_SHORT_SIDE // min(frame.shape[:2])), MAX_SIDE // max(frame.shape[:2]))
        if scale > 1:
            frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        height, width = frame.shape[:2]
        head = np.zeros_like(frame)
        draw_label(head, name, heat.scores[position], color=color)
        draw_heat(frame, heat.grids[position], heat.clip)
        strip = _draw_moments(width, max(8, height // 16), moments, position=position)
        parts = [head[: label_height(height, width)], frame, strip]
        if label not in (None, name):
            size = max(9, min(height, width) // 18)
            parts.append(np.zeros((size * 3 // 2, width, 3), np.uint8))
            put_text(parts[-1], f"label: {label}", left=size // 3, top=0, size=size, right=width)
        yield np.concatenate(parts)


def write_attention(path: Path, heat: VideoHeat, class_names: list[str], *, label: str | None = None) -> None:
    """Write attention_frames() as an .mp4 that shows each frame when the source does."""
    write_video(path, attention_frames(heat, class_names, label=label), fps=heat.fps, edges_s=heat.edges_s)


def explain_videos(
    checkpoint_path: Path, videos: Sequence[tuple[Path, int, str]], folder: Path, *, device: str, batch_size: int
) -> None:
    """Write an .mp4 for each (video, class to look for, true label) into `folder`, numbered in order.

    Files of an earlier run are deleted.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    model = build_from_checkpoint(checkpoint).to(choose_device(device))
    folder.mkdir(parents=True, exist_ok=True)
    # Only files named like 01_jump.mp4 are ours. Everything else in the folder belongs to the user.
    for earlier in folder.glob("*.mp4"):
        if re.match(r"\d\d+_", earlier.name):
            earlier.unlink()
    bar = tqdm(videos, desc="attention", unit="video", leave=leaves_bars())
    for number, (video, target, label) in enumerate(bar, start=1):
        heat = explain_video(model, video, target=target, batch_size=batch_size, temperature=checkpoint.temperature)
        write_attention(folder / f"{number:02d}_{video.stem}.mp4", heat, checkpoint.class_names, label=label)
