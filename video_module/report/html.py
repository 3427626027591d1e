"""Write the report of a test as one self-contained HTML file."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from video_module.files import write_text
from video_module.report.accuracy import draw_by_tag, draw_per_class, draw_reliability
from video_module.report.confusion import draw_confusion
from video_module.report.contact_sheet import Strip
from video_module.report.results import WINDOW_FIGURES, count_views, describe_views, shown_figures
from video_module.report.statistics import describe_share
from video_module.report.style import to_png
from video_module.tables import pluralize

# Names of classes and files come from users, so all inserted text is escaped. A missing value raises an error, because
# otherwise the page would have a gap.
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_report(
    path: Path,
    figures: dict[str, Any],
    *,
    matrix: np.ndarray,
    class_names: Sequence[str],
    strips: Sequence[Strip],
) -> None:
    """Write a report of `figures` (X_results.json), the confusion counts `matrix` (rows: labels) and worst videos."""
    plots = {
        "confusion": draw_confusion(matrix, class_names, title="Share of each label's videos, in percent"),
        "classes": draw_per_class(figures["per_class"], mean=figures["mean_class_accuracy"]),
        "calibration": draw_reliability(figures["reliability"], ece=figures["ece"]),
    }
    if figures["temperature"] != 1:
        reliability, ece = figures["reliability_before_temperature"], figures["ece_before_temperature"]
        plots["before"] = draw_reliability(reliability, ece=ece)
    if figures["by_tag"]:
        plots["tags"] = draw_by_tag(figures["by_tag"], overall=figures["video_top1"])
    page = _TEMPLATES.get_template("report.html.jinja").render(
        figures=figures,
        titles=shown_figures(len(class_names)) | WINDOW_FIGURES,
        share=describe_share,
        num_classes=len(class_names),
        log_num_classes=math.log(len(class_names)),
        facts=_facts(figures, num_classes=len(class_names)),
        notes=_notes(figures),
        plots={name: _embed(figure) for name, figure in plots.items()},
        strips=[(strip, _embed_strip(strip)) for strip in strips],
    )
    write_text(path, page + "\n")


def _facts(figures: dict[str, Any], *, num_classes: int) -> dict[str, str]:
    """Return the list at the top of the page: what was tested, on which videos, and how."""
    split = figures["protocol"] or "folder without split.json"
    if figures["fold"]:
        split += f", fold {figures['fold']}"
    if figures["split_digest"]:
        split += f", digest {figures['split_digest']}"
    videos = f"{pluralize(figures['num_videos'], 'video')} from {pluralize(figures['num_sources'], 'recording')}"
    clip = figures["clip"]
    rate = f" at {clip['target_fps']:g} frames/s" if clip["target_fps"] else ""
    start = {None: "start not recorded", "none": "from scratch"}.get(figures["weights"], f"from {figures['weights']}")
    overlap = figures["train_overlap"]
    is_clean = overlap and not overlap["num_videos"] and not overlap["num_clips"]
    return {
        "model": f"{figures['model']} ({figures['checkpoint']})",
        "weights": f"{start}, tested in {figures['precision']}",
        **({"trained on": "none of these videos, none of their recordings"} if is_clean else {}),
        "split": split,
        "tested on": f"{videos}, {num_classes} classes",
        "views": f"{describe_views(figures['views'])}: {count_views(figures)}",
        "a clip": f"{clip['num_frames']} frames of {clip['crop']} × {clip['crop']}, {clip['frame_stride']} apart{rate}",
    }


def _notes(figures: dict[str, Any]) -> list[str]:
    """Return notes on few recordings, and on what the test shares with the model's training."""
    notes = [figures["interval_note"]] if figures["interval_note"] else []
    if note := figures["train_overlap_note"]:
        overlap = figures["train_overlap"]
        notes.append(f"{note}; these figures are too good" if overlap and overlap["is_leak"] else note)
    return notes


def _embed(figure: Figure) -> dict[str, Any]:
    # 100 CSS pixels per inch is half of to_png()'s resolution, so the picture is sharp on high-resolution screens.
    return {"uri": _data_uri(to_png(figure), "png"), "width": round(100 * figure.get_figwidth())}


def _embed_strip(strip: Strip) -> str:
    buffer = io.BytesIO()
    Image.fromarray(strip.picture()).save(buffer, format="JPEG", quality=80)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
