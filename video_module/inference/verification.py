"""How an exported file is compared with torch: on which clips, by which figures, and what it must reach."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from tqdm import tqdm

from video_module.config import ClipConfig, ExportGates
from video_module.data.decoding import count_frames, read_frames
from video_module.data.drawing import ACTIONS, draw_frames, make_scene
from video_module.data.labels import find_videos
from video_module.data.sampling import clip_indices, uniform_starts
from video_module.data.transforms import center_view
from video_module.errors import InputError, VideoError
from video_module.machine import leaves_bars
from video_module.scores import ScoreClips

# A graph that took the batch size for a constant would pass a test with that size alone. 1 is among them because
# exporters treat it specially.
BATCH_SIZES = (1, 2, 3, 8)

# Pixel values of one batch. Three clips of 32x224x224 take some 4 GB in swin3d_t, and eight would take 11.
_MAX_BATCH_VALUES = 2**24


@dataclass(frozen=True)
class VerificationClips:
    clips: np.ndarray
    """uint8 RGB (N, T, H, W, 3)."""
    labels: np.ndarray | None
    """Class indices (N,); None where the clips' folders are not the model's classes."""
    origin: str

    def summary(self) -> str:
        labelled = "" if self.labels is not None else ", whose folders are not the model's classes: no accuracy"
        return f"{len(self.clips)} {self.origin}{labelled}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a file's logits are from those of torch in fp32."""

    max_logit_difference: float | None
    """Over the clips, and over white, black and noise; None where one of the file's logits is not finite."""
    max_logit: float
    """Torch's largest logit, in magnitude, over the same clips."""
    top1_agreement: float
    """Share of the clips with the same best class."""
    accuracy: float | None
    """Share of the clips with the right best class, where labels are known."""
    torch_accuracy: float | None
    num_predicted_classes: int
    """How many classes torch predicts; if it is one, agreement says little."""

    def failure(self, precision: str, gates: ExportGates) -> str | None:
        """Why a file of this precision fails its gate; None if it passes."""
        if self.max_logit_difference is None:
            return "its logits are not finite"
        if precision == "fp32":
            allowed = gates.fp32_tolerance * max(1.0, self.max_logit)
            if self.max_logit_difference > allowed:
                return f"its logits differ from torch's by {self.max_logit_difference:.1e}, more than {allowed:.1e}"
            return None
        required = gates.fp16_agreement if precision == "fp16" else gates.int8_agreement
        if self.top1_agreement < required:
            return f"agrees with torch on {self.top1_agreement:.2%} of the clips, less than {required:.2%}"
        return None


def load_clips(
    clip: ClipConfig, num_clips: int, *, class_names: Sequence[str], folder: Path | None = None
) -> VerificationClips:
    """Take up to `num_clips` clips from the videos of a folder of classes, or draw them.

    A folder gives fewer clips if its videos are too short for so many different ones.
    """
    if folder is None:
        labels = [ACTIONS[number % len(ACTIONS)] for number in range(num_clips)]
        clips = [_drawn_clip(label, number, clip) for number, label in enumerate(labels)]
        origin = "drawn clips"
    else:
        videos = find_videos(folder)
        if len(videos) > num_clips:
            videos = [videos[index * len(videos) // num_clips] for index in range(num_clips)]
        per_video = [
            _evenly_spaced(path, clip, -(-num_clips // len(videos)))
            for _, path in tqdm(videos, desc="reading", unit="video", leave=leaves_bars())
        ]
        # The first clip of each video, then the second of each, so that cutting the list short leaves no class out.
        order = sorted((number, index) for index, clips in enumerate(per_video) for number in range(len(clips)))
        order = order[:num_clips]
        clips = [per_video[index][number] for number, index in order]
        labels = [videos[index][0] for _, index in order]
        origin = f"clips of {len(videos)} videos in {folder}"
    known = set(labels) <= set(class_names)
    return VerificationClips(
        np.stack(clips), np.array([class_names.index(label) for label in labels]) if known else None, origin
    )


def _drawn_clip(action: str, number: int, clip: ClipConfig) -> np.ndarray:
    frames = draw_frames(action, make_scene(0, number), num_frames=clip.span, rng=np.random.default_rng(number))
    views = np.stack([center_view(frame, clip) for frame in frames])
    return views[clip_indices(0, clip.span, clip, fps=clip.target_fps)]


def _evenly_spaced(path: Path, clip: ClipConfig, count: int) -> list[np.ndarray]:
    """`count` different clips of a video, or as many as there are."""
    num_frames, info = count_frames(path)
    if num_frames == 0:
        raise VideoError(f"{path}: no frame decodes")
    starts = sorted(set(uniform_starts(num_frames, clip, count, fps=info.fps)))
    indices = [clip_indices(start, num_frames, clip, fps=info.fps) for start in starts]
    # Clips overlap; each frame is decoded and resized once.
    wanted, positions = np.unique(np.stack(indices), return_inverse=True)
    frames = read_frames(path, wanted, per_frame=lambda frame: center_view(frame, clip))
    return list(frames[positions.reshape(len(indices), clip.num_frames)])


def fitting_batch_sizes(shape: Sequence[int], sizes: Sequence[int] = BATCH_SIZES) -> tuple[int, ...]:
    """Those of the batch sizes that are not too large for memory with clips of this shape."""
    return tuple(size for size in sizes if size == 1 or size * math.prod(shape) <= _MAX_BATCH_VALUES)


def extreme_clips(clip: ClipConfig) -> np.ndarray:
    """White, black and noise, uint8 (3, T, H, W, 3): where a lower precision overflows first."""
    noise = np.random.default_rng(0).integers(0, 256, clip.shape, np.uint8)
    return np.stack([np.full(clip.shape, 255, np.uint8), np.zeros(clip.shape, np.uint8), noise])


class Reference:
    """Torch's logits for the clips, which files are compared with. Shows a bar until it is closed."""

    def __init__(
        self, score_clips: ScoreClips, clips: VerificationClips, clip: ClipConfig, *, precisions: Collection[str]
    ):
        self.clips, self.extremes, self.batch_sizes = clips, extreme_clips(clip), fitting_batch_sizes(clip.shape)
        num_passes = (1 + len(precisions)) * (len(clips.clips) + len(self.extremes))
        if "int8" in precisions:
            num_passes += sum(min(size, len(clips.clips)) for size in self.batch_sizes)
        # One bar for all files, since what a user waits for is the end of the last
        self.bar = tqdm(total=num_passes, desc="torch", unit="clip", leave=leaves_bars())
        self.logits = self._score_in_batches(score_clips, clips.clips, sizes=(1,))
        self.extreme_logits = self._score_in_batches(score_clips, self.extremes, sizes=(1,))
        if not np.isfinite(self.logits).all() or not np.isfinite(self.extreme_logits).all():
            self.close()
            raise InputError("the logits of the checkpoint are not finite; train it again")

    def close(self) -> None:
        self.bar.close()

    def _score_in_batches(self, score_clips: ScoreClips, clips: np.ndarray, *, sizes: Sequence[int]) -> np.ndarray:
        """Score clips in batches of alternating sizes. Returns logits (N, num_classes)."""
        logits, turns, done = [], cycle(sizes), 0
        while done < len(clips):
            logits.append(score_clips(clips[done : done + next(turns)]))
            done += len(logits[-1])
            self.bar.update(len(logits[-1]))
        return np.concatenate(logits)

    def compare(self, score_clips: ScoreClips, *, precision: str) -> Agreement:
        """Compare a file's logits with torch's."""
        self.bar.set_description(precision)
        sizes, batches = self.batch_sizes, []
        if precision == "int8":
            # An int8 file scales a whole batch alike, so load_predictor() scores clip by clip, and so is the agreement
            # measured. Each batch size is tried once on top, for its difference alone.
            sizes = (1,)
            batches = [
                self._score_in_batches(score_clips, self.clips.clips[:size], sizes=(size,)) - self.logits[:size]
                for size in self.batch_sizes
            ]
        logits = self._score_in_batches(score_clips, self.clips.clips, sizes=sizes)
        extreme_logits = self._score_in_batches(score_clips, self.extremes, sizes=(1,))
        differences = np.abs(np.concatenate([logits - self.logits, extreme_logits - self.extreme_logits, *batches]))
        assert logits.shape == self.logits.shape, (logits.shape, self.logits.shape)
        best, torch_best, labels = logits.argmax(axis=1), self.logits.argmax(axis=1), self.clips.labels
        return Agreement(
            max_logit_difference=float(differences.max()) if np.isfinite(differences).all() else None,
            max_logit=float(np.abs(np.concatenate([self.logits, self.extreme_logits])).max()),
            top1_agreement=float((best == torch_best).mean()),
            accuracy=None if labels is None else float((best == labels).mean()),
            torch_accuracy=None if labels is None else float((torch_best == labels).mean()),
            num_predicted_classes=len(np.unique(torch_best)),
        )
