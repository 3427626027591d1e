"""A trained model behind one interface, from .onnx or .pth files, for clips and whole videos."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from video_module.config import DEFAULT_MIN_SCORE, ClipConfig
from video_module.data.decoding import VideoReader, read_info
from video_module.devices import parse_device
from video_module.errors import InputError
from video_module.files import FORMAT_VERSION, READABLE_VERSIONS
from video_module.inference.windows import WindowClip, iter_windows
from video_module.scores import ScoreClips, softmax, top_k, video_score
from video_module.tables import pluralize

METADATA_KEY = "video_module"

# Pixel values that a CPU scores at once. More at once is no faster there, and each clip of 32x224x224 takes 1 to 2 GB.
CPU_BATCH_VALUES = 2**22


@dataclass(frozen=True, kw_only=True)
class Window:
    """One clip of a video and its scores."""

    start: int
    """First frame."""
    end: int
    """One past the last frame."""
    scores: np.ndarray
    """Probabilities, float64 (num_classes,)."""


@dataclass(frozen=True, kw_only=True)
class VideoPrediction:
    """A model's answer for a video."""

    path: Path
    fps: float
    """Frames divided by duration."""
    num_frames: int
    """Frames that decoded."""
    class_names: list[str]
    windows: list[Window]
    edges_s: np.ndarray | None = None
    """Where each frame begins and the last one ends, float64 (num_frames + 1,); None where frame n is at n / fps."""
    num_damaged_frames: int = 0
    """Frames that are lost, and frames that came damaged."""
    has_times: bool = True
    """Whether the file tells when its frames are shown; else `fps` is assumed."""
    min_score: float = DEFAULT_MIN_SCORE
    """The model's: below it an answer is uncertain."""

    @cached_property
    def scores(self) -> np.ndarray:
        """The video's score: the mean over windows, float64 (num_classes,)."""
        return video_score(np.stack([window.scores for window in self.windows]))

    @property
    def duration_s(self) -> float:
        return self.time_of(self.num_frames)

    def time_of(self, frame: int) -> float:
        """When a frame begins, which is when the one before it ends, in seconds from the first."""
        if self.edges_s is None:
            return frame / self.fps
        # A file that is still being written may have grown since it was scored.
        beyond = max(0, frame - self.num_frames)
        return float(self.edges_s[frame - beyond]) + beyond / self.fps

    def notes(self) -> list[str]:
        """What a user should know of the file, a line each."""
        notes = []
        if self.num_damaged_frames:
            notes.append(f"{self.path}: {pluralize(self.num_damaged_frames, 'frame')} lost or damaged")
        if not self.has_times:
            notes.append(f"{self.path}: tells no times; {self.fps:g} frames/s are assumed")
        return notes

    def top_k(self, k: int) -> list[dict[str, str | float]]:
        return top_k(self.scores, self.class_names, k)


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Scores clips and videos. Made by load_predictor()."""

    model: str
    """Name of the architecture."""
    class_names: list[str]
    clip: ClipConfig
    score_clips: ScoreClips
    provider: str
    """What it runs on: "cpu", "cuda", or the name of one of onnxruntime's providers."""
    split_digest: str | None = None
    train_sources: tuple[str, ...] = ()
    train_clips: tuple[str, ...] = ()
    weights: str | None = None
    """The weights that training started from."""
    precision: str = "fp32"
    temperature: float = 1.0
    """What the logits are divided by before the softmax."""
    min_score: float = DEFAULT_MIN_SCORE
    """Score of the best class below which an answer is uncertain."""

    def summary(self) -> str:
        return f"{self.model}, {self.precision} on {self.provider}, {len(self.class_names)} classes"

    def predict_clips(self, clips: np.ndarray) -> np.ndarray:
        """Probabilities, float64 (N, num_classes), of uint8 RGB clips (N, T, H, W, 3).

        Raises InputError if the model's weights, or what it makes of these clips, are not finite.
        """
        if clips.dtype != np.uint8 or clips.shape[1:] != self.clip.shape:
            raise ValueError(
                f"clips must be uint8 (N, {', '.join(map(str, self.clip.shape))}), got {clips.dtype} {clips.shape}"
            )
        logits = self.score_clips(clips)
        if not np.isfinite(logits).all():
            raise InputError(f"{self.model}: the scores are not finite; train or export the model again")
        return softmax(logits, temperature=self.temperature)

    def predict_video(
        self,
        path: str | Path,
        *,
        clip_step: int | None = None,
        batch_size: int = 4,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> VideoPrediction:
        """Score windows `clip_step` frames apart (default: half a clip), decoding each frame once.

        `on_progress(frames done, frames the header claims)` is called after each batch. Raises VideoError if no frame
        decodes.
        """
        info, reader = read_info(path), VideoReader(path)
        windows: list[Window] = []
        for scored in self.score_windows(reader, clip_step=clip_step, batch_size=batch_size):
            windows += scored
            on_progress(windows[-1].end, info.estimated_num_frames)
        return self.prediction_of(reader, windows)

    def score_windows(
        self, reader: VideoReader, *, clip_step: int | None = None, batch_size: int = 4
    ) -> Iterator[list[Window]]:
        """Yield a video's windows in batches as they are scored. Raises VideoError.

        For callers that show partial answers or may stop midway; predict_video() does the same in one go.
        """
        waiting: list[WindowClip] = []
        for window in iter_windows(reader, self.clip, clip_step=clip_step):
            waiting.append(window)
            if len(waiting) == batch_size:
                yield self._score(waiting)
                waiting = []
        if waiting:
            yield self._score(waiting)

    def prediction_of(self, reader: VideoReader, windows: list[Window]) -> VideoPrediction:
        """Combine all windows of score_windows() into the video's prediction."""
        return VideoPrediction(
            path=reader.path,
            fps=reader.fps,
            num_frames=reader.num_frames,
            class_names=self.class_names,
            windows=windows,
            edges_s=reader.edges_s,
            num_damaged_frames=reader.num_damaged,
            has_times=reader.has_times,
            min_score=self.min_score,
        )

    def _score(self, clips: list[WindowClip]) -> list[Window]:
        scores = self.predict_clips(np.stack([clip.frames for clip in clips]))
        assert scores.shape == (len(clips), len(self.class_names)), scores.shape
        return [Window(start=clip.start, end=clip.end, scores=row) for clip, row in zip(clips, scores, strict=True)]


def load_predictor(
    model: str | Path,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    split_batches: bool = True,
    precision: str = "fp32",
) -> Predictor:
    """Open an .onnx file written by convert_model.py, or a .pth checkpoint of train_model.py.

    `device` is auto, cpu or cuda; asking for cuda where there is none is an error. Unless `split_batches` is off, the
    CPU and int8 files get large batches in parts. `precision` is fp32, tf32 (CUDA) or bf16, for checkpoints; an ONNX
    file brings its own.
    Raises InputError if the file is missing, damaged or not of this project.
    """
    path = Path(model)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() == ".pth":
        predictor = _load_checkpoint(path, device=device, num_threads=num_threads, precision=precision)
    elif path.suffix.lower() == ".onnx":
        predictor = _load_onnx(path, device=device, num_threads=num_threads)
    else:
        raise InputError(f"{path}: a model file ends in .onnx or .pth")
    if not split_batches:
        return predictor
    if predictor.precision == "int8":
        # The activations of a batch share one scale: together, a clip's neighbours would change its score.
        size = 1
    elif predictor.provider in ("cpu", "CPUExecutionProvider"):
        size = max(1, CPU_BATCH_VALUES // math.prod(predictor.clip.shape))
    else:
        return predictor
    return replace(predictor, score_clips=_in_batches(predictor.score_clips, size))


def _in_batches(score_clips: ScoreClips, size: int) -> ScoreClips:
    def score_parts(clips: np.ndarray) -> np.ndarray:
        return np.concatenate([score_clips(clips[first : first + size]) for first in range(0, len(clips), size)])

    return score_parts


def _parse_metadata(text: str | None, *, path: Path) -> dict[str, Any]:
    """The JSON under METADATA_KEY of an ONNX file, checked. Raises InputError if it is not ours."""
    if not text:
        raise InputError(f"{path}: not an ONNX file of convert_model.py (it holds no {METADATA_KEY!r} metadata)")
    try:
        metadata = json.loads(text)
        metadata["clip"] = ClipConfig.from_dict(metadata["clip"])
        version, _, _ = metadata["format_version"], metadata["class_names"], metadata["model"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: its {METADATA_KEY!r} metadata cannot be read ({error!r})") from None
    if version not in READABLE_VERSIONS:
        raise InputError(f"{path}: format version {version}, expected {FORMAT_VERSION} or older; export it again")
    return metadata


def describe(path: Path) -> dict[str, Any]:
    """The contract of an ONNX file of convert_model.py: inputs, outputs, and what its metadata says."""
    session = _open_session(path, providers=["CPUExecutionProvider"])
    metadata = _parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path=path)
    return {
        "inputs": [{"name": node.name, "type": node.type, "shape": node.shape} for node in session.get_inputs()],
        "outputs": [{"name": node.name, "type": node.type, "shape": node.shape} for node in session.get_outputs()],
        **metadata,
        "clip": metadata["clip"].to_dict(),
        **{name: len(metadata.get(name, ())) for name in ("train_sources", "train_clips")},
    }


def _open_session(path: Path, *, providers: list[Any], num_threads: int | None = None):
    import onnxruntime

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    # Errors alone: warnings about the graph say nothing that a user could act on.
    options.log_severity_level = 3
    # Planning memory ahead took 2.5 GB rather than 1.6 for a clip of swin3d_t, and no less time.
    options.enable_mem_pattern = False
    if num_threads:
        options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        # onnxruntime's exceptions have no base class of their own.
        reason = str(error).splitlines()[0]
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # torch.save() writes an archive
                reason = "it seems to be a file of PyTorch; convert_model.py makes an ONNX file of it"
        raise InputError(f"{path}: not an ONNX file that can be read ({reason})") from None


def _load_onnx(path: Path, *, device: str, num_threads: int | None) -> Predictor:
    import onnxruntime

    kind, index = parse_device(device)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise InputError(f"--device {device}: this onnxruntime has no CUDA; install onnxruntime-gpu in its place")
    providers: list[Any] = ["CPUExecutionProvider"]
    if has_cuda and kind != "cpu":
        # Finds CUDA's libraries in the packages that pip installs with torch.
        onnxruntime.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    session = _open_session(path, providers=providers, num_threads=num_threads)
    metadata = _parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path=path)
    provider = session.get_providers()[0]
    if kind == "cuda" and provider != "CUDAExecutionProvider":
        raise InputError(f"--device {device}: onnxruntime could not start CUDA; see its message above")

    def score_clips(clips: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"clips": np.ascontiguousarray(clips)})[0]

    return Predictor(
        model=metadata["model"],
        class_names=metadata["class_names"],
        clip=metadata["clip"],
        score_clips=score_clips,
        provider=provider,
        split_digest=metadata.get("split_digest"),
        train_sources=tuple(metadata.get("train_sources", ())),
        train_clips=tuple(metadata.get("train_clips", ())),
        weights=metadata.get("weights"),
        precision=metadata.get("precision", "fp32"),
        temperature=metadata.get("temperature", 1.0),
        min_score=_min_score(metadata.get("min_score")),
    )


def _load_checkpoint(path: Path, *, device: str, num_threads: int | None, precision: str) -> Predictor:
    import torch

    from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint
    from video_module.engine.device import choose_device, choose_precision, send_network
    from video_module.engine.evaluation import torch_scorer

    if num_threads:
        torch.set_num_threads(num_threads)
    checkpoint = load_checkpoint(path)
    target = choose_device(device)
    precision = choose_precision(precision, target)
    model = send_network(build_from_checkpoint(checkpoint), target)
    return Predictor(
        model=checkpoint.model,
        class_names=checkpoint.class_names,
        clip=checkpoint.clip,
        score_clips=torch_scorer(model, device=target, precision=precision),
        provider=str(target),
        split_digest=checkpoint.split_digest,
        train_sources=tuple(checkpoint.train_sources),
        train_clips=tuple(checkpoint.train_clips),
        weights=checkpoint.train_config.get("weights"),
        precision=precision,
        temperature=checkpoint.temperature,
        min_score=_min_score(checkpoint.min_score),
    )


def _min_score(recorded: float | None) -> float:
    return DEFAULT_MIN_SCORE if recorded is None else recorded
