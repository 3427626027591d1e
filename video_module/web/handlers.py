"""What the page's buttons do."""

import base64
import html
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from video_module.config import TimelineConfig
from video_module.data.decoding import VideoReader
from video_module.files import write_json
from video_module.inference import timeline
from video_module.inference.overlay import iter_write_annotated, segment_colors
from video_module.inference.predictor import Predictor, VideoPrediction
from video_module.report.style import to_png
from video_module.report.timeline_plot import draw_timeline
from video_module.web.limits import Limits, Refused, check_header, score_within
from video_module.web.live_tab import CameraWatch, watch_file
from video_module.web.storage import Storage
from video_module.web.texts import texts_for

NUM_CLASSES_SHOWN = 5
_NUM_IN_HEADING = 6
_NARROW_PX = 700

# A parameter whose default is of this type is how a function asks Gradio for a progress bar.
_PROGRESS = gr.Progress()

# Of the timeline's letters: readable on white and on black, since the picture does not know the visitor's theme.
_INK = "#7d8590"

# A handler can be cancelled only where it yields; while it draws a video, it yields this often.
_NUM_PAUSES = 50


class Handlers:
    """The functions behind the page. Models go by the names that the visitor sees.

    Those that take long are generators: Gradio stops them between two steps when the visitor cancels or goes away.
    """

    def __init__(
        self, predictors: dict[str, Predictor], *, storage: Storage, limits: Limits, config: TimelineConfig
    ) -> None:
        self.predictors, self.storage, self.limits, self.config = predictors, storage, limits, config
        self._camera_scorers = ThreadPoolExecutor(limits.num_at_once)

    def recognise(
        self, video: str | None, model: str, width_px: float | None, request: gr.Request, progress=_PROGRESS
    ) -> Iterator[tuple[Any, ...]]:
        """Yields (order, best classes, annotated video, timeline, files) at the end, and clears an earlier answer."""
        yield (None,) * 5
        with in_visitors_language(request) as texts, self.storage.using(video or ""):
            bar = _ProgressBar(progress, texts)
            prediction = yield from self._predict(video, model, bar)
            segments = timeline.find_segments(prediction, self.config)
            folder = self.storage.new_folder()
            try:
                with self.storage.using(folder):
                    files = yield from self._write_files(folder, prediction, segments, model, bar, texts)
            except BaseException:
                # A cancelled handler ends by GeneratorExit, which is not an Exception.
                self.storage.drop(folder)
                raise
            self.storage.own(files[0], session=request.session_hash, slot="result")
            best = {item["label"]: item["score"] for item in prediction.top_k(NUM_CLASSES_SHOWN)}
            picture = _draw_timeline(prediction, segments, texts, is_narrow=(width_px or 0) < _NARROW_PX)
            yield _order_html(segments, texts) + _notes_html(prediction, texts), best, files[0], picture, files

    def watch(self, video: str | None, model: str, skip: float, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Yields (frame, label) as the video goes on."""
        with in_visitors_language(request) as texts, self.storage.using(video or ""):
            info = check_header(uploaded_path(video), self.limits)
            moments = watch_file(
                video,
                self.predictors[model],
                info=info,
                skip=max(1, int(skip)),
                config=self.config,
                limits=self.limits,
                texts=texts,
            )
            for frame, label, score in moments:
                yield frame, _label_html(label, score, texts)

    def watch_camera(
        self, frame: np.ndarray | Refused | None, model: str, watch: CameraWatch | None, request: gr.Request
    ) -> tuple[Any, ...]:
        """Returns (frame, label, state of this camera)."""
        with in_visitors_language(request) as texts:
            if isinstance(frame, Refused):
                raise frame
            if frame is None:
                return gr.skip(), gr.skip(), watch
            if watch is None or watch.model != model:
                watch = CameraWatch(model, self.predictors[model], self.config, scorers=self._camera_scorers)
            picture, label, score = watch.push(frame, time.monotonic(), texts)
            return picture, _label_html(label, score, texts), watch

    def keep_in(self, slot: str) -> Callable[[str | None, gr.Request], None]:
        """A function that notes whose upload this is; the earlier one of the same slot is deleted."""

        def keep(path: str | None, request: gr.Request) -> None:
            if path:
                self.storage.own(path, session=request.session_hash, slot=slot)

        return keep

    def forget(self, request: gr.Request) -> None:
        """The visitor has left the page."""
        self.storage.drop_session(request.session_hash)

    def _predict(self, video: str | None, model: str, bar: "_ProgressBar") -> Iterator[Any]:
        info = check_header(uploaded_path(video), self.limits)
        predictor = self.predictors[model]
        windows, reader = [], VideoReader(video)
        for scored, done, total in score_within(predictor, reader, info, self.limits):
            windows += scored
            bar.show("scoring", done, total)
            yield _no_updates()
        return predictor.prediction_of(reader, windows)

    def _write_files(
        self,
        folder: Path,
        prediction: VideoPrediction,
        segments: list[timeline.Segment],
        model: str,
        bar: "_ProgressBar",
        texts: dict[str, str],
    ) -> Iterator[Any]:
        """Write the annotated video and what can be downloaded beside it; returns the paths, the video's first."""
        stem = prediction.path.stem
        paths = [folder / f"{stem}{suffix}" for suffix in ("_annotated.mp4", ".json", ".csv", ".vtt")]
        pause = max(1, prediction.num_frames // _NUM_PAUSES)
        for done in iter_write_annotated(paths[0], prediction, segments, uncertain=texts["uncertain"]):
            if done % pause == 0:
                bar.show("drawing", done, prediction.num_frames)
                yield _no_updates()
        # The answer names the visitor's file, not where it lies on the server.
        named = replace(prediction, path=Path(prediction.path.name))
        architecture = self.predictors[model].model
        write_json(
            paths[1], timeline.to_json(named, segments, model=architecture, k=NUM_CLASSES_SHOWN, config=self.config)
        )
        timeline.write_csv(paths[2], prediction)
        timeline.write_vtt(paths[3], segments)
        return [str(path) for path in paths]


def _order_html(segments: list[timeline.Segment], texts: dict[str, str]) -> str:
    """What happens, one after the other."""
    order = timeline.label_order(segments)
    more = ["…"] if len(order) > _NUM_IN_HEADING else []
    text = " → ".join(order[:_NUM_IN_HEADING] + more) or texts["uncertain"]
    return f'<div class="order" role="status">{html.escape(text)}</div>'


def _notes_html(prediction: VideoPrediction, texts: dict[str, str]) -> str:
    """What the visitor should know of the file."""
    notes = []
    if prediction.num_damaged_frames:
        notes.append(texts["damaged"].format(num_frames=prediction.num_damaged_frames))
    if not prediction.has_times:
        notes.append(texts["no_times"].format(fps=prediction.fps))
    return "".join(f"<p>{note}</p>" for note in notes)


def _draw_timeline(
    prediction: VideoPrediction, segments: list[timeline.Segment], texts: dict[str, str], *, is_narrow: bool
) -> PlotData:
    def name(label: str) -> str:
        return timeline.shown_label(label, texts["uncertain"])

    figure = draw_timeline(
        [(s.start_s, s.end_s, name(s.label), s.score) for s in segments],
        duration_s=prediction.duration_s,
        colors={name(label): color for label, color in segment_colors(prediction.class_names).items()},
        title=texts["timeline"],
        xlabel=texts["time_axis"],
        ylabel=texts["score_axis"],
        # In inches, about as wide as the picture is shown; scaled down, its letters would shrink.
        width=4.2 if is_narrow else 5.2,
        ink=_INK,
    )
    png = base64.b64encode(to_png(figure, transparent=True)).decode()
    return PlotData(type="matplotlib", plot=f"data:image/png;base64,{png}")


@contextmanager
def in_visitors_language(request: gr.Request) -> Iterator[dict[str, str]]:
    """Give the texts in the visitor's language; show a Refused that is raised inside as a message."""
    texts = texts_for(request.headers.get("accept-language"))
    try:
        yield texts
    except Refused as refusal:
        raise gr.Error(refusal.text(texts), title=texts["error_title"], print_exception=False) from None


def uploaded_path(video: str | None) -> str:
    """The path of an upload. Raises Refused if there is none, or a link instead."""
    if not video:
        raise Refused("no_video")
    if video.startswith(("http:", "https:")):
        raise Refused("no_links")
    return video


class _ProgressBar:
    """Moves the page's progress bar, and estimates the time left."""

    def __init__(self, progress: gr.Progress, texts: dict[str, str]) -> None:
        self._progress, self._texts = progress, texts
        self._what, self._begin, self._first = "", 0.0, 0

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._begin, self._first = what, now, done
        text = self._texts[what]
        if done > self._first and now - self._begin > 0.5:
            left_s = (now - self._begin) / (done - self._first) * (total - done)
            text = self._texts["seconds_left"].format(what=text, seconds=math.ceil(left_s))
        self._progress(done / max(1, total), desc=text)


def _no_updates() -> tuple[Any, ...]:
    return (gr.skip(),) * 5


def _label_html(label: str | None, score: float, texts: dict[str, str]) -> str:
    text = texts["no_label_yet"] if label is None else f"{html.escape(label)} <span>{score:.0%}</span>"
    return f'<div class="now" role="status">{text}</div>'
