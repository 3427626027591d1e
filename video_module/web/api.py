"""The endpoints for programs: /predict and /segments, JSON with a schema."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from video_module.config import TimelineConfig
from video_module.data.decoding import VideoReader
from video_module.inference import timeline
from video_module.inference.predictor import Predictor, VideoPrediction
from video_module.web.components import answer, in_place
from video_module.web.handlers import NUM_CLASSES_SHOWN, in_visitors_language, uploaded_path
from video_module.web.limits import Limits, Refused, check_header, score_within
from video_module.web.storage import Storage

_NUMBER, _INTEGER, _TEXT, _BOOLEAN = ({"type": name} for name in ("number", "integer", "string", "boolean"))


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TOP_K = _array(_object(label=_TEXT, score=_NUMBER))
_STRETCH = {"start_frame": _INTEGER, "end_frame": _INTEGER, "start_s": _NUMBER, "end_s": _NUMBER}
_VIDEO = {"video": _TEXT, "model": _TEXT, "fps": _NUMBER, "num_frames": _INTEGER, "duration_s": _NUMBER}
_VIDEO |= {"num_damaged_frames": _INTEGER}
_PREDICT_SCHEMA = _object(**_VIDEO, top_k=_TOP_K)
_SEGMENTS_SCHEMA = _object(
    **_VIDEO,
    timeline=_object(smooth_s=_NUMBER, min_score=_NUMBER, hysteresis=_NUMBER),
    top_k=_TOP_K,
    segments=_array(_object(**_STRETCH, label=_TEXT, is_uncertain=_BOOLEAN, score=_NUMBER, top_k=_TOP_K)),
    windows=_array(_object(**_STRETCH, top_k=_TOP_K)),
)


def add_endpoints(
    predictors: dict[str, Predictor], *, storage: Storage, limits: Limits, config: TimelineConfig
) -> None:
    """Add /predict and /segments to the page that is being built. An upload is deleted with its answer."""

    def predict(video: str, model: str | None, top_k: float | None, request: gr.Request) -> dict[str, Any]:
        content = segments(video, model, top_k, request)
        return {key: content[key] for key in _PREDICT_SCHEMA["properties"]}

    def segments(video: str, model: str | None, top_k: float | None, request: gr.Request) -> dict[str, Any]:
        try:
            with in_visitors_language(request), storage.using(video or ""):
                predictor, k = _model_named(model, predictors), _count(top_k)
                prediction = _recognise(video, predictor, limits)
                found = timeline.find_segments(prediction, config)
                return timeline.to_json(prediction, found, model=predictor.model, k=k, config=config)
        finally:
            storage.drop(video or "")

    for function, schema, text in (
        (predict, _PREDICT_SCHEMA, "The best classes of a video: the mean over its windows."),
        (segments, _SEGMENTS_SCHEMA, "What happens when: labelled stretches of a video, and its windows."),
    ):
        inputs = [
            in_place(gr.File(visible=False, label="a video")),
            gr.Textbox(next(iter(predictors)), visible=False, label=f"one of: {', '.join(predictors)}"),
            gr.Number(NUM_CLASSES_SHOWN, visible=False, label="classes named, the best first"),
        ]
        gr.Button(visible=False).click(
            function,
            inputs,
            answer(schema),
            api_name=function.__name__,
            api_description=text,
            concurrency_id="recognise",
            concurrency_limit=limits.num_at_once,
        )


def _model_named(model: str | None, predictors: dict[str, Predictor]) -> Predictor:
    if model and model not in predictors:
        raise Refused("unknown_model", models=", ".join(predictors))
    return predictors[model or next(iter(predictors))]


def _count(top_k: float | None) -> int:
    if top_k is None:
        return NUM_CLASSES_SHOWN
    if top_k < 1 or top_k != int(top_k):
        raise Refused("bad_number")
    return int(top_k)


def _recognise(video: str | None, predictor: Predictor, limits: Limits) -> VideoPrediction:
    info = check_header(uploaded_path(video), limits)
    reader = VideoReader(video)
    windows = [window for scored, _, _ in score_within(predictor, reader, info, limits) for window in scored]
    prediction = predictor.prediction_of(reader, windows)
    # The answer names the visitor's file, not where it lies on the server.
    return replace(prediction, path=Path(prediction.path.name))
