"""Tests of the API of a running server, with gradio_client and with plain HTTP requests."""

import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from tests.conftest import link
from tests.web.conftest import MAX_FILE_MB, QUEUE_SIZE, ROOT
from video_module.data.encoding import write_video
from video_module.inference import timeline
from video_module.inference.predictor import load_predictor

META = {"_type": "gradio.FileData"}
RUSSIAN = {"accept-language": "ru-RU,ru;q=0.9"}


@pytest.fixture(scope="module")
def client(shared_server) -> Client:
    return Client(shared_server.address, verbose=False)


def upload(server, path: Path, **settings) -> httpx.Response:
    with open(path, "rb") as file:
        return httpx.post(f"{server.api}/upload", files={"files": (path.name, file)}, timeout=30, **settings)


def call(server, endpoint: str, headers: dict[str, str] | None = None, **inputs) -> tuple[str, object]:
    """Call an endpoint in two requests, and return ("complete", answer) or ("error", message)."""
    reply = httpx.post(f"{server.api}/call/v2/{endpoint}", json=inputs, headers=headers, timeout=30)
    if reply.is_error:
        return "error", reply.json()["detail"]
    event_id = reply.json()["event_id"]
    events = httpx.get(f"{server.api}/call/{endpoint}/{event_id}", timeout=120).text
    kind, data = (line.partition(": ")[2] for line in events.strip().splitlines()[-2:])
    content = json.loads(data)
    return kind, content[0] if kind == "complete" else content["error"]


def test_predict_matches_the_predictor(client, server, exported, recording):
    answer = client.predict(video=handle_file(recording), api_name="/predict")
    prediction = load_predictor(exported).predict_video(recording)
    assert set(answer) == {"video", "model", "fps", "num_frames", "num_damaged_frames", "duration_s", "top_k"}
    assert answer["video"] == "recording.avi"
    assert answer["model"] == "swin3d_nano"
    assert answer["duration_s"] == pytest.approx(6.0)
    expected = prediction.top_k(5)
    assert [item["label"] for item in answer["top_k"]] == [item["label"] for item in expected]
    assert [item["score"] for item in answer["top_k"]] == pytest.approx([item["score"] for item in expected], abs=1e-5)
    assert not server.visitors_files()  # an upload is deleted with its answer


def test_segments_match_the_predictor(client, server, exported, recording):
    answer = client.predict(video=handle_file(recording), model=exported.stem, top_k=2, api_name="/segments")
    predictor = load_predictor(exported)
    prediction = predictor.predict_video(recording)
    expected = timeline.to_json(prediction, timeline.find_segments(prediction), model=predictor.model, k=2)
    assert answer["video"] == "recording.avi"
    assert_close(answer, expected | {"video": "recording.avi"})
    assert not server.visitors_files()


@pytest.mark.parametrize("endpoint", ["predict", "segments"])
def test_form_upload_matches_gradio_client(server, client, recording, endpoint):
    with open(recording, "rb") as file:
        reply = httpx.post(
            f"{server.address}api/{endpoint}", files={"file": file}, data={"top_k": "2", "model": ""}, timeout=60
        )
    assert reply.status_code == 200, reply.text
    expected = client.predict(video=handle_file(recording), top_k=2, api_name=f"/{endpoint}")
    assert_close(reply.json(), expected)
    assert not server.visitors_files()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "resnet"}, "No such model. Available models:"),
        ({"top_k": "0"}, "top_k must be a whole number"),
        ({"top_k": "nan"}, "top_k must be a whole number"),
        ({"top_k": "1e999"}, "top_k must be a whole number"),
        ({"top_k": "many"}, "top_k must be a whole number"),
        ({"topk": "3"}, "There is no form field topk; the fields are file, model and top_k."),
        ({"file": "text"}, "Send one video, as a file in the form field file (curl -F file=@video.mp4)."),
        ({"other": "x" * 1000}, "This upload could not be read."),
    ],
)
def test_bad_forms_are_refused_with_a_reason(server, recording, fields, message):
    with open(recording, "rb") as file:
        reply = httpx.post(f"{server.address}api/predict", files={"file": file}, data=fields)
    assert reply.status_code == 400 and reply.json()["detail"].startswith(message)
    with open(recording, "rb") as file:
        wrong = [{"data": fields}, {"files": {"video": file}}, {"files": {"note": (None, "text")}}]
        replies = [httpx.post(f"{server.address}api/predict", **content) for content in wrong]
    for reply in replies:
        assert reply.status_code == 400 and reply.json()["detail"].startswith("Send one video, as a file in the form")
    assert not server.visitors_files()


def test_bad_videos_are_refused_with_status_422(server, long_video):
    with open(long_video, "rb") as file:
        reply = httpx.post(f"{server.address}api/predict", files={"file": file}, headers=RUSSIAN)
    assert reply.status_code == 422 and reply.json()["detail"].startswith("Видео длиннее 20 с.")
    reply = httpx.post(f"{server.address}api/predict", files={"file": ("a.mp4", b"no video")})
    assert reply.status_code == 422 and reply.json()["detail"].startswith("This file cannot be read as a video.")
    assert not server.visitors_files()


def test_openapi_schema_has_types_and_docs_load_no_resources(server):
    schema = httpx.get(f"{server.address}api/openapi.json").json()
    assert {"/api/predict", "/api/segments"} <= set(schema["paths"])
    operation = schema["paths"]["/api/segments"]["post"]
    assert set(operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]) == {
        "file",
        "model",
        "top_k",
    }
    assert {"400", "401", "413", "422", "503"} <= set(operation["responses"])
    answer = schema["components"]["schemas"]["Timeline"]
    assert {"top_k", "segments", "windows", "timeline"} <= set(answer["required"])
    docs = httpx.get(f"{server.address}api/docs").text
    assert "/api/segments" in docs and "is_uncertain" in docs and f"{server.address}api/segments" in docs
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import", docs)


def assert_close(answer, expected) -> None:
    """Compare nested containers, floats to 1e-5; pytest.approx() does not support nesting."""
    if isinstance(expected, dict):
        assert set(answer) == set(expected)
        for key, value in expected.items():
            assert_close(answer[key], value)
    elif isinstance(expected, list):
        assert len(answer) == len(expected)
        for one, other in zip(answer, expected, strict=True):
            assert_close(one, other)
    else:
        assert answer == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def test_gradio_description_has_types(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/predict", "/segments"}
    [returned] = endpoints["/predict"]["returns"]
    assert returned["type"]["properties"]["top_k"]["items"]["required"] == ["label", "score"]
    defaults = {p["parameter_name"]: p["parameter_has_default"] for p in endpoints["/predict"]["parameters"]}
    assert defaults == {"video": False, "model": True, "top_k": True}


def test_call_by_http(server, recording):
    [path] = upload(server, recording).json()
    kind, answer = call(server, "predict", video={"path": path, "meta": META}, top_k=1)
    assert kind == "complete"
    assert len(answer["top_k"]) == 1
    # An upload is deleted once it has been used.
    kind, message = call(server, "predict", video={"path": path, "meta": META})
    assert (kind, message) == ("error", "This upload has been deleted. Please upload it again.")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"model": "resnet"}, "No such model. Available models:"),
        ({"top_k": 0}, "top_k must be a whole number"),
        ({"top_k": 1.5}, "top_k must be a whole number"),
        ({"video": {"path": "http://example.org/video.mp4", "meta": META}}, "Links are not supported."),
        ({"video": {"path": "https://127.0.0.1/video.mp4", "meta": META}}, "Links are not supported."),
        ({"video": None}, "Choose a video first."),
    ],
)
def test_bad_requests_are_refused_with_a_reason(server, recording, inputs, message):
    if "video" not in inputs:
        [path] = upload(server, recording).json()
        inputs = inputs | {"video": {"path": path, "meta": META}}
    kind, text = call(server, "segments", **inputs)
    assert kind == "error"
    assert text.startswith(message)
    assert not server.visitors_files()


def test_invalid_requests_do_not_fill_the_queue(server):
    for _ in range(2 * QUEUE_SIZE + 5):  # more than the queue could hold
        assert call(server, "predict", video=None) == ("error", "Choose a video first.")
    assert httpx.get(f"{server.address}api/status").json()["waiting"] == 0


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{}\n#EXT-X-ENDLIST\n"


def test_bad_videos_are_refused_in_the_visitors_language(server, client, recording, long_video, tmp_path):
    frame = tmp_path / "one_frame.avi"
    write_video(frame, iter([np.zeros((64, 64, 3), np.uint8)]), fps=25)
    (tmp_path / "broken.mp4").write_text("not a video")
    # Playlists that name another file on the server, which FFmpeg would read.
    for name, text in (
        ("list.mp4", PLAYLIST),
        ("list.avi", "ffconcat version 1.0\nfile {}\n"),
    ):
        (tmp_path / name).write_text(text.format(recording))
    (tmp_path / "no_suffix").write_bytes(recording.read_bytes())
    for path, message in (
        (tmp_path / "broken.mp4", "Не удалось прочитать видео."),
        (tmp_path / "list.mp4", "Не удалось прочитать видео."),
        (tmp_path / "list.avi", "Не удалось прочитать видео."),
        (long_video, "Видео длиннее 20 с."),
    ):
        [uploaded] = upload(server, path).json()
        kind, text = call(server, "predict", headers=RUSSIAN, video={"path": uploaded, "meta": META})
        assert kind == "error" and text.startswith(message)
    with pytest.raises(AppError, match="longer than 20 s"):
        client.predict(video=handle_file(long_video), api_name="/predict")
    for path in (frame, tmp_path / "no_suffix"):
        assert len(client.predict(video=handle_file(path), api_name="/predict")["top_k"]) == 5
    assert not server.visitors_files()


@pytest.mark.parametrize(
    ("name", "content", "status", "message"),
    [
        ("list.m3u8", PLAYLIST.encode(), 415, "Files of this type (.m3u8) are not accepted."),
        ("page.html", b"<script>", 415, "Files of this type (.html) are not accepted."),
        ("video.mp4.exe", b"MZ", 415, "Files of this type (.exe) are not accepted."),
        ("empty.mp4", b"", 400, "This file is empty."),
    ],
)
def test_empty_files_and_other_file_types_are_refused_on_upload(server, name, content, status, message):
    reply = httpx.post(f"{server.api}/upload", files={"files": (name, content)})
    assert reply.status_code == status and reply.text.startswith(message)
    reply = httpx.post(f"{server.address}api/predict", files={"file": (name, content)})
    assert reply.status_code == status and reply.json()["detail"].startswith(message)
    assert not server.visitors_files()


def test_large_uploads_are_refused_and_leave_no_file(server, tmp_path):
    path = tmp_path / "large.mp4"
    path.write_bytes(bytes(MAX_FILE_MB * 1_000_000 + 1))
    reply = upload(server, path)
    assert (reply.status_code, reply.text) == (413, f"This file is larger than {MAX_FILE_MB} MB.")
    path.write_bytes(bytes(30_000_000))  # the server answers before it has read all of it
    reply = upload(server, path, headers=RUSSIAN)
    assert (reply.status_code, reply.text) == (413, f"Файл больше {MAX_FILE_MB} МБ.")

    def without_length():
        yield b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = httpx.post(f"{server.api}/upload", content=without_length(), headers=headers)
    assert reply.status_code == 413
    assert not server.visitors_files()


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x"),
        (
            b'--x\r\ncontent-disposition: form-data; name="files"\r\n\r\ntext\r\n--x--',
            "multipart/form-data; boundary=x",
        ),
        (b"x", "multipart/form-data"),
        (b"{}", "application/json"),
    ],
)
def test_malformed_uploads_are_refused(server, content, content_type):
    reply = httpx.post(f"{server.api}/upload?upload_id=1", content=content, headers={"content-type": content_type})
    assert reply.status_code == 400
    assert not server.visitors_files()


def test_an_aborted_upload_leaves_no_file(server):
    def wait_until(has_files: bool) -> bool:
        end = time.monotonic() + 10
        while bool(server.visitors_files()) != has_files and time.monotonic() < end:
            time.sleep(0.1)
        return bool(server.visitors_files()) == has_files

    def broken():
        yield b'--x\r\ncontent-disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + bytes(10_000)
        # Otherwise the server might start writing only after the final check.
        assert wait_until(has_files=True)
        raise ConnectionResetError

    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": "1000000"}
    with pytest.raises((ConnectionResetError, httpx.HTTPError)):
        httpx.post(f"{server.api}/upload", content=broken(), headers=headers)
    assert wait_until(has_files=False)


def test_file_names_cannot_escape_the_upload_folder(server, recording):
    for name in ("../../../evil.mp4", "..\\evil.mp4", "/etc/evil.mp4", "a" * 300 + ".mp4", "%2e%2e%2fevil.mp4"):
        with open(recording, "rb") as file:
            [path] = httpx.post(f"{server.api}/upload", files={"files": (name, file)}).json()
        path = Path(path)
        assert path.is_relative_to(server.folder) and ".." not in path.parts
        assert call(server, "predict", video={"path": str(path), "meta": META})[0] == "complete"
    assert not server.visitors_files()


def test_only_visitors_files_are_served(server, exported, recording):
    [path] = upload(server, recording).json()
    assert httpx.get(f"{server.api}/file={path}").content == recording.read_bytes()
    root = Path(path).parents[1]
    link(root / "link.txt", Path("/etc/passwd"))
    outside = [
        "/etc/passwd",
        str(exported),
        str(ROOT / "run_gradio.py"),
        "run_gradio.py",
        f"{path}/../../../../../../../../etc/passwd",
        f"{root}/../../../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//....//etc/passwd",
        "/proc/self/environ",
        str(root),
        f"{root}/link.txt",
        "http://127.0.0.1/",
        "HTTP://127.0.0.1/",
        "file:///etc/passwd",
    ]
    for place in outside:
        with httpx.Client() as session:  # send the path as it is; httpx would normalise the dots
            request = session.build_request("GET", server.address)
            request.url = request.url.copy_with(raw_path=f"/gradio_api/file={place}".encode())
            reply = session.send(request)
        assert reply.status_code in (403, 404), place
        assert b"root:" not in reply.content and b"import" not in reply.content
    for place in ("/etc/passwd", str(exported), str(ROOT / "README.md")):
        kind, text = call(server, "predict", video={"path": place, "meta": META})
        assert kind == "error" and "root:" not in str(text)
    shutil.rmtree(root)


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/proxy=https://example.org",
        "gradio_api/file=https://example.org",
        "gradio_api/deep_link?session_hash=a",
        "gradio_api/runs",
        "gradio_api/dev/reload",
        "gradio_api/process_recording",
        "gradio_api/component_server",
        "gradio_api/vibe-code",
        "gradio_api/token",
        "monitoring",
        "monitoring/summary",
        "docs",
        "openapi.json",
        "file/etc/passwd",
        "gradio_api/../gradio_api/runs",
        "gradio_api//runs",
    ],
)
def test_other_routes_of_gradio_are_closed(server, path):
    assert httpx.get(f"{server.address}{path}").status_code == 404
    assert httpx.post(f"{server.address}{path}", json={}).status_code == 404


def test_large_requests_are_refused(server):
    reply = httpx.post(f"{server.api}/call/predict", content=b'{"data": ["' + bytes(9_000_000), timeout=30)
    assert (reply.status_code, reply.json()) == (413, {"detail": "This request is too large."})


def test_the_page_may_load_only_from_this_server(server):
    reply = httpx.get(server.address)
    assert reply.headers["content-security-policy"].startswith("default-src 'self'")
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_handlers_of_the_page_are_not_public_endpoints(server, client):
    with pytest.raises((ValueError, AppError)):
        client.predict("x", "y", 1, api_name="/recognise")
    assert httpx.post(f"{server.api}/run/predict", json={"data": [], "fn_index": 0}).status_code >= 400


@pytest.mark.slow
def test_a_full_queue_refuses_requests(server, client, recording, slow_video):
    """With one video running and QUEUE_SIZE waiting, further requests are refused until the queue empties."""
    with ThreadPoolExecutor(QUEUE_SIZE + 1) as pool:
        jobs = [pool.submit(_call_slow, server, slow_video) for _ in range(QUEUE_SIZE + 1)]
        end = time.monotonic() + 30
        while not httpx.get(f"{server.address}api/status").json()["is_full"]:
            assert time.monotonic() < end, [job.result() for job in jobs if job.done()]
            time.sleep(0.02)
        with open(recording, "rb") as file:
            reply = httpx.post(f"{server.address}api/predict", files={"file": file}, headers=RUSSIAN)
        assert reply.status_code == 503 and int(reply.headers["retry-after"]) > 0
        assert reply.json()["detail"] == f"Сервер занят, в очереди {QUEUE_SIZE}. Попробуйте через минуту."
        body = {"data": [None, None, None]}
        reply = httpx.post(f"{server.api}/call/predict", json=body)
        assert reply.status_code == 503 and int(reply.headers["retry-after"]) > 0
        assert reply.json()["detail"] == f"The server is busy: {QUEUE_SIZE} in the queue. Please try again in a minute."
        browser = RUSSIAN | {"user-agent": "Mozilla/5.0"}
        functions = httpx.get(f"{server.address}config").json()["dependencies"]
        [number] = [function["id"] for function in functions if function["api_name"] == "recognise"]
        reply = httpx.post(
            f"{server.api}/queue/join",
            json={"session_hash": "a", "fn_index": number, "data": [None] * 2},
            headers=browser,
        )
        assert reply.status_code == 429
        assert reply.json()["detail"] == f"Сервер занят, в очереди {QUEUE_SIZE}. Попробуйте через минуту."
        with pytest.raises(QueueError):
            client.predict(video=handle_file(slow_video), api_name="/predict")
        [path] = upload(server, recording).json()
        asked = {"video": {"path": path, "meta": META}}
        assert call(server, "predict", **asked)[0] == "error"
        assert [job.result()[0] for job in jobs] == ["complete"] * (QUEUE_SIZE + 1)
    assert call(server, "predict", **asked)[0] == "complete"  # the refused upload is still there
    # The refused upload of gradio_client is deleted, because gradio_client would upload the file again.
    assert not server.visitors_files()


def _call_slow(server, video: Path) -> tuple[str, object]:
    [path] = upload(server, video).json()
    return call(server, "predict", video={"path": path, "meta": META})


@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="needs bash and curl")
def test_the_api_examples_run(server, recording, tmp_path):
    python, bash = (
        (ROOT / "examples" / name)
        .read_text(encoding="utf-8")
        .replace("http://127.0.0.1:7860/", server.address)
        .replace("http://127.0.0.1:7860", server.address)
        for name in ("call_api.py", "call_api.sh")
    )
    shutil.copy(recording, tmp_path / "clip.mp4")
    run = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    assert "6.0 [{'label':" in subprocess.run([sys.executable, "-I", "-c", python], **run).stdout
    answer = json.loads(subprocess.run(["bash", "-euo", "pipefail", "-c", bash], **run).stdout)
    assert answer["segments"][-1]["end_s"] == pytest.approx(6.0)
