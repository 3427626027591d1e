"""What the page's buttons do."""

import base64
import binascii
import html
import io
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import gradio as gr
import numpy as np
from PIL import Image, UnidentifiedImageError

from video_module.files import write_json
from video_module.inference import timeline
from video_module.inference.overlay import iter_write_annotated, segment_colors
from video_module.inference.predictor import VideoPrediction
from video_module.report.style import to_png
from video_module.report.timeline_plot import draw_timeline
from video_module.web.api import NUM_CLASSES_SHOWN, Service, shown, uploaded_path
from video_module.web.jobs import Job
from video_module.web.limits import MAX_HEIGHT, MAX_WIDTH, Refused, address_of, check_header
from video_module.web.live_tab import CameraWatch, watch_file
from video_module.web.texts import texts_for
from video_module.web.work import LimitedReader, score_within, work_size

_NUM_IN_HEADING = 6
_NARROW_PX = 700

# A parameter whose default is of this type is how a function asks Gradio for a progress bar.
_PROGRESS = gr.Progress()

# Of the timeline's letters: readable on white and on black, since the picture does not know the visitor's theme.
_INK = "#7d8590"

# A handler can be cancelled only where it yields; while it draws a video, it yields this often.
_NUM_PAUSES = 50

# How often those who wait are told how long.
_SHOW_EVERY_S = 0.3

_JPEG_QUALITY = 80

# Cameras that are watched or were lately; each keeps the frames of a clip.
_MAX_CAMERAS = 100


class Handlers:
    """The functions behind the page. They get what the browser sends, as it is: what is wrong with it, they refuse.

    Those that take long are generators: Gradio stops them between two steps when the visitor cancels or goes away.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._storage, self._limits = service, service.storage, service.limits
        self._camera_scorers = ThreadPoolExecutor(self._limits.num_at_once)
        # By visitor, the one that was watched last at the end.
        self._cameras: OrderedDict[str, CameraWatch] = OrderedDict()

    def recognise(
        self, video: Any, model: Any, width_px: Any, request: gr.Request, progress=_PROGRESS
    ) -> Iterator[tuple[Any, ...]]:
        """Yields (order, best classes, annotated video, timeline, files) at the end, and clears an earlier answer."""
        yield ("", None, "", "", "")
        # The place that is kept for this visitor is taken first of all.
        with in_visitors_language(request) as texts, self._service.jobs.join(address_of(request)) as job:
            path = uploaded_path(video)
            with self._storage.using(path):
                bar = _ProgressBar(progress, texts)
                prediction = yield from self._predict(path, model, job, bar)
                segments = timeline.find_segments(prediction, self._service.config)
                folder = self._storage.new_folder()
                try:
                    with self._storage.using(folder):
                        files = yield from self._write_files(folder, prediction, segments, model, job, bar, texts)
                except BaseException:
                    # A cancelled handler ends by GeneratorExit, which is not an Exception.
                    self._storage.drop(folder)
                    raise
                job.is_done = True
            self._storage.own(files[0], session=_session(request), slot="result")
            best = {item["label"]: item["score"] for item in prediction.top_k(NUM_CLASSES_SHOWN)}
            picture = _timeline_html(prediction, segments, texts, is_narrow=_number(width_px) < _NARROW_PX)
            order = _order_html(segments, texts) + _notes_html(prediction, texts)
            yield order, best, _video_html(files[0]), picture, _links_html(files, texts)

    def watch(self, video: Any, model: Any, skip: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Yields (picture, label) as the video goes on."""
        with in_visitors_language(request) as texts:
            path = uploaded_path(video)
            with self._storage.using(path):
                moments = watch_file(
                    path,
                    self._service.model(model),
                    info=check_header(path, self._limits),
                    skip=max(1, min(100, int(_number(skip)))),
                    config=self._service.config,
                    limits=self._limits,
                    texts=texts,
                )
                for frame, label, score in moments:
                    yield _picture(frame), _label_html(label, score, texts)

    def watch_camera(self, picture: Any, model: Any, request: gr.Request) -> tuple[Any, ...]:
        """Returns (picture, label) for a frame of the visitor's camera."""
        with in_visitors_language(request) as texts:
            if picture is None:
                return gr.skip(), gr.skip()
            frame, predictor = read_picture(picture), self._service.model(model)
            watch = self._cameras.pop(_session(request), None)
            if watch is None or watch.model != model:
                watch = CameraWatch(model, predictor, self._service.config, scorers=self._camera_scorers)
            while len(self._cameras) >= _MAX_CAMERAS:
                self._cameras.popitem(last=False)
            self._cameras[_session(request)] = watch
            drawn, label, score = watch.push(frame, time.monotonic(), texts)
            return _picture(drawn), _label_html(label, score, texts)

    def known_actions(self, model: Any) -> str:
        """The classes of a model, as HTML."""
        try:
            return ", ".join(html.escape(name) for name in self._service.model(model).class_names)
        except Refused:
            return ""

    def keep_in(self, slot: str) -> Callable[[Any, gr.Request], None]:
        """A function that notes whose upload this is; the earlier one of the same slot is deleted."""

        def keep(video: Any, request: gr.Request) -> None:
            if isinstance(video, dict) and self._storage.find(str(video.get("path"))):
                self._storage.own(video["path"], session=_session(request), slot=slot)

        return keep

    def forget(self, request: gr.Request) -> None:
        """The visitor has left the page."""
        self._storage.drop_session(_session(request))
        self._cameras.pop(_session(request), None)

    def _predict(self, path: str, model: Any, job: Job, bar: "_ProgressBar") -> Iterator[Any]:
        predictor, info = self._service.model(model), check_header(path, self._limits)
        job.size = work_size(info)
        while not job.start_within(_SHOW_EVERY_S):
            bar.show_waiting(job.num_before, job.wait_s)
            yield _no_updates()
        windows, reader = [], LimitedReader(path, self._limits, check=lambda: job.check(self._limits))
        for scored, done, total in score_within(predictor, reader, info):
            windows += scored
            bar.show("scoring", done, total)
            yield _no_updates()
        return predictor.prediction_of(reader, windows)

    def _write_files(
        self,
        folder: Path,
        prediction: VideoPrediction,
        segments: list[timeline.Segment],
        model: Any,
        job: Job,
        bar: "_ProgressBar",
        texts: dict[str, str],
    ) -> Iterator[Any]:
        """Write the annotated video and what can be downloaded beside it; returns the paths, the video's first."""
        stem = prediction.path.stem
        paths = [folder / f"{stem}{suffix}" for suffix in ("_annotated.mp4", ".json", ".csv", ".vtt")]
        pause = max(1, prediction.num_frames // _NUM_PAUSES)
        for done in iter_write_annotated(paths[0], prediction, segments, uncertain=texts["uncertain"]):
            job.check(self._limits)
            if done % pause == 0:
                bar.show("drawing", done, prediction.num_frames)
                yield _no_updates()
        # The answer names the visitor's file, not where it lies on the server.
        named = replace(prediction, path=Path(prediction.path.name))
        architecture, config = self._service.model(model).model, self._service.config
        write_json(paths[1], timeline.to_json(named, segments, model=architecture, k=NUM_CLASSES_SHOWN, config=config))
        timeline.write_csv(paths[2], prediction)
        timeline.write_vtt(paths[3], segments)
        return paths


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


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


def _timeline_html(
    prediction: VideoPrediction, segments: list[timeline.Segment], texts: dict[str, str], *, is_narrow: bool
) -> str:
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
    return f'<img src="data:image/png;base64,{png}" alt="{html.escape(texts["timeline"])}">'


def _address(path: Path) -> str:
    # From the page, wherever a proxy has put that.
    return html.escape(f"gradio_api/file={quote(str(path))}")


def _video_html(path: Path) -> str:
    # Not muted, though it has no sound: browsers start muted ones only where they can be seen.
    return f'<video src="{_address(path)}" controls autoplay loop playsinline></video>'


def _links_html(paths: list[Path], texts: dict[str, str]) -> str:
    links = "".join(
        f'<li><a href="{_address(path)}" download="{html.escape(path.name)}">{html.escape(path.name)}</a></li>'
        for path in paths
    )
    return f"<h4>{html.escape(texts['downloads'])}</h4><ul>{links}</ul>"


@contextmanager
def in_visitors_language(request: gr.Request) -> Iterator[dict[str, str]]:
    """Give the texts in the visitor's language; show a Refused that is raised inside as a message."""
    try:
        yield texts_for(request.headers.get("accept-language"))
    except Refused as refusal:
        raise shown(refusal, request) from None


def read_picture(picture: Any) -> np.ndarray:
    """A frame as the page sends it, uint8 RGB (H, W, 3). Raises Refused if it is none."""
    try:
        header, _, data = picture["url"].partition(",")
        if not header.startswith("data:image/"):
            raise ValueError(header)
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        # By the header, before anything is decoded: 75 kB of PNG can hold 75 MB of pixels.
        if max(image.size) > MAX_WIDTH or min(image.size) > MAX_HEIGHT:
            raise ValueError(image.size)
        return np.asarray(image.convert("RGB"))
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, UnidentifiedImageError, OSError):
        raise Refused("bad_picture") from None


def _picture(frame: np.ndarray) -> dict[str, str]:
    """A frame that travels to the page inside the message: no file is written for it."""
    jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()}


class _ProgressBar:
    """Moves the page's progress bar, and estimates the time left."""

    def __init__(self, progress: gr.Progress, texts: dict[str, str]) -> None:
        self._progress, self._texts = progress, texts
        self._what, self._begin, self._first = "", 0.0, 0

    def show_waiting(self, num_before: int, seconds: float) -> None:
        text = self._texts["waiting"].format(num_before=num_before, seconds=math.ceil(seconds))
        self._progress(0.0, desc=text)

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
