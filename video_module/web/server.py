"""Run the server: open the port, create the folder for files, and clean up at the end."""

import errno
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from video_module.config import TimelineConfig
from video_module.errors import STOP_SIGNALS, InputError
from video_module.inference.predictor import Predictor
from video_module.web.limits import Limits

if TYPE_CHECKING:
    from video_module.web.api import Service
    from video_module.web.jobs import Jobs
    from video_module.web.storage import Storage

_SWEEP_EVERY_S = 20
# Time for running requests to finish when the server stops.
_GRACE_S = 3
_LOOPBACK = ["127.0.0.1", "::1"]


def serve(
    predictors: dict[str, Predictor],
    *,
    limits: Limits,
    config: TimelineConfig,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    accounts: dict[str, str] | None = None,
    allowed_hosts: Sequence[str] = (),
    root_path: str = "",
    examples: Path | None = None,
    translated: dict[str, dict[str, str]] | None = None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises InputError if the port is taken.

    `accounts` maps names to passwords; if it is empty, no login is required. `examples` is a folder of videos; if it is
    None, models of the drawn actions show drawings. `translated` has translated class names by language.

    Visitors' files are kept in a new folder in GRADIO_TEMP_DIR, or the system's temporary folder, which is deleted at
    the end.
    """
    # Signals must raise an exception, or the folder would not be deleted.
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    from video_module.web.storage import Storage, own_folder

    with ExitStack() as stack:
        sockets = _listen(host, port)
        for part in sockets:
            stack.callback(part.close)
        root = stack.enter_context(own_folder(parent))
        _set_environment(root)
        # Gradio reads its settings on import, so modules that import it are imported only now.
        from video_module.web.application import build_application
        from video_module.web.examples import Examples, find_examples
        from video_module.web.gate import own_names
        from video_module.web.login import Accounts

        space = {"max_bytes": limits.max_disk_mb * 1e6, "max_bytes_each": limits.max_bytes_each}
        storage = Storage(root, keep_s=limits.keep_minutes * 60, **space)
        service = _make_service(predictors, storage, limits, config, translated or {})
        shown = Examples(service, None if examples is None else find_examples(examples, storage.examples, limits))
        url = _share(host, port) if share else f"http://{host}:{port}/"
        app = build_application(
            service,
            Accounts(accounts or {}),
            allowed_hosts={*allowed_hosts, *own_names(host), urlsplit(url).hostname},
            examples=shown,
            root_path=root_path,
        )
        is_over = threading.Event()
        stack.callback(is_over.set)
        threading.Thread(target=_sweep, args=(storage, is_over), daemon=True).start()
        stack.enter_context(shown.preparing())
        print(f"serving at {url}; press Ctrl-C to stop", flush=True)
        _run(app, sockets, [service.jobs, service.live_jobs])


def _make_service(
    predictors: dict[str, Predictor],
    storage: "Storage",
    limits: Limits,
    config: TimelineConfig,
    translated: dict[str, dict[str, str]],
) -> "Service":
    from video_module.web.api import Service
    from video_module.web.jobs import Jobs

    return Service(
        predictors=predictors,
        storage=storage,
        jobs=Jobs(limits),
        live_jobs=Jobs(limits),
        limits=limits,
        config=config,
        translated=translated,
    )


def _run(app: Any, sockets: list[socket.socket], queues: "list[Jobs]") -> None:
    import uvicorn

    from video_module.web.connections import Connection
    from video_module.web.log import BoundedLog

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # uvicorn waits for open connections, and those wait for the jobs.
            for jobs in queues:
                jobs.close()
            # An open page keeps a request open, and uvicorn would log its end as an error.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    # Bad requests cause warnings, and tracebacks in Gradio, so anyone could fill the log.
    sys.stderr = BoundedLog(sys.stderr)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
    settings = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Proxies on this machine, such as nginx or the tunnel of a shared link, tell the visitor's address.
        forwarded_allow_ips=_LOOPBACK,
        timeout_graceful_shutdown=_GRACE_S,
    )
    Server(settings).run(sockets=sockets)


def _listen(host: str, port: int) -> list[socket.socket]:
    """Open a socket for each address of a host. Raises InputError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        raise InputError(f"--host {host}: unknown host") from None
    sockets: list[socket.socket] = []
    for family, _, _, _, address in found:
        try:
            sockets.append(socket.create_server(address[:2], family=family))
        except OSError as error:
            # "localhost" may have an IPv6 address although this machine has IPv6 turned off.
            if error.errno == errno.EADDRNOTAVAIL and len(found) > 1:
                continue
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise InputError(f"port {port} {reason}; choose another with --port") from None
    if not sockets:
        raise InputError(f"--host {host}: not an address of this machine")
    return sockets


def _share(host: str, port: int) -> str:
    """Open a tunnel to gradio.live; returns the public address. Raises InputError if that fails."""
    try:
        from gradio.networking import setup_tunnel

        return setup_tunnel(
            local_host="127.0.0.1" if host in ("0.0.0.0", "::") else host,
            local_port=port,
            share_token=secrets.token_urlsafe(32),
            share_server_address=None,
            share_server_tls_certificate=None,
        )
    except Exception as error:
        raise InputError(f"--share: cannot create a public link ({error}); check the internet connection") from None


def _set_environment(root: Path) -> None:
    """Set the environment variables that Gradio reads on import."""
    os.environ["GRADIO_TEMP_DIR"] = str(root)
    # The default is in the current folder.
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(root / "examples-cache")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Gradio keeps statistics of all requests and recomputes them after each one.
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Otherwise Gradio would serve more than visitors' files.
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)


def _sweep(storage: "Storage", is_over: threading.Event) -> None:
    while not is_over.wait(_SWEEP_EVERY_S):
        storage.sweep()
