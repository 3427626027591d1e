"""Tests of the page's live tab in a real browser."""

import re

import pytest

from tests.web.test_page import PHONE, choose

pytestmark = pytest.mark.slow


def count_pictures(page) -> None:
    """Collect the frames shown on the live tab in window.pictures; polling from Python would miss some."""
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
    page.locator("#now").get_by_text(re.compile(r"\w+\)? \d+%")).wait_for()


@pytest.mark.parametrize("speed", ["1×", "5×"])
def test_a_file_is_watched_live(open_page, recording, speed):
    page = open_page()
    page.get_by_role("tab", name="Live").click()
    assert page.get_by_role("radio", name="1×").is_checked()
    assert page.locator("#start").is_disabled() and page.locator("#stop").is_disabled()
    choose(page, recording, "#live-video", "#start")
    page.get_by_role("radio", name=speed).check()
    count_pictures(page)
    page.locator("#start").click()
    wait_for_label(page)
    page.wait_for_function("() => window.pictures.size >= 8")
    assert page.evaluate("() => [...window.pictures].every((src) => src.startsWith('data:image/jpeg'))")
    if speed == "1×":  # would take six seconds
        page.locator("#stop").click()
        page.locator("#live-status").get_by_text("Stopped.").wait_for()
        last = page.locator("#live img").get_attribute("src")
        page.wait_for_timeout(700)
        assert page.locator("#live img").get_attribute("src") == last
    else:
        page.locator("#live-status").get_by_text("The video has ended.").wait_for()
    page.locator("#stop:disabled").wait_for()


def test_the_picture_scrolls_into_view_on_a_phone(open_page, recording):
    page = open_page(**PHONE)
    page.get_by_role("tab", name="Live").click()
    choose(page, recording, "#live-video", "#start")
    page.locator("#start").click()
    wait_for_label(page)
    page.wait_for_function("""() => {
      const [live, now] = ["#live", "#now"].map((selector) => document.querySelector(selector).getBoundingClientRect());
      return live.top >= 0 && now.bottom < innerHeight;
    }""")


def test_restarting_plays_from_the_beginning_at_the_new_speed(open_page, recording):
    page = open_page()
    page.get_by_role("tab", name="Live").click()
    choose(page, recording, "#live-video", "#start")
    page.locator("#start").click()
    page.locator("#live img").wait_for()
    page.get_by_role("radio", name="10×").check()
    count_pictures(page)
    page.locator("#start").click()
    page.locator("#live-status").get_by_text("The video has ended.").wait_for(timeout=60_000)
    assert page.evaluate("() => window.pictures.size") < 30  # about 70 at normal speed
    page.locator("#stop:disabled").wait_for()


def test_a_second_visitor_sees_the_queue(open_page, slow_video, recording):
    first, second = open_page(), open_page()
    for page, video in ((first, slow_video), (second, recording)):
        page.get_by_role("tab", name="Live").click()
        choose(page, video, "#live-video", "#start")
        page.locator("#start").click()
        if page is first:
            page.locator("#live img").wait_for()
    second.locator("#live-status").get_by_text("In the queue: 1 ahead of you").wait_for()
    first.locator("#stop").click()
    second.locator("#live img").wait_for()


def test_the_camera_is_watched_live(open_page, server, slow_video):
    """Starting the camera stops a file that is playing."""
    page = open_page()
    page.get_by_role("tab", name="Live").click()
    choose(page, slow_video, "#live-video", "#start")  # 15 seconds
    page.locator("#start").click()
    page.locator("#live img").wait_for()
    before = set(server.visitors_files())
    page.get_by_role("tab", name="Camera").click()
    page.locator("#live-frames .wrap").get_by_role("button").first.click()
    count_pictures(page)
    page.locator("#live-frames .capture-button").click()
    wait_for_label(page)
    page.wait_for_function("() => window.pictures.size >= 8")
    assert page.locator("#stop").is_disabled() and page.locator("#live-status").inner_text() == ""
    assert set(server.visitors_files()) <= before  # frames are never written to a file
