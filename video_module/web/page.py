"""The page that run_gradio.py serves."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from video_module.data.decoding import VIDEO_SUFFIXES, VideoError
from video_module.inference.overlay import class_colors, write_annotated
from video_module.inference.predictor import Predictor
from video_module.inference.timeline import find_segments
from video_module.report.plots import plot_timeline
from video_module.web.texts import TEXTS, choose_language

NUM_CLASSES_SHOWN = 5
_PROGRESS = gr.Progress()  # a default of this type is how Gradio is asked for a progress bar
_CACHE_AGE_S = 3600

# fonts of the visitor's own machine: the page must not depend on the internet
THEME = gr.themes.Default(
    font=["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
)
I18N = gr.I18n(**TEXTS)


def build_page(predictors: dict[str, Predictor]) -> gr.Blocks:
    """The page over one or more models, by the name that the visitor sees."""

    def recognise(video: str | None, model: str, request: gr.Request, progress=_PROGRESS) -> Iterator[tuple[Any, ...]]:
        texts = TEXTS[choose_language(request.headers.get("accept-language", ""))]
        if not video:
            raise gr.Error(texts["no_video"], print_exception=False)
        predictor = predictors[model]

        def show(what: str):
            return lambda done, total: progress((done, max(done, total)), desc=texts[what], unit="frames")

        try:
            prediction = predictor.predict_video(video, on_progress=show("scoring"))
        except VideoError:
            raise gr.Error(texts["bad_video"], print_exception=False) from None
        folder = Path(tempfile.mkdtemp(prefix="annotated-"))
        try:
            annotated = folder / f"{Path(video).stem}_annotated.mp4"
            write_annotated(annotated, prediction, on_progress=show("drawing"))
            figure = plot_timeline(
                [(s.start_s, s.end_s, s.label, s.score) for s in find_segments(prediction)],
                duration_s=prediction.duration_s,
                colors=class_colors(predictor.class_names),
                title=texts["timeline"],
                xlabel=texts["time_axis"],
                ylabel=texts["score_axis"],
            )
            best = {item["label"]: item["score"] for item in prediction.top_k(NUM_CLASSES_SHOWN)}
            yield best, str(annotated), figure  # Gradio takes its own copy of the file before it comes back here
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with gr.Blocks(
        title="Action recognition", analytics_enabled=False, delete_cache=(_CACHE_AGE_S, _CACHE_AGE_S)
    ) as page:
        gr.Markdown(I18N("title"), elem_id="title")
        gr.Markdown(I18N("intro"))
        with gr.Row():
            with gr.Column(scale=1):
                # not gr.Video: it complains of every .avi, which browsers cannot preview and we can read
                video = gr.File(show_label=False, file_types=[*VIDEO_SUFFIXES], height=140, elem_id="input-video")
                names = list(predictors)
                model = gr.Dropdown(names, value=names[0], label=I18N("model"), visible=len(names) > 1)
                button = gr.Button(I18N("recognise"), variant="primary", elem_id="recognise")
                actions = gr.Label(label=I18N("actions"), num_top_classes=NUM_CLASSES_SHOWN, elem_id="actions")
            with gr.Column(scale=1):
                annotated = gr.Video(show_label=False, interactive=False, autoplay=True, loop=True, elem_id="annotated")
                timeline = gr.Plot(show_label=False, elem_id="timeline")
        button.click(recognise, [video, model], [actions, annotated, timeline], api_name="predict", concurrency_limit=1)
    return page
