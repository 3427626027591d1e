"""The layout of the page and the events of its components."""

import html
import json
from pathlib import Path
from typing import Any

import gradio as gr

from video_module.data.labels import VIDEO_SUFFIXES
from video_module.web.api import Service, add_endpoints
from video_module.web.examples import Examples
from video_module.web.handlers import SPEEDS, Handlers
from video_module.web.limits import Limits
from video_module.web.texts import TEXTS

ENDPOINTS = ("predict", "segments")
JOB_NAMES = ("recognise", *ENDPOINTS)
"""The functions that wait in the queue of Jobs, by their names in Gradio."""

_STREAM_EVERY_S = 0.1
_CAMERA = gr.WebcamOptions(mirror=False, constraints={"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}})

# Gradio's default theme downloads a font from the internet, and its orange has too little contrast on white. This theme
# uses fonts of the visitor's machine, and blue.
THEME = gr.themes.Default(
    primary_hue="blue",
    font=["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(
    block_info_text_color="*body_text_color_subdued",
    block_info_text_color_dark="*body_text_color_subdued",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    color_accent="*primary_600",
    body_text_color_subdued="*neutral_600",
)
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def build_page(service: Service, *, examples: Examples, sign_out_at: str | None = None) -> tuple[gr.Blocks, gr.I18n]:
    """Build the page for one or more models; returns it with its translations, which mounting needs.

    `sign_out_at` is the address that the sign-out button posts to; None if there are no logins.
    """
    do, names, limits = Handlers(service, examples), list(service.predictors), service.limits
    translate = gr.I18n(**_page_texts(limits))
    with gr.Blocks(title=TEXTS["en"]["title"], analytics_enabled=False) as page:
        gr.Markdown(translate("heading"), elem_id="title")
        gr.Markdown(translate("intro"))
        model = gr.Dropdown(names, value=names[0], label=translate("model"), visible=len(names) > 1, elem_id="model")
        with gr.Tabs():
            with gr.Tab(translate("file_tab")):
                boxes = _build_video_tab(do, translate, page, model)
            with gr.Tab(translate("live_tab")):
                live_boxes = _build_live_tab(do, translate, model, limits)
        with gr.Accordion(translate("known"), open=False, elem_id="known"):
            known = gr.HTML(apply_default_css=False)
        for event in (page.load, model.change):
            event(do.choose_model, model, [known, boxes, live_boxes], **_ASIDE)
        gr.Markdown(translate("limits"), elem_id="limits")
        sign_out = "" if sign_out_at is None else _SIGN_OUT.format(html.escape(sign_out_at))
        gr.HTML(_FOOT.format(sign_out=sign_out), apply_default_css=False)
        page.unload(do.forget)
        add_endpoints(service)
    # Gradio's queue does not limit concurrency. Videos wait in the queues of Jobs, which know each visitor's position.
    return page.queue(max_size=limits.queue_size, default_concurrency_limit=None, api_open=False), translate


def page_script(limits: Limits) -> str:
    """page.js with its placeholders filled in."""
    keys = ("title", "language", "too_large_file", "empty_file", "sign_out", "close", "api")
    keys += ("connection_lost", "failed", "expired", "bad_suffix", "no_picture")
    texts = {language: {key: texts[key] for key in keys} for language, texts in _page_texts(limits).items()}
    script = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
    for gap, value in (("MAX_BYTES", limits.max_bytes), ("TEXTS", texts), ("SUFFIXES", VIDEO_SUFFIXES)):
        script = script.replace(f"__{gap}__", json.dumps(value))
    return script


def _page_texts(limits: Limits) -> dict[str, dict[str, str]]:
    """TEXTS with the limits filled in, as sent to the browser."""
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


# page.js translates the link and the button.
_FOOT = '<div class="foot"><a href="api/docs" target="_blank" rel="noopener">API</a>{sign_out}</div>'
_SIGN_OUT = '<form method="post" action="{}"><button class="sign-out">Sign out</button></form>'
# Passes the number of the clicked example to the handler, as a field of the event.
_CLICK_EXAMPLE = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-example]");
  if (button) trigger("click", { number: Number(button.dataset.example) });
});"""

_PRIVATE = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}
_ASIDE = {"queue": False, **_PRIVATE}
"""Settings of quick events, which skip Gradio's queue."""
_AS_IT_IS = {"postprocess": False}
"""Settings of events whose output is sent to the browser unchanged."""


def _build_video_tab(do: Handlers, translate: gr.I18n, page: gr.Blocks, model: gr.Dropdown) -> gr.HTML:
    """Build the tab for whole videos; returns the component for the examples."""
    with gr.Row():
        with gr.Column(min_width=300, scale=2):
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
            start, stop = _buttons(translate("recognise"), translate("cancel"), ("recognise", "cancel"))
            status = gr.HTML(apply_default_css=False, elem_id="status")
            boxes = gr.HTML(apply_default_css=False, elem_id="examples", js_on_load=_CLICK_EXAMPLE)
        with gr.Column(min_width=300, scale=3):
            result = gr.HTML(apply_default_css=False, elem_id="result")
    restored = page.load(None, None, [result, video], js="() => window.restored()", **_ASIDE)
    # The browser says whether the page already shows a result or progress.
    is_restored = gr.Checkbox(visible=False)
    has_answer = "(_, model) => [document.querySelector('#result .answer, #status .status') !== null, model]"
    restored.then(do.first_view, [is_restored, model], result, js=has_answer, concurrency_limit=None, **_PRIVATE)
    shown: dict[str, Any] = {"outputs": [status, result, stop], "concurrency_limit": None, **_PRIVATE}
    run = {**shown, "outputs": [status, result, stop, start], "trigger_mode": "multiple"}
    start.click(do.recognise, [video, model], **run).then(do.may_start, video, start, **_ASIDE)
    # Another example may be clicked while one is being processed.
    boxes.click(do.show_example, model, trigger_mode="multiple", **shown)
    stop.click(do.cancel("video"), None, stop, **_ASIDE)
    camera.change(None, camera, video, js="(recording) => recording", **_ASIDE)
    video.change(do.take("video"), video, [status, start], js="(video) => window.keepVideo(video)", **_ASIDE)
    return boxes


def _build_live_tab(do: Handlers, translate: gr.I18n, model: gr.Dropdown, limits: Limits) -> gr.HTML:
    """Build the live tab; returns the component for the examples."""
    with gr.Row():
        with gr.Column(min_width=300, scale=2), gr.Tabs():
            with gr.Tab(translate("live_file_tab")):
                video = _upload_box("live-video")
                speed = gr.Radio(
                    [(f"{speed}×", speed) for speed in SPEEDS],
                    value=SPEEDS[0],
                    label=translate("speed"),
                    info=translate("speed_info"),
                    elem_id="speed",
                )
                start, stop = _buttons(translate("start"), translate("stop"), ("start", "stop"))
                boxes = gr.HTML(apply_default_css=False, elem_id="live-examples", js_on_load=_CLICK_EXAMPLE)
            with gr.Tab(translate("live_camera_tab")):
                frames = gr.Image(
                    sources=["webcam"],
                    streaming=True,
                    show_label=False,
                    webcam_options=_CAMERA,
                    elem_id="live-frames",
                )
        with gr.Column(min_width=300, scale=3):
            picture = gr.Image(interactive=False, show_label=False, buttons=["fullscreen"], height=360, elem_id="live")
            label = gr.HTML(apply_default_css=False, elem_id="now")
            status = gr.HTML(apply_default_css=False, elem_id="live-status")
    live: dict[str, Any] = {"concurrency_limit": None, **_PRIVATE, **_AS_IT_IS}
    # A second click starts again, possibly at another speed.
    start.click(do.watch, [video, model, speed], [status, picture, label, stop], trigger_mode="multiple", **live)
    stop.click(do.cancel("live"), None, stop, **_ASIDE)
    frames.stream(
        do.watch_camera,
        [frames, model],
        [status, picture, label],
        stream_every=_STREAM_EVERY_S,
        time_limit=limits.max_seconds,
        **live,
    )
    boxes.click(do.choose_example, model, video, **_ASIDE, **_AS_IT_IS)
    video.change(do.take("live"), video, [status, start], **_ASIDE)
    return boxes


def _upload_box(elem_id: str) -> gr.File:
    # Not a gr.Video, which reports an error for every .avi because browsers cannot preview it.
    return gr.File(show_label=False, file_types=list(VIDEO_SUFFIXES), height=140, elem_id=elem_id)


def _buttons(start: Any, stop: Any, elem_ids: tuple[str, str]) -> tuple[gr.Button, gr.Button]:
    """A start and a stop button. Both are disabled until there is a video or something runs."""
    with gr.Row():
        return (
            gr.Button(start, variant="primary", elem_id=elem_ids[0], min_width=120, interactive=False),
            gr.Button(stop, elem_id=elem_ids[1], min_width=100, interactive=False),
        )
