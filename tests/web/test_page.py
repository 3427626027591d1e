"""Tests of the page in a real browser. Needs playwright (requirements-dev.txt) and Debian's chromium."""

import json
import re
import shutil
import time
from itertools import groupby
from pathlib import Path

import pytest

from tests.web.conftest import RUSSIAN, cut_off, run_server

pytestmark = pytest.mark.slow
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
PLAYS = "() => { const v = document.querySelector('#result video'); return v?.currentTime > 0.2 && v.videoWidth }"
IN_VIEW = """(selector) => {
  const { top, bottom } = document.querySelector(selector).getBoundingClientRect();
  return bottom > 0 && top >= -1 && top < innerHeight / 2;
}"""


def choose(page, video: Path, box: str = "#input-video", start: str = "#recognise") -> None:
    page.locator(f"{box} input[type=file]").set_input_files(video)
    page.locator(f"{start}:enabled").wait_for()


def clear(page) -> None:
    page.locator("#input-video").get_by_role("button", name=re.compile("Clear|Remove")).first.click()
    page.locator("#input-video input[type=file]").wait_for(state="attached")


def recognise(page, video: Path) -> None:
    """Upload a video, click the button and wait for the answer."""
    page.evaluate("() => document.querySelector('#result .answer')?.classList.add('is-old')")
    choose(page, video)
    page.locator("#recognise").click()
    wait_for_an_answer(page)


def wait_for_an_answer(page) -> None:
    page.locator("#result .answer:not(.is-old)").wait_for(timeout=120_000)
    page.wait_for_function(PLAYS)
    assert page.locator("#result video").evaluate("v => v.error") is None


def wait_for_the_first_view(page) -> None:
    page.locator(".example-title").wait_for(timeout=120_000)


def until(condition, *, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_the_page_opens_with_an_example_and_a_click_shows_another(open_page):
    page = open_page()
    page.get_by_role("heading", name="Action recognition in video").wait_for()
    wait_for_the_first_view(page)
    assert page.locator(".example-title").inner_text() == "Example: Wave, sit, stand"
    page.wait_for_function(PLAYS)
    for button in ("#recognise", "#cancel"):
        assert page.locator(button).is_disabled()  # no video has been chosen yet
    page.get_by_role("button", name="Push, pull, jump").first.click()
    page.get_by_text("Example: Push, pull, jump").wait_for(timeout=120_000)
    page.wait_for_function(PLAYS)


def test_a_video_is_recognised_and_plays(open_page, server, recording):
    page = open_page()
    page.get_by_text("Up to 2 MB and 20 s.").wait_for()
    wait_for_the_first_view(page)  # otherwise the example's answer could be mistaken for this one
    recognise(page, recording)
    page.locator("#known").get_by_role("button").click()
    page.locator("#known").get_by_text("jump, pull, push, sit, stand, wave").wait_for()
    downloads = {}
    for link in page.locator(".downloads a").all():
        with page.expect_download() as download:
            link.click()
        downloads[download.value.suggested_filename] = download.value.path().read_bytes()
    content = json.loads(downloads["recording.json"])
    assert content["video"] == "recording.avi"
    labels = [label for label, _ in groupby(s["label"] for s in content["segments"] if not s["is_uncertain"])]
    heading = page.locator(".order").inner_text()
    assert re.sub(r" \d+%", "", heading) == (" → ".join(labels) or "No known action")
    assert content["segments"][-1]["end_frame"] == content["num_frames"] == 180
    assert downloads["recording_annotated.mp4"][4:8] == b"ftyp"
    assert downloads["recording.vtt"].startswith(b"WEBVTT") and downloads["recording.csv"]
    if labels:  # the table is not written if no action was recognised
        assert downloads["recording_segments.csv"].startswith(b"path,start_s,end_s,label,score\r\nrecording.avi,0.000,")
    assert page.locator(".segments li").count() == len(content["segments"])
    is_open = page.locator(".means").get_attribute("open") is not None
    assert is_open == (len(content["segments"]) == 1)
    assert server.visitors_files()


def test_screen_readers_do_not_find_gradios_timers(open_page, recording):
    """Gradio makes them transparent, but leaves them in the regions whose changes are read aloud."""
    page = open_page()
    wait_for_the_first_view(page)
    page.evaluate(
        """() => {
          window.timers = new Set();
          const look = () => {
            requestAnimationFrame(look);
            for (const timer of document.querySelectorAll("[data-testid=status-tracker]")) {
              if (timer.checkVisibility() && timer.textContent.trim()) window.timers.add(timer.textContent.trim());
            }
          };
          look();
        }"""
    )
    recognise(page, recording)
    assert page.evaluate("() => [...window.timers]") == []


def test_the_timeline_follows_the_video_and_seeks(open_page):
    page = open_page()
    wait_for_the_first_view(page)
    page.wait_for_function(PLAYS)
    video, strip = page.locator("#result video"), page.locator(".timeline")
    duration = float(page.locator(".answer").get_attribute("data-duration"))

    def playhead() -> float:
        return float(page.locator(".playhead").evaluate("p => parseFloat(p.style.left)")) / 100

    video.evaluate("v => v.pause()")
    box = strip.bounding_box()
    strip.click(position={"x": 0.75 * box["width"], "y": 10})
    assert until(lambda: abs(playhead() - 0.75) < 0.02)
    assert abs(video.evaluate("v => v.currentTime") - 0.75 * duration) < 0.1
    strip.press("Home")
    strip.press("ArrowRight")
    assert until(lambda: abs(playhead() - 1 / duration) < 0.02)
    row = page.locator("[data-start]").last
    row.click()
    assert until(lambda: abs(playhead() * duration - float(row.get_attribute("data-start"))) < 0.1)
    assert until(lambda: "is-now" in (row.get_attribute("class") or ""))
    assert row.locator("b").inner_text() in strip.get_attribute("aria-valuetext")
    strip.press("Home")
    assert until(lambda: playhead() < 0.02)
    video.evaluate("v => v.play()")
    assert until(lambda: 0.1 < playhead() < 1)


def test_everything_is_in_russian(open_page, recording, tmp_path):
    page = open_page(locale="ru-RU")
    page.get_by_role("heading", name="Распознавание действий на видео").wait_for()
    wait_for_the_first_view(page)
    # The title is set once Gradio has rendered the page.
    page.wait_for_function("document.title === 'Распознавание действий на видео'")
    assert page.evaluate("document.documentElement.lang") == "ru"

    def english() -> list[str]:
        words = re.findall(r"(?<![.\w])[A-Za-z]{2,}", page.locator("body").inner_text())
        return [word for word in words if word not in ("API", "avi", "recording", "broken", "KB", "B")]

    page.locator("#known").get_by_role("button").click()
    page.locator("#known").get_by_text(", ".join(RUSSIAN[name] for name in sorted(RUSSIAN))).wait_for()
    assert english() == []
    page.locator(".means summary").click()
    assert english() == []
    (tmp_path / "broken.mp4").write_text("not a video")
    page.locator("#input-video input[type=file]").set_input_files(tmp_path / "broken.mp4")
    page.locator("#status").get_by_text("Не удалось прочитать видео").wait_for()
    assert english() == []
    page.get_by_role("tab", name="В реальном времени").click()
    choose(page, recording, "#live-video", "#start")
    page.locator("#start").click()
    page.get_by_text("Видео закончилось.").wait_for(timeout=60_000)
    assert english() == []


def test_a_camera_recording_is_recognised(open_page):
    page = open_page()
    wait_for_the_first_view(page)
    page.get_by_role("tab", name="Record").click()
    page.locator("#input-camera").get_by_role("button").first.click()
    # On a busy machine, the camera's first frame takes seconds.
    page.wait_for_function("() => document.querySelector('#input-camera video')?.currentTime > 0.5")
    begin = time.monotonic()
    page.locator("#input-camera .capture-button").click()
    page.wait_for_timeout(5000)  # recording may begin a few of these seconds later
    page.locator("#input-camera .capture-button").click()
    elapsed = time.monotonic() - begin
    page.locator("#input-camera").get_by_role("button", name="Clear").wait_for()
    page.locator("#recognise:enabled").wait_for()
    assert "NaN" not in page.locator("body").inner_text()
    page.get_by_role("tab", name="Upload").click()
    page.locator("#input-video").get_by_text(".webm").first.wait_for()
    page.locator("#recognise").click()
    page.locator(".example-title").wait_for(state="detached", timeout=120_000)
    wait_for_an_answer(page)
    # The browser's WebM header has neither a duration nor a frame rate.
    assert 1 < page.locator("#result video").evaluate("v => v.duration") < elapsed + 0.5


def test_cancelling_stops_the_work(open_page, server, slow_video):
    page = open_page()
    wait_for_the_first_view(page)
    choose(page, slow_video)
    page.locator("#recognise").click()
    page.locator("#status").get_by_text(re.compile(r"Recognising, \d+%")).wait_for()
    assert page.locator("#recognise").is_disabled()  # so that a second click does not start again
    page.locator("#cancel").click()
    page.locator("#status").get_by_text("Cancelled.").wait_for()
    page.locator("#cancel:disabled").wait_for()
    page.locator("#recognise:enabled").wait_for()
    assert page.locator("#status .alert").count() == 0  # cancelling is not an error
    assert page.locator(".example-title").count() == 1  # the previous answer stays
    before, written = set(server.visitors_files()), set()
    page.get_by_role("button", name="Six actions").first.click()

    # If the first video were still being processed, its annotated copy would be written before the second starts.
    def is_done() -> bool:
        written.update(path.name for path in set(server.visitors_files()) - before)
        return page.get_by_text("Example: Six actions").count() == 1

    assert until(is_done, seconds=120), page.locator("#status").inner_text()
    assert not [name for name in written if "slow_annotated" in name], written


def test_the_last_click_wins(open_page, recording, slow_video):
    """A visitor does not have to cancel the current video first."""
    page = open_page()
    wait_for_the_first_view(page)
    choose(page, slow_video)
    page.locator("#recognise").click()
    page.locator("#status .status").wait_for()
    page.locator("#recognise:disabled").wait_for()
    clear(page)
    choose(page, recording)
    page.locator("#recognise").click()
    page.locator("#result").get_by_role("link", name="Annotated video").and_(
        page.locator("[download='recording_annotated.mp4']")
    ).wait_for(timeout=120_000)
    page.locator("#recognise:enabled").click()
    page.locator("#status .status").wait_for()
    page.get_by_role("button", name="Six actions").first.click()
    page.wait_for_timeout(1000)  # of two simultaneous clicks, either could reach the server first
    page.get_by_role("button", name="Push, pull, jump").first.click()
    page.get_by_text("Example: Push, pull, jump").wait_for(timeout=120_000)
    page.locator("#cancel:disabled").wait_for()
    page.wait_for_timeout(1000)
    assert page.locator("#status").inner_text() == ""
    page.get_by_text("Example: Push, pull, jump").wait_for()


def test_bad_files_are_reported_at_once_and_the_previous_answer_stays(open_page, recording, long_video, tmp_path):
    page = open_page()
    wait_for_the_first_view(page)
    (tmp_path / "broken.mp4").write_text("not a video")
    (tmp_path / "cut.avi").write_bytes(recording.read_bytes()[:900])
    alert = page.locator("#status .alert:visible")
    for path, message in (
        (tmp_path / "broken.mp4", "cannot be read as a video"),
        (tmp_path / "cut.avi", "cannot be read as a video"),
        (long_video, "This video is longer than 20 s."),
    ):
        page.locator("#input-video input[type=file]").set_input_files(path)
        alert.get_by_text(message).wait_for()
        assert page.locator("#recognise").is_disabled()
        clear(page)
        assert alert.get_by_text(message).count() == 1  # the message stays until the next file
    box = page.locator("#refusal")
    for name, size, message in (
        ("large.mp4", 2_100_000, "This file is larger than 2 MB."),
        ("empty.mp4", 0, "This file is empty."),
        ("notes.txt", 9, "Files of this type (.txt) are not accepted."),
    ):
        (tmp_path / name).write_bytes(bytes(size))
        page.locator("#input-video input[type=file]").set_input_files(tmp_path / name)
        box.get_by_text(message).wait_for()
        assert alert.count() == 0  # one message at a time
    assert page.locator(".example-title").count() == 1
    recognise(page, recording)
    assert box.count() == 0 and alert.count() == 0


@pytest.mark.parametrize(
    ("detail", "message"),
    [
        ("Сервер занят.", "Сервер занят."),
        ("Too many requests", "Не получилось. Попробуйте ещё раз."),
    ],
)
def test_messages_of_gradio_are_replaced_by_ours(browser, server, recording, detail, message):
    """Gradio's own toasts have English titles, so the page hides them and shows their text itself."""
    page = browser.new_context(locale="ru-RU").new_page()
    page.goto(server.address)
    wait_for_the_first_view(page)
    choose(page, recording)
    page.route("**/queue/join*", lambda route: route.fulfill(status=429, json={"detail": detail}))
    page.locator("#recognise").click()
    page.locator("#refusal").get_by_text(message).wait_for()
    assert page.locator("[data-testid=toast-text]").count() and not page.locator(".toast-wrap").is_visible()
    page.locator("#refusal").get_by_role("button", name="Закрыть").click()
    assert page.locator("#refusal").count() == 0
    page.context.close()


def test_video_and_answer_survive_a_lost_connection(browser, server, recording, slow_video):
    """The connections are cut while a second video is being processed."""
    with cut_off(server) as line:
        page = browser.new_context(locale="en-US").new_page()
        page.goto(line.address)
        wait_for_the_first_view(page)
        recognise(page, recording)
        heading = page.locator(".order").inner_text()
        clear(page)
        choose(page, slow_video)
        page.locator("#recognise").click()
        page.locator("#status").get_by_text(re.compile(r"\d+%")).wait_for()
        line.cut()
        page.locator("#refusal").get_by_text("Connection lost.").wait_for()
        page.wait_for_timeout(5000)
        with page.expect_event("framenavigated", timeout=60_000):  # Gradio reloads the page
            line.mend()
        page.locator("#input-video").get_by_text(".mp4").first.wait_for()
        page.locator("#recognise:enabled").wait_for()
        page.wait_for_function(PLAYS)
        assert page.locator(".order").inner_text() == heading
        page.context.close()


def test_progress_and_answer_scroll_into_view_on_a_phone(open_page, recording):
    page = open_page(**PHONE)
    wait_for_the_first_view(page)
    choose(page, recording)
    page.locator("#recognise").click()
    page.wait_for_function(
        "() => document.querySelector('#status .status')?.getBoundingClientRect().bottom < innerHeight"
    )
    page.locator(".example-title").wait_for(state="detached", timeout=120_000)
    page.wait_for_function(IN_VIEW, arg="#result video")  # scrolling takes a while


def test_video_and_answer_survive_a_reload(open_page, recording):
    page = open_page()
    wait_for_the_first_view(page)
    recognise(page, recording)
    heading = page.locator(".order").inner_text()
    page.reload()
    page.locator("#input-video").get_by_text(".avi").first.wait_for()
    page.locator("#recognise:enabled").wait_for()
    page.wait_for_function(PLAYS)
    assert page.locator(".order").inner_text() == heading and page.locator(".example-title").count() == 0


def test_a_page_says_when_its_answer_has_been_deleted(browser, server, recording):
    page = browser.new_context(locale="en-US").new_page()
    page.goto(server.address)
    wait_for_the_first_view(page)
    recognise(page, recording)
    for path in server.visitors_files():
        shutil.rmtree(path.parent, ignore_errors=True)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_text("This result has been deleted").wait_for()
    page.reload()
    wait_for_the_first_view(page)
    page.context.close()


def test_the_waiting_time_is_shown(open_page, slow_video):
    first, second = open_page(), open_page()
    for page in (first, second):
        choose(page, slow_video)
        page.locator("#recognise").click()
        page.locator("#status .status").wait_for()
    second.locator("#status").get_by_text(re.compile(r"1 ahead of you, about \d+ s")).wait_for()
    first.locator("#cancel").click()
    second.locator("#status").get_by_text("Recognising").wait_for()
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
                page.get_by_text("Неверное имя или пароль.").wait_for()
        wait_for_the_first_view(page)
        recognise(page, recording)
        page.get_by_role("button", name="Выйти").click()
        page.get_by_label("Пароль").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        page.go_back()
        page.reload()
        page.get_by_label("Пароль").wait_for()
        context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", ["phone", "desk"])
def test_the_page_fits_the_screen_and_passes_axe(open_page, tmp_path, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="not installed (requirements-dev.txt)")
    page = open_page(color_scheme=theme, **(PHONE if width == "phone" else {}))
    wait_for_the_first_view(page)

    def check() -> None:
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        problems = [
            (problem["id"], [node["html"][:200] for node in problem["nodes"]])
            for problem in axe.Axe().run(page).response["violations"]
            if problem["impact"] in ("serious", "critical")
        ]
        assert problems == []

    check()
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (theme == "dark")
    page.locator(".means summary").click()
    page.locator("#known").get_by_role("button").click()
    (tmp_path / "broken.mp4").write_text("not a video")
    page.locator("#input-video input[type=file]").set_input_files(tmp_path / "broken.mp4")
    page.locator("#status .alert").wait_for()
    page.wait_for_timeout(500)  # wait for the fade-in
    check()
    page.get_by_role("tab", name="Record").click()
    check()
    page.get_by_role("tab", name="Live").click()
    page.locator("#start").wait_for()
    check()
    page.get_by_role("tab", name="Camera").click()
    check()


def test_the_page_links_to_the_api_docs(open_page):
    page = open_page()
    with page.expect_popup() as description:
        page.get_by_role("link", name="API for programs").click()
    description.value.get_by_text("curl -F file=@clip.mp4").wait_for()
    assert "`" not in description.value.locator("body").inner_text()
