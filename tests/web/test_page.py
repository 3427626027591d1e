"""The page in a real browser. Needs playwright (requirements-dev.txt) and Debian's chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory) -> Iterator[str]:
    """run_gradio.py on a free port, without torch; gives the page's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    code = (
        "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path('run_gradio.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "run_gradio.py", "--model", str(exported), "--port", str(port)]
    env = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "cache")}
    with open(folder / "log.txt", "w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            address = f"http://127.0.0.1:{port}/"
            for _ in range(600):
                if process.poll() is not None:
                    break
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                process.kill()
            assert process.poll() is None, (folder / "log.txt").read_text()
            yield address
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """open_page(locale=…) gives a page that has finished loading, and fails the test on requests to other hosts."""
    contexts = []

    def open_page(*, locale: str = "en-US", **settings) -> playwright.Page:
        context = browser.new_context(locale=locale, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.foreign = []
        page.on(
            "request", lambda r: None if r.url.startswith((server, "data:", "blob:")) else page.foreign.append(r.url)
        )
        page.goto(server)
        page.locator("#recognise").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


def recognise(page: playwright.Page, video: Path) -> None:
    page.locator("#input-video input[type=file]").set_input_files(video)
    page.locator("#input-video").get_by_text(video.suffix).first.wait_for()
    page.locator("#recognise").click()


def test_a_video_is_recognised_and_plays(open_page, drawn_data, tmp_path):
    page = open_page()
    page.get_by_role("heading", name="Action recognition in video").wait_for()
    recognise(page, next((drawn_data / "test" / "wave").glob("*.avi")))
    player = page.locator("#annotated video")
    player.wait_for()
    page.wait_for_function(
        "() => { const v = document.querySelector('#annotated video'); return v?.currentTime > 0.2 && v.videoWidth }"
    )
    assert player.evaluate("v => v.error") is None
    assert len(re.findall(r"\d+%", page.locator("#actions").inner_text())) == 5
    page.locator("#timeline img").wait_for()
    assert page.foreign == []  # the page works without the internet
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_in_russian(open_page):
    page = open_page(locale="ru-RU")
    page.get_by_role("heading", name="Распознавание действий на видео").wait_for()
    assert page.locator("#recognise").inner_text() == "Распознать"
    page.locator("#recognise").click()
    page.get_by_text("Сначала выберите видео.").wait_for()


def test_a_file_that_is_no_video_gives_a_message_and_the_page_lives_on(open_page, drawn_data, tmp_path):
    page = open_page()
    (tmp_path / "broken.mp4").write_text("not a video")
    recognise(page, tmp_path / "broken.mp4")
    page.get_by_text("cannot be read as a video").wait_for()
    page.reload()
    recognise(page, next((drawn_data / "test" / "sit").glob("*.avi")))
    page.locator("#actions").get_by_text(re.compile(r"\d+%")).first.wait_for()
