"""Live sources: local streams that stop and come back, files at their own speed."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest

from tests.conftest import LEVEL_STEP, frame_numbers
from video_module.data import capture
from video_module.data.packets import DEFAULT_FPS
from video_module.errors import VideoError


class Camera:
    """A network camera that sends motion JPEG: `num_frames` frames to each of `num_visits` visitors, then nothing."""

    def __init__(self, *, num_frames: int, num_visits: int) -> None:
        self.num_frames, self.visits_left = num_frames, num_visits

    def pictures(self) -> Iterator[bytes]:
        for number in range(self.num_frames):
            frame = np.full((48, 64, 3), LEVEL_STEP * number, np.uint8)
            yield cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@contextmanager
def serving(camera: Camera, files: dict[str, bytes] | None = None) -> Iterator[str]:
    """The camera at /live and files at their names, on loopback; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if content := (files or {}).get(self.path):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            elif self.path == "/live" and camera.visits_left > 0:
                camera.visits_left -= 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                for picture in camera.pictures():
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")
            else:
                self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("source", "is_live"),
    [
        ("0", True),
        ("12", True),
        ("/dev/video0", True),
        ("rtsp://10.0.0.1:554/a", True),
        ("HTTP://x/y.mp4", True),
        ("clip.mp4", False),
    ]
    + [("20231105", False), ("a:b.avi", False), ("C:\\videos\\a.avi", False), ("folder/0", False), ("-", False)],
)
def test_cameras_and_streams_are_told_from_files(source, is_live):
    assert capture.is_live(source) == is_live


def test_a_cameras_password_is_never_shown():
    said = []
    with serving(Camera(num_frames=30, num_visits=1)) as address:
        url = address.replace("://", "://user:pa55word@") + "/live"
        frames = capture.stream_frames(url, say=said.append, max_retries=1, sleep=lambda _: None)
        with pytest.raises(VideoError, match="did not come back") as error:
            list(frames)
    with pytest.raises(VideoError, match="no stream can be opened") as other:
        list(capture.stream_frames("rtsp://user:pa55word@127.0.0.1:1/a", say=said.append))
    assert said
    for text in (*said, str(error.value), str(other.value)):
        assert "://***@127.0.0.1" in text and "pa55word" not in text


def test_a_stream_that_stops_is_asked_for_again():
    said, pauses = [], []
    with serving(Camera(num_frames=30, num_visits=2)) as address:
        frames = capture.stream_frames(f"{address}/live", say=said.append, max_retries=3, sleep=pauses.append)
        seen = []
        with pytest.raises(VideoError, match="did not come back in 3 attempts"):
            seen.extend(frames)  # what came before the error is kept
    numbers = frame_numbers(np.stack([timed.frame for timed in seen]))
    first, second = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
    assert first == second == list(range(len(first)))
    assert len(first) >= 28  # the last picture of a stream that breaks off may not be whole
    assert [index for index, timed in enumerate(seen) if timed.after_gap] == [len(first)]
    assert pauses == [1, 1, 2, 4]  # they grow until the stream is back, and begin anew
    assert len(said) == 4
    assert "attempt 1 of 3 to reconnect in 1 s" in said[0]
    times = [timed.time_s for timed in seen]
    assert times == sorted(times)
    assert seen[0].fps == DEFAULT_FPS


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_a_file_on_a_web_server_comes_at_its_own_speed_and_ends(make_video, share):
    """Also where it breaks off before the length that its header states."""
    content = make_video(40, name="clip.mp4").read_bytes()
    content = content[: round(len(content) * share)]
    pauses = []
    with serving(Camera(num_frames=0, num_visits=0), {"/clip.mp4": content}) as address:
        seen = list(capture.stream_frames(f"{address}/clip.mp4", say=pytest.fail, clock=lambda: 0, sleep=pauses.append))
    assert (len(seen) == 40) == (share == 1)
    assert frame_numbers(np.stack([timed.frame for timed in seen])) == list(range(len(seen)))
    assert [timed.time_s for timed in seen] == pytest.approx([number / 25 for number in range(len(seen))])
    assert pauses == pytest.approx([number / 25 for number in range(1, len(seen))])  # no time passes on this clock
    assert not any(timed.after_gap for timed in seen)


def test_a_file_on_a_web_server_without_a_frame(make_video):
    content = make_video(40, name="clip.mp4").read_bytes()[:1500]
    with (
        serving(Camera(num_frames=0, num_visits=0), {"/clip.mp4": content}) as address,
        pytest.raises(VideoError, match=r"no frame decodes|no stream can be opened"),
    ):
        list(capture.live_frames(f"{address}/clip.mp4", say=pytest.fail))


def test_no_stream_and_no_camera_are_said_in_a_line():
    with serving(Camera(num_frames=0, num_visits=0)) as address, pytest.raises(VideoError, match="no stream can be"):
        next(capture.live_frames(f"{address}/live"))
    with pytest.raises(VideoError, match="camera 97: cannot be opened"):
        next(capture.live_frames("97"))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_file_comes_at_its_own_speed(make_video):
    clock = Clock()
    seen = [(timed, clock()) for timed in capture.paced_frames(make_video(26, fps=50), clock=clock, sleep=clock.sleep)]
    assert frame_numbers(np.stack([timed.frame for timed, _ in seen])) == list(range(26))
    for number, (timed, now) in enumerate(seen):
        assert (timed.time_s, now) == pytest.approx((number / 50, 100 + number / 50))
        assert timed.num_dropped == 0


def test_who_is_late_misses_frames_and_is_told_how_many(make_video):
    clock = Clock()
    frames = capture.paced_frames(make_video(50, fps=50), clock=clock, sleep=clock.sleep)
    seen = [next(frames)]
    clock.now += 0.41
    seen += frames
    assert frame_numbers(np.stack([timed.frame for timed in seen])) == [0, *range(20, 50)]  # 20 is late by half a frame
    assert [timed.num_dropped for timed in seen] == [0, 19, *[0] * 29]


class DamagedCamera:
    """Five frames of brightness 10 n, of which number 2 does not decode."""

    def __init__(self):
        self.position = -1

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self.position += 1
        return self.position < 5

    def retrieve(self):
        if self.position == 2:
            return False, None
        return True, np.full((4, 4, 3), 10 * self.position, np.uint8)

    def get(self, _) -> float:
        return 25.0


def test_a_frame_that_comes_damaged_is_left_out():
    timed = list(capture._until_it_stops(DamagedCamera(), begin=0.0))
    assert [int(frame.frame.max()) for frame in timed] == [0, 10, 30, 40]
    grabs = capture._grabs(DamagedCamera())
    timed = list(
        capture.pace(((n / 25, grab) for n, grab in enumerate(grabs)), fps=25, clock=lambda: 0.0, sleep=lambda _: None)
    )
    assert [int(frame.frame.max()) for frame in timed] == [0, 10, 30, 40]
    assert [frame.num_dropped for frame in timed] == [0, 0, 1, 0]


def test_in_real_time(make_video):
    """By a clock that moves on only while the reader sleeps: no frame comes early, and the last after half a second."""
    now = [0.0]
    frames = capture.paced_frames(
        make_video(26, fps=50), clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
    )
    assert [frame.arrival_s for frame in frames] == pytest.approx([number / 50 for number in range(26)])


def test_a_broken_file_is_an_error(tmp_path: Path):
    (tmp_path / "x.avi").write_text("text")
    with pytest.raises(VideoError):
        next(capture.paced_frames(tmp_path / "x.avi"))
