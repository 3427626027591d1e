"""The training loop: epochs, their progress bar and log row, validation, saving, and the end of a run."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from video_module.data.dataset import Batch, EvaluationLoader, read_steps
from video_module.engine import state
from video_module.engine.calibration import Calibration, calibrate
from video_module.engine.checkpoint import Checkpoint, save_checkpoint
from video_module.engine.evaluation import Scores, score_views, torch_scorer
from video_module.engine.interruption import StopRequest
from video_module.engine.optim import describe_rates
from video_module.engine.progress import PartialEpoch, Progress, describe_choice, epoch_line, format_duration
from video_module.engine.state import StateKeeper, earlier_path, last_path
from video_module.engine.step import Trainer
from video_module.engine.training_data import Loaders
from video_module.engine.waiting import WaitMeter, wait_warning
from video_module.errors import InputError, Interrupted
from video_module.machine import leaves_bars, peak_process_bytes
from video_module.scores import log_loss, top_k_accuracy
from video_module.tables import pluralize

_NUM_FAILURES_SHOWN = 10
# Number of steps between checks of the loss on CUDA or with several processes. Each check waits for the GPU to finish
# its queue and for an exchange between the processes.
_CHECK_EVERY = 10
# The fp16 gradient scaler starts at 2**16 and halves at each overflow. After this many in a row, the scale is not to
# blame.
_MOST_OVERFLOWS = 20
# A run on the CPU is timed for 20 s, long enough for the slow first pass not to matter, and reported if it will take
# over 2 hours.
_TIMED_S, _LONG_RUN_S = 20.0, 2 * 3600.0


def train(
    trainer: Trainer,
    template: Checkpoint,
    loaders: Loaders,
    *,
    save_path: Path,
    resume: bool,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train to the last epoch, saving the best checkpoint at `save_path` and the newest at last_path(save_path).

    `template` is a checkpoint without weights, which holds everything else to be recorded. `on_epoch(progress)` is
    called after each epoch in the first process, the only one that writes files. Raises Interrupted after one of
    STOP_SIGNALS, once the state is saved.
    """
    config, sampler, is_first = trainer.config, loaders.sampler, trainer.group.is_first
    print(describe_rates(config))
    print(describe_choice(len(loaders.val_labels), config.num_epochs, save_path))
    progress = _resume(trainer, template, last_path(save_path)) if resume else Progress()
    if progress.num_epochs and is_first:
        # The interrupted run may have saved its state but not its logs.
        on_epoch(progress)
    keeper = StateKeeper(last_path(save_path), trainer, template, progress, is_resumed=resume)
    is_warned, calibration, best_calibration = False, None, None
    with StopRequest().listening() as stop:
        while not progress.is_over(num_epochs=config.num_epochs, patience=config.patience):
            epoch = progress.num_epochs
            sampler.epoch, sampler.first_step = epoch, progress.partial.num_steps
            steps, num_items = read_steps(loaders.train, sampler), sampler.num_items * sampler.num_repeats
            try:
                row = train_epoch(
                    trainer, steps, epoch, progress.partial, num_items=num_items, keeper=keeper, stop=stop
                )
                if loaders.val is not None:
                    figures, calibration = validate(trainer, loaders.val, loaders.val_labels, stop=stop)
                    row |= figures
                    keeper.template = replace(template, **calibration.recorded)
            except Interrupted:
                keeper.save()
                raise stop.interrupted(_where_it_stopped(trainer, progress, keeper.path)) from None
            is_best = progress.append(row)
            if not is_first:
                continue
            checkpoint = keeper.checkpoint()
            if is_best:
                save_checkpoint(save_path, checkpoint)
                best_calibration = calibration
            keeper.save(checkpoint)
            print(epoch_line(row, config.num_epochs) + (" *" if is_best and loaders.val is not None else ""))
            if not is_warned and (warning := wait_warning(row["data_wait"], loaders.train, trainer.device)):
                print(warning)
                is_warned = True
            on_epoch(progress)
    if progress.num_epochs < config.num_epochs:
        patience = pluralize(config.patience, "epoch")
        print(f"stopped early: no improvement on epoch {progress.best_epoch} in {patience}")
    if best_calibration is not None:
        print(best_calibration.describe(config.min_precision))
    return progress


def train_epoch(
    trainer: Trainer,
    steps: Iterable[list[Batch]],
    epoch: int,
    partial: PartialEpoch | None = None,
    *,
    num_items: int,
    keeper: StateKeeper | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Train on the steps that follow `partial`, and return the epoch's log row.

    Clips that cannot be read are left out of their step, counted, and listed at the end of the epoch.

    Raises InputError, naming the step, at the first loss that is not finite (in fp16, which skips such steps, at the
    21st in a row), and if more than config.max_failed_share of the epoch's `num_items` clips fail. Raises Interrupted
    when `stop` is requested, with `partial` up to date. A single process then abandons the current step, which can
    take minutes, and repeats it when the run is resumed. Several processes all stop between the same two steps.
    """
    group = trainer.group
    partial = partial if partial is not None else PartialEpoch()
    running = _RunningEpoch(trainer, partial, epoch, num_items=num_items, stop=stop)
    steps = iter(steps)
    trainer.set_mode(epoch)
    with running.bar:
        while (batches := running.wait_for(steps)) is not None:
            failures = [failure for *_, failed in batches for failure in failed]
            # One exchange for everything that the processes must agree on before a step. A process that stopped or
            # saved on its own would leave the others waiting for its gradients.
            total, num_clips, num_failed, num_stops, num_saves = group.all_reduce(
                [
                    trainer.loss_weight(batches),
                    sum(len(labels) for _, labels, _ in batches),
                    len(failures),
                    bool(stop),
                    keeper is not None and keeper.is_due(),
                ]
            )
            if num_stops or num_saves:
                running.settle()
            if num_stops:
                raise stop.interrupted()
            if num_saves:
                keeper.save()
            if num_failed:
                failures = group.all_gather(failures)
            _check_failures(partial.failures + failures, trainer, num_items=num_items)
            if total:
                running.take_step(batches, total)
                partial.num_clips += round(num_clips)
            partial.failures += failures
            partial.num_steps += 1
            running.end_step()
            if keeper is not None:
                keeper.count_step()
        running.settle()
    trainer.average_statistics()
    if group.is_first:
        _name_failures(partial.failures)
    return _log_row(trainer, partial, epoch)


class _RunningEpoch:
    """Measurements and progress bar of an epoch in progress. `partial` is up to date after settle()."""

    def __init__(
        self, trainer: Trainer, partial: PartialEpoch, epoch: int, *, num_items: int, stop: StopRequest | None
    ):
        self.trainer, self.partial, self.epoch, self.stop = trainer, partial, epoch, stop
        self._clips_per_epoch = -(-num_items // trainer.group.world_size)  # in this process
        # Count clips rather than steps, because one step of swin3d_b takes 20 minutes on a CPU.
        self.bar = tqdm(
            total=self._clips_per_epoch,
            initial=self._clips_per_epoch * partial.num_steps // trainer.steps_per_epoch,
            desc=f"epoch {epoch + 1}/{trainer.config.num_epochs}",
            unit="clip",
            leave=leaves_bars(),
            # tqdm's default format puts a comma before the postfix. The format needs {bar}, because tqdm shortens only
            # lines that contain it; longer lines would wrap and each update would start a new line.
            bar_format="{desc} {percentage:3.0f}% {n_fmt}/{total_fmt}{postfix} {bar}",
        )
        self._is_timed = trainer.device.type == "cpu" and epoch == 0
        self._num_clips = 0  # processed since this process started or resumed the epoch
        self._num_overflows = 0  # consecutive losses that are not finite
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._meter = WaitMeter(trainer.device)
        self._begin, self._first_step = time.perf_counter(), partial.num_steps
        self._earlier_s, self._earlier_wait_s = partial.duration_s, partial.waited_s

    def wait_for(self, steps: Iterator[list[Batch]]) -> list[Batch] | None:
        """Return the next step's batches, or None at the end, and measure the wait."""
        begin = time.perf_counter()
        batches = next(steps, None)
        self._meter.waited(begin, time.perf_counter())
        return batches

    def take_step(self, batches: list[Batch], total: float) -> None:
        """Take a step. Raises Interrupted if a single process is asked to stop during the step."""
        num_before = self._num_clips

        def between_passes(num_done: int) -> None:
            if self.stop and self.trainer.group.world_size == 1:
                self.settle()
                raise self.stop.interrupted()
            self._count(num_before + num_done)

        step = self.partial.num_steps
        result = self.trainer.train_step(batches, self.epoch, step=step, total=total, between_passes=between_passes)
        self._pending.append(result)
        self._meter.given()
        self._count(num_before + sum(len(labels) for _, labels, _ in batches))

    def _count(self, num_clips: int) -> None:
        self.bar.update(num_clips - self._num_clips)
        self._num_clips = num_clips
        if self._is_timed and self._elapsed_s >= _TIMED_S:
            self._is_timed = False
            self._tell_of_a_long_run()

    def end_step(self) -> None:
        """Check the losses and refresh the bar every few steps."""
        # In a single process on the CPU the loss is already computed, so reading it costs nothing.
        looks_at_each = self.trainer.device.type == "cpu" and self.trainer.group.world_size == 1
        if looks_at_each or self.partial.num_steps % _CHECK_EVERY == 0:
            self.settle()
            self.bar.set_postfix_str(self._describe(), refresh=not leaves_bars())

    @property
    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._begin

    def settle(self) -> None:
        """Bring `partial` up to date. Raises InputError if a loss is not finite in any process."""
        trainer, partial = self.trainer, self.partial
        if self._pending:
            losses = trainer.group.all_reduce(torch.stack([loss for loss, _ in self._pending]).tolist())
            [hits] = trainer.group.all_reduce([torch.stack([hits for _, hits in self._pending]).sum().item()])
            self._pending.clear()
            for number, value in enumerate(losses, start=trainer.step - len(losses) + 1):
                self._num_overflows = 0 if math.isfinite(value) else self._num_overflows + 1
                # In fp16 the scaler has skipped the step and lowered its scale for the next ones.
                if self._num_overflows > (_MOST_OVERFLOWS if trainer.precision == "fp16" else 0):
                    raise InputError(
                        f"the loss is {value} at step {number} (epoch {self.epoch + 1}); start again with a lower --lr "
                        f"than {trainer.config.lr:g}"
                    )
            partial.losses += filter(math.isfinite, losses)
            partial.num_hits += round(hits)
        partial.waited_s = self._earlier_wait_s + self._meter.total()
        partial.duration_s = self._earlier_s + self._elapsed_s

    def _describe(self) -> str:
        """Return the figures shown in the bar."""
        trainer, partial = self.trainer, self.partial
        steps_left = (trainer.config.num_epochs - self.epoch) * trainer.steps_per_epoch - partial.num_steps
        left_s = steps_left * self._elapsed_s / (partial.num_steps - self._first_step)
        return (
            f"loss {partial.losses[-1] if partial.losses else math.nan:.3f}  {format_duration(left_s)} left  "
            f"{partial.num_clips / partial.duration_s:.1f} clips/s  "
            f"data wait {partial.waited_s / partial.duration_s:.0%}  {_memory_gb(trainer.device) or math.nan:.1f} GB  "
            f"rate {trainer.optimizer.param_groups[0]['lr']:.1e}"
        )

    def _tell_of_a_long_run(self) -> None:
        """Print how long the run will take on the CPU and how to speed it up, if it takes over two hours."""
        num_epochs = self.trainer.config.num_epochs
        run_s = num_epochs * self._clips_per_epoch * self._elapsed_s / self._num_clips
        if run_s > _LONG_RUN_S:
            smaller = "" if self.trainer.model.name == "swin3d_nano" else "--model_type swin3d_nano, "
            self.bar.write(
                f"this run will take about {run_s / 3600:.0f} hours on this CPU, {run_s / num_epochs / 60:.1f} minutes "
                f"per epoch; to speed it up, use a GPU, or {smaller}a smaller --clip_len or --img_size"
            )


def validate(
    trainer: Trainer, loader: EvaluationLoader, labels: Sequence[int], *, stop: StopRequest | None = None
) -> tuple[dict[str, float], Calibration]:
    """Compute loss and accuracy on the validation videos, and calibrate the scores on them.

    The loader reads this process's shard of the videos, but `labels` are the labels of all videos.

    Raises InputError if the loss is not finite, and Interrupted when `stop` is requested in a single process. Several
    processes never stop during validation.
    """
    score_clips = torch_scorer(trainer.validated, device=trainer.device, precision=trainer.precision)

    def score_or_stop(clips: np.ndarray) -> np.ndarray:
        if stop and trainer.group.world_size == 1:
            raise stop.interrupted()
        with trainer.compiler(is_full=False):  # without a running mean, the validated network is the compiled one
            return score_clips(clips)

    shard = score_views(
        score_or_stop,
        loader,
        batch_size=trainer.micro_batch or 8,
        desc="validating",
        pin_memory=trainer.device.type == "cuda",
    )
    view_scores = trainer.group.gather(shard)

    def figures() -> tuple[dict[str, float], Calibration | None]:
        scores, classes = Scores.from_views(view_scores).video_scores, np.asarray(labels)
        row = {"val_loss": log_loss(scores, classes), "val_top1": top_k_accuracy(scores, classes, 1)}
        if not math.isfinite(row["val_loss"]):
            return row, None
        return row, calibrate(view_scores, classes, min_precision=trainer.config.min_precision)

    row, calibration = trainer.group.broadcast(figures)
    if not math.isfinite(row["val_loss"]):
        raise InputError(
            f"the validation loss is {row['val_loss']} after step {trainer.step}; start again with a lower --lr than "
            f"{trainer.config.lr:g}"
        )
    return row, calibration


def _check_failures(failures: list[str], trainer: Trainer, *, num_items: int) -> None:
    share = trainer.config.max_failed_share
    if len(failures) > share * num_items:
        raise InputError(
            f"{len(failures)} of {num_items} clips could not be read, more than --max_failed_share {share:g} allows; "
            f"{failures[0]}"
        )


def _name_failures(failures: list[str]) -> None:
    for failure in failures[:_NUM_FAILURES_SHOWN]:
        print(f"skipped: {failure}")
    if len(failures) > _NUM_FAILURES_SHOWN:
        print(f"skipped {pluralize(len(failures), 'clip')} in total")


def _log_row(trainer: Trainer, partial: PartialEpoch, epoch: int) -> dict[str, Any]:
    if not partial.losses and partial.num_clips:
        raise InputError(f"epoch {epoch + 1}: no finite loss; start again with a lower --lr, or --precision fp32")
    if not partial.num_clips:
        raise InputError(f"epoch {epoch + 1}: no clip could be read; {partial.failures[0]}")
    config, duration = trainer.config, max(partial.duration_s, 1e-9)
    assert len(partial.losses) <= partial.num_steps and 0 <= partial.num_hits <= partial.num_clips
    return {
        "epoch": epoch + 1,
        "lr": config.lr * config.rate_scale * trainer.rate_factor(epoch * trainer.steps_per_epoch),
        "train_loss": math.fsum(partial.losses) / len(partial.losses),
        "train_top1": partial.num_hits / partial.num_clips,
        "num_failed": len(partial.failures),
        "clips_per_s": partial.num_clips / duration,
        "data_wait": partial.waited_s / duration,
        "memory_gb": _memory_gb(trainer.device),
        "duration_s": partial.duration_s,
    }


def _memory_gb(device: torch.device) -> float | None:
    """Return the peak memory so far in GB, of the GPU or, on the CPU, of the process; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = peak_process_bytes()
    return None if peak is None else peak / 1e9


def _resume(trainer: Trainer, template: Checkpoint, path: Path) -> Progress:
    progress = state.resume(trainer, template, path)
    if progress is None:
        print(f"{path} not found; starting a new run")
        return Progress()
    text = f"resuming after epoch {progress.num_epochs} of {trainer.config.num_epochs}"
    if progress.partial.num_steps:
        text += f" and step {progress.partial.num_steps} of {trainer.steps_per_epoch}"
    print(text)
    return progress


def _where_it_stopped(trainer: Trainer, progress: Progress, path: Path) -> str:
    where = f"epoch {progress.num_epochs + 1}, after step {progress.partial.num_steps} of {trainer.steps_per_epoch}"
    text = f"stopped in {where}; saved {path}, continue with --resume"
    if (aside := earlier_path(path)).is_file():
        text += f"; the state of the earlier run was moved to {aside}"
    return text
