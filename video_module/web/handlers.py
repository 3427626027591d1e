"""The functions behind the page's buttons."""

import base64
import html
import io
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import cv2
import gradio as gr
import numpy as np
from PIL import Image

from video_module.web.answers import SHOW_EVERY_S, status_html, work_on
from video_module.web.api import Service, uploaded_path
from video_module.web.examples import Example, Examples
from video_module.web.limits import MAX_HEIGHT, MAX_WIDTH, Refused, address_of, check_header
from video_module.web.live_tab import CameraWatch, watch_file
from video_module.web.texts import texts_for
from video_module.web.under_way import UnderWay

SPEEDS = (1, 2, 5, 10)
"""Playback speeds of the live tab."""

_JPEG_QUALITY = 80

# What browsers can send from a camera.
_PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")

# Number of cameras to remember. Each one keeps the frames of a clip in memory.
_MAX_CAMERAS = 100

# Number of cameras that share one of the threads that score clips. With more, labels would come too late.
_CAMERAS_EACH = 4
_GONE_S = 3.0

# Updates that disable and enable a button.
_OFF, _ON = gr.update(interactive=False), gr.update(interactive=True)


class Handlers:
    """The functions behind the page. Their arguments come straight from the browser and are checked here.

    Functions that take long are generators. If something is refused, the page shows a message until the next file is
    chosen, and keeps the previous result.
    """

    def __init__(self, service: Service, examples: Examples) -> None:
        self._service, self._storage, self._limits = service, service.storage, service.limits
        self._examples = examples
        self._under_way = UnderWay()
        self._camera_scorers = ThreadPoolExecutor(self._limits.num_at_once)
        # By session, in order of last use.
        self._cameras: OrderedDict[str, CameraWatch] = OrderedDict()

    def first_view(self, is_restored: Any, model: Any, request: gr.Request) -> Iterator[Any]:
        """Yields the result that visitors see first: that of the first example."""
        texts = _texts(request)
        examples = self._examples.of(model if isinstance(model, str) else "")
        if is_restored:
            yield gr.skip()
            return

        def steps() -> Generator[Any, None, str]:
            is_told = False
            while examples:
                # Read before the result, which may be finished in between.
                is_preparing = self._examples.is_preparing
                if (found := self._examples.known_answer(model, examples[0], texts["language"])) is not None:
                    return found
                if not is_preparing:
                    break
                yield gr.skip() if is_told else _empty_html(texts["preparing"])
                is_told = True
                time.sleep(SHOW_EVERY_S)
            return _empty_html(texts["empty"])

        with self._under_way.begin((_session(request), "video"), steps()) as work:
            try:
                while True:
                    yield work.advance()
            except StopIteration as end:
                yield gr.skip() if end.value is None else end.value

    def recognise(self, video: Any, model: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Yields (status, result, cancel button, start button)."""

        def work() -> Generator[str, None, str]:
            # This comes first, because the gate has reserved a place in the queue for this request.
            with self._service.jobs.join(address_of(request)) as job:
                path = uploaded_path(video)
                with self._storage.using(path):
                    folder, language = self._storage.new_folder(address=job.visitor), _texts(request)["language"]
                    try:
                        with self._storage.using(folder):
                            found = yield from work_on(
                                self._service, path, job=job, model=model, language=language, folder=folder
                            )
                    except BaseException:
                        # A cancelled generator ends with GeneratorExit, which is not an Exception.
                        self._storage.drop(folder)
                        raise
                    self._storage.own(folder / "answer", session=_session(request), slot="result")
                    return found

        # A second click would start again at the end of the queue.
        start = _OFF
        with closing(self._follow("video", _with_answer(work()), request, num_shown=1)) as shown:
            for step in shown:
                yield *step, start
                # The visitor may choose another file meanwhile, which enables the button.
                start = gr.skip()

    def may_start(self, video: Any) -> Any:
        """Returns the start button, enabled if there is a video."""
        return _ON if isinstance(video, dict) else _OFF

    def show_example(self, model: Any, request: gr.Request, event: gr.EventData) -> Iterator[tuple[Any, ...]]:
        """Yields (status, result, cancel button) for the example that was clicked."""

        def work() -> Generator[str, None, str]:
            example, language = self._clicked(model, event), _texts(request)["language"]
            if example is None:
                raise Refused("bad_request")
            return (yield from self._examples.answer(model, example, language=language, visitor=address_of(request)))

        yield from self._follow("video", _with_answer(work()), request, num_shown=1)

    def _follow(
        self, tab: str, steps: Generator[tuple[Any, ...], None, tuple[Any, ...]], request: gr.Request, *, num_shown: int
    ) -> Iterator[tuple[Any, ...]]:
        """Run `steps` for a visitor's tab, replacing whatever runs there.

        `steps` yields and returns a status and `num_shown` values. The cancel button is added to them.
        """
        texts, same = _texts(request), (gr.skip(),) * num_shown
        with self._under_way.begin((_session(request), tab), steps) as work:
            try:
                while True:
                    yield *work.advance(), _ON
            except StopIteration as end:
                # In the words of the tab's button.
                ended = texts["stopped"] if tab == "live" else texts["cancelled"]
                last = end.value or (status_html(ended), *same)
            except Refused as refusal:
                last = _alert_html(refusal.text(texts)), *same
            if not work.is_replaced:
                yield *last, _OFF

    def cancel(self, tab: str) -> Callable[..., Any]:
        """A function that cancels the work in a visitor's tab. It returns the cancel button."""

        def cancel(request: gr.Request) -> Any:
            self._under_way.cancel((_session(request), tab))
            return _OFF

        return cancel

    def take(self, slot: str) -> Callable[..., tuple[Any, ...]]:
        """A function that checks a new upload and records its owner. The previous upload in the same slot is deleted.

        It returns (status, start button). A message about a file stays when the file is removed again.
        """

        def take(video: Any, request: gr.Request) -> tuple[Any, ...]:
            if not isinstance(video, dict):
                return gr.skip(), _OFF
            try:
                path = uploaded_path(video)
                if self._storage.find(path):
                    self._storage.own(path, session=_session(request), slot=slot)
                check_header(path, self._limits)
            except Refused as refusal:
                return _alert_html(refusal.text(_texts(request))), _OFF
            return "", _ON

        return take

    def watch(self, video: Any, model: Any, speed: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Yields (status, picture, label, stop button) while the video plays."""
        texts, same = _texts(request), (gr.skip(), gr.skip())

        def steps() -> Generator[tuple[Any, ...], None, tuple[Any, ...]]:
            path = uploaded_path(video)
            with self._storage.using(path), self._service.live_jobs.join(address_of(request)) as job:
                predictor, info = self._service.model(model), check_header(path, self._limits)
                while not job.start_within(SHOW_EVERY_S):
                    yield status_html(texts["waiting_live"].format(num_before=job.num_before)), *same
                moments = watch_file(
                    path,
                    predictor,
                    info=info,
                    speed=speed if speed in SPEEDS else SPEEDS[0],
                    config=self._service.config,
                    limits=self._limits,
                    name_of=self._service.name_of(texts["language"]),
                    check=lambda: job.check_live(self._limits),
                )
                for frame, label, score in moments:
                    yield "", self._picture(frame, request), _label_html(label, score, texts)
            return status_html(texts["live_end"]), *same

        yield from self._follow("live", steps(), request, num_shown=2)

    def watch_camera(self, picture: Any, model: Any, request: gr.Request) -> tuple[Any, ...]:
        """Returns (status, picture, label) for a frame of the visitor's camera."""
        texts = _texts(request)
        if picture is None:
            return (gr.skip(),) * 3
        try:
            frame, predictor = read_picture(picture), self._service.model(model)
        except Refused as refusal:
            return _alert_html(refusal.text(texts)), gr.skip(), gr.skip()
        now, watch = time.monotonic(), self._cameras.pop(_session(request), None)
        others = sum(other.last_s > now - _GONE_S for other in self._cameras.values())
        if watch is None and others >= _CAMERAS_EACH * self._limits.num_at_once:
            return status_html(texts["waiting_live"].format(num_before=others)), gr.skip(), gr.skip()
        if watch is None or watch.model != model:
            # A file that plays would show its pictures in the same place.
            self._under_way.cancel((_session(request), "live"))
            watch = CameraWatch(model, predictor, self._service.config, scorers=self._camera_scorers)
        while len(self._cameras) >= _MAX_CAMERAS:
            self._cameras.popitem(last=False)
        self._cameras[_session(request)] = watch
        drawn, label, score = watch.push(frame, now, self._service.name_of(texts["language"]))
        # Gradio ends a stream without a message.
        is_over = now > watch.begun_s + self._limits.max_seconds - 1
        status = status_html(texts["live_over"].format(max_seconds=self._limits.max_seconds)) if is_over else ""
        return status, self._picture(drawn, request), _label_html(label, score, texts)

    def _picture(self, frame: np.ndarray, request: gr.Request) -> Any:
        """A frame as a data URL, so that no file is written for it; nothing if the browser is too slow."""
        jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        address = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        return {"url": address} if self._service.backlog.add(_session(request), len(address)) else gr.skip()

    def choose_example(self, model: Any, request: gr.Request, event: gr.EventData) -> Any:
        """Returns the clicked example as a file for the live tab."""
        example = self._clicked(model, event)
        if example is None:
            return gr.skip()
        path = example.path
        meta = {"_type": "gradio.FileData"}
        return {"path": str(path), "orig_name": path.name, "size": path.stat().st_size, "meta": meta}

    def _clicked(self, model: Any, event: gr.EventData) -> Example | None:
        examples = self._examples.of(model if isinstance(model, str) else "")
        try:
            number = event.number
        except (AttributeError, TypeError):  # no event, or one of another kind
            return None
        return examples[number] if type(number) is int and number in range(len(examples)) else None

    def choose_model(self, model: Any, request: gr.Request) -> tuple[str, str, str]:
        """Returns (class names, examples, examples of the live tab) of a model as HTML."""
        language = _texts(request)["language"]
        try:
            class_names, name_of = self._service.model(model).class_names, self._service.name_of(language)
        except Refused:
            return "", "", ""
        boxes = self._examples.boxes(model, language)
        return ", ".join(html.escape(name_of(name)) for name in class_names), boxes, boxes

    def forget(self, request: gr.Request) -> None:
        """Called when a visitor leaves the page or loses the connection."""
        for tab in ("video", "live"):
            self._under_way.cancel((_session(request), tab))
        self._storage.leave(_session(request))
        self._cameras.pop(_session(request), None)


def _session(request: gr.Request) -> str:
    return str(request.session_hash)


def _texts(request: gr.Request) -> dict[str, str]:
    return texts_for(request.headers.get("accept-language"))


def _with_answer(work: Generator[str, None, str]) -> Generator[tuple[Any, ...], None, tuple[Any, ...]]:
    """Turn the statuses that `work` yields, and the result that it returns, into pairs (status, result)."""
    with closing(work):
        try:
            while True:
                yield next(work), gr.skip()
        except StopIteration as end:
            return "", end.value


def _empty_html(text: str) -> str:
    return f'<p class="empty">{html.escape(text)}</p>'


def _alert_html(text: str) -> str:
    return f'<div class="alert" role="alert">{html.escape(text)}</div>'


def read_picture(picture: Any) -> np.ndarray:
    """Decode a camera frame sent by the page, uint8 RGB (H, W, 3). Raises Refused."""
    try:
        header, _, data = picture["url"].partition(",")
        if not header.startswith("data:image/"):
            raise ValueError(header)
        # Pillow reads many more formats, one of them (EPS) by running Ghostscript.
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=_PICTURE_FORMATS)
        # Checked before decoding: a PNG of 75 kB can hold 75 MB of pixels.
        if max(image.size) > MAX_WIDTH or min(image.size) > MAX_HEIGHT:
            raise ValueError(image.size)
        return np.asarray(image.convert("RGB"))
    # Damaged data makes Pillow raise almost anything, such as SyntaxError or DecompressionBombError.
    except Exception:
        raise Refused("bad_picture") from None


def _label_html(label: str | None, score: float, texts: dict[str, str]) -> str:
    text = texts["no_label_yet"] if label is None else f"{html.escape(label)} <span>{score:.0%}</span>"
    return f'<div class="now">{text}</div>'
