"""Measure how fast clips reach the network with this project's loaders, with a bare OpenCV read and with the original.

The bare read is the limit. The original project opened each video with OpenCV's defaults, sought every frame, and
augmented frame by frame.
"""

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from video_module.config import ClipConfig, TrainConfig
from video_module.data import transforms
from video_module.data.dataset import (
    EvaluationLoader,
    EvaluationViews,
    StepSampler,
    TrainingClips,
    Views,
    training_loader,
)
from video_module.data.records import VideoRecord, load_videos
from video_module.models.registry import get_spec

if TYPE_CHECKING:
    import albumentations as A
    from torch.utils.data import DataLoader

# The original is timed only on every sixth clip, because each clip takes most of a second.
_ORIGINAL_SHARE = 6


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows for the training loader and for the evaluation loader, each compared with a bare read."""
    # The workers of the loaders turn off OpenCV's threads, so everything compared with them runs without threads too.
    cv2.setNumThreads(0)
    if args.data_dir and len(args.data_dir) > 1:
        return _compare_folders(args)
    with tempfile.TemporaryDirectory() as folder:
        root = args.data_dir[0] if args.data_dir else draw_videos(Path(folder), args.num_videos)
        videos = repeat_to(load_videos(root, num_workers=args.num_workers), args.num_videos)
        clip = get_spec(args.model_type).clip
        return _measure_training(root, videos, clip, args) + _measure_evaluation(root, videos, clip, args)


def draw_videos(folder: Path, num_videos: int) -> Path:
    """Draw clips like HMDB51's: 3 s of 320x240 MPEG-4 at 30 frames/s, a keyframe every 100 frames, film grain."""
    # Imported here, because PyAV for writing is not needed to read the videos of --data_dir.
    from video_module.data.drawing import ACTIONS, draw_frames, make_scene
    from video_module.data.encoding import write_video

    grain = np.random.default_rng(0).normal(0, 6, (16, 240, 320, 3)).round().astype(np.int16)
    for number in range(num_videos):
        action, rng = list(ACTIONS)[number % len(ACTIONS)], np.random.default_rng([0, number])
        frames = draw_frames(action, make_scene(0, number), num_frames=90, rng=rng)
        grainy = (
            np.clip(cv2.resize(frame, (320, 240)) + grain[index % len(grain)], 0, 255).astype(np.uint8)
            for index, frame in enumerate(frames)
        )
        write_video(folder / action / f"{number}.avi", grainy, fps=30, keyframe_interval=100)
    return folder


def repeat_to(videos: Sequence[VideoRecord], num_videos: int) -> list[VideoRecord]:
    """Pick `num_videos` videos spread evenly over the list, which is repeated if it is shorter."""
    if len(videos) < num_videos:
        return [videos[number % len(videos)] for number in range(num_videos)]
    return [videos[number * len(videos) // num_videos] for number in range(num_videos)]


def _compare_folders(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows of the training loader for several folders, such as the same videos large, long or prepared."""
    clip, ways = get_spec(args.model_type).clip, {}
    for root in args.data_dir:
        videos = repeat_to(load_videos(root, num_workers=args.num_workers), args.num_videos)
        _, *loader = _training_loader(root, videos, clip, args)
        ways[f"training clip of {root}"] = partial(_training_pass, *loader)
    rows = _compare(ways, num_repeats=args.num_repeats, floor=next(iter(ways)))
    kept = ("what", "ms", "per s and worker")
    return [{**{key: row[key] for key in kept}, "times the first": 1 / row["of the bare read"]} for row in rows]


def _training_loader(
    root: Path, videos: Sequence[VideoRecord], clip: ClipConfig, args: argparse.Namespace
) -> tuple[TrainingClips, "DataLoader", StepSampler]:
    config = TrainConfig(augment=args.augment)
    clips = TrainingClips(root, videos, sorted({video.label for video in videos}), clip, config)
    return clips, *training_loader(clips, effective_batch=8, num_workers=args.num_workers, pin_memory=False)


def _training_pass(loader: "DataLoader", sampler: StepSampler, epoch: int) -> float:
    sampler.epoch = epoch
    return sum(len(labels) for _, labels, _ in loader) / loader.num_workers


def _measure_training(
    root: Path, videos: Sequence[VideoRecord], clip: ClipConfig, args: argparse.Namespace
) -> list[dict[str, Any]]:
    import albumentations as A

    clips, loader, sampler = _training_loader(root, videos, clip, args)
    size = (clip.crop, clip.crop)
    compose = A.ReplayCompose(
        [
            A.RandomResizedCrop(size, scale=(0.5, 1.0)),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, p=0.8),
        ]
    )

    def plan(epoch: int) -> list[tuple[Path, np.ndarray]]:
        """Return the clips of an epoch as (video, frame indices), for the other ways of reading."""
        sampler.epoch = epoch
        return [(root / videos[key[1]].path, clips.draw(*key)[0]) for load in sampler for key in load]

    def bare(epoch: int) -> int:
        chosen = plan(epoch)
        for path, indices in chosen:
            _bare_read(path, indices, size)
        return len(chosen)

    def original(epoch: int) -> int:
        chosen = plan(epoch)[::_ORIGINAL_SHARE]
        for path, indices in chosen:
            _read_as_the_original(path, indices, compose)
        return len(chosen)

    ways = {
        f"training loader, {args.augment}": partial(_training_pass, loader, sampler),
        "bare read and resize": bare,
        "the original's way": original,
    }
    return _compare(ways, num_repeats=args.num_repeats, floor="bare read and resize", original="the original's way")


def _measure_evaluation(
    root: Path, videos: Sequence[VideoRecord], clip: ClipConfig, args: argparse.Namespace
) -> list[dict[str, Any]]:
    dataset = EvaluationViews(root, videos, clip, Views())
    loader = EvaluationLoader(dataset, num_workers=args.num_workers)

    from video_module.data.decoding import read_info

    infos = {video.path: read_info(root / video.path) for video in videos}

    def bare(_: int, interpolation: int = cv2.INTER_LINEAR_EXACT) -> int:
        for index, video in enumerate(videos):
            height, width = transforms.resized_size(infos[video.path].height, infos[video.path].width, clip.resize)
            _bare_read(root / video.path, np.unique(dataset.clip_indices(index)), (width, height), interpolation)
        return len(videos)

    ways = {
        "evaluation loader, 4 x 3 views": lambda _: len([deque(views, 0) for views, _ in loader]) / args.num_workers,
        "bare read and resize of a video": bare,
        "  the same with INTER_LINEAR instead of _EXACT": partial(bare, interpolation=cv2.INTER_LINEAR),
    }
    return _compare(ways, num_repeats=args.num_repeats, floor="bare read and resize of a video")


def _compare(
    ways: dict[str, Callable[[int], float]], *, num_repeats: int, floor: str, original: str | None = None
) -> list[dict[str, Any]]:
    """Time all ways in turn, `num_repeats` times after a warm-up pass.

    A way is a function that takes the epoch and returns the number of items per process.
    """
    # Other load on the machine slows all ways of a turn alike, so the median of the ratios within a turn is steadier
    # than the ratio of the medians.
    each: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(num_repeats + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            num_items = way(epoch)
            each[name].append((time.perf_counter() - begin) / num_items)

    def ratio(above: str, name: str) -> float:
        return median(a / b for a, b in islice(zip(each[above], each[name], strict=True), 1, None))

    return [
        {
            "what": name,
            "ms": median(each[name][1:]) * 1e3,
            "per s and worker": 1 / median(each[name][1:]),
            "of the bare read": ratio(floor, name),
            "times the original": ratio(original, name) if original else None,
        }
        for name in ways
    ]


def _bare_read(path: Path, indices: np.ndarray, size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR) -> None:
    """Read frames as fast as OpenCV can, in one forward pass, and resize them to `size` (width, height)."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    wanted, frames = set(indices.tolist()), []
    for index in range(indices[-1] + 1):
        capture.grab()
        if index in wanted:
            frames.append(cv2.resize(capture.retrieve()[1], size, interpolation=interpolation))


def _read_as_the_original(path: Path, indices: np.ndarray, compose: "A.ReplayCompose") -> None:
    """Read a clip like the original, seeking every frame and augmenting frame by frame.

    The first frame draws random values, and the others replay them.
    """
    capture = cv2.VideoCapture(str(path))
    replay, frames = None, []
    for index in indices.tolist():
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        frame = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        result = compose(image=frame) if replay is None else compose.replay(replay, image=frame)
        replay = replay or result["replay"]
        frames.append(result["image"])
    np.stack(frames)
