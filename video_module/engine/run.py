"""A run of training: epochs, validation, the best and the newest checkpoint, and how it ends."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from video_module.data.dataset import EvaluationLoader, StepSampler, read_steps
from video_module.engine import state
from video_module.engine.checkpoint import Checkpoint, save_checkpoint
from video_module.engine.evaluation import Scores, score_views, torch_scorer
from video_module.engine.interruption import StopWish
from video_module.engine.progress import Progress, epoch_line
from video_module.engine.state import StateKeeper, earlier_path, last_path
from video_module.engine.training import Trainer
from video_module.errors import InputError, Interrupted
from video_module.machine import default_num_workers
from video_module.report.metrics import top_k_accuracy
from video_module.tables import counted

_LARGEST_WAIT = 0.1  # share of an epoch spent waiting for data that is worth a warning


def validate(
    trainer: Trainer, loader: EvaluationLoader, labels: Sequence[int], *, stop: StopWish | None = None
) -> dict[str, float]:
    """Loss and accuracy over videos. The loader reads this process's share of them; `labels` are those of all.

    Raises Interrupted when `stop` is asked for; of several processes, none stops here.
    """
    score_clips = torch_scorer(trainer.validated, device=trainer.device, precision=trainer.precision)

    def score_or_stop(clips: np.ndarray) -> np.ndarray:
        if stop is not None and stop.signal is not None and trainer.group.world_size == 1:
            raise Interrupted("", exit_code=stop.exit_code)
        return score_clips(clips)

    part = score_views(score_or_stop, loader, batch_size=trainer.micro_batch or 8, desc="validating")
    view_scores = trainer.group.gather(part)

    def figures() -> dict[str, float]:
        scores = Scores.from_views(view_scores)
        picked = scores.video_scores[np.arange(len(labels)), labels]
        return {
            "val_loss": float(-np.log(np.maximum(picked, 1e-15)).mean()),
            "val_top1": top_k_accuracy(scores.video_scores, np.asarray(labels), 1),
        }

    return trainer.group.first(figures)


def train(
    trainer: Trainer,
    template: Checkpoint,
    *,
    save_path: Path,
    train_loader: DataLoader,
    sampler: StepSampler,
    val_loader: EvaluationLoader | None,
    val_labels: Sequence[int],
    resume: bool,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train to the last epoch, keeping the best checkpoint at `save_path` and the newest at last_path(save_path).

    `template` is a checkpoint without weights: what is recorded beside them. `on_epoch(progress)` is called after each,
    in the first process, which alone writes. Raises Interrupted after one of STOP_SIGNALS, when the state is saved.
    """
    progress = Progress()
    if resume:
        progress = _resume(trainer, template, last_path(save_path))
        if progress.num_epochs and trainer.group.is_first:
            on_epoch(progress)  # the run may have died between its checkpoint and its logs
    keeper = StateKeeper(last_path(save_path), trainer, template, progress, is_resumed=resume)
    config, is_first, warned = trainer.config, trainer.group.is_first, False

    def save() -> None:
        if is_first:
            keeper.save()

    with StopWish().listening() as stop:
        while not progress.is_over(num_epochs=config.num_epochs, patience=config.patience):
            epoch = progress.num_epochs
            sampler.epoch, sampler.first_step = epoch, progress.partial.num_steps
            row = trainer.train_epoch(
                read_steps(train_loader, sampler),
                epoch,
                progress.partial,
                num_items=sampler.num_items * sampler.num_repeats,
                on_step=keeper.count_step,
                save=save,
                wants_save=lambda: is_first and keeper.is_due(),
                stop=stop,
            )
            try:
                if row is None:
                    raise Interrupted("", exit_code=stop.exit_code)
                if val_loader is not None:
                    row |= validate(trainer, val_loader, val_labels, stop=stop)
            except Interrupted as wish:
                save()  # once more where training was stopped: cheap, and validation has not saved
                where = f"epoch {epoch + 1}, after step {progress.partial.num_steps} of {trainer.steps_per_epoch}"
                text = f"stopped in {where}; {keeper.path} is saved, --resume goes on from there"
                if (aside := earlier_path(keeper.path)).is_file():
                    text += f"; the earlier run's state is now {aside}"
                raise Interrupted(text, exit_code=wish.exit_code) from None
            _check_validation(row, trainer)
            is_best = progress.append(row)
            if is_first:
                checkpoint = keeper.checkpoint()
                if is_best:
                    save_checkpoint(save_path, checkpoint)
                keeper.save(checkpoint)
                print(epoch_line(row, config.num_epochs) + (" *" if is_best else ""))
                if row["data_wait"] > _LARGEST_WAIT and not warned and _can_read_faster(trainer, train_loader):
                    print(_remedy(row["data_wait"], train_loader.num_workers))
                    warned = True
                on_epoch(progress)
    if progress.num_epochs < config.num_epochs:
        patience = counted(config.patience, "epoch")
        print(f"stopped early: {patience} brought nothing better than epoch {progress.best_epoch}")
    return progress


def _check_validation(row: dict[str, Any], trainer: Trainer) -> None:
    if not math.isfinite(row.get("val_loss", 0)):
        raise InputError(
            f"the validation loss is {row['val_loss']} after step {trainer.step}; start again with a lower --lr than "
            f"{trainer.config.lr:g}"
        )


def _can_read_faster(trainer: Trainer, loader: DataLoader) -> bool:
    """Without a GPU, network and readers share the cores: once each core has a reader, waiting is their turn."""
    return trainer.device.type != "cpu" or loader.num_workers < default_num_workers()


def _remedy(data_wait: float, num_workers: int) -> str:
    return (
        f"warning: {data_wait:.0%} of the epoch was spent waiting for clips; raise --num_workers above {num_workers} "
        "if cores are idle, store the videos at a lower resolution or on a faster disk"
    )


def _resume(trainer: Trainer, template: Checkpoint, path: Path) -> Progress:
    progress = state.resume(trainer, template, path)
    if progress is None:
        print(f"no {path} to resume from: starting afresh")
        return Progress()
    text = f"resuming after epoch {progress.num_epochs} of {trainer.config.num_epochs}"
    if progress.partial.num_steps:
        text += f" and step {progress.partial.num_steps} of {trainer.steps_per_epoch}"
    print(text)
    return progress
