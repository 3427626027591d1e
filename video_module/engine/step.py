"""One optimiser step: forward and backward passes of a few clips each, the update, the running mean."""

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
"""Called with the number of a step's clips that are done."""

# On an H100, compiling swin3d_b took 68 to 90 s and then saved 5 ms a clip.
_CLIPS_WORTH_COMPILING = 20_000


class Trainer:
    """A model with all its training state: weights and their mean, optimiser, schedule, gradient scaler.

    A step takes batches of clips and puts them through the network `micro_batch` at a time, summing up gradients.
    Every random draw is a function of seed, epoch, step, process and batch, and dropout's also of where in the batch
    its clips stand. So on the CPU a run resumes bit for bit after any step. On CUDA it resumes to the same values but
    for rounding, since kernels add up in any order; bit for bit only with config.deterministic. With another
    `micro_batch` a step has the same clips, mixed alike, and the same mean loss, but dropout draws anew and batch norm
    sees other batches.
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
        # Small gradients would vanish in fp16; bf16 and fp32 reach far enough without scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.step = 0
        self.micro_batch = None if config.batch_size == AUTO else config.batch_size
        self._is_compiled = self._should_compile() if config.compile is None else config.compile
        if self._is_compiled:
            print("compiling the network in the first step, which takes a minute or two; --no-compile skips this")
            model.compile_for_training()
        self._compiles, self._compiled_works = self._is_compiled, False
        self._is_reducing = self._is_frozen = False
        # What a forward pass changes, and what has to be restored when its step is given up. Most other buffers are
        # constants, such as Swin's position indices, and not worth a copy in each step.
        self._statistics = [buffer for name, buffer in model.named_buffers() if name.endswith(STATISTICS)]
        self._wrap()

    @property
    def validated(self) -> Recognizer:
        """The model that is validated and kept: the running mean where there is one."""
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
        """Take one step on this process's batches; returns detached (loss, hits), still on the device.

        The loss is the mean over the clips of all processes; what is returned is this process's part of it. `step` is
        the step's number in the epoch, `total` loss_weight() summed over the processes (None: summed here).
        `between_passes` may raise, and then nothing of the step is left. If memory runs out, the step starts again
        with fewer clips at once.
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
            # The next try begins out here, where the exception is gone: its traceback holds on to the activations.
        self._compiled_works = self._compiles

        # Clipped at their true size, without the factor that keeps small gradients alive in fp16.
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.scaler.get_scale() < scale:
            # Something overflowed in fp16: the scaler left the weights as they were and scales less from now on. Batch
            # norm has taken the infinities in.
            copy_tensors(self._statistics, statistics)
        elif self.ema:
            self.ema.update()
        self.step += 1
        return result

    def _check_labels(self, batches: Sequence[Batch]) -> None:
        # A label that is no class ends a CUDA program with an assert on the device, which names neither.
        num_classes = self.model.head.weight.shape[0]
        for _, labels, _ in batches:
            if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
                wrong = int(labels.max() if labels.max() >= num_classes else labels.min())
                raise InputError(f"labels of {num_classes} classes must be 0 to {num_classes - 1}, got {wrong}")

    def _compute_gradients(
        self, batches: Sequence[Batch], epoch: int, step: int, total: float, between_passes: _BetweenPasses | None
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward passes; leaves the gradients of the mean loss over the clips of all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        # Sums on the device: to read a number in each pass would make the program wait for the GPU.
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
            # Seeds of each pass instead of one generator for the run: a step that is computed again, or by a resumed
            # run, then draws the same. The number after them keeps mixing and dropout apart.
            seeds = (self.config.seed, epoch, step, self.group.rank, number)
            clips, targets = self._inputs(batches[number], begin, end, epoch=epoch, mix_seed=_seed(*seeds, 0, 0))
            torch.manual_seed(_seed(*seeds, 1, begin))  # dropout and stochastic depth
            with self._gradient_sync(is_last), self._compiler(is_full=end - begin == self.micro_batch):
                with autocast(self.precision, self.device):
                    logits = self._network(clips)
                    loss = self.loss(logits.float(), targets)
                self._is_reducing = self.group.world_size > 1 and is_last
                # DistributedDataParallel takes the mean over the processes, but `total` is of all their clips.
                self.scaler.scale(loss * (self.group.world_size / total)).backward()
            loss_sum += loss.detach()
            best = targets if targets.ndim == 1 else targets.argmax(dim=1)
            hits += (logits.detach().argmax(dim=1) == best).sum()
            num_done += end - begin
            if between_passes and not is_last:
                between_passes(num_done)
        if not passes and self.group.world_size > 1:
            # A short last step can leave this process without a clip, but the others wait for its gradients.
            self._pass_black_clips(self._network, 1)
        self._is_reducing = False
        return loss_sum / total, hits

    def _inputs(self, batch: Batch, begin: int, end: int, *, epoch: int, mix_seed: int) -> tuple[Tensor, Tensor]:
        """Clips begin..end of a batch and their targets on the device, mixed but for a run's last epochs.

        Clips are uint8, float where mixup blends them; targets class indices, (n, num_classes) where clips are mixed.
        """
        clips, labels, _ = batch
        assert clips.ndim == 5 and len(clips) == len(labels) >= end > begin
        mixes = self.mixer is not None and epoch < self.config.num_epochs - self.config.mix_off_epochs
        if mixes and len(labels) > 1:  # a clip alone has none to be mixed with
            return self.mixer(clips, labels, begin=begin, end=end, seed=mix_seed, device=self.device)
        return (
            clips[begin:end].to(self.device, non_blocking=True),
            labels[begin:end].to(self.device, non_blocking=True),
        )

    def loss_weight(self, batches: Sequence[Batch]) -> float:
        """What the sum of the clips' losses is divided by for their mean: their number, or their classes' weights."""
        labels = [labels for _, labels, _ in batches if len(labels)]
        if self.class_weights is None or not labels:
            return float(sum(map(len, labels)))
        return self.class_weights.double()[torch.cat(labels)].sum().item()

    def _gradient_sync(self, is_last: bool) -> AbstractContextManager:
        """The context of a pass: gradients are reduced over the processes once, in a step's last one."""
        return nullcontext() if is_last or self.group.world_size == 1 else self._network.no_sync()

    def _should_compile(self) -> bool:
        num_clips = self.config.num_epochs * self.steps_per_epoch * self.config.effective_batch
        return self.device.type == "cuda" and self.model.compiles_in_parts and num_clips >= _CLIPS_WORTH_COMPILING

    def _compiler(self, *, is_full: bool) -> AbstractContextManager:
        """The context of a pass: compiled code where it works, and for full passes alone.

        It is made for one number of clips, and the few at the end of an epoch are not worth another compilation.
        """
        if not self._is_compiled:
            return nullcontext()
        return torch.compiler.set_stance("default" if self._compiles and is_full else "force_eager")

    # ---- when a pass fails

    def _prepare_retry(self, error: BaseException, epoch: int, step: int) -> None:
        """Change what made a pass fail, so that the step can start again; raise the error if nothing can be changed."""
        if isinstance(error, torch.OutOfMemoryError):
            fewer = -(-self.micro_batch // 2)
            if self._is_reducing:
                # Some gradients have been summed with the other processes' already, which cannot be undone.
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
        # torch.compile compiles in the first pass, where a missing compiler or an operator that it lacks shows.
        compiles = self._compiles and not self._compiled_works and not self._is_reducing
        if not compiles or not isinstance(error, Exception) or isinstance(error, InputError):
            raise error
        reason = str(getattr(error, "inner_exception", error)).strip().splitlines()[0]
        tqdm.write(f"torch.compile failed ({reason}): continuing without it")
        self._compiles = False

    def _copy_statistics(self) -> list[Tensor]:
        copies = [torch.empty_like(buffer) for buffer in self._statistics]
        copy_tensors(copies, self._statistics)
        return copies

    def _find_micro_batch(self) -> int:
        """The most clips that go through the network at once, a batch at most."""
        most = largest_batch(self.config.effective_batch, self.group.world_size)
        if self.device.type == "cuda":
            size = memory.micro_batch_on_cuda(self._try_pass, most, self.device)
        else:
            size = memory.micro_batch_on_cpu(self.model.clip, most)
        if size == 0 and not self.config.checkpoint_activations:
            tqdm.write("memory is tight even with one clip; --checkpoint_activations saves memory")
        size = max(1, size)
        tqdm.write(
            f"--batch_size auto: {pluralize(size, 'clip')} at once per process, {self.config.effective_batch} per step"
        )
        return size

    def _try_pass(self, size: int) -> None:
        """A pass over black clips that leaves nothing behind, with room kept for the optimiser's state."""
        num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        # AdamW makes its two moments in the first step; until then they have to be allowed for.
        room = torch.empty(0 if self.optimizer.state else 2 * num_bytes, dtype=torch.uint8, device=self.device)
        try:
            with self._gradient_sync(is_last=False):  # processes try alone
                self._pass_black_clips(self._network, size)
            torch.cuda.synchronize(self.device)
        finally:
            del room
            self.optimizer.zero_grad(set_to_none=True)

    def _pass_black_clips(self, network: nn.Module, size: int) -> None:
        """A forward and backward pass that gives gradients of zero and leaves batch norm's statistics as they were."""
        statistics = self._copy_statistics()
        try:
            clips = torch.zeros(size, *self.model.clip.shape, device=self.device)
            with autocast(self.precision, self.device), self._compiler(is_full=False):
                loss = network(clips).float().sum() * 0
            self.scaler.scale(loss).backward()
        finally:
            # Only now: batch norm's backward pass refuses statistics that changed since the forward pass.
            copy_tensors(self._statistics, statistics)

    # ---- the network as it is called

    def _wrap(self) -> None:
        """Set the network that is called, which reduces its gradients over the processes."""
        self._network: nn.Module = self.model
        if self.group.world_size == 1:
            return
        with warnings.catch_warnings():
            # What is to replace broadcast_buffers is not in every version of torch that this project runs on.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self._network = DistributedDataParallel(
                self._network,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    def set_mode(self, epoch: int) -> None:
        """Training mode; in the first config.freeze_epochs only the last layer learns."""
        is_frozen = epoch < self.config.freeze_epochs
        self.model.train(not is_frozen)
        self.model.head.train()
        if is_frozen != self._is_frozen:
            self._is_frozen = is_frozen
            head = {id(parameter) for parameter in self.model.head.parameters()}
            for parameter in self.model.backbone.parameters():
                parameter.requires_grad_(not is_frozen or id(parameter) in head)
            # DistributedDataParallel notes when it is made which parameters have gradients.
            self._wrap()

    @torch.no_grad()
    def average_statistics(self) -> None:
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
        # In one exchange: a hundred small ones would each take a round trip.
        values = torch.cat([own.flatten() for own, _ in pairs])
        dist.all_reduce(values)
        values /= self.group.world_size
        for (own, kept), part in zip(pairs, values.split([own.numel() for own, _ in pairs]), strict=True):
            own.copy_(part.view_as(own))
            kept.copy_(own)


def _seed(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
