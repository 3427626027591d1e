"""Score videos by their views, with any model that scores clips, in one process or several."""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from video_module.background import in_background
from video_module.config import ClipConfig
from video_module.data.dataset import EvaluationLoader, EvaluationViews, Views, label_indices
from video_module.data.labels import check_class_folders, check_known_classes, check_split_dir
from video_module.data.leaks import TrainOverlap, hash_clip, train_overlap
from video_module.data.records import VideoRecord, load_videos, split_record
from video_module.engine.device import scoring
from video_module.engine.distributed import Group
from video_module.machine import leaves_bars
from video_module.scores import ScoreClips, softmax, video_score


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """The videos to test on, and what split.json says about them."""

    test_dir: Path
    videos: list[VideoRecord]
    labels: np.ndarray
    """Class indices, int64 (num_videos,)."""
    digest: str | None
    protocol: str | None
    fold: int | None
    num_folds: int | None
    folds_digest: str | None
    other_clips: frozenset[str] = frozenset()
    """Hashes of the videos on the other sides of split.json."""

    @property
    def sources(self) -> list[str]:
        """The source of each video."""
        return [video.source for video in self.videos]

    def overlap_with(
        self, train_sources: Collection[str], train_clips: Collection[str], *, train_digest: str | None
    ) -> TrainOverlap | None:
        """What they share with the training of a model whose file records these hashes; None if it records none."""
        return train_overlap(
            self.videos,
            train_sources=train_sources,
            train_clips=train_clips,
            protocol=self.protocol,
            namesakes=self.other_clips if self.digest == train_digest else frozenset(),
        )

    def to_dict(self) -> dict[str, Any]:
        """What X_results.json records of the split."""
        return {
            "split_digest": self.digest,
            "split": self.test_dir.absolute().name if self.digest else None,
            "protocol": self.protocol,
            "fold": self.fold,
            "num_folds": self.num_folds,
            "folds_digest": self.folds_digest,
        }


def load_test_split(test_dir: Path, class_names: Sequence[str], *, num_workers: int) -> EvaluationSplit:
    """The videos of a folder of classes.

    Raises InputError if the folder is missing, failed to split or has a class that is empty or not in `class_names`.
    """
    check_split_dir(test_dir)
    check_known_classes(test_dir, class_names)
    videos = load_videos(test_dir, num_workers=num_workers)
    check_class_folders(test_dir)
    record = split_record(test_dir, videos) or {}
    return EvaluationSplit(
        test_dir=test_dir,
        videos=videos,
        labels=np.array(label_indices(videos, class_names)),
        digest=record.get("digest"),
        protocol=record.get("protocol"),
        fold=record.get("fold"),
        num_folds=record.get("num_folds"),
        folds_digest=record.get("folds_digest"),
        other_clips=frozenset(
            hash_clip(video["path"].partition("/")[2])
            for video in record.get("videos", [])
            if video["split"] != test_dir.absolute().name
        ),
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


def score_split(
    split: EvaluationSplit,
    score_clips: ScoreClips,
    *,
    clip: ClipConfig,
    views: Views,
    group: Group,
    batch_size: int,
    num_workers: int,
    temperature: float = 1.0,
    pin_memory: bool = False,
) -> Scores | None:
    """Score all videos of a split, each process its share of them; None in all processes but the first."""
    own_views = EvaluationViews(split.test_dir, group.shard(split.videos), clip, views)
    loader = EvaluationLoader(own_views, num_workers=num_workers)
    shard = score_views(score_clips, loader, batch_size=batch_size, temperature=temperature, pin_memory=pin_memory)
    view_scores = group.gather(shard)
    if view_scores is None:
        return None
    assert len(view_scores) == len(split.videos)
    return Scores.from_views(view_scores)


def score_videos(score_clips: ScoreClips, loader: EvaluationLoader, *, batch_size: int) -> Scores:
    """Score all views of all videos, `batch_size` clips at a time, whichever videos they belong to."""
    return Scores.from_views(score_views(score_clips, loader, batch_size=batch_size))


def score_views(
    score_clips: ScoreClips,
    loader: EvaluationLoader,
    *,
    batch_size: int,
    desc: str = "testing",
    temperature: float = 1.0,
    pin_memory: bool = False,
) -> list[np.ndarray]:
    """The view_scores of Scores; an empty list of no videos. `batch_size` changes them by rounding errors only.

    With `pin_memory`, for torch on CUDA, batches lie in pinned memory, and the next ones are made while one is scored.
    """
    logits: list[list[np.ndarray]] = [[] for _ in range(len(loader))]
    batches = _batches(loader, batch_size, desc, pin_memory)
    for clips, owners in in_background(batches, depth=1) if pin_memory else batches:
        for owner, row in zip(owners, score_clips(clips), strict=True):
            logits[owner].append(row)
    assert all(logits), "every video has at least one view"
    return [softmax(np.stack(rows), temperature=temperature) for rows in logits]


def _batches(
    loader: EvaluationLoader, batch_size: int, desc: str, pin_memory: bool
) -> Generator[tuple[np.ndarray, tuple[int, ...]], None, None]:
    """(clips, the videos they are of), `batch_size` clips at a time."""
    videos = tqdm(loader, desc=desc, unit="video", leave=leaves_bars())
    stream = ((view, index) for views, index in videos for view in views)
    # Batches run across videos: a video of three views would otherwise leave most of a batch of eight empty.
    while batch := list(islice(stream, batch_size)):
        views, owners = zip(*batch, strict=True)
        clips = None
        if pin_memory:
            clips = torch.empty(len(views), *views[0].shape, dtype=torch.uint8, pin_memory=True).numpy()
        yield np.stack(views, out=clips), owners


def torch_scorer(model: nn.Module, *, device: torch.device, precision: str = "fp32") -> ScoreClips:
    """A score_clips function: uint8 ndarray (N, T, H, W, 3) -> logits float32 (N, num_classes)."""

    def score_clips(clips: np.ndarray) -> np.ndarray:
        # At every call, since validation takes turns with training, which switches to the training mode.
        model.eval()
        with scoring(precision, device):
            return model(torch.from_numpy(clips).to(device, non_blocking=True)).float().cpu().numpy()

    return score_clips
