"""The steps and epochs of training, on one device or several."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from video_module.config import AUTO, TrainConfig
from video_module.data.dataset import Load, largest_load
from video_module.engine import memory
from video_module.engine.device import autocast, choose_precision
from video_module.engine.distributed import Group
from video_module.engine.interruption import StopWish
from video_module.engine.mixing import Mixer
from video_module.engine.optim import parameter_groups, rate_factor
from video_module.engine.pace import LongRunNote, StepGivenUp, StepWatch
from video_module.engine.progress import PartialEpoch, format_duration
from video_module.engine.waiting import WaitMeter
from video_module.errors import InputError
from video_module.machine import peak_process_bytes
from video_module.models.recognizer import Recognizer
from video_module.tables import counted

_NUM_FAILURES_SHOWN = 10
_CHECK_EVERY = 10  # steps between looks at the loss, each of which makes a GPU finish what it was given


class Trainer:
    """A model with all that changes while it learns: weights and their mean, optimiser, schedule, gradient scaler.

    A step takes loads of clips and puts them through the network `micro_batch` at a time, summing up gradients. Every
    random draw in it is a function of seed, epoch, step, process and load, and dropout's of where in the load its clips
    stand too. So a run goes on bit for bit after a step. With another `micro_batch` a step has the same clips, mixed
    alike, and the same mean loss; dropout then draws anew, and batch norm sees other batches.
    """

    def __init__(
        self,
        model: Recognizer,
        config: TrainConfig,
        *,
        device: torch.device,
        steps_per_epoch: int,
        class_weights: Sequence[float] | None = None,
        group: Group | None = None,
    ):
        """`class_weights` scale the training loss of each class's clips; the validation loss stays unweighted."""
        self.group = group or Group(device=str(device))
        self.config, self.device, self.steps_per_epoch = config, device, steps_per_epoch
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.precision = choose_precision(config.precision, device)
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in fp32
            model = model.to(memory_format=torch.channels_last_3d)
        self.model = model.to(device)
        model.drop_before_head(config.head_dropout)
        if config.checkpoint_activations:
            model.recompute_blocks()
        self.num_classes = model.head.weight.shape[0]
        self.mixer = None
        if config.mixup or config.cutmix:
            self.mixer = Mixer(num_classes=self.num_classes, mixup=config.mixup, cutmix=config.cutmix)
        self.ema = AveragedModel(model, multi_avg_fn=self._average) if config.ema_decay else None
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
        num_steps = config.num_epochs * steps_per_epoch
        num_warmup_steps = min(num_steps - 1, round(config.warmup_epochs * steps_per_epoch))
        self.rate_factor = lambda step: rate_factor(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate_factor)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.step = 0
        self.micro_batch = None if config.batch_size == AUTO else config.batch_size
        self._compiled = torch.compile(model) if config.compile else None
        self._compiled_works = False
        self._frozen = False
        self._note = LongRunNote(_remedy(model.name)) if device.type == "cpu" else None
        self._wrap()

    @property
    def validated(self) -> Recognizer:
        """The model that is validated and kept: the running mean where there is one."""
        return self.ema.module if self.ema else self.model

    # ---- one step

    def train_step(self, loads: Sequence[Load], epoch: int = 0, *, step: int = 0) -> tuple[Tensor, Tensor]:
        """One optimiser step on the loads of this process; returns detached (loss, hits), still on the device.

        The loss is the mean over the clips of all processes; what is returned is this process's part of it. `step` is
        the step's number in the epoch. Where memory runs out, fewer clips go through at once, to the same mean loss;
        dropout then draws anew, and batch norm sees other batches.
        """
        [total] = self.group.sum([self._weigh(loads)])
        return self._step(loads, epoch, step, total)

    def _step(
        self, loads: Sequence[Load], epoch: int, step: int, total: float, watch: StepWatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raises StepGivenUp where `watch` does, and then leaves nothing of the step behind."""
        if self.micro_batch is None:
            self.micro_batch = self._find_micro_batch()
        buffers = self._copy_buffers() if watch else []
        result = None
        try:
            while result is None:  # what an exception's traceback holds must be gone before the next try
                result = self._try_gradients(loads, epoch, step, total, watch)
        except StepGivenUp:
            self.optimizer.zero_grad(set_to_none=True)
            _put_back(buffers)
            raise
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.step += 1
        if self.ema:
            self.ema.update_parameters(self.model)
        return result

    def _try_gradients(self, loads, epoch: int, step: int, total: float, watch) -> tuple[Tensor, Tensor] | None:
        """_gradients(), or None where they have to be computed again: with fewer clips at once, or uncompiled."""
        try:
            result = self._gradients(loads, epoch, step, total, watch)
        except torch.OutOfMemoryError:
            if self._shared_gradients:  # some of them have been summed with the other processes' already
                raise InputError(
                    f"out of memory with {counted(self.micro_batch, 'clip')} at once; go on with --resume and "
                    f"--batch_size {max(1, self.micro_batch // 2)}, or with --checkpoint_activations"
                ) from None
            failure = None
        except (InputError, StepGivenUp):
            raise
        except Exception as error:
            if self._compiled is None or self._compiled_works or self._shared_gradients:
                raise
            failure = error
        else:
            self._compiled_works = self._compiled is not None
            return result
        self.optimizer.zero_grad(set_to_none=True)
        if failure is not None:
            print(f"torch.compile failed ({str(failure).strip().splitlines()[0]}): going on without it")
            self._compiled = None
            self._wrap()
            return None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.micro_batch == 1:
            raise InputError(
                "out of memory with one clip at a time; try --checkpoint_activations, a smaller --clip_len or "
                "--img_size, or a smaller model"
            )
        self.micro_batch = -(-self.micro_batch // 2)
        print(
            f"out of memory in epoch {epoch + 1}, step {step + 1}: going on with {counted(self.micro_batch, 'clip')} "
            f"at once, still {self.config.effective_batch} per step"
        )
        return None

    def _gradients(
        self, loads, epoch: int, step: int, total: float, watch: StepWatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward passes of a step; the gradients are those of the mean loss over all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        self._shared_gradients = False
        loss_sum = torch.zeros((), device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        parts = [
            (number, clips, labels, begin, min(begin + self.micro_batch, len(labels)))
            for number, (clips, labels, _) in enumerate(loads)
            for begin in range(0, len(labels), self.micro_batch)
        ]
        mixes = self.mixer is not None and epoch < self.config.num_epochs - self.config.mix_off_epochs
        if watch:
            watch.begin(sum(end - begin for *_, begin, end in parts))
        for position, (number, clips, labels, begin, end) in enumerate(parts):
            seeds = [self.config.seed, epoch, step, self.group.rank, number]
            if mixes and len(labels) > 1:  # a clip alone has none to be mixed with
                part, targets = self.mixer(
                    clips, labels, begin=begin, end=end, seed=_mix(*seeds, 0, 0), device=self.device
                )
            else:
                part = clips[begin:end].to(self.device, non_blocking=True)
                targets = labels[begin:end].to(self.device, non_blocking=True)
            torch.manual_seed(_mix(*seeds, 1, begin))  # dropout and stochastic depth
            with self._sync_at(position == len(parts) - 1):
                with autocast(self.precision, self.device):
                    logits = self._network(part)
                    loss = self._loss(logits.float(), targets)
                self._shared_gradients = self.group.world_size > 1 and position == len(parts) - 1
                # DistributedDataParallel takes the mean over the processes, where the sum is meant
                self.scaler.scale(loss * (self.group.world_size / total)).backward()
            loss_sum += loss.detach()
            best = targets if targets.ndim == 1 else targets.argmax(dim=1)
            hits += (logits.detach().argmax(dim=1) == best).sum()
            if watch:
                watch.done(end - begin)
        if not parts and self.group.world_size > 1:  # no clip for this process, but the others wait for its gradients
            self._pass_nothing(self._network, 1)
        self._shared_gradients = False
        return loss_sum / total, hits

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over clips."""
        weight = None if self.class_weights is None else self.class_weights.to(self.device, logits.dtype)
        return F.cross_entropy(
            logits, targets, weight=weight, label_smoothing=self.config.label_smoothing, reduction="sum"
        )

    def _weigh(self, loads: Sequence[Load]) -> float:
        """What a sum over clips is divided by for their mean: their number, or their classes' weights."""
        labels = [labels for _, labels, _ in loads if len(labels)]
        if self.class_weights is None or not labels:
            return float(sum(map(len, labels)))
        return self.class_weights.double()[torch.cat(labels)].sum().item()

    def _sync_at(self, is_last: bool):
        """The context of a pass: gradients are summed over the processes in a step's last one."""
        return nullcontext() if is_last or self.group.world_size == 1 else self._network.no_sync()

    def _average(self, means: Sequence[Tensor], values: Sequence[Tensor], _) -> None:
        """One step of the running mean, which follows closely while it is young."""
        number = int(self.ema.n_averaged)
        decay = min(self.config.ema_decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(means, values, 1 - decay)

    # ---- the network as it is called

    def _wrap(self) -> None:
        self._network: nn.Module = self._compiled if self._compiled is not None else self.model
        if self.group.world_size > 1:
            with warnings.catch_warnings():  # what is to replace broadcast_buffers is not in every torch that will do
                warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
                self._network = DistributedDataParallel(
                    self._network,
                    device_ids=[self.device] if self.device.type == "cuda" else None,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )

    def set_mode(self, epoch: int) -> None:
        """Training mode; in the first config.freeze_epochs the last layer alone learns."""
        frozen = epoch < self.config.freeze_epochs
        self.model.train(not frozen)
        self.model.head.train()
        if frozen != self._frozen:
            self._frozen = frozen
            head = {id(parameter) for parameter in self.model.head.parameters()}
            for parameter in self.model.backbone.parameters():
                parameter.requires_grad_(not frozen or id(parameter) in head)
            self._wrap()

    def _find_micro_batch(self) -> int:
        """The most clips that fit at once, a load at most."""
        if self.device.type == "cuda":
            fits = memory.fits_on_cuda(self._try_pass, self.device)
        else:
            fits = memory.fits_in_ram(
                self.model.name,
                self.model.clip,
                num_classes=self.num_classes,
                checkpointed=self.config.checkpoint_activations,
                num_processes=self.group.num_local,
            )
        most = largest_load(self.config.effective_batch, self.group.world_size)
        size = memory.largest_that_fits(fits, most)
        if size == 0 and not self.config.checkpoint_activations:
            print("not even one clip fits with a margin: --checkpoint_activations would save memory")
        size = max(1, size)
        print(
            f"--batch_size auto: {counted(size, 'clip')} at once in each process, {self.config.effective_batch} per "
            "step"
        )
        return size

    def _try_pass(self, size: int) -> None:
        """A pass over black clips that leaves nothing behind, with room kept for the optimiser's state."""
        num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        room = torch.empty(0 if self.optimizer.state else 2 * num_bytes, dtype=torch.uint8, device=self.device)
        try:
            self._pass_nothing(self.model, size)
            torch.cuda.synchronize(self.device)
        finally:
            del room
            self.optimizer.zero_grad(set_to_none=True)

    def _pass_nothing(self, network: nn.Module, size: int) -> None:
        """A forward and backward pass of black clips: gradients of zero, and running statistics as they were."""
        buffers = self._copy_buffers()
        try:
            clips = torch.zeros(size, *self.model.clip.shape, device=self.device)
            with autocast(self.precision, self.device):
                loss = network(clips).float().sum() * 0
            self.scaler.scale(loss).backward()
        finally:
            _put_back(buffers)  # only now: batch norm's backward pass refuses statistics changed since the forward

    def _copy_buffers(self) -> list[tuple[Tensor, Tensor]]:
        """The network's buffers, batch norm's statistics above all, each with what it holds."""
        return [(buffer, buffer.clone()) for buffer in self.model.buffers()]

    # ---- an epoch

    def train_epoch(
        self,
        steps: Iterable[list[Load]],
        epoch: int,
        partial: PartialEpoch | None = None,
        *,
        num_items: int,
        on_step: Callable[[], None] = lambda: None,
        save: Callable[[], None] = lambda: None,
        wants_save: Callable[[], bool] = lambda: False,
        stop: StopWish | None = None,
    ) -> dict[str, Any] | None:
        """Go through the steps after `partial`; returns the epoch's row of the log, or None where `stop` ended it.

        `partial` is kept up to date whenever `save()` is called, which is where `wants_save()` or `stop` ask for it. A
        single process gives up the step that runs when `stop` asks, so that no one waits for the minutes that one can
        take; it is done anew when the run goes on. Several end where all are: between two steps.
        Clips that cannot be read are left out of their step, counted, and named when the epoch ends. Raises InputError
        at the first loss that is not finite, naming the step, and where more than config.max_failed_share of the
        epoch's `num_items` clips fail.
        """
        partial = partial if partial is not None else PartialEpoch()
        self.set_mode(epoch)
        pending: list[tuple[Tensor, Tensor]] = []
        meter, earlier_s, begin = WaitMeter(self.device), partial.duration_s, time.perf_counter()
        first, earlier_wait_s = partial.num_steps, partial.waited_s

        def settle(now: float | None = None) -> None:
            """Bring `partial` up to date, and look whether all is well."""
            self._settle(pending, partial, epoch)
            partial.waited_s = earlier_wait_s + meter.total()
            partial.duration_s = earlier_s + (now or time.perf_counter()) - begin

        every = _CHECK_EVERY if self.device.type == "cuda" or self.group.world_size > 1 else 1
        with self._bar(epoch, first) as bar:
            watch = StepWatch(
                bar,
                stop=stop if self.group.world_size == 1 else None,
                note=self._note,
                clips_per_epoch=-(-num_items // self.group.world_size),
                num_epochs_left=self.config.num_epochs - epoch,
            )
            steps = iter(steps)
            while True:
                asked = time.perf_counter()
                loads = next(steps, None)
                meter.waited(asked, time.perf_counter())
                if loads is None:
                    break
                failures = [failure for load in loads for failure in load[2]]
                total, num_clips, num_failed, num_stops, num_saves = self.group.sum(
                    [
                        self._weigh(loads),
                        sum(len(labels) for _, labels, _ in loads),
                        len(failures),
                        stop is not None and stop.signal is not None,
                        wants_save(),
                    ]
                )
                if num_stops or num_saves:
                    settle()
                    save()
                if num_stops:
                    return None
                if num_failed:
                    partial.failures += self.group.join(failures)
                self._check_failures(partial.failures, num_items=num_items)
                if total:
                    begun = time.perf_counter()
                    try:
                        pending.append(self._step(loads, epoch, partial.num_steps, total, watch))
                    except StepGivenUp:
                        del partial.failures[len(partial.failures) - len(failures) :]
                        settle(begun)
                        save()
                        return None
                    meter.given()
                    partial.num_clips += round(num_clips)
                partial.num_steps += 1
                if partial.num_steps % every == 0:
                    settle()
                    watch.figures = self._figures(partial, epoch, num_done=partial.num_steps - first, begin=begin)
                    bar.set_postfix_str(watch.figures, refresh=False)
                bar.update()
                on_step()
            settle()
        self._share_statistics()
        if self.group.is_first:
            _name_failures(partial.failures)
        return self._row(epoch, partial)

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Give all processes the mean of their running statistics (batch norm), each of which saw its own clips."""
        if self.group.world_size == 1:
            return
        kept_buffers = dict(self.validated.named_buffers())
        pairs = [
            (own, kept_buffers[name])
            for name, own in self.model.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        ]
        if not pairs:
            return
        values = torch.cat([own.flatten() for own, _ in pairs])
        dist.all_reduce(values)
        values /= self.group.world_size
        for (own, kept), part in zip(pairs, values.split([own.numel() for own, _ in pairs]), strict=True):
            own.copy_(part.view_as(own))
            kept.copy_(own)

    def _settle(self, pending: list[tuple[Tensor, Tensor]], partial: PartialEpoch, epoch: int) -> None:
        """Move the losses of all processes into `partial`. Raises InputError if one of them is not finite."""
        if not pending:
            return
        losses = self.group.sum(torch.stack([loss for loss, _ in pending]).tolist())
        [hits] = self.group.sum([torch.stack([hits for _, hits in pending]).sum().item()])
        pending.clear()
        for number, value in enumerate(losses, start=self.step - len(losses) + 1):
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at step {number} (epoch {epoch + 1}); start again with a lower --lr than "
                    f"{self.config.lr:g}"
                )
        partial.losses += losses
        partial.num_hits += round(hits)

    def _check_failures(self, failures: list[str], *, num_items: int) -> None:
        if len(failures) > self.config.max_failed_share * num_items:
            raise InputError(
                f"{len(failures)} of {num_items} clips cannot be read, more than --max_failed_share "
                f"{self.config.max_failed_share:g} allows; {failures[0]}"
            )

    def _row(self, epoch: int, partial: PartialEpoch) -> dict[str, Any]:
        if not partial.num_clips:
            raise InputError(f"epoch {epoch + 1}: not one clip could be read; {partial.failures[0]}")
        duration = max(partial.duration_s, 1e-9)
        return {
            "epoch": epoch + 1,
            "lr": self.config.lr * self.config.rate_scale * self.rate_factor(epoch * self.steps_per_epoch),
            "train_loss": math.fsum(partial.losses) / len(partial.losses),
            "train_top1": partial.num_hits / partial.num_clips,
            "num_failed": len(partial.failures),
            "clips_per_s": partial.num_clips / duration,
            "data_wait": partial.waited_s / duration,
            "memory_gb": self._memory_gb(),
            "duration_s": partial.duration_s,
        }

    def _memory_gb(self) -> float | None:
        """Most memory taken so far: the GPU's, or the process's where the CPU computes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        peak = peak_process_bytes()
        return None if peak is None else peak / 1e9

    def _bar(self, epoch: int, first: int) -> tqdm:
        return tqdm(
            total=self.steps_per_epoch,
            initial=first,
            desc=f"epoch {epoch + 1}/{self.config.num_epochs}",
            unit="step",
            leave=False,
            bar_format="{desc} {percentage:3.0f}% {n_fmt}/{total_fmt}{postfix}",  # tqdm puts a comma before the last
        )

    def _figures(self, partial: PartialEpoch, epoch: int, *, num_done: int, begin: float) -> str:
        """What the bar shows of the steps done."""
        memory_gb = self._memory_gb() or math.nan
        wait = partial.waited_s / partial.duration_s
        steps_left = (self.config.num_epochs - epoch) * self.steps_per_epoch - partial.num_steps
        left_s = steps_left * (time.perf_counter() - begin) / num_done
        return (
            f"loss {partial.losses[-1] if partial.losses else math.nan:.3f}  "
            f"rate {self.optimizer.param_groups[0]['lr']:.1e}  "
            f"{partial.num_clips / partial.duration_s:.1f} clips/s  data wait {wait:.0%}  "
            f"{memory_gb:.1f} GB  {format_duration(left_s)} left"
        )

    # ---- saved and restored

    def state_dict(self) -> dict[str, Any]:
        state = {
            "step": self.step,
            "precision": self.precision,
            "micro_batch": self.micro_batch,
            "model": {name: value.detach().cpu() for name, value in self.model.backbone.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.ema:
            state["num_averaged"] = int(self.ema.n_averaged)
            state["ema"] = {name: value.detach().cpu() for name, value in self.validated.backbone.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["precision"] != self.precision:
            raise InputError(
                f"the run was trained in {state['precision']}, here it would go on in {self.precision}; add "
                f"--precision {state['precision']}"
            )
        self.step = state["step"]
        self.model.backbone.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.config.batch_size == AUTO:
            self.micro_batch = state.get("micro_batch")
        if self.ema:
            self.validated.backbone.load_state_dict(state["ema"])
            self.ema.n_averaged.fill_(state["num_averaged"])


def _mix(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def _put_back(buffers: list[tuple[Tensor, Tensor]]) -> None:
    """Undo what became of buffers since they were copied."""
    for buffer, value in buffers:
        buffer.copy_(value)


def _remedy(model: str) -> str:
    """What makes a run shorter."""
    smaller = "" if model == "swin3d_nano" else "--model_type swin3d_nano, "
    return f"a GPU, or {smaller}a smaller --clip_len or --img_size"


def _name_failures(failures: list[str]) -> None:
    for failure in failures[:_NUM_FAILURES_SHOWN]:
        print(f"skipped: {failure}")
    if len(failures) > _NUM_FAILURES_SHOWN:
        print(f"skipped: {counted(len(failures), 'clip')} in all")
