"""The report of a test as one HTML file that asks no other host or file for anything."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from video_module.files import write_text
from video_module.report import plots
from video_module.report.contact_sheet import Strip
from video_module.report.results import FIGURES, WINDOW_FIGURES, count_views, describe_views

_ABOUT = {
    "video_top1": "videos whose best class is the label",
    "video_top5": "videos whose label is among the five best classes",
    "clip_top1": "single views, before they are averaged over the video",
    "mean_class_accuracy": "every class counts the same, however many videos it has",
    "window_mean_class_accuracy": "every window by itself, as the original project counted",
    "macro_f1": "mean over classes of the harmonic mean of precision and recall",
    "log_loss": "mean of −log p(label), in nats; lower is better",
    "ece": "mean gap between confidence and accuracy; lower is better",
}
_PER_CLASS = ("recall", "precision", "f1")
_MANY_CLASSES = 20  # from here on a phone scrolls the matrix rather than shrinking it

_STYLE = """
:root { --ink: #1b1f24; --faint: #59636e; --line: #d9dde2; --back: #fff; --card: #f5f7f9;
  --accent: #1f5fa8; --warn: #a45c00; }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --ink: #e6e9ec; --faint: #9aa4af;
  --line: #363c44; --back: #14171b; --card: #1d2126; --accent: #79b0ee; --warn: #f0b052; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, Helvetica,
  Arial, sans-serif; font-variant-numeric: tabular-nums; }
main, header { max-width: 64rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.3rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 44rem; }
.faint, figcaption, th, dt { color: var(--faint); }
.hero { display: flex; flex-wrap: wrap; gap: .5rem 3rem; align-items: flex-end; margin: 1.2rem 0 1.6rem; }
.hero strong { display: block; font-size: 4.2rem; line-height: 1; letter-spacing: -.03em; color: var(--accent); }
.hero > div:last-child { flex: 1 1 18rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1.2rem; margin: 0;
  font-size: .92rem; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .86em ui-monospace, Consolas, monospace; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin-top: 1.6rem; font-size: .92rem; }
a { color: var(--accent); }
.warn { border-left: 4px solid var(--warn); background: var(--card); padding: .5rem .9rem; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; width: 100%; max-width: 46rem; } .full table { max-width: none; }
th, td { text-align: left; padding: .32rem .7rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; }
td { overflow-wrap: break-word; max-width: 24rem; }
.n { text-align: right; white-space: nowrap; }
td.name { min-width: 7rem; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); }
th button::after { content: " ↕"; opacity: .6; }
th[aria-sort=descending] button::after { content: " ↓"; opacity: 1; }
th[aria-sort=ascending] button::after { content: " ↑"; opacity: 1; }
.range { display: block; position: relative; height: 1.1rem; min-width: 7rem; margin-top: .2rem; }
.range::before { content: ""; position: absolute; inset: .5rem 0 auto; border-top: 1px solid var(--line); }
.range i { position: absolute; top: .32rem; height: .4rem; background: var(--accent); opacity: .35; }
.range b { position: absolute; top: .1rem; width: 3px; margin-left: -1px; height: .85rem; background: var(--accent); }
.range u { position: absolute; top: .1rem; height: .85rem; border-left: 1px dashed var(--faint); }
figure { margin: 1rem 0; }
figcaption { font-size: .92rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; background: #fff; border-radius: 4px; }
.plot img { padding: .4rem; border: 1px solid var(--line); }
.plot.wide { width: min(96vw, 80rem); margin-left: 50%; transform: translateX(-50%); }
.plot.wide img { min-width: 46rem; margin: auto; }
.sides { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.sides > figure { flex: 0 1 27rem; } .sides > div { flex: 1 1 16rem; }
.strip { border-left: 4px solid var(--accent); padding-left: .8rem; margin: 1.4rem 0; break-inside: avoid; }
.strip.wrong { border-color: #e08a1e; }
.strip img { border-radius: 2px; min-width: 34rem; }
.strip b { color: var(--ink); } .strip small { display: block; }
footer { max-width: 64rem; margin: 3rem auto 0; padding: 1rem 1.25rem 3rem; font-size: .92rem; color: var(--faint); }
@media (max-width: 40rem) { .hero strong { font-size: 3.4rem; } .about { display: none; } .range { min-width: 4rem; } }
@media print { * { print-color-adjust: exact; } nav { display: none; } body { font-size: 10pt; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; } .plot.wide { width: auto; margin: 1rem 0; transform: none; }
  .plot.wide img, .strip img { min-width: 0; } }
"""

_SORT = """
for (const button of document.querySelectorAll(".sortable th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && column === 0);
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => column ? value(a) - value(b) : value(a).localeCompare(value(b));
  body.append(...[...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a)));
};
"""


def write_report(
    path: Path,
    figures: dict[str, Any],
    *,
    matrix: np.ndarray,
    class_names: Sequence[str],
    strips: Sequence[Strip],
) -> None:
    """Write the report of `figures` (X_results.json), confusion counts `matrix` (rows: labels) and the worst videos.

    What users named, classes and files, is escaped.
    """
    parts = [_header(figures, class_names)]
    parts += [
        _figures_table(figures, len(class_names)),
        _confusion(figures, matrix, class_names),
        _classes(figures),
        _calibration(figures),
        _tags(figures),
        _worst(strips),
        _method(figures),
    ]
    head = f"<title>{escape(figures['model'])}: video top-1 {figures['video_top1']:.3f}</title><style>{_STYLE}</style>"
    # the browser, too, is told to fetch nothing
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{head}</head>'
        f"<body>{''.join(parts)}<script>{_SORT}</script></body></html>\n"
    )
    write_text(path, text)


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _plot(figure: Figure, *, alt: str, wide: bool = False) -> str:
    width = round(100 * figure.get_figwidth())  # its 200 pixels an inch stay sharp on finer screens
    image = f'<img src="{_data_uri(plots.to_png(figure), "png")}" alt="{escape(alt)}" width="{width}">'
    return f'<figure class="plot{" wide" * wide} scroll">{image}</figure>'


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _range(value: float, bounds: Sequence[float] | None, *, guess: float | None = None) -> str:
    """A share on a line from 0 to 1, with its interval, and a dashed mark where guessing stands."""
    marks = f'<b style="left:{100 * value:.2f}%"></b>'
    if bounds is not None:
        marks = f'<i style="left:{100 * bounds[0]:.2f}%;width:{100 * (bounds[1] - bounds[0]):.2f}%"></i>{marks}'
    if guess is not None:
        marks += f'<u style="left:{100 * guess:.2f}%"></u>'
    return f'<span class="range" aria-hidden="true">{marks}</span>'


def _table(head: Iterable[str], rows: Iterable[str], *, kind: str = "") -> str:
    return (
        f'<div class="scroll {kind}"><table><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _header(figures: dict[str, Any], class_names: Sequence[str]) -> str:
    bounds = figures["intervals"]["video_top1"]
    sure = "no interval" if bounds is None else f"95 % interval {_interval(bounds)}"
    split = figures["protocol"] or "a folder without split.json"
    if figures["fold"]:
        split += f", fold {figures['fold']}"
    if figures["split_digest"]:
        split += f", digest {figures['split_digest']}"
    clip = figures["clip"]
    rate = f" at {clip['target_fps']:g} frames/s" if clip["target_fps"] else ""
    facts = {
        "model": f"{figures['model']} ({figures['checkpoint']})",
        "split": split,
        "tested on": f"{figures['num_videos']:,} videos from {figures['num_sources']:,} sources, "
        f"{len(class_names)} classes",
        "views": f"{describe_views(figures['views'])}: {count_views(figures)}",
        "a clip": f"{clip['num_frames']} frames of {clip['crop']} × {clip['crop']}, {clip['frame_stride']} apart{rate}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    anchors = {"failures": "Where it fails", "classes": "Classes", "calibration": "Calibration"}
    if figures["by_tag"]:
        anchors["recording"] = "Recording"
    anchors |= {"worst": "Worst videos", "method": "How to read this"}
    links = "".join(f'<a href="#{key}">{text}</a>' for key, text in anchors.items())
    return (
        f"<header><h1>{escape(figures['model'])}</h1><div class=hero><div><span class=faint>video top-1</span>"
        f"<strong>{figures['video_top1']:.3f}</strong><span>{sure}</span>"
        f"{_range(figures['video_top1'], bounds, guess=1 / len(class_names))}</div>"
        f"<div><dl>{listed}<dt>command</dt><dd><code>{escape(figures['command'])}</code></dd></dl></div></div>"
        f"{_warnings(figures)}<nav>{links}</nav></header><main>"
    )


def _warnings(figures: dict[str, Any]) -> str:
    overlap = figures["train_overlap"]
    notes = [figures["interval_note"]] if figures["interval_note"] else []
    if overlap and (overlap["num_videos"] or overlap["num_clips"]):
        note = (
            f"{overlap['num_videos']} test videos come from {overlap['num_sources']} sources that the model trained on"
            if overlap["num_videos"]
            else ""
        )
        if overlap["num_clips"]:
            note += "; " if note else ""
            note += f"the model was trained on {overlap['num_clips']} of the test videos themselves"
        notes.append(f"leak: {note}, so these figures flatter the model" if overlap["is_leak"] else note)
    return "".join(f"<p class=warn>{escape(note[0].upper() + note[1:])}.</p>" for note in notes)


def _figures_table(figures: dict[str, Any], num_classes: int) -> str:
    rows = []
    for key, about in _ABOUT.items():
        if key not in figures:  # of windows, where others were scored
            continue
        name = (FIGURES | WINDOW_FIGURES)[key]
        value, bounds = figures[key], figures["intervals"].get(key)
        guess = 1 / num_classes if key in ("video_top1", "clip_top1", "mean_class_accuracy") else None
        if key == "log_loss":
            about += f" (guessing: {math.log(num_classes):.3f})"
        line = "" if key == "log_loss" else _range(value, bounds, guess=guess)
        rows.append(
            f"<tr><td class=name>{name[0].upper() + name[1:]}</td><td class=n><b>{value:.3f}</b></td>"
            f"<td class=n>{_interval(bounds)}</td>"
            f'<td style="width:22%">{line}</td><td class="about faint">{about}</td></tr>'
        )
    head = ("<th>figure</th>", "<th class=n>value</th>", "<th class=n>95 % interval</th>", "<th>0 … 1</th>")
    return f"<h2>Figures</h2>{_table((*head, '<th class=about></th>'), rows, kind='full')}"


def _confusion(figures: dict[str, Any], matrix: np.ndarray, class_names: Sequence[str]) -> str:
    rows = [
        f"<tr><td>{escape(pair['label'])}</td><td>{escape(pair['prediction'])}</td><td class=n>{pair['count']}</td>"
        f"<td class=n>{pair['share']:.0%}</td></tr>"
        for pair in figures["most_confused"]
    ]
    head = ("<th>label</th>", "<th>taken for</th>", "<th class=n>videos</th>", "<th class=n>of the label's</th>")
    pairs = _table(head, rows) if rows else "<p>No video was taken for another class.</p>"
    figure = plots.draw_confusion(matrix, class_names, title="Share of each label's videos, in percent")
    picture = _plot(figure, alt="confusion matrix", wide=len(class_names) > _MANY_CLASSES)
    return (
        '<h2 id="failures">Where it fails</h2><p class=faint>Most confused pairs, then all of them: a row is a label, '
        f"a column what it was taken for; classes taken for each other stand together.</p>{pairs}{picture}"
    )


def _classes(figures: dict[str, Any]) -> str:
    def cell(value: float | None) -> str:
        return f'<td class=n data-value="{-1 if value is None else value}">{_number(value)}</td>'

    rows = [
        f"<tr><td>{escape(name)}</td>{''.join(cell(row[key]) for key in _PER_CLASS)}"
        f'<td class=n data-value="{row["support"]}">{row["support"]}</td></tr>'
        for name, row in figures["per_class"].items()
    ]
    head = ["<th><button>class</button></th>"]
    head += [f"<th class=n><button>{name}</button></th>" for name in ("recall", "precision", "F1", "videos")]
    figure = plots.plot_per_class(figures["per_class"], mean=figures["mean_class_accuracy"])
    return (
        '<h2 id="classes">Classes</h2><p class=faint>Recall: the share of a class\'s videos that were found. '
        "Precision: the share right among those called so. A click on a column sorts.</p>"
        f"{_plot(figure, alt='recall and precision of each class')}{_table(head, rows, kind='sortable')}"
    )


def _calibration(figures: dict[str, Any]) -> str:
    figure = plots.plot_reliability(figures["reliability"], ece=figures["ece"])
    num_bins = len(figures["reliability"]["counts"])
    return (
        f'<h2 id="calibration">Calibration</h2><div class=sides>{_plot(figure, alt="reliability diagram")}<div><p>Is a '
        "video scored 0.8 right eight times in ten? Bars on the dashed line say yes. Hatching above a bar is "
        "confidence that the accuracy does not bear out; inside it, modesty.</p>"
        f"<p>The calibration error, <b>{figures['ece']:.3f}</b>, is the mean length of the hatching over {num_bins} "
        "bins, each weighted by its videos. Bins of a few videos say little by themselves.</p></div></div>"
    )


def _tags(figures: dict[str, Any]) -> str:
    if not figures["by_tag"]:
        return ""
    num_tagged = figures["num_tagged_videos"]
    return (
        f'<h2 id="recording">Recording</h2><p class=faint>Video top-1 by what the names of {num_tagged:,} videos say '
        "of them. Groups differ in their classes, too: a difference need not be the tag's doing.</p>"
        f"{_plot(plots.plot_by_tag(figures['by_tag'], overall=figures['video_top1']), alt='video top-1 by tag')}"
    )


def _worst(strips: Sequence[Strip]) -> str:
    parts = []
    for strip in strips:
        buffer = io.BytesIO()
        Image.fromarray(strip.picture()).save(buffer, format="JPEG", quality=80)
        verdict = "right" if strip.is_right else "wrong"
        parts.append(
            f'<figure class="strip {verdict}"><figcaption>{verdict}: label <b>{escape(strip.label)}</b> '
            f"{strip.label_score:.0%}, predicted <b>{escape(strip.prediction)}</b> {strip.score:.0%}"
            f"<small>{escape(strip.path)}</small></figcaption>"
            f'<div class=scroll><img src="{_data_uri(buffer.getvalue(), "jpeg")}" alt="frames of {escape(strip.path)}">'
            "</div></figure>"
        )
    return (
        f'<h2 id="worst">Worst videos</h2><p class=faint>The {len(strips)} with the lowest probability of their label, '
        f"wrong ones first; frames from start to end.</p>{''.join(parts)}"
    )


def _method(figures: dict[str, Any]) -> str:
    return (
        '</main><footer id="method"><h2>How to read this</h2><p>The score of a video is the mean of its views\' '
        "probabilities; its prediction is the best class of that mean. Shares are fractions of 1.</p>"
        f"<p>Intervals hold 95 % of {figures['num_resamples']:,} bootstrap resamples <em>by source</em>: whole films "
        "or recordings are drawn with replacement, with all their videos, since clips of one film are not independent. "
        "They tell how far a figure would move with other recordings of this kind, of which there are "
        f"{figures['num_sources']:,} here, not with another training run. Two models on one split are compared by "
        "test_model.py --compare, not by whether their intervals overlap.</p>"
        f"<p>The calibration error has {len(figures['reliability']['counts'])} bins of equal width (Guo et al., ICML "
        "2017). Classes without a test video count in no mean. The dashed mark in the lines from 0 to 1 is guessing."
        "</p></footer>"
    )
