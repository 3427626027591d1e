"""A result as HTML: the actions, the video, a timeline to click, mean scores and downloads."""

import html
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from video_module.config import TimelineConfig
from video_module.inference.overlay import segment_colors
from video_module.inference.predictor import VideoPrediction
from video_module.inference.timeline import UNCERTAIN, Segment
from video_module.web.api import NUM_CLASSES_SHOWN, NameOf

_NUM_IN_HEADING = 6
# Possible distances between the marks of the time axis. The first one that gives at most _MOST_MARKS is used.
_STEPS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
_MOST_MARKS = 8


def result_html(
    prediction: VideoPrediction,
    segments: Sequence[Segment],
    *,
    files: Sequence[tuple[str, Path]],
    config: TimelineConfig,
    texts: dict[str, str],
    name_of: NameOf,
) -> str:
    """The whole result. `files` are pairs (key of `texts`, path), with the annotated video first."""
    config = config.for_model(prediction.min_score)
    address, title = address_of_file(files[0][1]), html.escape(prediction.path.name)
    return (
        f'<section class="answer" data-duration="{prediction.duration_s:.3f}">'
        f"{_heading(prediction, segments, config, texts, name_of)}{_notes(prediction, texts)}"
        # Not muted, though it has no sound: browsers start muted videos only while they are in view.
        f'<video src="{address}" aria-label="{title}" controls autoplay loop playsinline></video>'
        f"{_timeline(prediction, segments, texts, name_of)}"
        f"{_means(prediction, texts, name_of, is_open=len(segments) == 1)}{_downloads(files, texts)}</section>"
    )


def address_of_file(path: Path) -> str:
    """The address of a file for HTML. It is relative, so that it also works behind a proxy."""
    return html.escape(f"gradio_api/file={quote(str(path))}")


def _heading(
    prediction: VideoPrediction,
    segments: Sequence[Segment],
    config: TimelineConfig,
    texts: dict[str, str],
    name: NameOf,
) -> str:
    """The actions in order with their scores, or a text that there is no known action."""
    found = [
        (label, list(group))
        for label, group in groupby((s for s in segments if s.label != UNCERTAIN), key=lambda s: s.label)
    ]
    if not found:
        best = prediction.top_k(1)[0]
        why = texts["no_action_why"].format(
            label=name(str(best["label"])), score=f"{best['score']:.0%}", min_score=f"{config.min_score:.0%}"
        )
        return f'<h2 class="order">{texts["no_action"]}</h2><p>{html.escape(why)}</p>'
    parts = []
    for label, group in found[:_NUM_IN_HEADING]:
        seconds = sum(s.end_s - s.start_s for s in group) or 1.0
        score = sum(s.score * (s.end_s - s.start_s) for s in group) / seconds
        parts.append(f"<span>{html.escape(name(label))} <small>{score:.0%}</small></span>")
    more = ["…"] if len(found) > _NUM_IN_HEADING else []
    return f'<h2 class="order">{" → ".join(parts + more)}</h2>'


def _notes(prediction: VideoPrediction, texts: dict[str, str]) -> str:
    """Remarks about problems of the file."""
    notes = []
    if prediction.num_damaged_frames:
        notes.append(texts["damaged"].format(num_frames=prediction.num_damaged_frames))
    if not prediction.has_times:
        notes.append(texts["no_times"].format(fps=prediction.fps))
    return "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def _timeline(prediction: VideoPrediction, segments: Sequence[Segment], texts: dict[str, str], name: NameOf) -> str:
    """A strip to click and a list of the segments, where short segments are readable too."""
    duration_s = prediction.duration_s or 1.0
    unit = texts["second"] if duration_s < 60 else ""
    colors = segment_colors(prediction.class_names)
    bars, rows = [], []
    for segment in segments:
        label, color = html.escape(name(segment.label)), colors[segment.label]
        left, width = 100 * segment.start_s / duration_s, 100 * (segment.end_s - segment.start_s) / duration_s
        # Uncertain segments are only grey in the strip, which has little room for the word.
        shown = "" if segment.label == UNCERTAIN else label
        style = f"background: rgb{color}; color: {_ink(color)}"
        bars.append(f'<span style="left: {left:.3f}%; width: {width:.3f}%; {style}" title="{label}">{shown}</span>')
        rows.append(
            f'<li><button type="button" data-start="{segment.start_s:.3f}" data-end="{segment.end_s:.3f}">'
            f'<i style="background: rgb{color}"></i>'
            f"<span>{_clock(segment.start_s, unit).removesuffix(f' {unit}')} – {_clock(segment.end_s, unit)}</span>"
            f"<b>{label}</b><span>{segment.score:.0%}</span></button></li>"
        )
    step_s = next((step for step in _STEPS_S if duration_s / step <= _MOST_MARKS), duration_s)
    marks = "".join(
        f"<span {'class=is-end ' if number * step_s > 0.95 * duration_s else ''}"
        f'style="left: {100 * number * step_s / duration_s:.3f}%">{_clock(number * step_s, unit)}</span>'
        for number in range(int(duration_s / step_s) + 1)
    )
    # The strip is a slider, so that keys move it. Screen readers read the segments from the list below.
    return (
        f"<h3>{texts['timeline']}</h3>"
        f'<div class="timeline" role="slider" tabindex="0" aria-label="{html.escape(texts["timeline_label"])}" '
        f'aria-valuemin="0" aria-valuemax="{duration_s:.2f}" aria-valuenow="0" aria-valuetext="{_clock(0, unit)}">'
        f'<div class="bars" aria-hidden="true">{"".join(bars)}</div><div class="playhead"></div></div>'
        f'<div class="marks" aria-hidden="true">{marks}</div><ol class="segments" tabindex="0" '
        f'aria-label="{html.escape(texts["segments"])}">{"".join(rows)}</ol>'
    )


def _means(prediction: VideoPrediction, texts: dict[str, str], name: NameOf, *, is_open: bool) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name(str(item['label'])))}</th>"
        f'<td><span class="bar" style="width: {100 * float(item["score"]):.1f}%"></span></td>'
        f"<td>{item['score']:.0%}</td></tr>"
        for item in prediction.top_k(NUM_CLASSES_SHOWN)
    )
    opened = " open" if is_open else ""
    return f'<details class="means"{opened}><summary>{texts["whole_video"]}</summary><table>{rows}</table></details>'


def _downloads(files: Sequence[tuple[str, Path]], texts: dict[str, str]) -> str:
    links = "".join(
        f'<li><a href="{address_of_file(path)}" download="{html.escape(path.name)}">{html.escape(texts[key])}</a></li>'
        for key, path in files
    )
    return f'<h3>{texts["downloads"]}</h3><ul class="downloads">{links}</ul>'


def _ink(color: tuple[int, int, int]) -> str:
    """Black or white, whichever is easier to read on a colour. The contrast is always at least 4.5."""
    red, green, blue = (
        value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in color
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#fff"


def _clock(seconds: float, unit: str = "") -> str:
    """Format a time as 2.5 s if there is a unit, else as 1:02.5."""
    tenths = round(seconds * 10)
    if unit:
        return f"{tenths / 10:g} {unit}"
    minutes, rest = divmod(tenths, 600)
    return f"{minutes}:{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")
