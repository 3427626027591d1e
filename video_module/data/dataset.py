"""torch datasets and loaders: batches of training clips, and the views that evaluation scores."""

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from video_module.config import ALL_CLASSES, ClipConfig, TrainConfig
from video_module.data import sampling, transforms
from video_module.data.records import VideoRecord
from video_module.data.workers import WorkerLoader, start_worker
from video_module.errors import InputError, VideoError


def label_indices(videos: Sequence[VideoRecord], class_names: Sequence[str]) -> list[int]:
    """Return the class index of each video. Raises InputError if a class is not in `class_names`."""
    index = {name: number for number, name in enumerate(class_names)}
    if unknown := sorted({video.label for video in videos} - set(index)):
        first = next(video.path for video in videos if video.label == unknown[0])
        names = ", ".join(class_names[:8]) + (", …" if len(class_names) > 8 else "")
        raise InputError(
            f"{first}: class {unknown[0]!r} of the videos is not one of the {len(class_names)} known classes ({names})"
        )
    return [index[video.label] for video in videos]


def flipped_labels(class_names: Sequence[str], config: TrainConfig) -> set[int]:
    """Return the classes that may be mirrored. Raises InputError if `config.no_flip` names an unknown class."""
    if unknown := sorted(set(config.no_flip) - {ALL_CLASSES, *class_names}):
        raise InputError(f"--no_flip {unknown[0]}: not a class of the training videos, nor {ALL_CLASSES!r}")
    return {label for label, name in enumerate(class_names) if not {name, ALL_CLASSES} & set(config.no_flip)}


class TrainingClips(Dataset):
    """Augmented clips: (uint8 (T, H, W, 3), class index). Either one random clip of each video, or all its windows.

    Items are indexed by (epoch, index) or (epoch, index, repeat). The random draws depend only on the seed, this key
    and the video, not on the worker or process. For a video that cannot be read, the item is a VideoError.
    """

    def __init__(
        self,
        root: Path,
        videos: Sequence[VideoRecord],
        class_names: Sequence[str],
        clip: ClipConfig,
        config: TrainConfig,
    ):
        """Raises InputError if a class of the videos or of `config.no_flip` is not in `class_names`."""
        # Imported here, because training on clips in memory and evaluation also run without albumentations.
        from video_module.data.augmentation import Augmentation

        self.root, self.videos, self.clip, self.seed = root, list(videos), clip, config.seed
        self.labels = label_indices(videos, class_names)
        self._flipped = flipped_labels(class_names, config)
        self.augment = Augmentation(clip, config.augment)
        # The video and the first frame of each item; None if the first frame is random.
        self._items: list[tuple[int, int | None]] = [(number, None) for number in range(len(videos))]
        if config.sampling == "windows":
            self._items = [
                (number, start)
                for number, video in enumerate(videos)
                for start in sampling.window_starts(
                    video.num_frames, clip, config.clip_step, fps=video.fps, edges_s=video.edges_s
                )
            ]

    def __len__(self) -> int:
        return len(self._items)

    def video_of(self, index: int) -> VideoRecord:
        """Return the video of item `index`."""
        return self.videos[self._items[index][0]]

    def draw(self, epoch: int, index: int, repeat: int = 0) -> tuple[np.ndarray, int]:
        """Draw an item's frames in the video, int64 (T,), and the seed of its augmentation.

        `repeat` distinguishes several draws of one item in an epoch.
        """
        number, start = self._items[index]
        video = self.videos[number]
        # Seeded by the path, not the index, so that adding a video to a folder does not change the draws of the others.
        # Repeat 0 adds nothing to the seed, so the first of several draws equals that of a run with one draw.
        rng = np.random.default_rng(
            [self.seed, epoch, zlib.crc32(video.path.encode()), start or 0] + [repeat] * bool(repeat)
        )
        if start is None:
            start = sampling.random_start(video.num_frames, self.clip, rng, fps=video.fps, edges_s=video.edges_s)
        indices = sampling.clip_indices(start, video.num_frames, self.clip, fps=video.fps, edges_s=video.edges_s)
        return indices, int(rng.integers(2**32))

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, int] | VideoError:
        # Imported here, because training on clips in memory also runs without PyAV, as on a bare machine with a GPU.
        from video_module.data.decoding import read_frames

        epoch, index, *repeat = key
        number, _ = self._items[index]
        indices, seed = self.draw(epoch, index, *repeat)
        try:
            video = self.videos[number]
            crop = self.augment.cropper(seed)
            frames = read_frames(self.root / video.path, indices, per_frame=crop, num_frames=video.num_frames)
        except VideoError as error:
            return error
        clip = self.augment.finish(frames, seed=seed, may_flip=self.labels[number] in self._flipped)
        return torch.from_numpy(np.ascontiguousarray(clip)), self.labels[number]


_Key = tuple[int, int, int]
"""Key of an item of TrainingClips: epoch, index, repeat."""
Batch = tuple[Tensor | None, Tensor, list[str]]
"""Result of _collate(): clips, labels, and messages about clips that could not be read."""
# Largest number of clips in a batch; a step takes as many batches as it needs. Each worker reads a batch or two ahead,
# so larger ones would only fill memory.
_MAX_BATCH = 16


def largest_batch(effective_batch: int, world_size: int = 1) -> int:
    """Return the size of the largest batch of a full step, whose clips are divided as evenly as possible.

    A short last step can have a larger one: a step of 24 clips is read as batches of 12 and 12, a last one of 16 as one
    batch of 16.
    """
    num_clips = -(-effective_batch // world_size)
    return -(-num_clips // -(-num_clips // _MAX_BATCH))


class StepSampler(Sampler):
    """The optimiser steps of an epoch, in an order that depends on (seed, epoch), as batches for the loader.

    A step has `effective_batch` clips, `num_repeats` of each video, divided among the processes. Which clips form a
    step depends neither on the number of processes nor on the size of batches.
    """

    def __init__(
        self,
        num_items: int,
        *,
        seed: int,
        effective_batch: int,
        num_repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.num_items, self.seed, self.num_repeats = num_items, seed, num_repeats
        self.rank, self.world_size = rank, world_size
        assert 0 <= rank < world_size and num_items >= 1
        self.videos_per_step = max(1, effective_batch // num_repeats)
        self.epoch = 0
        self.first_step = 0
        """Number of the step to begin with."""

    @property
    def num_steps(self) -> int:
        """Steps of a whole epoch."""
        return -(-self.num_items // self.videos_per_step)

    def steps(self) -> Iterator[list[list[_Key]]]:
        """Yield the batches of each step from first_step on; none if a short last step has no clip for this process."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_items).tolist()
        for step in range(self.first_step, self.num_steps):
            chosen = order[step * self.videos_per_step : (step + 1) * self.videos_per_step]
            # Clips of one video are kept apart, because mixing pairs neighbours and should pair different videos.
            keys = [(self.epoch, index, repeat) for repeat in range(self.num_repeats) for index in chosen]
            keys = keys[self.rank :: self.world_size]
            num_batches = -(-len(keys) // _MAX_BATCH)
            bounds = [len(keys) * number // max(1, num_batches) for number in range(num_batches + 1)]
            yield [keys[begin:end] for begin, end in pairwise(bounds)]

    def __len__(self) -> int:
        return sum(map(len, self.steps()))

    def __iter__(self) -> Iterator[list[_Key]]:
        for batches in self.steps():
            yield from batches


def read_steps(loader: DataLoader, sampler: StepSampler) -> Iterator[list[Batch]]:
    """Yield the batches of each step from sampler.first_step on."""
    batches = iter(loader)
    for keys in sampler.steps():
        step = list(islice(batches, len(keys)))
        assert len(step) == len(keys), "the sampler was changed while its loader reads"
        yield step
    next(batches, None)  # lets the loader end its epoch


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which clips and crops of a video are scored."""

    sampling: str = "uniform"
    """uniform: `num_clips` spread evenly; windows: one every `clip_step` frames, as serving does."""
    num_clips: int = 4
    num_crops: int = 3
    clip_step: int | None = None
    """Frames from one window to the next; None is half a clip."""

    def __post_init__(self) -> None:
        if self.sampling not in ("uniform", "windows"):
            raise ValueError(f"sampling must be uniform or windows, got {self.sampling!r}")

    def describe(self, clip: ClipConfig) -> dict[str, Any]:
        """Describe the views for X_results.json."""
        if self.sampling == "windows":
            step = self.clip_step or clip.default_clip_step
            return {"sampling": "windows", "clip_step": step, "num_crops": self.num_crops}
        return {"sampling": "uniform", "num_clips": self.num_clips, "num_crops": self.num_crops}

    def clip_starts(
        self,
        num_video_frames: int,
        clip: ClipConfig,
        *,
        fps: float | None = None,
        edges_s: Sequence[float] | None = None,
    ) -> list[int]:
        if self.sampling == "uniform":
            return sampling.uniform_starts(num_video_frames, clip, self.num_clips, fps=fps, edges_s=edges_s)
        return sampling.window_starts(num_video_frames, clip, self.clip_step, fps=fps, edges_s=edges_s)


class EvaluationViews(Dataset):
    """All views of each video, without randomness.

    An item is (frames, positions): the resized frames that any clip needs, uint8 (F, H, W, 3), and the indices of each
    clip's frames among them, int64 (num_clips, T). cut() turns an item into views.
    """

    def __init__(self, root: Path, videos: Sequence[VideoRecord], clip: ClipConfig, views: Views):
        self.root, self.videos, self.clip, self.views = root, list(videos), clip, views

    def __len__(self) -> int:
        return len(self.videos)

    def clip_indices(self, index: int) -> np.ndarray:
        """Return the frame numbers of each clip of a video, int64 (num_clips, T)."""
        video = self.videos[index]
        starts = self.views.clip_starts(video.num_frames, self.clip, fps=video.fps, edges_s=video.edges_s)
        return np.stack(
            [
                sampling.clip_indices(start, video.num_frames, self.clip, fps=video.fps, edges_s=video.edges_s)
                for start in starts
            ]
        )

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        from video_module.data.decoding import wanted_frames

        clips = self.clip_indices(index)
        wanted, positions = np.unique(clips, return_inverse=True)
        video, resized = self.videos[index], None
        for number, frame in wanted_frames(self.root / video.path, wanted, num_frames=video.num_frames):
            if resized is None:
                first = transforms.resize_frame(frame, self.clip)
                resized = np.empty((len(wanted), *first.shape), np.uint8)
            transforms.resize_frame(frame, self.clip, out=resized[number])
        return resized, positions.reshape(clips.shape)

    def cut(self, frames: np.ndarray, positions: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the views of an item, uint8 (T, crop, crop, 3) each: first all crops of the first clip."""
        assert positions.max() < len(frames)
        crops = transforms.cut_crops(frames, self.clip, self.views.num_crops)
        for rows in positions:
            for crop in crops:
                yield crop[rows]


class EvaluationLoader:
    """Iterates over (views of a video, its index) in order, while threads read the next videos.

    If a video cannot be read, its VideoError is raised when its turn comes.
    """

    # Threads, because decoding and resizing release the interpreter lock. With processes, passing on the frames of a
    # video (tens of MB) would add half of the time that reading them takes.

    def __init__(self, dataset: EvaluationViews, *, num_workers: int):
        """With `num_workers` 0, videos are read in the calling thread."""
        self.dataset, self.num_workers = dataset, num_workers

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[Iterator[np.ndarray], int]]:
        if self.num_workers == 0:
            for index in range(len(self)):
                yield self.dataset.cut(*self.dataset[index]), index
            return
        # Videos are already read in parallel, so OpenCV's own threads would only compete with the readers.
        num_cv2_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="read")
        try:
            ahead: deque[Future] = deque()
            for index in range(len(self) + self.num_workers):
                if index < len(self):
                    ahead.append(pool.submit(self.dataset.__getitem__, index))
                if index >= self.num_workers:
                    yield self.dataset.cut(*ahead.popleft().result()), index - self.num_workers
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            cv2.setNumThreads(num_cv2_threads)


def _collate(items: Sequence[tuple[Tensor, int] | VideoError]) -> Batch:
    """Return (clips uint8 (N, T, H, W, 3), labels int64 (N,), error messages); clips are None if none could be read."""
    # A clip that cannot be read is left out, never replaced by another one or by black frames, so that the network
    # learns only from real data. The run counts and names the failures.
    failures = [str(item) for item in items if isinstance(item, VideoError)]
    readable = [item for item in items if not isinstance(item, VideoError)]
    if not readable:
        return None, torch.empty(0, dtype=torch.int64), failures
    clips, labels = default_collate(readable)
    if get_worker_info() is not None:
        # As default_collate() does with clips. An error reaches the main process from here, but not from sending.
        labels.share_memory_()
    return clips, labels, failures


def training_loader(
    dataset: TrainingClips,
    *,
    effective_batch: int,
    num_workers: int,
    pin_memory: bool,
    num_repeats: int = 1,
    rank: int = 0,
    world_size: int = 1,
    multiprocessing_context: str | None = None,
    timeout_s: float = 0,
) -> tuple[DataLoader, StepSampler]:
    """Return a loader of _collate()'s batches and its sampler, whose epoch must be set before each pass.

    Read it with read_steps(). `multiprocessing_context` is the start method of workers, None for the system's default.
    `timeout_s` is the longest wait for a batch, 0 for no limit.
    """
    sampler = StepSampler(
        len(dataset),
        seed=dataset.seed,
        effective_batch=effective_batch,
        num_repeats=num_repeats,
        rank=rank,
        world_size=world_size,
    )
    loader = WorkerLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=_collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context=multiprocessing_context,
        timeout=timeout_s,
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker,
        # Without its own generator, a loader with workers draws from torch's global one, and one without does not.
        generator=torch.Generator(),
    )
    return loader, sampler
