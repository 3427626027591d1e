"""Serving the page: its own folder for files, its limits, and a clean end."""

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_module.config import TimelineConfig
from video_module.errors import STOP_SIGNALS, InputError
from video_module.inference.predictor import Predictor
from video_module.web.limits import Limits

if TYPE_CHECKING:
    import gradio as gr

    from video_module.web.storage import Storage

_SWEEP_EVERY_S = 20

# Visitors whose state Gradio keeps; its default is 10,000. The only state is that of a live camera, which holds the
# frames of a clip.
_MAX_SESSIONS = 100


def serve(
    predictors: dict[str, Predictor],
    *,
    limits: Limits,
    config: TimelineConfig,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    auth: Sequence[tuple[str, str]] = (),
    root_path: str = "",
) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises InputError if the port is taken.

    Visitors' files lie in one folder of their own, below GRADIO_TEMP_DIR or the system's, and go with the server.
    """
    if parent := os.environ.get("GRADIO_TEMP_DIR"):
        Path(parent).mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="action-recognition-", dir=parent)).resolve()
    # SIGTERM must end the process by an exception, or the folder would stay. Gradio sees to Ctrl-C itself.
    for number in set(STOP_SIGNALS) - {signal.SIGINT}:
        signal.signal(number, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        _set_environment(root)
        # Gradio reads its settings when it is imported, so nothing that imports it may come before.
        from video_module.web.examples import draw_examples
        from video_module.web.page import build_page
        from video_module.web.storage import Storage

        storage = Storage(root, keep_s=limits.keep_minutes * 60, max_bytes=limits.max_disk_mb * 1e6)
        page, translate = build_page(
            predictors, storage=storage, limits=limits, config=config, examples=draw_examples(root / "examples")
        )
        is_over = threading.Event()
        stack.callback(is_over.set)
        threading.Thread(target=_sweep, args=(storage, is_over), daemon=True).start()
        stack.callback(page.close, verbose=False)
        settings = {"share": share, "auth": list(auth) or None, "root_path": root_path, "i18n": translate}
        try:
            url = _launch(page, storage, limits, server_name=host, server_port=port, **settings)
        except OSError as error:
            if "port" not in str(error):
                raise
            raise InputError(f"port {port} is in use; choose another with --port") from None
        print(f"serving at {url}; Ctrl-C ends it", flush=True)
        page.block_thread()


def _launch(page: "gr.Blocks", storage: "Storage", limits: Limits, **settings: Any) -> str:
    """Start the server beside this thread; returns the address to open."""
    from starlette.middleware import Middleware

    from video_module.web.gate import Gate, upload_route
    from video_module.web.page import CSS, THEME, page_script

    _, url, share_url = page.queue(max_size=limits.queue_size, api_open=False).launch(
        **settings,
        max_threads=max(40, 4 * limits.num_at_once),
        state_session_capacity=_MAX_SESSIONS,
        app_kwargs={
            "routes": [upload_route(storage, limits)],
            "middleware": [Middleware(Gate, page=page, limits=limits)],
        },
        theme=THEME,
        css=CSS,
        js="() => { document.title = window.pageTitle; }",
        head=f"<script>{page_script(limits)}</script>",
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return share_url or url


def _set_environment(root: Path) -> None:
    """Set what Gradio reads from the environment when it is imported."""
    os.environ["GRADIO_TEMP_DIR"] = str(root)
    # By default a folder below the current one.
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(root / "examples-cache")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Gradio keeps a row for each request, and computes means over all rows after each.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Nothing but visitors' files is served.
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)


def _sweep(storage: "Storage", is_over: threading.Event) -> None:
    while not is_over.wait(_SWEEP_EVERY_S):
        storage.sweep()
