"""The page in a real browser. Needs playwright (requirements-dev.txt) and Debian's chromium."""

import json
import re
import time
from itertools import groupby
from pathlib import Path

import pytest

from tests.web.conftest import run_server

pytestmark = pytest.mark.slow
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}


def choose(page, video: Path, box: str = "#input-video") -> None:
    page.locator(f"{box} input[type=file]").set_input_files(video)
    page.locator(box).get_by_text(video.suffix).first.wait_for()


def recognise(page, video: Path) -> None:
    choose(page, video)
    page.locator("#recognise").click()


PLAYS = "() => { const v = document.querySelector('#annotated video'); return v?.currentTime > 0.2 && v.videoWidth }"


def wait_until_it_plays(page) -> None:
    page.wait_for_function(PLAYS)
    assert page.locator("#annotated video").evaluate("v => v.error") is None


def count_pictures(page) -> None:
    """Gather the frames that the live tab shows in window.pictures: looking from here now and then would miss some."""
    page.evaluate(
        """() => {
          window.pictures = new Set();
          const look = () => {
            const src = document.querySelector("#live img")?.src;
            if (src) window.pictures.add(src);
          };
          const settings = { subtree: true, childList: true, attributes: true };
          new MutationObserver(look).observe(document.querySelector("#live"), settings);
        }"""
    )


def wait_for_label(page) -> None:
    page.locator("#now").get_by_text(re.compile(r"\w+ \d+%")).wait_for()


def read_message(page, text: str) -> None:
    """Wait for a message, and close it."""
    message = page.locator(".toast-body").filter(has_text=text)
    message.wait_for()
    message.locator(".toast-close").click()
    message.wait_for(state="detached")


def until(condition, *, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_a_video_is_recognised_and_plays(open_page, server, recording):
    before = set(server.visitors_files())  # of other tests
    page = open_page()
    page.get_by_role("heading", name="Action recognition in video").wait_for()
    page.get_by_text("Up to 2 MB and 20 s.").wait_for()
    recognise(page, recording)
    wait_until_it_plays(page)
    assert len(re.findall(r"\d+%", page.locator("#actions").inner_text())) == 5
    order = page.locator("#order").inner_text()
    page.locator("#known").get_by_role("button").click()
    page.locator("#known").get_by_text("jump, pull, push, sit, stand, wave").wait_for()
    assert page.locator("#timeline img").evaluate("i => i.naturalWidth") > 500
    downloads = {}
    for link in page.locator("#downloads a").all():
        with page.expect_download() as download:
            link.click()
        downloads[download.value.suggested_filename] = download.value.path().read_bytes()
    assert set(downloads) == {"recording_annotated.mp4", "recording.json", "recording.csv", "recording.vtt"}
    content = json.loads(downloads["recording.json"])
    assert content["video"] == "recording.avi"
    labels = [label for label, _ in groupby(s["label"] for s in content["segments"] if s["label"] != "uncertain")]
    assert order == (" → ".join(labels) or "(uncertain)")
    assert content["segments"][-1]["end_frame"] == content["num_frames"] == 180
    assert downloads["recording_annotated.mp4"][4:8] == b"ftyp"
    assert downloads["recording.vtt"].startswith(b"WEBVTT")
    assert set(server.visitors_files()) > before
    page.context.close()  # with the visitor go the files
    assert until(lambda: set(server.visitors_files()) <= before)


def test_an_example_is_one_click_away(open_page):
    page = open_page()
    page.locator("#examples .gallery-item").first.click()
    page.locator("#input-video").get_by_text(".mp4").first.wait_for()
    page.locator("#recognise").click()
    wait_until_it_plays(page)


def test_in_russian(open_page, recording):
    page = open_page(locale="ru-RU")
    page.get_by_role("heading", name="Распознавание действий на видео").wait_for()
    # Set once Gradio has drawn the page
    page.wait_for_function("document.title === 'Распознавание действий на видео'")
    assert page.locator("#recognise").inner_text() == "Распознать"
    page.locator("#recognise").click()
    page.get_by_text("Сначала выберите видео.").wait_for()
    page.get_by_role("tab", name="Вживую").click()
    assert page.locator("#start").inner_text() == "Начать"
    page.locator("#start").click()
    page.get_by_text("Сначала выберите видео.").first.wait_for()


def test_a_recording_by_the_camera_is_recognised(open_page):
    page = open_page()
    page.get_by_role("tab", name="Record").click()
    page.locator("#input-camera").get_by_role("button").first.click()
    page.locator("#input-camera .capture-button").click()
    begin = time.monotonic()
    page.wait_for_timeout(3000)
    page.locator("#input-camera .capture-button").click()
    elapsed = time.monotonic() - begin
    page.locator("#input-camera").get_by_role("button", name="Clear").wait_for()
    page.get_by_role("tab", name="Upload").click()
    page.locator("#input-video").get_by_text(".webm").first.wait_for()
    page.locator("#recognise").click()
    wait_until_it_plays(page)
    # its header tells neither duration nor rate
    assert 1 < page.locator("#annotated video").evaluate("v => v.duration") < elapsed + 0.5


@pytest.mark.parametrize("skip", [1, 5])
def test_a_file_is_watched_live(open_page, recording, skip):
    page = open_page()
    page.get_by_role("tab", name="Live").click()
    choose(page, recording, "#live-video")
    page.locator("#skip input[type=number]").fill(str(skip))
    page.locator("#skip input[type=number]").press("Enter")
    count_pictures(page)
    page.locator("#start").click()
    wait_for_label(page)
    page.wait_for_function("() => window.pictures.size >= 8")
    assert page.evaluate("() => [...window.pictures].every((src) => src.startsWith('data:image/jpeg'))")
    if skip == 1:  # six seconds long, if it were not stopped
        page.locator("#stop").click()
        page.wait_for_timeout(500)
        last = page.locator("#live img").get_attribute("src")
        page.wait_for_timeout(700)
        assert page.locator("#live img").get_attribute("src") == last


def test_the_camera_is_watched_live(open_page, server):
    before = set(server.visitors_files())
    page = open_page()
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("tab", name="Camera").click()
    page.locator("#live-frames .wrap").get_by_role("button").first.click()
    page.locator("#live-frames .capture-button").click()
    wait_for_label(page)
    pictures = set()
    end = time.monotonic() + 10
    while len(pictures) < 8 and time.monotonic() < end:
        pictures.add(page.locator("#live img").get_attribute("src"))
    assert len(pictures) == 8
    assert set(server.visitors_files()) <= before  # frames are never written to a file


def test_cancelling_stops_the_work(open_page, server, slow_video):
    page = open_page()
    choose(page, slow_video)
    page.locator("#recognise").click()
    page.locator("#annotated").get_by_text(re.compile(r"recognising")).wait_for()
    page.locator("#cancel").click()
    page.locator("#annotated").get_by_text("recognising").wait_for(state="hidden")
    page.locator("#input-video").get_by_role("button", name="Clear").click()
    page.locator("#examples .gallery-item").first.click()
    page.locator("#input-video").get_by_text(".mp4").first.wait_for()
    page.locator("#recognise").click()

    # Were the first video still at work, its annotated copy would be written before the second gets its turn.
    before, written = set(server.visitors_files()), set()

    def plays() -> bool:
        written.update(path.name for path in set(server.visitors_files()) - before)
        return bool(page.evaluate(PLAYS))

    assert until(plays, seconds=60)
    assert not [name for name in written if "slow_annotated" in name], written


def test_bad_files_give_a_message_and_the_page_lives_on(open_page, recording, long_video, tmp_path):
    page = open_page()
    (tmp_path / "broken.mp4").write_text("not a video")
    (tmp_path / "cut.avi").write_bytes(recording.read_bytes()[:900])
    for name in ("broken.mp4", "cut.avi"):
        recognise(page, tmp_path / name)
        read_message(page, "not a video, or too damaged to read")
        page.locator("#input-video").get_by_role("button", name="Clear").click()
    page.locator("#examples .gallery-item").first.click()
    page.locator("#input-video").get_by_text(".mp4").first.wait_for()
    page.locator("#recognise").click()
    wait_until_it_plays(page)
    page.locator("#input-video").get_by_role("button", name="Clear").click()
    recognise(page, long_video)
    read_message(page, "This video is longer than 20 s.")
    assert page.locator("#timeline img").count() == 0  # nothing of the video before
    page.locator("#input-video").get_by_role("button", name="Clear").click()
    (tmp_path / "large.mp4").write_bytes(bytes(2_100_000))
    page.locator("#input-video input[type=file]").set_input_files(tmp_path / "large.mp4")
    page.get_by_role("alert").get_by_text("This file is larger than 2 MB.").wait_for()
    assert page.locator("#input-video").get_by_text("large").count() == 0
    (tmp_path / "empty.mp4").touch()
    page.locator("#input-video input[type=file]").set_input_files(tmp_path / "empty.mp4")
    page.get_by_role("alert").get_by_text("This file is empty.").wait_for()
    recognise(page, recording)
    wait_until_it_plays(page)


def test_who_waits_is_told_how_long(open_page, slow_video):
    first, second = open_page(), open_page()
    for page in (first, second):
        choose(page, slow_video)
        page.locator("#recognise").click()
    second.locator("#annotated").get_by_text(re.compile(r"1 before you, about \d+ s")).wait_for()
    first.locator("#cancel").click()
    second.locator("#annotated").get_by_text("recognising").wait_for()
    second.locator("#cancel").click()


def test_signing_in_and_out(browser, exported, recording, tmp_path):
    accounts = tmp_path / "accounts"
    accounts.write_text("anna:secret\n")
    with run_server(tmp_path / "server", exported, "--auth_file", str(accounts)) as server:
        context = browser.new_context(locale="ru-RU")
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.goto(server.address)
        for password in ("wrong", "secret"):
            page.get_by_label("Имя").fill("anna")
            page.get_by_label("Пароль").fill(password)
            page.get_by_role("button", name="Вход").click()
            if password == "wrong":
                page.get_by_text("Имя или пароль неверны.").wait_for()
        recognise(page, recording)
        wait_until_it_plays(page)
        page.get_by_role("button", name="Выйти").click()
        page.get_by_label("Пароль").wait_for()
        page.go_back()
        page.reload()
        page.get_by_label("Пароль").wait_for()
        context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", ["phone", "desk"])
def test_it_fits_the_screen(open_page, recording, tmp_path, theme, width):
    page = open_page(color_scheme=theme, **(PHONE if width == "phone" else {}))
    recognise(page, recording)
    wait_until_it_plays(page)
    overflow = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (theme == "dark")
    page.screenshot(path=tmp_path / f"{width}_{theme}.png", full_page=True)
    page.get_by_role("tab", name="Live").click()
    page.locator("#start").wait_for()
    assert page.evaluate(overflow) == 0
