"""Fixtures that start run_gradio.py in its own process and open its page in a browser."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from video_module.data.drawing import draw_recording
from video_module.data.encoding import write_video

ROOT = Path(__file__).parents[2]
MAX_FILE_MB, MAX_SECONDS, QUEUE_SIZE = 2, 20, 3
RUSSIAN = {"jump": "прыжок", "pull": "тянет", "push": "толкает", "sit": "садится", "stand": "встаёт", "wave": "машет"}
CHROMIUM = shutil.which("chromium")
# The fake camera shows a moving pattern and needs no permission.
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


# The signal for a clean shutdown. On Windows terminate() kills the process, so Ctrl-Break is sent instead. It goes to a
# whole process group, so the server gets its own group.
_ON_WINDOWS = sys.platform == "win32"
_END = signal.CTRL_BREAK_EVENT if _ON_WINDOWS else signal.SIGTERM
_GROUP = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if _ON_WINDOWS else {}


@dataclass(frozen=True)
class Server:
    address: str
    """URL of the page, with a trailing slash."""
    folder: Path
    """Folder in which the server stores visitors' files."""
    log: Path
    process: subprocess.Popen
    earlier: frozenset[Path] = frozenset()
    """Files left by earlier tests, because a visitor's files are kept for a while after the page is closed."""

    @property
    def api(self) -> str:
        return f"{self.address}gradio_api"

    def visitors_files(self) -> list[Path]:
        """Return the files in its folder, except earlier ones, examples with their results, and lock files."""
        # Unlike Path.rglob(), os.walk() does not fail if a folder is deleted meanwhile.
        files = [Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names]
        files = [path for path in files if path.suffix != ".lock" and path not in self.earlier]
        return [path for path in files if "examples" not in path.relative_to(self.folder).parts]


class Clock:
    """A clock that only advances when a test sets `now`."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def run_server(folder: Path, model: Path, *flags: str) -> Iterator[Server]:
    """Run run_gradio.py on a free port without torch, and check that it leaves no files behind when it ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path('run_gradio.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "run_gradio.py", "--model", str(model), "--port", str(port), *flags]
    folder.mkdir(parents=True)
    log = folder.with_suffix(".log")
    with open(log, "w+", encoding="utf-8") as output:
        env = {**os.environ, "GRADIO_TEMP_DIR": str(folder), "PYTHONIOENCODING": "utf-8"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=env, **_GROUP)
        try:
            server = Server(f"http://127.0.0.1:{port}/", folder, log, process)
            _wait_for(server)
            yield server
        finally:
            process.send_signal(_END)
            process.wait(timeout=20)
    assert list(folder.iterdir()) == []


class Line:
    """A proxy between a visitor and a server whose connections can be cut."""

    def __init__(self, server: Server) -> None:
        self._target = int(server.address.rstrip("/").rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._is_cut = self._is_closed = False
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._is_cut = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self._is_closed = True
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                continue
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cut_off(server: Server) -> Iterator[Line]:
    """Return a proxy to the server whose connections can be cut."""
    line = Line(server)
    try:
        yield line
    finally:
        line.close()


def _wait_for(server: Server) -> None:
    for _ in range(600):
        assert server.process.poll() is None, server.log.read_text(encoding="utf-8")
        try:
            httpx.get(server.address, timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(server.log.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def shared_server(exported, tmp_path_factory) -> Iterator[Server]:
    """Return a server with small limits, and check at the end that no traceback in its log mentions our code."""
    folder = tmp_path_factory.mktemp("web") / "server"
    names = folder.with_name("names.csv")
    names.write_text("class,ru\n" + "".join(f"{name},{russian}\n" for name, russian in RUSSIAN.items()), "utf-8")
    limits = {"max_file_mb": MAX_FILE_MB, "max_seconds": MAX_SECONDS, "queue_size": QUEUE_SIZE, "concurrency": 1}
    flags = [str(part) for name, value in limits.items() for part in (f"--{name}", value)]
    with run_server(folder, exported, *flags, "--class_names_translated", str(names)) as server:
        yield server
    assert not re.search(r"video_module[/\\]", server.log.read_text(encoding="utf-8"))


@pytest.fixture
def server(shared_server) -> Server:
    """Return the shared server, ignoring files of earlier tests."""
    return replace(shared_server, earlier=frozenset(shared_server.visitors_files()))


@pytest.fixture(scope="session")
def recording(tmp_path_factory) -> Path:
    """Return a video of six seconds with two actions, one after the other."""
    path = tmp_path_factory.mktemp("recording") / "recording.avi"
    draw_recording(path, ("wave", "sit"), seed=3, source=1, seconds_each=3)
    return path


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server) -> Iterator[Callable]:
    """Return a function that opens the page in the browser and waits until it has loaded.

    The test fails if a page sends a request to another host or logs an error to the console.
    """
    contexts, complaints = [], []

    def open_page(*, locale: str = "en-US", **settings):
        context = browser.new_context(locale=locale, permissions=["camera"], **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        own = server.address, "data:", f"blob:{server.address}"
        page.on("request", lambda r: None if r.url.startswith(own) else complaints.append(f"asked for {r.url}"))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.goto(server.address)
        page.locator("#recognise").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _write(path: Path, *, num_frames: int, fps: float, height: int, width: int) -> Path:
    write_video(path, (np.full((height, width, 3), 90, np.uint8) for _ in range(num_frames)), fps=fps)
    return path


@pytest.fixture(scope="session")
def long_video(tmp_path_factory) -> Path:
    """Return a video that is longer than MAX_SECONDS."""
    path = tmp_path_factory.mktemp("long") / "long.avi"
    return _write(path, num_frames=25 * MAX_SECONDS + 2, fps=25, height=48, width=64)


@pytest.fixture(scope="session")
def slow_video(tmp_path_factory) -> Path:
    """Return a video within the limits that takes seconds to process: 900 frames of 1280x720."""
    path = tmp_path_factory.mktemp("slow") / "slow.mp4"
    return _write(path, num_frames=900, fps=60, height=720, width=1280)
