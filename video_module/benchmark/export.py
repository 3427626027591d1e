"""What the lean attention buys in ONNX: three exports of one network with the same random weights, side by side.

lean: bias and shift mask are looked up from small shared tables in the graph. constant: both are stored as they are
added, per block. torchvision: its own attention, which assigns the mask region by region.
"""

import argparse
import copy
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from video_module.inference.export import trace
from video_module.inference.latency import measure_latency
from video_module.models.recognizer import Recognizer, build_model
from video_module.models.swin3d import WindowAttention3d

NUM_CLASSES = 51


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each form."""
    lean = build_model(args.model_type, num_classes=NUM_CLASSES).eval()
    with tempfile.TemporaryDirectory() as folder:
        rows, sessions = [], {}
        for form in dict.fromkeys(args.forms):
            path = Path(folder) / f"{form}.onnx"
            rows.append(_export({"lean": _same, "constant": _constant, "torchvision": _stock}[form](lean), path, form))
            begin = time.perf_counter()
            sessions[form] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            rows[-1]["load s"] = time.perf_counter() - begin
        noise = np.random.default_rng(0).integers(0, 256, (1, *lean.clip.shape), np.uint8)
        latencies = measure_latency(
            {form: partial(session.run, ["logits"], {"clips": noise}) for form, session in sessions.items()}
        )
        logits = {form: session.run(["logits"], {"clips": noise})[0] for form, session in sessions.items()}
    for row in rows:
        row["one clip, ms"] = latencies[row["form"]].median_ms
        row["p95"] = latencies[row["form"]].p95_ms
        row["largest diff"] = float(np.abs(logits[row["form"]] - logits[args.forms[-1]]).max())
    return rows


def _export(model: Recognizer, path: Path, form: str) -> dict[str, Any]:
    begin = time.perf_counter()
    proto = trace(model)
    export_s = time.perf_counter() - begin
    onnx.save(proto, str(path))
    parameters_mb = sum(weight.numel() * weight.element_size() for weight in model.parameters()) / 1e6
    size_mb = path.stat().st_size / 1e6
    return {
        "form": form,
        "nodes": len(proto.graph.node),
        "ScatterND": Counter(node.op_type for node in proto.graph.node)["ScatterND"],
        "MB": size_mb,
        "of parameters": size_mb / parameters_mb,
        "export s": export_s,
    }


def _same(model: Recognizer) -> Recognizer:
    return model


def _stock(model: Recognizer) -> Recognizer:
    """The same network with torchvision's attention."""
    twin = copy.deepcopy(model)
    for attention in _attentions(twin):
        attention.__class__ = ShiftedWindowAttention3d
    return twin


def _constant(model: Recognizer) -> Recognizer:
    """The same network with what position_bias() and shift_mask() gave in one pass kept as constants."""
    twin = copy.deepcopy(model)
    for attention in _attentions(twin):
        attention.position_bias = _Remembered(attention.position_bias)
        attention.shift_mask = _Remembered(attention.shift_mask)
    with torch.inference_mode():
        twin(torch.zeros((1, *twin.clip.shape), dtype=torch.uint8))
    return twin


def _attentions(model: Recognizer) -> list[WindowAttention3d]:
    return [module for module in model.modules() if isinstance(module, WindowAttention3d)]


class _Remembered:
    """Calls a function once and gives that result ever after."""

    def __init__(self, function):
        self.function, self.value = function, None

    def __call__(self, *args) -> torch.Tensor:
        if self.value is None:
            with torch.inference_mode(False), torch.no_grad():
                self.value = self.function(*args).contiguous()
        return self.value
