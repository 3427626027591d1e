"""A run of fine-tuning, from folders of videos and settings: data, loaders, model, and then the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from video_module.config import ClipConfig, TrainConfig
from video_module.data import audit, labels, splits
from video_module.data.dataset import (
    EvaluationLoader,
    EvaluationViews,
    TrainingClips,
    Views,
    label_indices,
    training_loader,
)
from video_module.engine.checkpoint import Checkpoint
from video_module.engine.distributed import Group
from video_module.engine.loop import train
from video_module.engine.progress import Progress
from video_module.engine.state import last_path
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.machine import default_num_workers
from video_module.models.recognizer import build_model
from video_module.models.registry import NO_WEIGHTS
from video_module.tables import pluralize


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The videos of two folders of classes, and the clips to take of them."""

    train_dir: Path
    val_dir: Path
    clip: ClipConfig
    class_names: list[str]
    train_videos: list[splits.VideoRecord]
    val_videos: list[splits.VideoRecord]
    """May be none: then the last epoch is kept."""

    def __str__(self) -> str:
        num_val = pluralize(len(self.val_videos), "validation video")
        return f"{len(self.train_videos):,} training and {num_val} of {len(self.class_names)} classes"

    @property
    def val_labels(self) -> list[int]:
        return label_indices(self.val_videos, self.class_names)

    def training_clips(self, config: TrainConfig) -> TrainingClips:
        return TrainingClips(self.train_dir, self.train_videos, self.class_names, self.clip, config)

    def val_loader(self, *, group: Group, num_workers: int) -> EvaluationLoader | None:
        """The middle clip of each of this process's validation videos; None where there are no videos at all."""
        if not self.val_videos:
            return None
        # One view of a video instead of test_model.py's twelve: enough to choose an epoch by, and validation stays
        # short beside training.
        views = Views(num_clips=1, num_crops=1)
        dataset = EvaluationViews(self.val_dir, group.shard(self.val_videos), self.clip, views)
        return EvaluationLoader(dataset, num_workers=num_workers)

    def checkpoint(self, *, model: str, train_config: dict[str, Any]) -> Checkpoint:
        """A checkpoint without weights: what is recorded beside them."""
        videos = self.train_videos + self.val_videos
        return Checkpoint(
            model=model,
            weights={},
            clip=self.clip,
            class_names=self.class_names,
            split_digest=splits.split_digest(self.train_dir, self.train_videos),
            train_sources=sorted({audit.hash_source(video.source) for video in videos}),
            train_clips=sorted({audit.hash_clip(video.path) for video in videos}),
            train_config=train_config,
        )


def load_training_data(
    data_dir: Path, *, train_dir: Path | None, val_dir: Path | None, clip: ClipConfig, group: Group
) -> TrainingData:
    """The videos of data_dir/train and data_dir/val, or of the folders given in their place.

    Raises InputError on fewer than two classes, and on videos that are missing or do not decode. Only a val folder
    that nobody named may be missing.
    """
    may_lack_val = val_dir is None
    if train_dir is None:
        train_dir = data_dir / "train"
        labels.check_split_dir(train_dir)
    val_dir = val_dir or data_dir / "val"
    class_names = labels.find_class_names(train_dir)
    if len(class_names) < 2:
        raise InputError(f"{train_dir}: a classifier needs at least two classes, found {class_names}")

    def load() -> list[list[splits.VideoRecord]]:
        return [
            splits.load_videos(folder, num_workers=default_num_workers(), allow_none=allow_none)
            for folder, allow_none in ((train_dir, False), (val_dir, may_lack_val))
        ]

    # A folder without split.json is decoded to count its frames, so one process does it for all.
    train_videos, val_videos = group.broadcast(load)
    return TrainingData(
        train_dir=train_dir,
        val_dir=val_dir,
        clip=clip,
        class_names=class_names,
        train_videos=train_videos,
        val_videos=val_videos,
    )


def fine_tune(
    data: TrainingData,
    config: TrainConfig,
    *,
    model_type: str,
    weights: str,
    class_weights: list[float] | None,
    device: torch.device,
    group: Group,
    num_workers: int,
    save_path: Path,
    resume: bool,
    on_epoch: Callable[[Progress], None],
) -> Progress:
    """Build the model and train it, as one of the group's processes; see loop.train()."""
    loader, sampler = training_loader(
        data.training_clips(config),
        effective_batch=config.effective_batch,
        num_repeats=config.num_repeats,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        rank=group.rank,
        world_size=group.world_size,
    )
    val_loader = data.val_loader(group=group, num_workers=num_workers)
    if val_loader is None:
        print("no validation videos: the last epoch is kept")
    resumes = resume and group.broadcast(last_path(save_path).is_file)
    if not resumes:
        _show_replaced(save_path)
    model = build_model(
        model_type,
        num_classes=len(data.class_names),
        weights=NO_WEIGHTS if resumes else weights,  # a resumed run brings its own
        clip=data.clip,
        drop_path=config.drop_path,
        seed=config.seed,
    )
    trainer = Trainer(
        model, config, device=device, steps_per_epoch=sampler.num_steps, class_weights=class_weights, group=group
    )
    num_parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{model_type}: {num_parameters:.1f} M parameters, weights {weights}, {device}, {trainer.precision}, {group}")
    settings = config.to_dict() | {"weights": weights, "class_weights": class_weights}
    return train(
        trainer,
        data.checkpoint(model=model_type, train_config=settings),
        save_path=save_path,
        train_loader=loader,
        sampler=sampler,
        val_loader=val_loader,
        val_labels=data.val_labels,
        resume=resume,
        on_epoch=on_epoch,
    )


def _show_replaced(save_path: Path) -> None:
    """Say what of an earlier run will be replaced; demos and scripts run twice, so it is no mistake."""
    last = last_path(save_path)
    if last.is_file() or save_path.is_file():
        found = save_path if save_path.is_file() else last
        way = "--resume would go on with it" if last.is_file() else "another --save_path keeps it"
        print(f"note: {found} of an earlier run is replaced when the first epoch ends; {way}")
