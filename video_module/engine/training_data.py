"""The data of a run: the training and validation videos, their loaders, and their record in a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from video_module.config import ClipConfig, TrainConfig
from video_module.data import labels, leaks, records
from video_module.data.dataset import (
    EvaluationLoader,
    EvaluationViews,
    StepSampler,
    TrainingClips,
    Views,
    label_indices,
    training_loader,
)
from video_module.engine.checkpoint import Checkpoint
from video_module.engine.distributed import Group
from video_module.errors import InputError
from video_module.machine import default_num_workers
from video_module.tables import pluralize


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """The sources of a run's clips."""

    train: DataLoader
    sampler: StepSampler
    val: EvaluationLoader | None
    """Loader of this process's shard of the validation videos; None without validation videos."""
    val_labels: list[int]
    """Labels of the validation videos of all processes."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The videos of the training and the validation folder, and the settings of their clips."""

    train_dir: Path
    val_dir: Path
    clip: ClipConfig
    class_names: list[str]
    train_videos: list[records.VideoRecord]
    val_videos: list[records.VideoRecord]
    """Validation videos; may be empty, in which case the last epoch is kept."""

    def __str__(self) -> str:
        num_val = pluralize(len(self.val_videos), "validation video")
        text = f"{len(self.train_videos):,} training and {num_val} of {len(self.class_names)} classes"
        num_shared = leaks.shared_sources(self.train_videos, self.val_videos).test_clips_within_class
        if not num_shared:
            return text
        return (
            f"{text}\nnote: {num_shared} of {num_val} share a recording with train within their class; a split by "
            "recording keeps them apart. Check all of it with split_data.py --audit"
        )

    def training_clips(self, config: TrainConfig) -> TrainingClips:
        return TrainingClips(self.train_dir, self.train_videos, self.class_names, self.clip, config)

    def loaders(self, config: TrainConfig, *, group: Group, num_workers: int, pin_memory: bool) -> Loaders:
        """Return loaders of this process's clips of each step and of its shard of the validation videos."""
        train, sampler = training_loader(
            self.training_clips(config),
            effective_batch=config.effective_batch,
            num_repeats=config.num_repeats,
            num_workers=num_workers,
            pin_memory=pin_memory,
            rank=group.rank,
            world_size=group.world_size,
        )
        val = None
        if self.val_videos:
            # Use one view per video instead of the twelve of test_model.py. One is enough to choose an epoch and keeps
            # validation short compared with training.
            views = Views(num_clips=1, num_crops=1)
            dataset = EvaluationViews(self.val_dir, group.shard(self.val_videos), self.clip, views)
            val = EvaluationLoader(dataset, num_workers=num_workers)
        return Loaders(
            train=train, sampler=sampler, val=val, val_labels=label_indices(self.val_videos, self.class_names)
        )

    def checkpoint(self, *, model: str, train_config: dict[str, Any]) -> Checkpoint:
        """Return a checkpoint without weights, which holds everything else to be recorded."""
        videos = self.train_videos + self.val_videos
        return Checkpoint(
            model=model,
            weights={},
            clip=self.clip,
            class_names=self.class_names,
            split_digest=records.split_digest(self.train_dir, self.train_videos),
            train_sources=sorted({leaks.hash_source(video.source) for video in videos}),
            train_clips=sorted({leaks.hash_clip(video.path) for video in videos}),
            train_config=train_config,
            num_train_videos=len(self.train_videos),
            num_val_videos=len(self.val_videos),
        )


def load_training_data(
    data_dir: Path, *, train_dir: Path | None, val_dir: Path | None, clip: ClipConfig, group: Group
) -> TrainingData:
    """Load the videos of data_dir/train and data_dir/val, or of `train_dir` and `val_dir` where given.

    Raises InputError if there are fewer than two classes or if videos are missing or cannot be decoded. The validation
    folder may be missing unless `val_dir` is given.
    """
    may_lack_val = val_dir is None
    train_dir, val_dir = train_dir or data_dir / "train", val_dir or data_dir / "val"
    labels.check_split_dir(train_dir, side="train")
    if val_dir.is_dir():
        labels.check_split_dir(val_dir, side="val")
    class_names = labels.find_class_names(train_dir)
    for sentence in labels.lost_classes(train_dir, class_names):
        print(f"note: {sentence}")
    if len(class_names) < 2:
        raise InputError(f"{train_dir}: a classifier needs at least two classes, found {class_names}")

    # Without split.json the videos are decoded to count their frames, so one process does it for all.
    train_videos, val_videos = group.broadcast(
        lambda: [
            records.load_videos(train_dir, num_workers=default_num_workers()),
            records.load_videos(val_dir, num_workers=default_num_workers(), allow_none=may_lack_val),
        ]
    )
    return TrainingData(
        train_dir=train_dir,
        val_dir=val_dir,
        clip=clip,
        class_names=class_names,
        train_videos=train_videos,
        val_videos=val_videos,
    )
