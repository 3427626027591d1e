"""The API for programs: upload a video, get JSON, over plain HTTP or with gradio_client."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from typing_extensions import TypedDict

from video_module.config import TimelineConfig
from video_module.inference import timeline
from video_module.inference.predictor import Predictor, VideoPrediction
from video_module.web.backlog import Backlog
from video_module.web.gate import RETRY_AFTER_S
from video_module.web.jobs import POLL_S, Job, Jobs
from video_module.web.limits import Limits, Refused, address_of, check_header
from video_module.web.storage import Storage
from video_module.web.texts import TEXTS, texts_for
from video_module.web.uploads import Uploads
from video_module.web.work import LimitedReader, score_within, work_size

NameOf = Callable[[str], str]
"""Maps a label to its name in the visitor's language."""

NUM_CLASSES_SHOWN = 5
INPUTS = ("video", "model", "top_k")
"""The parameters of the endpoints for gradio_client."""


class Score(TypedDict):
    label: str
    score: float


class Video(TypedDict):
    video: str
    model: str
    fps: float
    num_frames: int
    num_damaged_frames: int
    duration_s: float


class Prediction(Video):
    top_k: list[Score]


class Stretch(TypedDict):
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float


class Window(Stretch):
    top_k: list[Score]


class Segment(Window):
    label: str
    is_uncertain: bool
    score: float


class Smoothing(TypedDict):
    smooth_s: float
    min_score: float
    hysteresis: float


class Timeline(Prediction):
    timeline: Smoothing
    segments: list[Segment]
    windows: list[Window]


class Status(TypedDict):
    models: list[str]
    waiting: int
    is_full: bool


class Problem(TypedDict):
    detail: str


@dataclass(frozen=True, kw_only=True)
class Service:
    """The models, storage, queue and settings that the API and the page share."""

    predictors: dict[str, Predictor]
    """Models by the name that visitors see. The first is the default."""
    storage: Storage
    jobs: Jobs
    live_jobs: Jobs
    """The queue for files in the live tab."""
    limits: Limits
    config: TimelineConfig
    backlog: Backlog = field(default_factory=Backlog)
    translated: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Translated class names by language. Classes without a translation keep their names."""

    def name_of(self, language: str) -> NameOf:
        names, uncertain = self.translated.get(language, {}), TEXTS[language]["uncertain"]
        return lambda label: uncertain if label == timeline.UNCERTAIN else names.get(label, label)

    def model(self, name: Any) -> Predictor:
        """The model of this name; the first model if `name` is empty. Raises Refused."""
        name = name or next(iter(self.predictors))
        if not isinstance(name, str) or name not in self.predictors:
            raise Refused("unknown_model", models=", ".join(self.predictors))
        return self.predictors[name]

    async def timeline_of(
        self, video: Any, *, model: Any, top_k: Any, visitor: str, is_gone: Callable[[], Awaitable[bool]]
    ) -> dict[str, Any]:
        """Recognise an upload and delete it. Returns the content of timeline.to_json(). Raises Refused."""
        # This comes first, because the gate has reserved a place in the queue for this request.
        with self.jobs.join(visitor) as job:
            path = uploaded_path(video)
            with self.storage.using(path):
                try:
                    predictor, k = self.model(model), _count(top_k)
                    prediction = await self._recognise(path, predictor, job, is_gone)
                finally:
                    self.storage.drop(path)
        segments = timeline.find_segments(prediction, self.config)
        return timeline.to_json(prediction, segments, model=predictor.model, k=k, config=self.config)

    async def _recognise(
        self, path: str, predictor: Predictor, job: Job, is_gone: Callable[[], Awaitable[bool]]
    ) -> VideoPrediction:
        info = await run_in_threadpool(check_header, path, self.limits)
        job.size, job.kind = work_size(info), f"scores, {predictor.summary()}"
        while not job.start():
            if await is_gone():
                raise Refused("closing")
            await asyncio.sleep(POLL_S)

        def work() -> VideoPrediction:
            reader = LimitedReader(path, self.limits, check=lambda: job.check(self.limits))
            windows = [window for scored, _, _ in score_within(predictor, reader, info) for window in scored]
            job.is_done = True
            # Visitors see the name of their file, not its path on the server.
            return replace(predictor.prediction_of(reader, windows), path=Path(Path(path).name))

        async def watch() -> None:
            while not job.is_done:
                job.is_stopped = job.is_stopped or await is_gone()
                await asyncio.sleep(POLL_S)

        watcher = asyncio.create_task(watch())
        try:
            return await run_in_threadpool(work)
        finally:
            watcher.cancel()


def uploaded_path(video: Any) -> str:
    """The path in a file description by Gradio or its clients. Raises Refused if there is none."""
    path = video.get("path") if isinstance(video, dict) else None
    if not isinstance(path, str) or not path:
        raise Refused("no_video")
    return path


def _count(top_k: Any) -> int:
    if top_k in (None, ""):
        return NUM_CLASSES_SHOWN
    try:
        count = float(top_k)
    except (TypeError, ValueError):
        raise Refused("bad_number") from None
    if not (math.isfinite(count) and count >= 1 and count == int(count)):
        raise Refused("bad_number")
    return int(count)


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "video file"},
                        "model": {"type": "string", "description": "name of the model (default: the first)"},
                        "top_k": {
                            "type": "integer",
                            "minimum": 1,
                            "default": NUM_CLASSES_SHOWN,
                            "description": "number of classes to return, best first",
                        },
                    },
                    "required": ["file"],
                }
            }
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request is not valid."},
    401: {"model": Problem, "description": "A password is required: `curl -u name:password`."},
    413: {"model": Problem, "description": "The file is too large."},
    415: {"model": Problem, "description": "The file name does not have a video suffix."},
    422: {"model": Problem, "description": "The file cannot be read as a video, or exceeds a limit."},
    503: {"model": Problem, "description": f"The server is busy. Try again after `Retry-After` ({RETRY_AFTER_S} s)."},
    507: {"model": Problem, "description": "The server has no space for more files right now."},
}
_PREDICT = "Return the best classes of a video, averaged over its windows."
_SEGMENTS = "Return the labelled segments of a video, and the scores of each window."


def routes(service: Service, uploads: Uploads) -> APIRouter:
    """Create /api/predict, /api/segments and /api/status."""
    router = APIRouter(prefix="/api")

    async def answer(request: Request) -> dict[str, Any]:
        if service.jobs.is_full:  # before the upload is read
            raise Refused("busy", waiting=service.limits.queue_size)
        upload = await uploads.receive(request, field_name="file")
        try:
            if unknown := sorted(upload.fields.keys() - {"model", "top_k"}):
                raise Refused("unknown_field", field=unknown[0])
            return await service.timeline_of(
                {"path": str(upload.path)},
                model=upload.fields.get("model"),
                top_k=upload.fields.get("top_k"),
                visitor=address_of(request),
                is_gone=request.is_disconnected,
            )
        finally:
            service.storage.drop(upload.path)

    @router.post("/predict", summary=_PREDICT, openapi_extra=_FORM, responses=_PROBLEMS)
    async def predict(request: Request) -> Prediction:
        return await answer(request)

    @router.post("/segments", summary=_SEGMENTS, openapi_extra=_FORM, responses=_PROBLEMS)
    async def segments(request: Request) -> Timeline:
        return await answer(request)

    @router.get("/status", summary="Return the names of the models and the number of waiting videos.")
    async def status() -> Status:
        jobs = service.jobs
        return {"models": list(service.predictors), "waiting": jobs.num_waiting, "is_full": jobs.is_full}

    return router


def add_endpoints(service: Service) -> None:
    """Add /predict and /segments for gradio_client to the page under construction."""
    first = next(iter(service.predictors))

    async def segments(
        video: gr.FileData, request: gr.Request, model: str = first, top_k: int = NUM_CLASSES_SHOWN
    ) -> Timeline:
        async def stays() -> bool:
            return False

        try:
            return await service.timeline_of(
                video, model=model, top_k=top_k, visitor=address_of(request), is_gone=stays
            )
        except Refused as refusal:
            raise shown(refusal, request) from None

    async def predict(
        video: gr.FileData, request: gr.Request, model: str = first, top_k: int = NUM_CLASSES_SHOWN
    ) -> Prediction:
        content = await segments(video, request, model, top_k)
        return {key: content[key] for key in Prediction.__annotations__}

    for function, text in ((predict, _PREDICT), (segments, _SEGMENTS)):
        gr.api(function, api_name=function.__name__, api_description=text, concurrency_limit=None)


def shown(refusal: Refused, request: gr.Request) -> gr.Error:
    """A refusal as a Gradio message in the visitor's language."""
    texts = texts_for(request.headers.get("accept-language"))
    return gr.Error(refusal.text(texts), title=texts["error_title"], print_exception=False)
