"""Count a data set's videos by class, by split, and by the tags in HMDB51's file names."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_module.config import ClipConfig
from video_module.data import hmdb51, sampling
from video_module.data.labels import SPLITS, find_class_names, has_entries, is_split_tree, lost_classes
from video_module.data.leaks import sources_known
from video_module.data.records import Rejected, VideoRecord, load_or_scan
from video_module.errors import InputError
from video_module.files import read_text


def label_distribution(
    data_dir: Path, *, clip: ClipConfig, clip_step: int | None = None, num_workers: int
) -> tuple[dict[str, Any], list[Rejected]]:
    """Count the videos that split_data.py placed, or those of a plain folder of classes as one split "all".

    Clips are windows `clip_step` apart. Videos of a folder without split.json are decoded to count their frames.

    Returns {"class_names", "clip", "classes", "splits": {split: count_videos()}} and the files that do not decode.
    "classes" holds describe_lengths() of each class over all splits. Every "num_sources" is None if the recordings are
    unknown.
    """
    if is_split_tree(data_dir):
        folders = {split: data_dir / split for split in SPLITS if has_entries(data_dir / split)}
        if not folders:
            raise InputError(f"{data_dir}: its folders train, val and test are empty")
    elif not data_dir.is_dir():
        raise InputError(
            f"{data_dir}: no such folder; expected the output of split_data.py, or a folder with one subfolder per "
            "class"
        )
    else:
        folders = {"all": data_dir}
    read = {split: load_or_scan(folder, num_workers=num_workers) for split, folder in folders.items()}
    rejected = [item for _, broken in read.values() for item in broken]
    for split, folder in folders.items():
        videos, broken = read[split]
        for sentence in lost_classes(folder, {video.label for video in videos}, [item.path for item in broken]):
            print(f"note: {split}: {sentence}")
    class_names = list(dict.fromkeys(name for folder in folders.values() for name in find_class_names(folder)))
    settings = {
        "num_frames": clip.num_frames,
        "frame_stride": clip.frame_stride,
        "target_fps": clip.target_fps,
        "clip_step": clip_step or clip.default_clip_step,
    }
    videos_of: dict[str, list[VideoRecord]] = {name: [] for name in class_names}
    for videos, _ in read.values():
        for video in videos:
            videos_of[video.label].append(video)
    classes = {name: describe_lengths(videos) for name, videos in videos_of.items()}
    splits = {
        split: count_videos(videos, class_names, clip=clip, clip_step=clip_step) for split, (videos, _) in read.items()
    }
    if not sources_known(video for videos in videos_of.values() for video in videos):
        for described in (*classes.values(), *splits.values()):
            described["num_sources"] = None
    return {"class_names": class_names, "clip": settings, "classes": classes, "splits": splits}, rejected


def describe_lengths(videos: Sequence[VideoRecord]) -> dict[str, Any]:
    """Return {"num_sources": number of recordings, "length_s": quartiles of the lengths, or None without videos}."""
    length_s = None
    if videos:
        names = ("shortest", "lower_quartile", "median", "upper_quartile", "longest")
        quartiles = np.percentile([video.num_frames / video.fps for video in videos], (0, 25, 50, 75, 100))
        length_s = dict(zip(names, quartiles.round(3).tolist(), strict=True))
    return {"num_sources": len({video.source for video in videos}), "length_s": length_s}


def count_videos(
    videos: Sequence[VideoRecord], class_names: Sequence[str], *, clip: ClipConfig, clip_step: int | None
) -> dict[str, Any]:
    """Count one split: {"num_videos", "num_clips", "duration_s", "classes", "imbalance", "tags"}.

    The result also has the keys of describe_lengths(). "classes" holds for each class the first three and its "share"
    of the videos. "tags" counts the videos for each value of HMDB51's tags; it is None if a file name does not follow
    HMDB51's scheme.
    """
    classes = {name: {"num_videos": 0, "num_clips": 0, "duration_s": 0.0, "share": 0.0} for name in class_names}
    for video in videos:
        row = classes[video.label]
        row["num_videos"] += 1
        row["num_clips"] += len(
            sampling.window_starts(video.num_frames, clip, clip_step, fps=video.fps, edges_s=video.edges_s)
        )
        row["duration_s"] += video.num_frames / video.fps
        row["share"] = row["num_videos"] / len(videos)
    described = [hmdb51.describe_tags(video.path, video.label) for video in videos]
    tags = None
    if None not in described:
        tags = {
            tag: {value: sum(found[tag] == value for found in described) for value in values}
            for tag, values in hmdb51.tag_values().items()
        }
    return {
        **{key: sum(row[key] for row in classes.values()) for key in ("num_videos", "num_clips", "duration_s")},
        **describe_lengths(videos),
        "classes": classes,
        "imbalance": imbalance([row["num_videos"] for row in classes.values()]),
        "tags": tags,
    }


def imbalance(counts: Sequence[int]) -> dict[str, float | int | None]:
    """Measure the class imbalance.

    "ratio" is the largest count divided by the smallest, or None if a class is empty. "effective_num_classes" is the
    exponential of the entropy: the number of equally large classes that would be as hard to guess.
    """
    assert counts, "a data set has at least one class"
    # The entropy of n equal classes is log n
    total = sum(counts)
    entropy = -sum(count / total * math.log(count / total) for count in counts if count)
    return {
        "largest": max(counts),
        "smallest": min(counts),
        "ratio": max(counts) / min(counts) if min(counts) else None,
        "effective_num_classes": math.exp(entropy),
    }


def class_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Return loss weights that give all classes equal influence: total / (num_classes * count).

    Their mean over the videos is 1. Raises InputError if a class has no video.
    """
    if empty := [name for name, count in counts.items() if not count]:
        raise InputError(f"class {empty[0]!r} has no training video, so it cannot have a weight")
    total = sum(counts.values())
    return {name: total / (len(counts) * count) for name, count in counts.items()}


def read_class_weights(file: Path, class_names: Sequence[str]) -> list[float]:
    """Read the weights that calc_label_distribution.py --class_weights wrote, in the order of `class_names`.

    Raises InputError if the file has other classes or a weight is not a positive number.
    """
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: not JSON ({error})") from None
    weights = content.get("class_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise InputError(f"{file}: has no class_weights; write it with calc_label_distribution.py --class_weights")
    if differing := sorted(set(weights) ^ set(class_names)):
        raise InputError(f"{file}: written for other classes: {differing[0]!r} is only in the file or only in the data")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise InputError(f"{file}: the weight of {name!r} must be a positive number, got {weight!r}")
    return [float(weights[name]) for name in class_names]
