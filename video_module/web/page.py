"""The page that run_gradio.py serves: what stands on it, and which button calls what."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from video_module.data.labels import VIDEO_SUFFIXES
from video_module.web.api import NUM_CLASSES_SHOWN, Service, add_endpoints
from video_module.web.handlers import Handlers
from video_module.web.limits import Limits
from video_module.web.texts import TEXTS

JOB_NAMES = ("recognise", "predict", "segments")
"""The functions that stand in the queue of Jobs, as Gradio calls them."""

_STREAM_EVERY_S = 0.1
_CAMERA = gr.WebcamOptions(mirror=False, constraints={"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}})

# Fonts of the visitor's own machine. Gradio's default theme fetches one from the internet.
THEME = gr.themes.Default(
    font=["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(block_info_text_color="*body_text_color_subdued", block_info_text_color_dark="*body_text_color_subdued")
CSS = """
.gradio-container { width: 100% !important; max-width: 1200px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#limits { opacity: 0.75; font-size: 0.9em; }
#timeline img { width: 100%; }
footer .divider { display: none; }
#annotated { min-height: 320px; }
#annotated video { width: 100%; max-height: 60vh; background: #000; }
#sign-out form { text-align: right; }
/* cutting a recording would fetch a program from a foreign host */
#input-camera .icon-button-wrapper button:not(:last-child) { display: none; }
.order { font-size: 1.4em; font-weight: 600; overflow-wrap: anywhere; }
/* the best class of the whole video says little where several follow each other */
#actions h2 { visibility: hidden; height: 1.2em; margin: 0; padding: 0; }
#live .icon-button-wrapper { top: auto; bottom: 8px; }  /* above is the score */
#live img { width: 100%; height: 100%; object-fit: contain; }
.now { font-size: 1.6em; font-weight: 600; min-height: 1.6em; overflow-wrap: anywhere; }
.now span { opacity: 0.65; font-weight: 400; }
#refusal {
  position: fixed; top: 12px; right: 12px; z-index: 10000; max-width: min(360px, calc(100vw - 24px));
  padding: 12px 16px; border-radius: 8px; border-left: 4px solid #dc2626; background: #fef2f2; color: #7f1d1d;
  box-shadow: 0 4px 16px rgb(0 0 0 / 0.25); cursor: pointer; font-family: var(--font);
}
@media (max-width: 700px) {
  .gradio-container { padding-left: 8px !important; padding-right: 8px !important; }
  #title h1 { font-size: 1.4em; }
}
"""


def build_page(
    service: Service, *, examples: Sequence[Path], sign_out_at: str | None = None
) -> tuple[gr.Blocks, gr.I18n]:
    """The page over one or more models, and its texts for mounting it.

    `sign_out_at` is the address of the button for that; None where nobody signs in.
    """
    do, predictors, limits = Handlers(service), service.predictors, service.limits
    translate = gr.I18n(**_page_texts(limits))
    with gr.Blocks(title=TEXTS["en"]["title"], analytics_enabled=False) as page:
        gr.Markdown(translate("heading"), elem_id="title")
        gr.Markdown(translate("intro"))
        names = list(predictors)
        model = gr.Dropdown(names, value=names[0], label=translate("model"), visible=len(names) > 1, elem_id="model")
        with gr.Accordion(translate("known"), open=False, elem_id="known"):
            known = gr.HTML(do.known_actions(names[0]))
        model.change(do.known_actions, model, known, **_ASIDE)
        with gr.Tabs():
            with gr.Tab(translate("file_tab")):
                _build_video_tab(do, translate, model, examples)
            with gr.Tab(translate("live_tab")):
                _build_live_tab(do, translate, model, examples, limits)
        gr.Markdown(translate("limits"), elem_id="limits")
        if sign_out_at is not None:
            gr.HTML(_SIGN_OUT.format(address=html.escape(sign_out_at)), elem_id="sign-out")
        page.unload(do.forget)
        add_endpoints(service)
    # Videos wait in the service's own queue; Gradio's is that of the live tab.
    return page.queue(max_size=limits.queue_size, default_concurrency_limit=None, api_open=False), translate


def page_script(limits: Limits) -> str:
    """page.js with its gaps filled."""
    keys = ("title", "too_large_file", "empty_file", "sign_out")
    texts = {language: {key: texts[key] for key in keys} for language, texts in _page_texts(limits).items()}
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    return script.replace("__MAX_BYTES__", str(limits.max_bytes)).replace("__TEXTS__", json.dumps(texts))


def _page_texts(limits: Limits) -> dict[str, dict[str, str]]:
    """TEXTS as the browser gets them."""
    values = {
        "max_file_mb": limits.max_file_mb,
        "max_seconds": limits.max_seconds,
        "keep_minutes": limits.keep_minutes,
    }
    return {
        language: texts
        | {"heading": f"# {texts['title']}"}
        | {key: texts[key].format(**values) for key in ("limits", "too_large_file")}
        for language, texts in TEXTS.items()
    }


# page.js puts in what it is called in the visitor's language.
_SIGN_OUT = '<form method="post" action="{address}"><button class="sign-out">Sign out</button></form>'

_PRIVATE = {"api_visibility": "private", "preprocess": False}
_META = {"_type": "gradio.FileData"}
_ASIDE = {"queue": False, "show_progress": "hidden", **_PRIVATE}
"""Settings of events that take no time, and need not wait in the queue behind those that do."""
_AS_IT_IS = {"postprocess": False}
"""Of events whose answer is what the browser gets."""


def _build_video_tab(do: Handlers, translate: gr.I18n, model: gr.Dropdown, examples: Sequence[Path]) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            with gr.Tabs():
                with gr.Tab(translate("upload_tab")):
                    video = _upload_box("input-video")
                with gr.Tab(translate("camera_tab")):
                    camera = gr.Video(
                        sources=["webcam"],
                        show_label=False,
                        include_audio=False,
                        webcam_options=_CAMERA,
                        height=240,
                        elem_id="input-camera",
                    )
            samples = _example_box(examples, translate("examples"), "examples")
            start, stop = _buttons(translate("recognise"), translate("cancel"), ("recognise", "cancel"))
            order = gr.HTML(elem_id="order")
            actions = gr.Label(label=translate("whole_video"), num_top_classes=NUM_CLASSES_SHOWN, elem_id="actions")
        with gr.Column(min_width=300):
            annotated = gr.HTML(elem_id="annotated")
            timeline = gr.HTML(elem_id="timeline")
            files = gr.HTML(elem_id="downloads")
    # The browser fills in the width of its window, for which the timeline is drawn.
    width = gr.Number(visible=False)
    run = start.click(
        do.recognise,
        [video, model, width],
        [order, actions, annotated, timeline, files],
        js="(video, model, width) => [video, model, window.innerWidth]",
        concurrency_limit=None,
        show_progress_on=[annotated],
        **_PRIVATE,
    )
    stop.click(None, cancels=[run], **_PRIVATE)
    camera.change(None, camera, video, js="(recording) => recording", **_ASIDE)
    _connect_box(do, video, samples, examples, slot="video")


def _build_live_tab(
    do: Handlers, translate: gr.I18n, model: gr.Dropdown, examples: Sequence[Path], limits: Limits
) -> None:
    with gr.Row():
        with gr.Column(min_width=300), gr.Tabs():
            with gr.Tab(translate("live_file_tab")):
                video = _upload_box("live-video")
                samples = _example_box(examples, translate("examples"), "live-examples")
                skip = gr.Slider(
                    1, 10, value=2, step=1, label=translate("speed"), info=translate("speed_info"), elem_id="skip"
                )
                start, stop = _buttons(translate("start"), translate("stop"), ("start", "stop"))
            with gr.Tab(translate("live_camera_tab")):
                frames = gr.Image(
                    sources=["webcam"],
                    streaming=True,
                    show_label=False,
                    webcam_options=_CAMERA,
                    elem_id="live-frames",
                )
        with gr.Column(min_width=300):
            picture = gr.Image(interactive=False, show_label=False, buttons=["fullscreen"], height=360, elem_id="live")
            label = gr.HTML(elem_id="now")
    live: dict[str, Any] = {
        "concurrency_id": "live",
        "concurrency_limit": limits.num_at_once,
        "show_progress": "hidden",
        **_PRIVATE,
        **_AS_IT_IS,
    }
    run = start.click(do.watch, [video, model, skip], [picture, label], **live)
    stop.click(None, cancels=[run], **_PRIVATE)
    frames.stream(
        do.watch_camera,
        [frames, model],
        [picture, label],
        stream_every=_STREAM_EVERY_S,
        time_limit=limits.max_seconds,
        **live,
    )
    _connect_box(do, video, samples, examples, slot="live")


def _connect_box(do: Handlers, video: gr.File, samples: gr.Dataset, examples: Sequence[Path], *, slot: str) -> None:
    """Put an example into the box when it is clicked, and note whose video is in it."""

    def choose(index: Any) -> dict[str, Any] | None:
        if index not in range(len(examples)):
            return None
        path = examples[index]
        return {"path": str(path), "orig_name": path.name, "size": path.stat().st_size, "meta": _META}

    samples.click(choose, samples, video, **_ASIDE, **_AS_IT_IS)
    video.change(do.keep_in(slot), video, None, **_ASIDE)


def _upload_box(elem_id: str) -> gr.File:
    # Not a gr.Video: it complains about every .avi, which browsers cannot preview.
    return gr.File(show_label=False, file_types=list(VIDEO_SUFFIXES), height=140, elem_id=elem_id)


def _example_box(examples: Sequence[Path], label: Any, elem_id: str) -> gr.Dataset:
    return gr.Dataset(
        components=[gr.Video(render=False)],
        samples=[[str(path)] for path in examples],
        label=label,
        type="index",
        layout="gallery",
        elem_id=elem_id,
        visible=bool(examples),
    )


def _buttons(start: Any, stop: Any, elem_ids: tuple[str, str]) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return (
            gr.Button(start, variant="primary", elem_id=elem_ids[0], min_width=120),
            gr.Button(stop, elem_id=elem_ids[1], min_width=100),
        )
