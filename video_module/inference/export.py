"""Export a checkpoint to ONNX in fp32, fp16 and int8. A file is kept only if it agrees with torch."""

import hashlib
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import StringIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants

from video_module import __version__
from video_module.config import DEFAULT_OPSET, PRECISIONS, ExportGates
from video_module.engine.checkpoint import Checkpoint, build_from_checkpoint
from video_module.engine.evaluation import torch_scorer
from video_module.errors import InputError
from video_module.files import FORMAT_VERSION, replacing
from video_module.inference.latency import Latency, measure_latency
from video_module.inference.precisions import in_precision
from video_module.inference.predictor import METADATA_KEY, describe, load_predictor
from video_module.inference.runtimes import usable_runtimes
from video_module.inference.verification import Agreement, Reference, VerificationClips, fitting_batch_sizes
from video_module.machine import available_cores, describe_machine
from video_module.models.cost import measure_cost
from video_module.models.recognizer import Recognizer
from video_module.scores import ScoreClips
from video_module.tables import align

# Larger batches are no faster per clip on a CPU, and take gigabytes for models with large clips.
_LATENCY_BATCH_SIZES = (1, 4)

# Up to this many 10^9 multiply-adds per clip, a network is quick enough to be checked on 200 clips instead of 32.
_MAX_SMALL_GMACS = 1.0


@dataclass(frozen=True, kw_only=True)
class _ExportReport:
    """One file's entry in X_export.json."""

    path: str
    precision: str
    num_nodes: int
    size_mb: float
    """Megabytes of 10^6 bytes."""
    export_s: float
    """Seconds it took to make the file: fp32 from the model, the others from the fp32 graph."""
    agreement: Agreement
    failure: str | None
    """Why the file was deleted; None if it was kept."""
    latency: dict[str, dict[int, Latency]] | None = None
    """By runtime and batch size."""


def default_num_clips(checkpoint: Checkpoint) -> int:
    """Default number of clips to check a file on."""
    cost = measure_cost(checkpoint.model, num_classes=len(checkpoint.class_names), clip=checkpoint.clip)
    return 200 if cost.gmacs <= _MAX_SMALL_GMACS else 32


def export_files(
    checkpoint: Checkpoint,
    stem: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    clips: VerificationClips,
    gates: ExportGates,
    opset: int = DEFAULT_OPSET,
) -> list[_ExportReport]:
    """Write <stem>.onnx, <stem>_fp16.onnx and <stem>_int8.onnx for the given `precisions`, and check each file.

    A file that fails its gate is deleted, as is an earlier file of the same name; its report says why.
    """
    model = build_from_checkpoint(checkpoint)
    # Traced before torch scores the clips, so that the progress bar of the comparison does not stall
    begin = time.perf_counter()
    fp32 = trace(model, opset=opset)
    trace_s = time.perf_counter() - begin
    wanted = sorted(set(precisions), key=PRECISIONS.index)
    score_clips = torch_scorer(model, device=torch.device("cpu"))
    with closing(Reference(score_clips, clips, model.clip, precisions=wanted)) as reference:
        export = partial(_export_file, fp32, trace_s=trace_s, reference=reference, gates=gates)
        metadata = partial(metadata_of, checkpoint, opset=opset)
        return [export(onnx_path(stem, name), name, metadata=metadata(precision=name)) for name in wanted]


def onnx_path(stem: Path, precision: str) -> Path:
    """X.onnx, X_fp16.onnx, X_int8.onnx."""
    return stem.with_name(stem.name + ("" if precision == "fp32" else f"_{precision}") + ".onnx")


class _NotProven(Exception):
    """Raised within replacing(), so that it drops the file instead of putting it in place."""


def _export_file(
    fp32: onnx.ModelProto,
    path: Path,
    precision: str,
    *,
    metadata: dict[str, Any],
    trace_s: float,
    reference: Reference,
    gates: ExportGates,
) -> _ExportReport:
    report = None
    try:
        with replacing(path) as unproven:
            begin = time.perf_counter()
            proto = in_precision(fp32, precision)
            export_s = trace_s if precision == "fp32" else time.perf_counter() - begin
            save_onnx(proto, unproven, metadata)
            onnx.checker.check_model(str(unproven), full_check=True)
            predictor = load_predictor(unproven, device="cpu", split_batches=False)
            agreement = reference.compare(predictor.score_clips, precision=precision)
            report = _ExportReport(
                path=str(path),
                precision=precision,
                num_nodes=len(proto.graph.node),
                size_mb=unproven.stat().st_size / 1e6,
                export_s=export_s,
                agreement=agreement,
                failure=agreement.failure(precision, gates),
            )
            if report.failure:
                raise _NotProven
    except _NotProven:
        # A file left by an earlier export would be mistaken for this one.
        path.unlink(missing_ok=True)
    except OSError as error:
        # Most often the disk is full.
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    return report


def save_onnx(proto: onnx.ModelProto, path: Path, metadata: dict[str, Any]) -> None:
    """Write the graph with its metadata."""
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata, ensure_ascii=False)})
    onnx.save(proto, str(path))


def trace(model: torch.nn.Module, *, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """The fp32 graph of a Recognizer: `clips` uint8 (N, T, H, W, 3), N free -> `logits` float32 (N, num_classes)."""
    # With an example batch of 1, the exporter would treat the batch size as a constant.
    example = torch.zeros((2, *model.clip.shape), dtype=torch.uint8)
    # The exporter prints its stages, and warnings about its own code.
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=["clips"],
            output_names=["logits"],
            dynamic_shapes={"clips": {0: torch.export.Dim("N", min=1)}},
            verbose=False,
        )
    # Swin3D multiplies by slices of weight matrices. Unless they are cut here, they cannot be stored in 8 bits.
    fold_constants(program.model, should_fold=lambda node: node.op_type == "Slice", output_size_limit=2**31)
    passes.RemoveUnusedNodesPass()(program.model)
    # The exporter writes one copy of a table of indices per block. The default limit, in values, would skip large ones.
    passes.DeduplicateInitializersPass(size_limit=2**31)(program.model)
    proto = program.model_proto
    assert ([i.name for i in proto.graph.input], [o.name for o in proto.graph.output]) == (["clips"], ["logits"])
    return proto


def onnx_scorer(model: Recognizer) -> ScoreClips:
    """Return a score_clips function with a Recognizer's current weights, run by onnxruntime on the CPU.

    It is several times as fast as torch.
    """
    checkpoint = Checkpoint(model=model.name, weights={}, clip=model.clip, class_names=[])
    # Windows cannot delete open files
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        save_onnx(trace(model), path, metadata_of(checkpoint, precision="fp32", opset=DEFAULT_OPSET))
        return load_predictor(path, device="cpu").score_clips


def _weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of all weights, shortened."""
    digest = hashlib.sha256()
    for name, weight in sorted(checkpoint.weights.items()):
        digest.update(name.encode() + weight.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def metadata_of(checkpoint: Checkpoint, *, precision: str, opset: int) -> dict[str, Any]:
    """The metadata stored in the ONNX file."""
    return {
        "format_version": FORMAT_VERSION,
        "program_version": __version__,
        "model": checkpoint.model,
        "precision": precision,
        "opset": opset,
        "class_names": checkpoint.class_names,
        "clip": checkpoint.clip.to_dict(),
        "temperature": checkpoint.temperature,
        "min_score": checkpoint.min_score,
        "split_digest": checkpoint.split_digest,
        "train_sources": checkpoint.train_sources,
        "train_clips": checkpoint.train_clips,
        "weights": checkpoint.train_config.get("weights"),
        "training": checkpoint.training_record(),
        "weights_digest": _weights_digest(checkpoint),
    }


def measure_latencies(
    reports: Sequence[_ExportReport], clips: np.ndarray, *, num_threads: int | None = None
) -> list[_ExportReport]:
    """Measure the latency of each kept file on this machine's runtimes, and add it to its report.

    Batches have one clip and, if clips are small, four. Files and runtimes take turns.
    """
    print("measuring latencies", flush=True)
    scorers: dict[tuple[str, str], ScoreClips] = {}
    kept = [report for report in reports if not report.failure]
    for report, name in product(kept, usable_runtimes()):
        try:
            predictor = load_predictor(report.path, device=name, num_threads=num_threads, split_batches=False)
        except InputError as error:  # such as CUDA without a driver
            print(f"  not measured: {error}")
        else:
            scorers[report.precision, name] = predictor.score_clips
    latencies: dict[str, dict[str, dict[int, Latency]]] = defaultdict(lambda: defaultdict(dict))
    for size in fitting_batch_sizes(clips.shape[1:], _LATENCY_BATCH_SIZES):
        batch = clips[np.arange(size) % len(clips)]
        calls = {key: partial(score_clips, batch) for key, score_clips in scorers.items()}
        # For each, three turns of one second, or of one call if that takes longer.
        for (precision, name), latency in measure_latency(calls, budget_s=3.0, num_turns=3).items():
            latencies[precision][name][size] = latency
    return [
        replace(report, latency=dict(latencies[report.precision])) if report.precision in latencies else report
        for report in reports
    ]


def find_outdated_files(stem: Path, reports: Sequence[_ExportReport], checkpoint: Checkpoint) -> list[Path]:
    """Find files <stem>*.onnx that an earlier export left, with weights other than this checkpoint's."""

    def holds_these_weights(path: Path) -> bool:
        try:
            return describe(path).get("weights_digest") == _weights_digest(checkpoint)
        except InputError:  # not even a file of this project
            return False

    others = {onnx_path(stem, precision) for precision in PRECISIONS} - {Path(report.path) for report in reports}
    return sorted(path for path in others if path.is_file() and not holds_these_weights(path))


def format_reports(reports: Sequence[_ExportReport]) -> str:
    """The reports as a table."""
    header = ["", "nodes", "MB", "made in s", "largest diff", "agreement", "accuracy"]
    columns = list(
        dict.fromkeys(
            (name, size) for report in reports for name, sizes in (report.latency or {}).items() for size in sizes
        )
    )
    header += [f"{name} ms, batch {size} (p95)" for name, size in columns]
    rows = [header]
    for report in reports:
        agreement, latency = report.agreement, report.latency or {}
        rows.append(
            [
                report.precision,
                str(report.num_nodes),
                f"{report.size_mb:.1f}",
                f"{report.export_s:.1f}",
                "not finite" if agreement.max_logit_difference is None else f"{agreement.max_logit_difference:.1e}",
                f"{agreement.top1_agreement:.2%}",
                "-"
                if agreement.accuracy is None
                else f"{agreement.accuracy:.3f} ({agreement.accuracy - agreement.torch_accuracy:+.3f})",
                *(str(latency.get(name, {}).get(size, "-")) for name, size in columns),
            ]
        )
    return align(rows)


def report_dict(
    checkpoint: Checkpoint,
    reports: Sequence[_ExportReport],
    *,
    clips: VerificationClips,
    gates: ExportGates,
    opset: int,
    num_threads: int | None,
) -> dict[str, Any]:
    """The content of X_export.json."""
    return {
        "model": checkpoint.model,
        "weights_digest": _weights_digest(checkpoint),
        "opset": opset,
        "num_clips": len(clips.clips),
        "num_predicted_classes": reports[0].agreement.num_predicted_classes,
        "clips": clips.origin,
        "batch_sizes": list(fitting_batch_sizes(checkpoint.clip.shape)),
        "gates": asdict(gates),
        "machine": describe_machine(),
        "num_threads": num_threads or available_cores(),
        "files": [asdict(report) for report in reports],
    }
