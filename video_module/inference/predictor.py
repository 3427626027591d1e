"""Run a trained model, from an .onnx or .pth file, on clips and whole videos."""

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
from video_module.inference.runtimes import choose_runtime, open_session, runs_on_cpu
from video_module.inference.windows import WindowClip, iter_windows
from video_module.scores import ScoreClips, softmax, top_k, video_score
from video_module.tables import pluralize

METADATA_KEY = "video_module"

# Most pixel values that a CPU scores at once. More are no faster there, and each clip of 32x224x224 takes 1 to 2 GB.
_CPU_BATCH_VALUES = 2**22


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
    """When each frame begins and the last one ends, float64 (num_frames + 1,); None: frame n at n / fps."""
    num_damaged_frames: int = 0
    """Frames that were lost or damaged."""
    has_times: bool = True
    """Whether the file has timestamps; if not, `fps` is assumed."""
    min_score: float = DEFAULT_MIN_SCORE
    """The model's threshold: answers with a lower score are uncertain."""

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
        """What a user should know about the file, one line each."""
        notes = []
        if self.num_damaged_frames:
            notes.append(f"{self.path}: {pluralize(self.num_damaged_frames, 'frame')} lost or damaged")
        if not self.has_times:
            notes.append(f"{self.path}: no timestamps; assuming {self.fps:g} frames/s")
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
    device: str
    """Where it runs: cpu, cuda:0, openvino, and so on."""
    split_digest: str | None = None
    train_sources: tuple[str, ...] = ()
    train_clips: tuple[str, ...] = ()
    weights: str | None = None
    """The weights that training started from."""
    training: dict[str, Any] | None = None
    """How it was trained: Checkpoint.training_record(); None where the file does not tell."""
    precision: str = "fp32"
    temperature: float = 1.0
    """Divides the logits before the softmax."""
    min_score: float = DEFAULT_MIN_SCORE
    """If the best class scores lower, the answer is uncertain."""

    def summary(self) -> str:
        return f"{self.model}, {self.precision} on {self.device}, {len(self.class_names)} classes"

    def predict_clips(self, clips: np.ndarray) -> np.ndarray:
        """Probabilities, float64 (N, num_classes), of uint8 RGB clips (N, T, H, W, 3).

        Raises InputError if the scores are not finite.
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

        `on_progress(frames done, estimated total)` is called after each batch. Raises VideoError if no frame decodes.
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
    """Open an .onnx file written by convert_model.py, or a .pth checkpoint of train_model.py."""
    path = Path(model)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() == ".pth":
        predictor = _load_checkpoint(path, device=device, num_threads=num_threads, precision=precision)
    elif path.suffix.lower() == ".onnx":
        predictor = _load_onnx(path, device=device, num_threads=num_threads)
    else:
        raise InputError(f"{path}: not a model file; expected .onnx or .pth")
    if not split_batches:
        return predictor
    if predictor.precision == "int8":
        # The activations of a batch share one scale, so other clips in the batch would change a clip's score.
        size = 1
    elif runs_on_cpu(predictor.device):
        size = cpu_batch_size(predictor.clip)
    else:
        return predictor
    return replace(predictor, score_clips=_in_batches(predictor.score_clips, size))


def cpu_batch_size(clip: ClipConfig) -> int:
    """How many clips a CPU scores at once."""
    return max(1, _CPU_BATCH_VALUES // math.prod(clip.shape))


def _in_batches(score_clips: ScoreClips, size: int) -> ScoreClips:
    def score_parts(clips: np.ndarray) -> np.ndarray:
        return np.concatenate([score_clips(clips[first : first + size]) for first in range(0, len(clips), size)])

    return score_parts


def _parse_metadata(text: str | None, *, path: Path) -> dict[str, Any]:
    """Parse and check the JSON under METADATA_KEY of an ONNX file. Raises InputError if it is not ours."""
    if not text:
        raise InputError(f"{path}: not written by convert_model.py (no {METADATA_KEY!r} metadata)")
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
    """Describe an ONNX file of convert_model.py: its inputs, outputs and metadata."""
    session, _ = open_session(path)
    metadata = _parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path=path)
    return {
        "inputs": [{"name": node.name, "type": node.type, "shape": node.shape} for node in session.get_inputs()],
        "outputs": [{"name": node.name, "type": node.type, "shape": node.shape} for node in session.get_outputs()],
        **metadata,
        "clip": metadata["clip"].to_dict(),
        **{name: len(metadata.get(name, ())) for name in ("train_sources", "train_clips")},
    }


def _load_onnx(path: Path, *, device: str, num_threads: int | None) -> Predictor:
    kind, index = parse_device(device)
    session, runtime = open_session(path, num_threads=num_threads)
    metadata = _parse_metadata(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path=path)
    wanted = choose_runtime(device, precision=metadata.get("precision", "fp32"))
    if wanted != runtime:
        session, runtime = open_session(path, wanted, index=index, num_threads=num_threads)
    if kind not in ("auto", runtime):
        raise InputError(f"--device {device}: onnxruntime could not start it; see its message above")

    def score_clips(clips: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"clips": np.ascontiguousarray(clips)})[0]

    return Predictor(
        model=metadata["model"],
        class_names=metadata["class_names"],
        clip=metadata["clip"],
        score_clips=score_clips,
        device=runtime if runs_on_cpu(runtime) or not index else f"{runtime}:{index}",
        split_digest=metadata.get("split_digest"),
        train_sources=tuple(metadata.get("train_sources", ())),
        train_clips=tuple(metadata.get("train_clips", ())),
        weights=metadata.get("weights"),
        training=metadata.get("training"),
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
        device=str(target),
        split_digest=checkpoint.split_digest,
        train_sources=tuple(checkpoint.train_sources),
        train_clips=tuple(checkpoint.train_clips),
        weights=checkpoint.train_config.get("weights"),
        training=checkpoint.training_record(),
        precision=precision,
        temperature=checkpoint.temperature,
        min_score=_min_score(checkpoint.min_score),
    )


def _min_score(recorded: float | None) -> float:
    return DEFAULT_MIN_SCORE if recorded is None else recorded
