"""Checkpoint -> ONNX: the graph, its metadata, and the proof that it computes what torch does."""

import json
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from video_module.config import ClipConfig
from video_module.data.decoding import read_info
from video_module.data.drawing import ACTIONS, draw_frames, make_scene
from video_module.data.labels import find_videos
from video_module.data.sampling import clip_indices
from video_module.data.transforms import center_crop, resize_frame
from video_module.engine.checkpoint import Checkpoint, build_from_checkpoint
from video_module.errors import InputError
from video_module.files import replacing
from video_module.inference.predictor import FORMAT_VERSION, METADATA_KEY, load_predictor
from video_module.inference.windows import iter_windows
from video_module.models.recognizer import Recognizer

OPSET = 18
BATCH_SIZES = (1, 3)
"""Batch sizes at which an exported file is compared with torch."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What X_export.json says of one file."""

    path: str
    precision: str
    opset: int
    num_nodes: int
    size_mb: float
    export_s: float
    max_logit_difference: float
    top1_agreement: float
    num_clips: int
    batch_sizes: tuple[int, ...]
    tolerance: float

    def __str__(self) -> str:
        sizes = " and ".join(map(str, self.batch_sizes))
        return (
            f"  {self.num_nodes} nodes, {self.size_mb:.1f} MB, opset {self.opset}, exported in {self.export_s:.1f} s\n"
            f"  against torch on {self.num_clips} clips in batches of {sizes}: largest logit difference "
            f"{self.max_logit_difference:.1e} (at most {self.tolerance:g}), "
            f"same best class in {self.top1_agreement:.0%}"
        )

    @property
    def passed(self) -> bool:
        return self.max_logit_difference <= self.tolerance  # also False for NaN


def export_onnx(checkpoint: Checkpoint, path: Path, *, clips: np.ndarray, tolerance: float = 1e-3) -> ExportReport:
    """Export in fp32, compare with torch on `clips`, uint8 (N, T, H, W, 3), then put the file in place.

    Raises InputError, leaving no file under `path`, if a logit differs by more than `tolerance`.
    """
    model = build_from_checkpoint(checkpoint)
    begin = time.perf_counter()
    proto = _trace(model)
    export_s = time.perf_counter() - begin
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata_of(checkpoint), ensure_ascii=False)})
    with replacing(path) as partial:
        onnx.save(proto, str(partial))
        onnx.checker.check_model(str(partial), full_check=True)
        difference, agreement = compare(model, partial, clips)
        report = ExportReport(
            path=str(path),
            precision="fp32",
            opset=OPSET,
            num_nodes=len(proto.graph.node),
            size_mb=partial.stat().st_size / 1e6,
            export_s=export_s,
            max_logit_difference=difference,
            top1_agreement=agreement,
            num_clips=len(clips),
            batch_sizes=BATCH_SIZES,
            tolerance=tolerance,
        )
        if not report.passed:
            raise InputError(
                f"{path}: its logits differ from torch's by {difference:.2e}, more than {tolerance:g}; not kept"
            )
    return report


def verification_clips(clip: ClipConfig, num_clips: int, *, folder: Path | None = None) -> np.ndarray:
    """Real frames to compare on: uint8 (num_clips, T, crop, crop, 3), from videos in `folder`, else drawn ones."""
    if folder is not None:
        videos = [path for _, path in find_videos(folder)]
        windows = [
            window
            for video in videos[:num_clips]
            for window in _first_windows(video, clip, -(-num_clips // len(videos)))
        ]
        # fewer windows than asked for come again: every batch size is to be tried
        return np.resize(np.stack(windows[:num_clips]), (num_clips, *clip.shape))
    clips = []
    for number in range(num_clips):
        scene, action = make_scene(0, number), ACTIONS[number % len(ACTIONS)]
        frames = draw_frames(action, scene, num_frames=clip.span, rng=np.random.default_rng(number))
        resized = np.stack([resize_frame(frame, clip) for frame in frames])
        clips.append(center_crop(resized[clip_indices(0, clip.span, clip, fps=clip.target_fps)], clip))
    return np.stack(clips)


def _first_windows(video: Path, clip: ClipConfig, count: int) -> list[np.ndarray]:
    windows = iter_windows(video, clip, clip_step=None, fps=read_info(video).fps)
    return [window.frames for window in islice(windows, count)]


def metadata_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What travels inside the ONNX file."""
    return {
        "format_version": FORMAT_VERSION,
        "model": checkpoint.model,
        "class_names": checkpoint.class_names,
        "clip": checkpoint.clip.to_dict(),
        "split_digest": checkpoint.split_digest,
        "train_sources": checkpoint.train_sources,
        "train_clips": checkpoint.train_clips,
        "weights": checkpoint.train_config.get("weights"),
    }


def _trace(model: Recognizer) -> onnx.ModelProto:
    example = torch.zeros((2, *model.clip.shape), dtype=torch.uint8)  # 2: a batch of 1 would be taken for a constant
    with warnings.catch_warnings(), redirect_stdout(StringIO()):  # the exporter reports each of its stages
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["clips"],
            output_names=["logits"],
            dynamic_shapes={"clips": {0: torch.export.Dim("N", min=1)}},
            verbose=False,
        )
    return program.model_proto


def compare(
    model: Recognizer, path: Path, clips: np.ndarray, *, batch_sizes: Sequence[int] = BATCH_SIZES
) -> tuple[float, float]:
    """Largest difference of a logit, and share of clips with the same best class, against torch in fp32."""
    with torch.inference_mode():
        expected = np.concatenate([model(torch.from_numpy(clip[None])).numpy() for clip in clips])
    predictor = load_predictor(path, device="cpu")
    difference, agreement = 0.0, 1.0
    for size in batch_sizes:
        chunks = [clips[first : first + size] for first in range(0, len(clips), size)]
        logits = np.concatenate([predictor.score_clips(chunk) for chunk in chunks])
        difference = float(np.maximum(difference, np.abs(logits - expected).max()))  # unlike max(), keeps NaN
        agreement = min(agreement, float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean()))
    return difference, agreement
