"""From views to video scores, for any model that scores clips, in one process or in several."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from video_module.data.audit import TrainOverlap, train_overlap
from video_module.data.dataset import EvaluationLoader, label_indices
from video_module.data.labels import check_class_folders, check_split_dir
from video_module.data.splits import VideoRecord, is_official, load_videos, split_record
from video_module.engine.device import autocast
from video_module.scores import ScoreClips, softmax, video_score


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """The videos to test on, and what split.json says of them."""

    videos: list[VideoRecord]
    labels: np.ndarray
    """Class indices, int64 (num_videos,)."""
    digest: str | None
    protocol: str | None
    fold: int | None

    def overlap_with(self, train_sources: Collection[str], train_clips: Collection[str]) -> TrainOverlap | None:
        """What they share with a model's training, given as the hashes in its file; None where it holds none."""
        return train_overlap(
            [(video.path, video.source) for video in self.videos],
            train_sources=train_sources,
            train_clips=train_clips,
            protocol=self.protocol,
            official=is_official(self.protocol),
        )


def load_test_split(test_dir: Path, class_names: Sequence[str], *, num_workers: int) -> EvaluationSplit:
    """The videos of a folder of classes. Raises InputError on a missing, failing or foreign one, or an empty class."""
    check_split_dir(test_dir)
    videos = load_videos(test_dir, num_workers=num_workers)
    check_class_folders(test_dir)
    record = split_record(test_dir, videos) or {}
    return EvaluationSplit(
        videos=videos,
        labels=np.array(label_indices(videos, class_names)),
        digest=record.get("digest"),
        protocol=record.get("protocol"),
        fold=record.get("fold"),
    )


@dataclass(frozen=True)
class Scores:
    """Probabilities of every view, and of every video."""

    view_scores: list[np.ndarray]
    """One float64 (num_views, num_classes) for each video."""
    video_scores: np.ndarray
    """float64 (num_videos, num_classes)."""

    @classmethod
    def from_views(cls, view_scores: list[np.ndarray]) -> "Scores":
        assert all(len(scores) for scores in view_scores), "each video has a view"
        return cls(view_scores, np.stack([video_score(scores) for scores in view_scores]))


def score_videos(score_clips: ScoreClips, loader: EvaluationLoader, *, batch_size: int) -> Scores:
    """Score all views of all videos, `batch_size` clips at a time, whichever videos they belong to."""
    return Scores.from_views(score_views(score_clips, loader, batch_size=batch_size))


def score_views(
    score_clips: ScoreClips, loader: EvaluationLoader, *, batch_size: int, desc: str = "testing"
) -> list[np.ndarray]:
    """The view_scores of Scores; an empty list of no videos. They depend on `batch_size` by rounding alone."""
    logits: list[list[np.ndarray]] = [[] for _ in range(len(loader))]
    waiting: list[np.ndarray] = []  # views, and beside them the videos they are of
    owners: list[int] = []

    def score_waiting() -> None:
        for owner, row in zip(owners, score_clips(np.stack(waiting)), strict=True):
            logits[owner].append(row)
        waiting.clear()
        owners.clear()

    for views, index in tqdm(loader, desc=desc, unit="video", leave=False):
        for view in views:
            waiting.append(view)
            owners.append(index)
            if len(waiting) == batch_size:
                score_waiting()
    if waiting:
        score_waiting()
    return [softmax(np.stack(rows)) for rows in logits]


def torch_scorer(model: nn.Module, *, device: torch.device, precision: str = "fp32") -> ScoreClips:
    """A score_clips function: uint8 ndarray (N, T, H, W, 3) -> logits float32 (N, num_classes)."""

    def score_clips(clips: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.inference_mode(), autocast(precision, device):
            return model(torch.from_numpy(clips).to(device)).float().cpu().numpy()

    return score_clips
