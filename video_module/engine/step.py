"""One optimiser step: forward and backward passes of a few clips each, the update and the running mean."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from video_module.config import AUTO, TrainConfig
from video_module.data.dataset import Batch, largest_batch
from video_module.engine import memory
from video_module.engine.averaging import STATISTICS, RunningMean, copy_tensors
from video_module.engine.device import autocast, choose_kernels, choose_precision, send_network
from video_module.engine.distributed import Group
from video_module.engine.mixing import Mixer
from video_module.engine.optim import parameter_groups, rate_factor
from video_module.errors import InputError
from video_module.models.recognizer import Recognizer
from video_module.tables import pluralize

_BetweenPasses = Callable[[int], None]
"""A function called with the number of the step's clips processed so far."""

# On an H100, compiling swin3d_b took 68 to 90 s and then saved 5 ms per clip.
_CLIPS_WORTH_COMPILING = 20_000


class Trainer:
    """A model with all its training state: weights, their mean, optimiser, schedule and gradient scaler.

    A step passes its clips through the network `micro_batch` at a time and accumulates the gradients.

    Every random draw depends only on seed, epoch, step, process and batch; dropout also depends on the position of
    the clips in the batch. On the CPU, a run can therefore be resumed bit for bit after any step. On CUDA, it resumes
    to the same values up to rounding, because kernels add in varying order, and bit for bit only with
    config.deterministic. A different `micro_batch` gives a step the same clips, mixing and mean loss, but other
    dropout masks and other batches for batch norm.
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
        """`class_weights` scale the training loss of each class's clips, but not the validation loss."""
        assert steps_per_epoch >= 1
        self.group = group or Group(device=str(device))
        self.config, self.device, self.steps_per_epoch = config, device, steps_per_epoch
        self.precision = choose_precision(config.precision, device)
        if device.type == "cuda":
            choose_kernels(deterministic=config.deterministic)
        self.model = send_network(model, device)
        model.drop_before_head(config.head_dropout)
        if config.checkpoint_activations:
            model.recompute_blocks()
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.mixer = None
        if config.mixup or config.cutmix:
            num_classes = model.head.weight.shape[0]
            self.mixer = Mixer(num_classes=num_classes, mixup=config.mixup, cutmix=config.cutmix)
        self.loss = nn.CrossEntropyLoss(self.class_weights, label_smoothing=config.label_smoothing, reduction="sum")
        self.loss.to(device)
        self.ema = RunningMean(model, decay=config.ema_decay) if config.ema_decay else None
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config), fused=True)
        num_steps = config.num_epochs * steps_per_epoch
        num_warmup_steps = min(num_steps - 1, round(config.warmup_epochs * steps_per_epoch))
        self.rate_factor = lambda step: rate_factor(step, num_steps=num_steps, num_warmup_steps=num_warmup_steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate_factor)
        # Small gradients underflow in fp16. The range of bf16 and fp32 is large enough without scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.step = 0
        self.largest_batch = largest_batch(config.effective_batch, self.group.world_size)
        self.micro_batch = None if config.batch_size == AUTO else min(config.batch_size, self.largest_batch)
        self._is_compiled = self._should_compile() if config.compile is None else config.compile
        if self._is_compiled:
            print("compiling the network in the first step, which takes a minute or two; --no-compile skips this")
            model.compile_for_training()
        self._compiles, self._compiled_works = self._is_compiled, False
        self._is_reducing = self.is_frozen = False
        # The buffers that a forward pass changes, to be restored if the step is abandoned. Most other buffers are
        # constants, such as Swin's position indices, and not worth copying in each step.
        self._statistics = [buffer for name, buffer in model.named_buffers() if name.endswith(STATISTICS)]
        self._wrap()

    @property
    def validated(self) -> Recognizer:
        """The model that is validated and saved: the running mean if there is one."""
        return self.ema.model if self.ema else self.model

    # ---- one step

    def train_step(
        self,
        batches: Sequence[Batch],
        epoch: int = 0,
        *,
        step: int = 0,
        total: float | None = None,
        between_passes: _BetweenPasses | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Take one step on this process's batches and return (loss, hits), detached and still on the device.

        The loss is the mean over the clips of all processes, and the returned value is this process's part of it.
        `step` is the step's number in the epoch. `total` is loss_weight() summed over the processes; None sums it here.
        If `between_passes` raises, the step is undone. If memory runs out, the step is repeated with fewer clips per
        pass.
        """
        self._check_labels(batches)
        if total is None:
            [total] = self.group.all_reduce([self.loss_weight(batches)])
        assert total > 0, "a step without a clip in any process has no mean loss"

        statistics = self._copy_statistics()
        result = None
        while result is None:
            try:
                if self.micro_batch is None:
                    self.micro_batch = self._find_micro_batch()
                result = self._compute_gradients(batches, epoch, step, total, between_passes)
            except BaseException as error:
                self.optimizer.zero_grad(set_to_none=True)
                copy_tensors(self._statistics, statistics)
                if "does not have a deterministic implementation" in str(error):
                    raise InputError(f"--deterministic: {str(error).partition(',')[0]}; leave out the flag") from None
                self._prepare_retry(error, epoch, step)
            # Retry outside the except block, because the exception's traceback keeps the activations in memory.
        has_full_pass = any(len(labels) >= self.micro_batch for _, labels, _ in batches)
        self._compiled_works |= self._compiles and has_full_pass and not self.is_frozen

        # Undo the scaling of fp16 first, so that the gradients are clipped at their true size.
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.scaler.get_scale() < scale:
            # Something overflowed in fp16, so the scaler skipped the update and lowered its scale. Batch norm's
            # statistics may contain infinities and have to be restored.
            copy_tensors(self._statistics, statistics)
        elif self.ema:
            self.ema.update()
        self.step += 1
        return result

    def _check_labels(self, batches: Sequence[Batch]) -> None:
        # On CUDA, an invalid label would end the program with a device-side assert that does not show its value.
        num_classes = self.model.head.weight.shape[0]
        for _, labels, _ in batches:
            if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
                wrong = int(labels.max() if labels.max() >= num_classes else labels.min())
                raise InputError(f"labels of {num_classes} classes must be 0 to {num_classes - 1}, got {wrong}")

    def _compute_gradients(
        self, batches: Sequence[Batch], epoch: int, step: int, total: float, between_passes: _BetweenPasses | None
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the mean loss over the clips of all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        # Keep the sums on the device: reading a number in each pass would make the program wait for the GPU.
        loss_sum = torch.zeros((), device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        passes = [
            (number, begin, min(begin + self.micro_batch, len(labels)))
            for number, (_, labels, _) in enumerate(batches)
            for begin in range(0, len(labels), self.micro_batch)
        ]
        num_clips, num_done = sum(end - begin for _, begin, end in passes), 0
        for number, begin, end in passes:
            is_last = num_done + end - begin == num_clips
            # Seed each pass instead of using one generator for the whole run, so that a step gives the same draws when
            # it is repeated or resumed. The number after these seeds keeps mixing and dropout apart.
            seeds = (self.config.seed, epoch, step, self.group.rank, number)
            clips, targets = self._inputs(batches[number], begin, end, epoch=epoch, mix_seed=_seed(*seeds, 0, 0))
            torch.manual_seed(_seed(*seeds, 1, begin))  # dropout and stochastic depth
            with self._gradient_sync(is_last), self.compiler(is_full=end - begin == self.micro_batch):
                with autocast(self.precision, self.device):
                    logits = self._network(clips)
                    loss = self.loss(logits.float(), targets)
                self._is_reducing = self.group.world_size > 1 and is_last
                # DistributedDataParallel averages over the processes, but `total` already counts the clips of all.
                self.scaler.scale(loss * (self.group.world_size / total)).backward()
            loss_sum += loss.detach()
            best = targets if targets.ndim == 1 else targets.argmax(dim=1)
            hits += (logits.detach().argmax(dim=1) == best).sum()
            num_done += end - begin
            if between_passes and not is_last:
                between_passes(num_done)
        if not passes and self.group.world_size > 1:
            # A short last step can leave this process without clips, but the others wait for its gradients.
            self._pass_black_clips(self._network, 1)
        self._is_reducing = False
        return loss_sum / total, hits

    def _inputs(self, batch: Batch, begin: int, end: int, *, epoch: int, mix_seed: int) -> tuple[Tensor, Tensor]:
        """Return clips begin..end of a batch and their targets on the device, mixed except in a run's last epochs.

        Clips are uint8, or float after mixup. Targets are class indices (n,), or (n, num_classes) for mixed clips.
        """
        clips, labels, _ = batch
        assert clips.ndim == 5 and len(clips) == len(labels) >= end > begin
        mixes = self.mixer is not None and epoch < self.config.num_epochs - self.config.mix_off_epochs
        if mixes and len(labels) > 1:  # a single clip has no partner
            return self.mixer(clips, labels, begin=begin, end=end, seed=mix_seed, device=self.device)
        return (
            clips[begin:end].to(self.device, non_blocking=True),
            labels[begin:end].to(self.device, non_blocking=True),
        )

    def loss_weight(self, batches: Sequence[Batch]) -> float:
        """Return the divisor that turns the clips' summed loss into the mean: their number or their summed weights."""
        labels = [labels for _, labels, _ in batches if len(labels)]
        if self.class_weights is None or not labels:
            return float(sum(map(len, labels)))
        return self.class_weights.double()[torch.cat(labels)].sum().item()

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager:
        """Return the context of a pass, which reduces gradients over the processes only in a step's last pass."""
        return nullcontext() if is_last or self.group.world_size == 1 else self._network.no_sync()

    def _should_compile(self) -> bool:
        num_clips = self.config.num_epochs * self.steps_per_epoch * self.config.effective_batch
        return self.device.type == "cuda" and self.model.compiles_in_parts and num_clips >= _CLIPS_WORTH_COMPILING

    def compiler(self, *, is_full: bool) -> AbstractContextManager:
        """Return the context of a pass, which runs compiled code only for full passes and if compiling works.

        Code is compiled for one number of clips; the smaller passes are not worth another compilation.
        """
        if not self._is_compiled:
            return nullcontext()
        return torch.compiler.set_stance("default" if self._compiles and is_full else "force_eager")

    # ---- when a pass fails

    def _prepare_retry(self, error: BaseException, epoch: int, step: int) -> None:
        """Change what made a pass fail, so that the step can be repeated; raise `error` if nothing can be changed."""
        if isinstance(error, torch.OutOfMemoryError):
            fewer = -(-self.micro_batch // 2)
            if self._is_reducing:
                # Some gradients have already been summed over the processes, which cannot be undone.
                raise InputError(
                    f"out of memory with {pluralize(self.micro_batch, 'clip')} at once; continue with --resume and "
                    f"--batch_size {fewer}, or with --checkpoint_activations"
                ) from None
            if self.micro_batch == 1:
                raise InputError(
                    "out of memory with one clip at a time; try --checkpoint_activations, a smaller --clip_len or "
                    "--img_size, or a smaller model"
                ) from None
            self.micro_batch = fewer
            tqdm.write(
                f"out of memory in epoch {epoch + 1}, step {step + 1}: continuing with {pluralize(fewer, 'clip')} at "
                f"once, still {self.config.effective_batch} per step"
            )
            return
        # torch.compile compiles in the first pass, so a missing compiler or unsupported operator shows up here.
        compiles = self._compiles and not self._compiled_works and not self._is_reducing
        if not compiles or not isinstance(error, Exception) or isinstance(error, InputError):
            raise error
        inner = getattr(error, "inner_exception", error)
        [reason, *_] = str(inner).strip().splitlines() or [type(inner).__name__]
        tqdm.write(f"torch.compile failed ({reason}): continuing without it")
        self._compiles = False

    def _copy_statistics(self) -> list[Tensor]:
        copies = [torch.empty_like(buffer) for buffer in self._statistics]
        copy_tensors(copies, self._statistics)
        return copies

    def _find_micro_batch(self) -> int:
        """Return the most clips that fit through the network at once, at most a batch."""
        if self.device.type == "cuda":
            size = memory.micro_batch_on_cuda(self._try_pass, self.largest_batch, self.device)
        else:
            size = memory.micro_batch_on_cpu(self.model.clip, self.largest_batch)
        if size == 0 and not self.config.checkpoint_activations:
            tqdm.write("memory is tight even with one clip; --checkpoint_activations saves memory")
        size = max(1, size)
        tqdm.write(
            f"--batch_size auto: {pluralize(size, 'clip')} at once per process, {self.config.effective_batch} per step"
        )
        return size

    def _try_pass(self, size: int) -> None:
        """Try a pass over `size` black clips with room for the optimiser's state, and leave no trace of it."""
        num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        # AdamW allocates its two moments in the first step. Until then, reserve their memory.
        room = torch.empty(0 if self.optimizer.state else 2 * num_bytes, dtype=torch.uint8, device=self.device)
        try:
            with self._gradient_sync(is_last=False):  # each process tries on its own
                self._pass_black_clips(self._network, size)
            torch.cuda.synchronize(self.device)
        finally:
            del room
            self.optimizer.zero_grad(set_to_none=True)

    def _pass_black_clips(self, network: nn.Module, size: int) -> None:
        """Run a forward and backward pass that gives zero gradients and leaves batch norm's statistics unchanged."""
        statistics = self._copy_statistics()
        try:
            clips = torch.zeros(size, *self.model.clip.shape, device=self.device)
            with autocast(self.precision, self.device), self.compiler(is_full=False):
                loss = network(clips).float().sum() * 0
            self.scaler.scale(loss).backward()
        finally:
            # Restore only now: batch norm's backward pass fails if the statistics change after the forward pass.
            copy_tensors(self._statistics, statistics)

    # ---- the network as it is called

    def _wrap(self) -> None:
        """Set the network that a step calls, which reduces gradients over the processes if there are several."""
        self._network: nn.Module = self.model
        if self.group.world_size == 1:
            return
        with warnings.catch_warnings():
            # Not every supported version of torch has the replacement for broadcast_buffers.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self._network = DistributedDataParallel(
                self._network,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def set_mode(self, epoch: int) -> None:
        """Set training mode for an epoch; in the first config.freeze_epochs, only the last layer learns."""
        is_frozen = epoch < self.config.freeze_epochs
        self.model.train(not is_frozen)
        self.model.head.train()
        if is_frozen != self.is_frozen:
            self.is_frozen = is_frozen
            if self.config.batch_size == AUTO:
                self.micro_batch = None  # a frozen network takes far less memory, so search again
            head = {id(parameter) for parameter in self.model.head.parameters()}
            for parameter in self.model.backbone.parameters():
                parameter.requires_grad_(not is_frozen or id(parameter) in head)
            # DistributedDataParallel records at construction which parameters have gradients, so wrap again.
            self._wrap()

    @torch.no_grad()
    def average_statistics(self) -> None:
        """Average batch norm's running statistics over the processes, each of which saw only its own clips."""
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
        # Use one exchange, because a hundred small ones would each take a round trip.
        values = torch.cat([own.flatten() for own, _ in pairs])
        dist.all_reduce(values)
        values /= self.group.world_size
        for (own, kept), part in zip(pairs, values.split([own.numel() for own, _ in pairs]), strict=True):
            own.copy_(part.view_as(own))
            kept.copy_(own)


def _seed(*numbers: int) -> int:
    """Return one seed made from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
