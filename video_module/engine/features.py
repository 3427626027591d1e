"""Compute the inputs of a network's last layer for videos, and cache them in X_features.npz."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from video_module.config import ClipConfig
from video_module.data import sampling
from video_module.data.dataset import EvaluationLoader, EvaluationViews, Views
from video_module.data.records import VideoRecord
from video_module.errors import InputError
from video_module.files import remove_partial, replacing
from video_module.models.recognizer import Recognizer
from video_module.scores import ScoreClips

# Most clips per video, the same number as in test_model.py. Each clip costs one forward pass, and a second if mirrored.
_MAX_CLIPS = 4
# Interval between saves, and so the most work that a killed run loses. Each save rewrites the whole file of a few MB.
_SAVE_EVERY_S = 30.0


def features_path(save_path: Path) -> Path:
    """Return the path of the file in which a run caches its features."""
    return save_path.with_name(f"{save_path.stem}_features.npz")


def replace_head(model: Recognizer, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Replace the last layer's weight (num_outputs, num_inputs) and bias (num_outputs,); num_outputs may change."""
    head = model.head
    # Some models have a 1x1x1 convolution as their last layer, which is linear too.
    assert head.weight[0, 0].numel() == 1 and head.bias is not None, f"{model.name}: the last layer is not linear"
    head.weight = nn.Parameter(weight.reshape(*weight.shape, *(1,) * (head.weight.ndim - 2)).float())
    head.bias = nn.Parameter(bias.float())


def expose_features(model: Recognizer) -> int:
    """Make the network return the inputs of its last layer instead of logits, and return their number."""
    # Turn the last layer into the identity rather than remove it, so that what follows it, such as I3D's mean over
    # time, is still applied.
    num_features = model.head.weight.shape[1]
    replace_head(model, torch.eye(num_features), torch.zeros(num_features))
    return num_features


def network_digest(model: Recognizer, *, precision: str) -> str:
    """Return a digest of all that determines the features: clips, precision and the weights below the last layer."""
    digest = hashlib.sha256(json.dumps([model.name, precision, model.clip.to_dict(), _MAX_CLIPS]).encode())
    head = {id(value) for value in model.head.state_dict(keep_vars=True).values()}
    for name, value in sorted(model.backbone.state_dict(keep_vars=True).items()):
        if id(value) not in head:
            digest.update(name.encode())
            digest.update(value.detach().contiguous().cpu().numpy())
    return digest.hexdigest()[:16]


def _content_digest(path: Path) -> str:
    """Return a digest of the file's bytes, so that a renamed, moved or copied video keeps its features."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


class _Cache:
    """The features stored in a file: at most two arrays per video, one for its clips and one for their mirror images.

    Features of other networks are kept in the file, so that going back to one of them costs nothing.
    """

    def __init__(self, path: Path, network: str):
        """Read the file if it exists. Raises InputError if it is damaged."""
        self.path, self._network = path, network
        self._rows: dict[str, np.ndarray] = {}
        self._others: dict[str, np.ndarray] = {}
        self._saved_at = time.monotonic()
        if not path.is_file():
            return
        try:
            with np.load(path) as file:
                self._others = {name: file[name] for name in file.files}
            # All videos share one array, because opening a zip file of thousands of small arrays takes seconds.
            names = self._others.pop(f"{network}_names", np.empty(0, str)).tolist()
            counts = self._others.pop(f"{network}_counts", np.empty(0, int))
            features = self._others.pop(f"{network}_features", np.empty((0, 0), np.float32))
            parts = np.split(features, np.cumsum(counts)[:-1]) if names else []
            self._rows = dict(zip(names, parts, strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: damaged, or not a feature file ({error}); delete it") from None

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> np.ndarray:
        return self._rows[key]

    @property
    def has_rows(self) -> bool:
        return bool(self._rows)

    def add(self, key: str, rows: np.ndarray) -> None:
        self._rows[key] = rows
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        own = {
            "names": np.array(list(self._rows)),
            "counts": np.array([len(rows) for rows in self._rows.values()]),
            "features": np.concatenate(list(self._rows.values())),
        }
        remove_partial(self.path)
        with replacing(self.path) as partial:
            np.savez(partial, **self._others, **{f"{self._network}_{name}": value for name, value in own.items()})
        self._saved_at = time.monotonic()


class _DistinctClips(EvaluationViews):
    """Up to four clips per video, spread evenly as in evaluation but at least a quarter of a clip apart."""

    # Evaluation always takes four clips. In a video one frame longer than a clip, they would be almost the same and
    # still cost four passes.
    def clip_indices(self, index: int) -> np.ndarray:
        video = self.videos[index]
        times = {"fps": video.fps, "edges_s": video.edges_s}
        room = sampling.last_start(video.num_frames, self.clip, **times)
        num_clips = min(_MAX_CLIPS, 1 + 4 * room // sampling.clip_span(self.clip, video.fps))
        starts = sampling.uniform_starts(video.num_frames, self.clip, num_clips, **times)
        return np.stack([sampling.clip_indices(start, video.num_frames, self.clip, **times) for start in starts])


@dataclass(frozen=True, kw_only=True)
class LocatedVideo:
    """A video, its path, and whether its class may be mirrored."""

    path: Path
    record: VideoRecord
    may_flip: bool


def compute_features(
    videos: Sequence[LocatedVideo],
    path: Path,
    make_embedding: Callable[[], ScoreClips],
    *,
    clip: ClipConfig,
    network: str,
    num_workers: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the features of each video's clips and of their mirror images, float32 (num_clips, num_features) each.

    Features already in the file at `path` for the digest `network` are reused. The others are computed and added to
    the file, even if the run is interrupted. Videos that must not be mirrored get an empty array of mirror images.
    `make_embedding` is called only if features are missing, and returns a function from uint8 clips (N, T, H, W, 3) to
    float32 (N, num_features). Raises InputError if the file is damaged and VideoError if a video cannot be read.
    """
    cache = _Cache(path, network)
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        digests = list(pool.map(_content_digest, [video.path for video in videos]))
    # Identify videos by content, so that copies are computed only once. If a copy may be mirrored, its record wins.
    wanted = {
        digest: (video, [view for view in ("plain", "mirror") if view == "plain" or video.may_flip])
        for digest, video in sorted(zip(digests, videos, strict=True), key=lambda pair: pair[1].may_flip)
    }
    missing = {
        digest: (video, views)
        for digest, (video, all_views) in wanted.items()
        if (views := [view for view in all_views if f"{digest}_{view}" not in cache])
    }
    num_found = sum(digest not in missing for digest in digests)
    print(f"features: found {num_found:,} of {len(videos):,} videos in {path}")
    if missing:
        _add_missing(cache, missing, make_embedding(), clip=clip, num_workers=num_workers)
    plain = [cache[f"{digest}_plain"] for digest in digests]
    mirrored = [
        cache[f"{digest}_mirror"] if video.may_flip else rows[:0]
        for digest, video, rows in zip(digests, videos, plain, strict=True)
    ]
    return plain, mirrored


def _add_missing(
    cache: _Cache,
    missing: dict[str, tuple[LocatedVideo, list[str]]],
    embed: ScoreClips,
    *,
    clip: ClipConfig,
    num_workers: int,
) -> None:
    """Compute the missing features with a progress bar, and save what is done even if the run is interrupted."""
    # Sort by digest: in class order, the bar's time left would be wrong when classes differ in video length.
    keys = sorted(missing)
    records = [replace(missing[key][0].record, path=missing[key][0].path.absolute().as_posix()) for key in keys]
    dataset = _DistinctClips(Path(), records, clip, Views(num_crops=1))
    loader = EvaluationLoader(dataset, num_workers=num_workers)
    try:
        for clips, index in tqdm(loader, desc="features", unit="video"):
            frames = np.stack(list(clips))
            for view in missing[keys[index]][1]:
                rows = embed(frames if view == "plain" else np.ascontiguousarray(frames[:, :, :, ::-1]))
                cache.add(f"{keys[index]}_{view}", np.asarray(rows, np.float32))
    finally:
        if cache.has_rows:
            cache.save()
