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

from video_module.config import TimelineConfig
from video_module.errors import STOP_SIGNALS, InputError
from video_module.inference.predictor import Predictor
from video_module.web.limits import Limits

_SWEEP_EVERY_S = 20
_SESSIONS = 100
"""Visitors whose state is kept, which is that of their cameras alone; Gradio keeps 10,000."""


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
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent:
        Path(parent).mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="action-recognition-", dir=parent)).resolve()
    for number in set(STOP_SIGNALS) - {signal.SIGINT}:  # Gradio takes Ctrl-C
        signal.signal(number, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        prepare_environment(root)
        # Gradio reads its settings as it is imported
        from starlette.middleware import Middleware

        from video_module.web.examples import draw_examples
        from video_module.web.gate import Gate, upload_route
        from video_module.web.page import CSS, THEME, build_page, page_script
        from video_module.web.storage import Storage

        storage = Storage(root, keep_s=limits.keep_minutes * 60, max_bytes=limits.max_disk_mb * 1e6)
        page, translate = build_page(
            predictors, storage=storage, limits=limits, config=config, examples=draw_examples(root / "examples")
        )
        over = threading.Event()
        stack.callback(over.set)
        threading.Thread(target=_sweep, args=(storage, over), daemon=True).start()
        stack.callback(page.close, verbose=False)
        try:
            _, url, share_url = page.queue(max_size=limits.queue_size, api_open=False).launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=list(auth) or None,
                root_path=root_path,
                max_threads=max(40, 4 * limits.num_at_once),
                state_session_capacity=_SESSIONS,
                app_kwargs={
                    "routes": [upload_route(storage, limits)],
                    "middleware": [Middleware(Gate, page=page, limits=limits)],
                },
                i18n=translate,
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
        except OSError as error:
            if "port" not in str(error):
                raise
            raise InputError(f"port {port} is in use; choose another with --port") from None
        print(f"serving at {share_url or url}; Ctrl-C ends it", flush=True)
        page.block_thread()


def prepare_environment(root: Path) -> None:
    """Gradio's settings that are read from the environment; to be called before it is imported."""
    os.environ["GRADIO_TEMP_DIR"] = str(root)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(root / "examples-cache")  # by default a folder below the current one
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # of each request it keeps a row, and computes means over all of them after each
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)  # nothing but visitors' files is served


def _sweep(storage, over: threading.Event) -> None:
    while not over.wait(_SWEEP_EVERY_S):
        storage.sweep()
