"""Tests of the gate in front of small applications, without a server."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from video_module.web import gate as gate_module
from video_module.web.backlog import Backlog
from video_module.web.gate import Function, Gate, refused
from video_module.web.jobs import Jobs
from video_module.web.limits import Limits, Refused
from video_module.web.login import Accounts
from video_module.web.routes import login_routes
from video_module.web.storage import Storage


def gate_of(app: FastAPI, folder: Path, *, accounts=None, functions=None, backlog=None) -> Gate:
    """Return a gate in front of an application, without a server."""
    limits = Limits()
    return Gate(
        app,
        allowed_hosts=["testserver"],
        accounts=accounts or Accounts({}),
        jobs=Jobs(limits),
        storage=Storage(folder, keep_s=60, max_bytes=1e6, max_bytes_each=1e6),
        backlog=backlog or Backlog(),
        limits=limits,
        functions=functions or {},
        inputs=(),
    )


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://[1.2.3.4]", "http://testserver]", "://"])
def test_malformed_origins_are_foreign(tmp_path, origin):
    visitor = TestClient(gate_of(FastAPI(), tmp_path))
    assert visitor.get("/config", headers={"origin": origin}).status_code == 403
    assert visitor.get("/config", headers={"origin": "http://testserver"}).status_code == 404


@pytest.mark.parametrize("host", ["[", "[1.2.3.4]", "[::1.]", "[::1].", "::1", "[::g]"])
def test_malformed_hosts_are_unknown(tmp_path, host):
    """Code behind the gate raises ValueError when it splits the address of a request with such a host."""
    visitor = TestClient(gate_of(FastAPI(), tmp_path))
    assert visitor.get("/config", headers={"host": host}).status_code == 400


def test_wrong_passwords_block_only_their_address_for_a_while(clock, tmp_path):
    accounts = Accounts({"anna": "secret"}, clock=clock)
    app = FastAPI(exception_handlers={Refused: lambda request, refusal: refused(refusal, request)})
    app.include_router(login_routes(accounts, root_path=""))
    app.add_api_route("/config", lambda: "what is behind the password")
    gate = gate_of(app, tmp_path, accounts=accounts)
    stranger, other = (TestClient(gate, client=(address, 1)) for address in ("203.0.113.7", "203.0.113.8"))

    def attempt(session: TestClient, password: str):
        return session.post("/login", data={"username": "anna", "password": password})

    assert [attempt(stranger, "guess").status_code for _ in range(8)] == [401] * 5 + [429] * 3
    reply = attempt(stranger, "secret")
    assert reply.status_code == 429 and int(reply.headers["retry-after"]) == 1
    assert stranger.get("/config", auth=("anna", "secret")).status_code == 429
    assert attempt(other, "secret").status_code == 200
    assert other.get("/config").status_code == 200
    clock.now += 1
    assert attempt(stranger, "guess").status_code == 401
    clock.now += 1.9  # the next attempt has to wait for 2 s
    assert attempt(stranger, "secret").status_code == 429
    # A visitor who is signed in stays signed in, even if their address is blocked.
    cookie = f"{accounts.cookie}={other.cookies[accounts.cookie]}"
    assert stranger.get("/config", headers={"cookie": cookie}).status_code == 200
    clock.now += 0.1
    assert attempt(stranger, "secret").status_code == 200


def test_one_address_cannot_take_all_places_with_cameras(tmp_path, monkeypatch, clock):
    """Gradio runs 40 events at once; a camera that sends no frames would keep its place for minutes."""
    monkeypatch.setattr(gate_module, "time", SimpleNamespace(monotonic=clock))
    app = FastAPI()
    app.add_api_route("/gradio_api/queue/join", lambda: "joined", methods=["POST"])
    functions = {0: Function(inputs=["image"], is_stream=True), 1: Function(inputs=[])}
    gate = gate_of(app, tmp_path, functions=functions)
    stranger, other = (TestClient(gate, client=(address, 1)) for address in ("203.0.113.7", "203.0.113.8"))

    def join(visitor: TestClient, number: int, session: int):
        call = {"fn_index": number, "data": [None] if number == 0 else [], "session_hash": str(session)}
        return visitor.post("/gradio_api/queue/join", json=call)

    assert [join(stranger, 0, session).status_code for session in range(12)] == [200] * 10 + [429] * 2
    assert join(stranger, 1, 0).status_code == join(other, 0, 0).status_code == 200
    assert int(join(stranger, 0, 0).headers["retry-after"]) == 240
    clock.now += 241
    assert join(stranger, 0, 0).status_code == 200


def test_messages_that_are_sent_make_room_for_pictures(tmp_path):
    backlog, app = Backlog(), FastAPI()

    @app.get("/gradio_api/queue/data")
    async def _() -> StreamingResponse:
        async def messages():
            for _ in range(3):
                assert not backlog.add("a", 1)
                yield bytes(800_000)
                assert backlog.add("a", 800_000)

        return StreamingResponse(messages())

    visitor = TestClient(gate_of(app, tmp_path, backlog=backlog))
    assert backlog.add("a", 1_200_000) and backlog.add("b", 1_200_000)
    assert visitor.get("/gradio_api/queue/data?session_hash=a").status_code == 200
    assert backlog.add("a", 1)  # Gradio has deleted the messages
    assert not backlog.add("b", 1)


def test_sessions_have_short_names(tmp_path):
    app = FastAPI()
    app.add_api_route("/gradio_api/queue/join", lambda: "joined", methods=["POST"])
    visitor = TestClient(gate_of(app, tmp_path, functions={0: Function(inputs=[])}))

    def join(session: str) -> int:
        call = {"fn_index": 0, "data": [], "session_hash": session}
        return visitor.post("/gradio_api/queue/join", json=call).status_code

    assert join("a" * 100) == 200 and join("a" * 101) == 400


def test_only_camera_frames_may_be_large(tmp_path):
    app = FastAPI()
    app.add_api_route("/gradio_api/stream/x", lambda: "taken", methods=["POST"])
    visitor = TestClient(gate_of(app, tmp_path))

    def send(path: str, num_bytes: int) -> int:
        return visitor.post(f"/gradio_api/{path}", json={"data": ["x" * num_bytes]}).status_code

    for path in ("reset", "cancel", "run/predict", "call/predict", "call/v2/predict", "stream/x/close"):
        assert send(path, 200_000) == 413, path
    assert send("stream/x", 1_000_000) == 200
    assert send("queue/join", 1_000_000) == 400  # there is no such function
    assert send("stream/x", 8_000_000) == send("queue/join", 8_000_000) == 413
