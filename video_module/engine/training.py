"""Epochs, precision, schedule, best and last checkpoint, resume."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from video_module.config import TrainConfig
from video_module.data.dataset import EpochSampler, EvaluationLoader
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.device import autocast, choose_precision
from video_module.engine.evaluation import score_videos, torch_scorer
from video_module.errors import InputError
from video_module.models.recognizer import Recognizer
from video_module.report.metrics import top_k_accuracy

LOG_COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "num_failed",
    "clips_per_s",
    "data_wait",
    "duration_s",
)


# of Swin; of MViT
_POSITION_TABLES = (
    "relative_position_bias_table",
    *(f".{name}" for name in ("rel_pos_t", "rel_pos_h", "rel_pos_w", "temporal_pos", "spatial_pos")),
)


def parameter_groups(model: Recognizer, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW groups: the backbone at its share of the rate; no decay on norms, biases and position-bias tables."""
    head = {id(parameter) for parameter in model.head.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and not name.endswith(_POSITION_TABLES)
        groups.setdefault((id(parameter) in head, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * (1.0 if in_head else config.backbone_lr_scale),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_head, decays), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def rate_factor(step: int, *, num_steps: int, num_warmup_steps: int) -> float:
    """Share of the peak rate at `step`: linear warm-up, then half a cosine to zero."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


_NUM_FAILURES_SHOWN = 10
_CHECK_EVERY = 10  # steps between looks at the loss, each of which makes the device finish what it was given


class Trainer:
    """A model with its optimiser, schedule and gradient scaler."""

    def __init__(
        self,
        model: Recognizer,
        config: TrainConfig,
        *,
        device: torch.device,
        steps_per_epoch: int,
        class_weights: Sequence[float] | None = None,
    ):
        """`class_weights` scale the training loss of each class's clips; the validation loss stays unweighted."""
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, device=device)
        self.model = model.to(device)
        self.config = config
        self.device = device
        self.precision = choose_precision(config.precision, device)
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=device.type == "cuda")
        num_steps = config.num_epochs * steps_per_epoch
        num_warmup_steps = min(num_steps - 1, round(config.warmup_epochs * steps_per_epoch))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate_factor(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.step = 0

    def train_step(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser step on uint8 clips (N, T, H, W, 3); returns detached (loss, hits), still on the device."""
        with autocast(self.precision, self.device):
            logits = self.model(clips)
            loss = F.cross_entropy(
                logits.float(), labels, weight=self.class_weights, label_smoothing=self.config.label_smoothing
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.step += 1
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def train_epoch(self, loader: DataLoader, epoch: int) -> dict[str, float]:
        """One pass over the loader; returns the epoch's row of the log.

        Clips that cannot be read are left out of their batch, counted, and named when the epoch ends. Raises InputError
        at the first loss that is not finite, naming the step, and where more than config.max_failed_share of the clips
        fail.
        """
        self.model.train()
        torch.manual_seed(_mix(self.config.seed, epoch))  # dropout and stochastic depth, the same after a resume
        losses, hits, num_clips, waited = [], [], 0, 0.0
        failures: list[str] = []
        begin = mark = time.perf_counter()
        lr = self.optimizer.param_groups[0]["lr"]
        with tqdm(loader, desc=f"epoch {epoch + 1}/{self.config.num_epochs}", unit="step", leave=False) as bar:
            for clips, labels, failed in bar:
                waited += time.perf_counter() - mark
                if failed:
                    failures += failed
                    self._check_failures(failures, num_items=len(loader.dataset))
                if clips is None:
                    mark = time.perf_counter()
                    continue
                clips = clips.to(self.device, non_blocking=True)
                labels = labels.to(self.device, non_blocking=True)
                loss, hit = self.train_step(clips, labels)
                losses.append(loss)
                hits.append(hit)
                num_clips += len(labels)
                if len(losses) % _CHECK_EVERY == 0:
                    recent = self._check(losses[-_CHECK_EVERY:], epoch)
                    bar.set_postfix(loss=f"{recent:.3f}", lr=f"{self.optimizer.param_groups[0]['lr']:.1e}")
                mark = time.perf_counter()
            if len(losses) % _CHECK_EVERY:
                self._check(losses[-(len(losses) % _CHECK_EVERY) :], epoch)
        for failure in failures[:_NUM_FAILURES_SHOWN]:
            print(f"skipped: {failure}")
        if len(failures) > _NUM_FAILURES_SHOWN:
            print(f"skipped: {len(failures)} clips in all")
        duration = time.perf_counter() - begin
        return {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": torch.stack(losses).float().mean().item(),
            "train_top1": torch.stack(hits).sum().item() / num_clips,
            "num_failed": len(failures),
            "clips_per_s": num_clips / duration,
            "data_wait": waited / duration,
            "duration_s": duration,
        }

    def _check_failures(self, failures: list[str], *, num_items: int) -> None:
        if len(failures) > self.config.max_failed_share * num_items:
            raise InputError(
                f"{len(failures)} of {num_items} clips cannot be read, more than --max_failed_share "
                f"{self.config.max_failed_share:g} allows; {failures[0]}"
            )

    def _check(self, losses: list[Tensor], epoch: int) -> float:
        """The newest of the last steps' losses; stops the run if one of them is not finite."""
        values = torch.stack(losses).tolist()
        for number, value in enumerate(values, start=self.step - len(values) + 1):
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at step {number} (epoch {epoch + 1}); start again with a lower --lr than "
                    f"{self.config.lr:g}"
                )
        return values[-1]

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "precision": self.precision,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["precision"] != self.precision:
            raise InputError(
                f"the run was trained in {state['precision']}, here it would go on in {self.precision}; add "
                f"--precision {state['precision']}"
            )
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])


def _mix(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class Progress:
    """Where a run stands: one log entry per finished epoch, and the best of them."""

    logs: dict[str, list] = field(default_factory=lambda: {column: [] for column in LOG_COLUMNS})
    best_epoch: int = 0

    @property
    def num_epochs(self) -> int:
        return len(self.logs["epoch"])

    def append(self, row: dict[str, Any]) -> bool:
        """Add an epoch; True if it is the best so far: highest validation accuracy, then lowest validation loss."""
        for column in LOG_COLUMNS:
            self.logs.setdefault(column, [None] * (row["epoch"] - 1)).append(row.get(column))
        is_best = self.best_epoch == 0 or self._merit(-1) > self._merit(self.best_epoch - 1)
        if is_best:
            self.best_epoch = self.num_epochs
        return is_best

    def summary(self) -> str:
        """One line on the kept epoch."""
        index, seconds = self.best_epoch - 1, sum(self.logs["duration_s"])
        text = f"{self.num_epochs} epochs in {seconds:.0f} s of training; kept epoch {self.best_epoch}"
        if self.logs["val_top1"][index] is not None:
            text += f": validation top-1 {self.logs['val_top1'][index]:.3f} (centre clip)"
        return text

    def _merit(self, index: int) -> tuple[float, float]:
        if self.logs["val_top1"][index] is None:  # no validation videos: the newest is the best
            return (math.inf, self.logs["epoch"][index])
        return (self.logs["val_top1"][index], -self.logs["val_loss"][index])


def validate(
    model: Recognizer,
    loader: EvaluationLoader,
    labels: list[int],
    *,
    precision: str,
    device: torch.device,
    batch_size: int,
) -> dict[str, float]:
    """Loss and accuracy over videos."""
    scores = score_videos(
        torch_scorer(model, device=device, precision=precision), loader, batch_size=batch_size, desc="validating"
    )
    picked = scores.video_scores[np.arange(len(labels)), labels]
    return {
        "val_loss": float(-np.log(np.maximum(picked, 1e-15)).mean()),
        "val_top1": top_k_accuracy(scores.video_scores, np.asarray(labels), 1),
    }


def train(
    trainer: Trainer,
    template: Checkpoint,
    *,
    save_path: Path,
    train_loader: DataLoader,
    sampler: EpochSampler,
    val_loader: EvaluationLoader | None,
    val_labels: list[int],
    resume: bool,
    on_epoch=lambda progress: None,
) -> Progress:
    """Train to the last epoch, keeping the best checkpoint at `save_path` and the newest at last_path(save_path).

    `template` is a checkpoint without weights: what is recorded beside them. `on_epoch(progress)` is called after each.
    """
    progress = Progress()
    if resume:
        progress = _resume(trainer, template, last_path(save_path))
        if progress.num_epochs:
            on_epoch(progress)  # the run may have died between its checkpoint and its logs
    for epoch in range(progress.num_epochs, trainer.config.num_epochs):
        sampler.epoch = epoch
        row = trainer.train_epoch(train_loader, epoch)
        if val_loader is not None:
            row |= validate(
                trainer.model,
                val_loader,
                val_labels,
                precision=trainer.precision,
                device=trainer.device,
                batch_size=trainer.config.batch_size,
            )
            if not math.isfinite(row["val_loss"]):
                raise InputError(
                    f"the validation loss is {row['val_loss']} after step {trainer.step}; start again with a lower "
                    f"--lr than {trainer.config.lr:g}"
                )
        is_best = progress.append(row)
        weights = {key: value.detach().cpu() for key, value in trainer.model.backbone.state_dict().items()}
        checkpoint = replace(template, weights=weights, epoch=epoch + 1)
        if is_best:
            save_checkpoint(save_path, checkpoint)
        state = {"trainer": trainer.state_dict(), "logs": progress.logs, "best_epoch": progress.best_epoch}
        save_checkpoint(last_path(save_path), replace(checkpoint, training=state))
        print(_epoch_line(row, trainer.config.num_epochs) + (" *" if is_best else ""))
        on_epoch(progress)
    return progress


def last_path(save_path: Path) -> Path:
    """Where the newest state of a run is kept."""
    return save_path.with_name(f"{save_path.stem}_last.pth")


def _resume(trainer: Trainer, template: Checkpoint, path: Path) -> Progress:
    if not path.is_file():
        print(f"no {path} to resume from: starting afresh")
        return Progress()
    checkpoint = load_checkpoint(path)
    if checkpoint.training is None:
        raise InputError(f"{path}: holds no training state")
    for name in ("model", "class_names", "clip", "split_digest", "train_config"):
        saved, wanted = getattr(checkpoint, name), getattr(template, name)
        if name == "train_config":  # what an older version did not have, it did as the defaults do
            saved = TrainConfig().to_dict() | saved
        if saved != wanted:
            if isinstance(saved, dict):
                name, saved, wanted = next(
                    (f"{name}.{key}", saved.get(key), value) for key, value in wanted.items() if saved.get(key) != value
                )
            raise InputError(
                f"{path} was trained with {name} {saved}, this run has {wanted}; drop --resume to start afresh"
            )
    trainer.model.backbone.load_state_dict(checkpoint.weights)
    trainer.load_state_dict(checkpoint.training["trainer"])
    progress = Progress(logs=checkpoint.training["logs"], best_epoch=checkpoint.training["best_epoch"])
    print(f"resuming after epoch {progress.num_epochs} of {trainer.config.num_epochs}")
    return progress


def _epoch_line(row: dict[str, Any], num_epochs: int) -> str:
    text = f"epoch {row['epoch']:3}/{num_epochs}  loss {row['train_loss']:.3f}  top1 {row['train_top1']:.3f}"
    if row.get("val_top1") is not None:
        text += f"  val loss {row['val_loss']:.3f}  val top1 {row['val_top1']:.3f}"
    return text + f"  {row['clips_per_s']:.1f} clips/s  data wait {row['data_wait']:.0%}  {row['duration_s']:.0f} s"
