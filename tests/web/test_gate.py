"""Tests of access control with running servers: other origins and hosts, passwords, malformed and slow requests."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file

from tests.web.conftest import Server, run_server
from video_module.data.encoding import write_video
from video_module.web.gate import own_names

META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def locked(exported, tmp_path_factory) -> Iterator[Server]:
    """Return a server with passwords, and check at the end that its log has no traceback."""
    folder = tmp_path_factory.mktemp("locked")
    accounts = folder / "accounts"
    accounts.write_text("anna:secret\nборис:другой\n", encoding="utf-8")
    flags = ["--auth_file", str(accounts), "--allowed_hosts", "videos.example.org"]
    with run_server(folder / "server", exported, *flags) as server:
        yield server
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


@pytest.fixture
def signed_in(locked) -> Iterator[httpx.Client]:
    """Return an HTTP client that is signed in to the locked server."""
    with httpx.Client(base_url=locked.address) as session:
        reply = session.post("login", data={"username": "anna", "password": "secret"})
        assert reply.json() == {"success": True}
        yield session


def get(server: Server, path: str = "", **headers: str) -> httpx.Response:
    return httpx.get(f"{server.address}{path}", headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example", "a@b", "[::1"]
)
def test_unknown_hosts_are_refused(locked, host):
    reply = get(locked, "login", host=host)
    assert reply.status_code == 400 and "evil" not in reply.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "[::1]:7860", "192.168.7.9:1", "videos.example.org"])
def test_known_hosts_are_served(locked, host):
    assert get(locked, "login", host=host).status_code == 200


def test_own_names_include_localhost_host_name_and_address():
    assert {"localhost", socket.gethostname().lower(), "10.0.0.7"} <= own_names("10.0.0.7")


@pytest.mark.parametrize("host", ["localhost:7860", "192.168.7.9:7860", "videos.example.org"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:9", "https://x.example.org", "http://192.168.7.9", "file://"],
)
def test_other_origins_get_no_answer(locked, signed_in, host, origin):
    """The requests are signed in, as they would be from the victim's browser."""
    for method, path in (
        ("GET", "config"),
        ("POST", "gradio_api/queue/join"),
        ("POST", "api/predict"),
        ("POST", "logout"),
    ):
        reply = signed_in.request(method, path, headers={"host": host, "origin": origin})
        assert reply.status_code == 403
        assert "access-control-allow-origin" not in reply.headers
    asked = {"host": host, "origin": origin, "access-control-request-method": "POST"}
    reply = signed_in.request("OPTIONS", "api/predict", headers=asked)
    assert reply.is_error and "access-control-allow-origin" not in reply.headers
    assert signed_in.get("config").status_code == 200


def test_own_origin_gets_answers(locked, signed_in):
    for host, origin in (
        (None, locked.address.removesuffix("/")),
        ("videos.example.org", "https://videos.example.org"),
        ("videos.example.org:443", "https://videos.example.org"),
        ("[::1]:7860", "http://[::1]:7860"),
    ):
        headers = {"origin": origin, "sec-fetch-site": "same-origin"} | ({"host": host} if host else {})
        assert signed_in.get("config", headers=headers).status_code == 200, host


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_link_to_the_page_but_embed_nothing(locked, signed_in, site):
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert signed_in.get("", headers=link).status_code == 200
    for mode, dest in (("no-cors", "image"), ("no-cors", "video"), ("navigate", "iframe"), ("cors", "empty")):
        headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert signed_in.get("theme.css", headers=headers).status_code == 403
    assert signed_in.post("logout", headers=link).status_code == 403


@pytest.mark.parametrize(
    "name", ["x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix", "forwarded", "x-original-url"]
)
def test_forged_headers_do_not_change_addresses(server, name):
    with httpx.Client() as session:
        plain = session.get(f"{server.address}config").json()
        forged = session.get(f"{server.address}config", headers={name: "evil.example"}).json()
        page = session.get(server.address, headers={name: "evil.example"}).text
    assert forged["root"] == plain["root"] == server.address.removesuffix("/")
    assert "evil.example" not in json.dumps(forged) + page


def test_files_are_sent_as_single_ranges_and_headers_are_not_echoed(server, recording):
    with open(recording, "rb") as file:
        [path] = httpx.post(f"{server.api}/upload", files={"files": (recording.name, file)}).json()
    content, probe = recording.read_bytes(), {"cookie": "a=secret", "x-probe": "secret", "authorization": "secret"}

    def part(value: str) -> httpx.Response:
        reply = httpx.get(f"{server.api}/file={path}", headers={"range": value} | probe)
        assert "secret" not in str(reply.headers.raw)
        return reply

    for value, begin, end in (("bytes=0-9", 0, 10), ("bytes=5-", 5, None), ("bytes=-7", -7, None)):
        reply = part(value)
        assert (reply.status_code, reply.content) == (206, content[begin:end])
        assert re.fullmatch(r"bytes \d+-\d+/\d+", reply.headers["content-range"])
    assert part(f"bytes={len(content)}-").status_code == 416
    for value in ("bytes=0-9,20-29", "bytes=0-0,1-1" + ",2-2" * 500, "bytes=9-0x", "lines=1-2", "bytes=-", "bytes=a-b"):
        reply = part(value)
        assert reply.status_code in (200, 416) and "multipart" not in reply.headers["content-type"]
    for other in ("theme.css", "config"):
        assert httpx.get(f"{server.address}{other}", headers={"range": "bytes=0-9"} | probe).status_code == 200
    assert httpx.get(f"{server.api}/file={path}").headers["content-security-policy"]
    call = {"video": {"path": path, "meta": META}}
    event = httpx.post(f"{server.api}/call/v2/predict", json=call).json()["event_id"]
    assert "complete" in httpx.get(f"{server.api}/call/predict/{event}", timeout=60).text  # deletes the upload


@pytest.mark.parametrize(
    "place", ["", "/etc/passwd", "run_gradio.py", "/dev/zero", "\0", "x" * 5000, "../../../etc/passwd"]
)
@pytest.mark.parametrize("path", ["call/predict", "queue/join", "run/predict"])
def test_requests_may_name_only_uploaded_files(server, path, place):
    """Gradio would copy such a file to where it can be downloaded, or read a device like /dev/zero forever."""
    file = {"path": place, "meta": META}
    body = {"data": [file, None, None], "session_hash": "a", "fn_index": 0, "nested": [{"deep": file}]}
    reply = httpx.post(f"{server.api}/{path}", json=body, timeout=10)
    assert reply.status_code == 404 and reply.json()["detail"].startswith("This upload has been deleted")
    body["data"][0] = body["nested"] = {"path": "HTTPS://example.org/a.mp4", "meta": META}
    reply = httpx.post(f"{server.api}/{path}", json=body, timeout=10)
    assert reply.status_code == 400 and reply.json()["detail"].startswith("Links are not supported.")
    assert not server.visitors_files()


def test_curl_with_a_password(locked, recording):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "-s", "-F", f"file=@{recording}", f"{locked.address}api/segments"]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout) == {
        "detail": "Please sign in first."
    }
    command += ["-u", "anna:secret"]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["num_frames"] == 180


def test_gradio_client_with_a_password(locked, recording):
    for wrong in (("anna", "другой"), ("anna", ""), ("", "")):
        with pytest.raises(Exception, match=r"[Aa]uth|login|credentials"):
            Client(locked.address, auth=wrong, verbose=False)
    client = Client(locked.address, auth=("борис", "другой"), verbose=False)
    assert client.predict(video=handle_file(recording), api_name="/predict")["num_frames"] == 180


PATHS = """
/ config theme.css manifest.json assets/x static/img/logo.svg svelte/x api/predict api/segments api/status api/docs
api/openapi.json gradio_api/info gradio_api/app_id gradio_api/startup-events gradio_api/theme.css gradio_api/upload
gradio_api/upload_progress?upload_id=a gradio_api/reset gradio_api/file=/etc/passwd gradio_api/queue/join
gradio_api/queue/data?session_hash=a gradio_api/queue/status gradio_api/call/predict gradio_api/call/v2/predict
gradio_api/call/predict/x gradio_api/run/predict gradio_api/cancel gradio_api/heartbeat/x gradio_api/stream/x
gradio_api/user gradio_api/token gradio_api/login_check gradio_api/openapi.json gradio_api/runs gradio_api/deep_link
gradio_api/component_server monitoring/summary docs gradio_api//upload /gradio_api/upload/ %2e%2e/config API/PREDICT
"""


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", PATHS.split())
def test_no_route_is_open_without_a_password(locked, exported, method, path):
    with httpx.Client() as session:
        request = session.build_request(method, locked.address)
        request.url = request.url.copy_with(raw_path=b"/" + path.removeprefix("/").encode())
        reply = session.send(request)
    assert reply.status_code in (401, 404, 405), path
    for secret in (exported.stem, "swin3d", "wave", str(locked.folder), "gradio_config", "Traceback"):
        assert secret not in reply.text


def test_the_login_page_reveals_nothing(locked, exported):
    browser = {"accept": "text/html,*/*", "accept-language": "ru"}
    reply = httpx.get(locked.address, headers=browser)
    assert reply.status_code == 401 and "Пароль" in reply.text
    assert not re.search(r"<(script|link|img)|gradio|nano|wave|модел", reply.text)
    with httpx.Client(headers=browser) as session:
        reply = session.post(f"{locked.address}login", data={"username": "anna", "password": "x"})
        assert reply.status_code == 401 and "Неверное имя или пароль." in reply.text and "anna" not in reply.text
        reply = session.post(f"{locked.address}login", data={"username": "борис", "password": "другой"})
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        cookie = reply.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie
        page = session.get(locked.address).text
        assert "gradio_config" in page and 'action=\\"/logout\\"' in page.replace("\\u003d", "=")


def test_signing_out_invalidates_the_session(locked, signed_in):
    stolen = dict(signed_in.cookies)
    assert signed_in.get("config").status_code == 200
    assert signed_in.post("logout").headers["location"] == "/"
    assert signed_in.get("config").status_code == 401
    assert httpx.get(f"{locked.address}config", cookies=stolen).status_code == 401


def test_the_password_is_not_on_the_command_line(locked):
    assert "secret" not in " ".join(locked.process.args)


@pytest.mark.slow
def test_malformed_requests_cause_no_traceback(server, signed_in):
    """The fixtures check the logs of both servers at the end."""
    bodies = [b"", b"{", b"[]", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"data": null}', b'{"data": {}}']
    bodies += [
        json.dumps({"data": data, "session_hash": "a", "fn_index": fn}).encode()
        for data in ([], [None], [7] * 3, ["x"] * 9, [{}] * 3, [[]] * 3)
        for fn in (0, 1, 99, -1, "x", None)
    ]
    addresses = (
        "queue/join",
        "call/predict",
        "call/segments",
        "call/nothing",
        "call/v2/predict",
        "call/v2/x",
        "run/predict",
        "cancel",
        "reset",
        "stream/x",
        "stream/x/close",
        "upload",
    )
    for body in bodies:
        for address in addresses:
            for session, base in ((signed_in, ""), (httpx, server.address)):
                headers = {"content-type": "application/json", "x-forwarded-for": "203.0.113.9"}
                reply = session.post(f"{base}gradio_api/{address}", content=body, headers=headers)
                assert reply.status_code in range(200, 504), (address, body)


def test_idle_uploads_do_not_block_other_visitors(server, recording):
    with ExitStack() as stack:
        for number in range(38):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", httpx.URL(server.address).port)))
            head = (
                f"POST /gradio_api/upload HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 203.0.113.{number // 8}\r\n"
            )
            head += "content-type: multipart/form-data; boundary=x\r\ncontent-length: 2000000\r\n\r\n--x\r\n"
            idle.sendall(head.encode())
        time.sleep(0.5)
        with open(recording, "rb") as file:
            reply = httpx.post(f"{server.address}api/predict", files={"file": file}, timeout=60)
        assert reply.status_code == 200, reply.text


def test_uploads_per_address_are_limited(server):
    port, address = httpx.URL(server.address).port, {"x-forwarded-for": "203.0.113.50"}
    with ExitStack() as stack:
        connections = []
        for _ in range(12):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            stack.callback(connection.close)
            connection.putrequest("POST", "/api/predict")
            for name, value in (
                address | {"content-type": "multipart/form-data; boundary=x", "content-length": "999"}
            ).items():
                connection.putheader(name, value)
            connection.endheaders(b"--x")
            connections.append(connection)
        time.sleep(0.5)
        reply = httpx.post(f"{server.address}api/predict", files={"file": ("a.mp4", b"x")}, headers=address)
        assert reply.status_code == 503 and int(reply.headers["retry-after"]) > 0
        reply = httpx.post(f"{server.address}api/predict", files={"file": ("a.mp4", b"x")})
        assert reply.status_code == 422
    assert _until(lambda: not server.visitors_files())


@pytest.mark.slow
def test_half_open_connections_are_closed_without_blocking_others(server):
    with ExitStack() as stack:
        waiting = []
        for number in range(300):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", httpx.URL(server.address).port)))
            connection.sendall(b"" if number % 2 else b"GET / HTTP/1.1\r\nhost: localh")
            connection.setblocking(False)
            waiting.append(connection)
        begin = time.monotonic()
        assert httpx.get(f"{server.address}api/status").status_code == 200
        assert time.monotonic() - begin < 2
        assert _until(lambda: all(_is_closed(connection) for connection in waiting), seconds=40)
        assert httpx.get(f"{server.address}api/status").status_code == 200


@pytest.mark.slow
def test_silent_uploads_time_out_and_slow_ones_complete(server, recording):
    port = httpx.URL(server.address).port
    head = "POST /api/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=40) as silent:
        begin = time.monotonic()
        silent.sendall(f"{head}content-length: 100000\r\n\r\n--x".encode())
        assert silent.recv(1000).startswith(b"HTTP/1.1 408") and 15 < time.monotonic() - begin < 30

    def slow():
        content = recording.read_bytes()
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.avi"\r\n\r\n'
        for part in range(0, len(content), len(content) // 25):
            yield content[part : part + len(content) // 25]
            time.sleep(1)
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = httpx.post(f"{server.address}api/predict", content=slow(), headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    assert not server.visitors_files()


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _until(condition, *, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
def test_pixels_and_processing_time_are_limited(exported, recording, slow_video, tmp_path):
    limits = ["--max_gigapixels", "0.9", "--max_work_s", "1", "--concurrency", "1"]
    with run_server(tmp_path / "server", exported, *limits) as server:

        def ask(video: Path) -> httpx.Response:
            with open(video, "rb") as file:
                return httpx.post(f"{server.address}api/predict", files={"file": file}, timeout=60)

        reply = ask(slow_video)  # 900 frames of 1280x720
        assert reply.status_code == 422 and "took longer than 1 s" in reply.json()["detail"]
        assert ask(recording).status_code == 200
        write_video(tmp_path / "large.mp4", (np.zeros((720, 1280, 3), np.uint8) for _ in range(980)), fps=60)
        begin = time.monotonic()
        reply = ask(tmp_path / "large.mp4")
        assert reply.status_code == 422 and "more than 0.9 billion pixels" in reply.json()["detail"]
        assert time.monotonic() - begin < 5


@pytest.mark.slow
def test_the_server_stops_quickly_during_a_job(exported, slow_video, tmp_path):
    with run_server(tmp_path / "server", exported, "--concurrency", "1") as server:
        with httpx.Client() as client, open(slow_video, "rb") as file:
            [path] = client.post(f"{server.api}/upload", files={"files": ("slow.mp4", file)}, timeout=60).json()
        httpx.post(f"{server.api}/call/v2/predict", json={"video": {"path": path, "meta": META}})
        time.sleep(2)
        begin = time.monotonic()
        server.process.terminate()
        assert server.process.wait(30) == 0 and time.monotonic() - begin < 10
        assert not server.visitors_files()
        assert "Traceback" not in Path(server.log).read_text(encoding="utf-8")
