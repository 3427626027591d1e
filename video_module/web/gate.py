"""The gate in front of the server: checks each request's host, origin, path, login and size.

The rules are about HTTP and do not depend on how Gradio works inside. Requests that no rule allows are refused.
"""

import json
import math
import re
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from video_module.web.backlog import Backlog
from video_module.web.jobs import Jobs
from video_module.web.limits import Limits, Refused, address_of, is_address
from video_module.web.login import Accounts, login_page
from video_module.web.storage import Storage
from video_module.web.texts import texts_for
from video_module.web.uploads import read_body

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# The paths that the page and the API need. Gradio has more that are not needed here: a proxy for other websites, pages
# of past runs, links that store a visitor's state, an editor.
_OPEN = re.compile(
    r"/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|login|logout|(assets|static|svelte)/.+)?"
    r"|/api/(predict|segments|status|docs|openapi\.json)"
    r"|/gradio_api/(info|app_id|startup-events|theme\.css|upload|upload_progress|reset|file=(?!https?:).+"
    r"|queue/(join|data|status)|call/(v2/)?(predict|segments)(/[^/]+)?|run/predict|cancel|heartbeat/[^/]+|stream/[^/]+(/close)?)"
)
_WITHOUT_LOGIN = ("/login", "/logout", "/favicon.ico", "/robots.txt")
# These routes read the body of a request themselves, as it arrives.
_READ_BY_ROUTES = ("/login", "/logout", "/api/predict", "/api/segments", "/gradio_api/upload")
_PAGE_CALLS = ("/gradio_api/queue/join", "/gradio_api/run/predict")
_ONE_RANGE = re.compile(r"bytes=(\d{1,15}-\d{0,15}|-\d{1,15})")

# Bytes of a request that is not an upload, and of one that may carry a camera frame. They are held in memory, which
# strangers could fill without a limit.
_MAX_BODY = 100_000
_MAX_FRAME = 8_000_000
_WITH_FRAME = re.compile(r"/gradio_api/(queue/join|stream/[^/]+)")

# Characters in the name of a session, which Gradio keeps for long.
_MAX_SESSION = 100

# Cameras that an address may start within the longest time that they can run. Gradio runs at most 40 events at once,
# and one of a camera keeps its place even while no frames come.
_MAX_CAMERAS = 10

# Headers set by proxies. uvicorn has already read those of proxies that it trusts. Gradio builds addresses from these
# headers, so it must not see them from anyone else.
_FORWARDED = {b"forwarded", *(f"x-forwarded-{name}".encode() for name in ("for", "host", "port", "prefix", "proto"))}

_HEADERS = {
    # Scripts, fonts and images come only from this server. Gradio's page has inline scripts and styles.
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'",
    "x-content-type-options": "nosniff",
    # Without a referrer, browsers would send the login and logout forms with the origin "null".
    "referrer-policy": "same-origin",
}

RETRY_AFTER_S = 30


def own_names(host: str) -> set[str]:
    """The host names that are accepted by default."""
    name = socket.gethostname().lower()
    return {"localhost", name, f"{name}.local", host.lower()}


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function of the page that the browser calls by its number."""

    inputs: Sequence[str] | None
    """The types of its input components; None if there is no such function."""
    is_job: bool = False
    """Whether it waits in the queue of Jobs."""
    is_endpoint: bool = False
    """Whether it is an endpoint for gradio_client, which uploads the file again for each call."""
    is_stream: bool = False
    """Whether one call goes on with more requests, as that of a camera does."""


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: Any,
        *,
        allowed_hosts: Iterable[str],
        accounts: Accounts,
        jobs: Jobs,
        storage: Storage,
        backlog: Backlog,
        limits: Limits,
        functions: Mapping[int, Function],
        inputs: Collection[str],
        root_path: str = "",
    ) -> None:
        """`functions` are the page's functions by number; `inputs` are the parameters of the endpoints."""
        self._app, self._accounts, self._jobs, self._storage = app, accounts, jobs, storage
        self._backlog, self._limits, self._root_path = backlog, limits, root_path
        self._functions, self._inputs = functions, inputs
        self._hosts = {name.lower() for name in allowed_hosts}
        # (address, time) of the starts of cameras.
        self._cameras: list[tuple[str, float]] = []

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page needs no WebSocket
            return
        request = Request(scope, receive)
        texts = texts_for(request.headers.get("accept-language"))
        # Normalized, so that the checks and the application see the same path.
        path = re.sub(r"/+", "/", scope["path"])
        path = scope["path"] = path if path == "/" else path.removesuffix("/")
        sent = _Sent(send)
        try:
            answer = self._refuse(request, path) or self._ask_to_sign_in(request, path, texts)
            if answer is None:
                _strip(scope, path)
                answer = await self._pass_on(request, path, receive, sent)
        except Refused as refusal:
            answer = refused(refusal, request)
        except ClientDisconnect:
            return
        if answer is not None and not sent.has_begun:
            await answer(scope, receive, sent)

    def _refuse(self, request: Request, path: str) -> Response | None:
        """The response to a request that is not allowed for anyone; None if it is allowed."""
        headers = request.headers
        host, _ = _split(headers.get("host", ""))
        if not (is_address(host) or host in self._hosts):
            return _plain("unknown host; add it to the server's --allowed_hosts", 400)
        origin = headers.get("origin")
        if origin is not None and _split(origin.partition("://")[2]) != _split(headers["host"]):
            raise Refused("foreign")
        # Other websites may link here, but not embed anything: browsers load an image, say, without an Origin header.
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        is_foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if is_foreign and not (is_link and request.method in ("GET", "HEAD")):
            raise Refused("foreign")
        if request.method not in ("GET", "HEAD", "POST"):
            return Response(status_code=405, headers={"allow": "GET, HEAD, POST"})
        if not _OPEN.fullmatch(path):
            return _plain("Not found", 404)
        return None

    def _ask_to_sign_in(self, request: Request, path: str, texts: dict[str, str]) -> Response | None:
        if not self._accounts.are_needed or path in _WITHOUT_LOGIN:
            return None
        if self._accounts.knows(request.cookies.get(self._accounts.cookie, "")):
            return None
        basic = request.headers.get("authorization")
        if basic is not None and self._accounts.knows_basic(basic, address=address_of(request)):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(login_page(texts, action=f"{self._root_path}/login"), 401)
        raise Refused("sign_in")

    async def _pass_on(self, request: Request, path: str, receive: _Receive, sent: "_Sent") -> Response | None:
        """Let the application answer. Returns a response if one has to be sent instead."""
        scope = request.scope
        if path == "/gradio_api/queue/data":
            await self._send_messages(request, receive, sent)
            return None
        if request.method != "POST" or path in _READ_BY_ROUTES:
            await self._app(scope, receive, sent)
            return None
        content = await self._read_content(request, path)
        self._announce(request, path, content)
        # Gradio itself answers 503 if the queue of the live tab is full.
        sent.hides_503 = path == "/gradio_api/queue/join"
        # The body is serialized again: another parser could read the original differently.
        await self._app(scope, _replay(scope, json.dumps(content).encode(), receive), sent)
        if sent.was_hidden:
            sent.was_hidden = False
            raise Refused("busy", waiting=self._limits.queue_size)
        return None

    async def _send_messages(self, request: Request, receive: _Receive, sent: "_Sent") -> None:
        """Let Gradio send the messages for a page, and count them."""
        session = request.query_params.get("session_hash", "")
        sent.count = lambda num_bytes: self._backlog.remove(session, num_bytes)
        try:
            await self._app(request.scope, receive, sent)
        finally:
            self._backlog.forget(session)

    def _announce(self, request: Request, path: str, content: dict[str, Any]) -> None:
        """Reserve a place in the queue for a call that needs one. Raises Refused."""
        function = self._function(path, content)
        if function.is_stream:
            self._start_camera(address_of(request))
        if not (function.is_job or path.startswith("/gradio_api/call/")):
            return
        try:
            self._jobs.announce(address_of(request))
        except Refused:
            # gradio_client uploads the file again for each attempt, so the refused ones would fill the disk.
            if function.is_endpoint:
                for file in _paths(content):
                    self._storage.drop(file)
            raise

    def _start_camera(self, address: str) -> None:
        """Raise Refused if an address has started too many cameras."""
        # Gradio waits up to the time limit for the next frame, even if it is nearly over.
        now, longest_s = time.monotonic(), 2 * self._limits.max_seconds
        self._cameras = [camera for camera in self._cameras if camera[1] > now - longest_s]
        starts = [start for other, start in self._cameras if other == address]
        if len(starts) >= _MAX_CAMERAS:
            raise Refused("too_many_cameras", seconds=math.ceil(starts[0] + longest_s - now))
        self._cameras.append((address, now))

    async def _read_content(self, request: Request, path: str) -> dict[str, Any]:
        """The JSON of a request to Gradio, which may only refer to uploaded files. Raises Refused.

        Without this check, Gradio would copy any file of the server that a request names, and download from any link.
        """
        most = _MAX_FRAME if _WITH_FRAME.fullmatch(path) else _MAX_BODY
        body = b"".join([part async for part in read_body(request, most=most, too_large=_TOO_LARGE)])
        try:
            content = json.loads(body or b"{}")
            for file in _paths(content):
                self._check_file(file)
        except (ValueError, RecursionError):
            raise Refused("bad_request") from None
        if not (isinstance(content, dict) and self._is_call(path, content)):
            raise Refused("bad_request")
        return content

    def _function(self, path: str, content: dict[str, Any]) -> "Function":
        number = content.get("fn_index") if path in _PAGE_CALLS else None
        return self._functions.get(number, _NO_FUNCTION) if type(number) is int else _NO_FUNCTION

    def _is_call(self, path: str, content: dict[str, Any]) -> bool:
        """Whether the function exists and the inputs fit it. For other calls, Gradio would log a traceback."""
        data, session = content.get("data"), content.get("session_hash")
        if isinstance(session, str) and len(session) > _MAX_SESSION:
            return False
        if path in _PAGE_CALLS:
            kinds = self._function(path, content).inputs
            fits = kinds is not None and isinstance(data, list) and len(kinds) == len(data)
            return fits and isinstance(session, str) and all(map(_fits, kinds, data))
        if path.startswith("/gradio_api/call/v2/"):
            return set(content) <= {*self._inputs, "session_hash"} and "video" in content
        if path.startswith("/gradio_api/call/"):
            return isinstance(data, list) and len(data) == len(self._inputs)
        return True

    def _check_file(self, path: str) -> None:
        if re.match(r"(?i)https?:", path):
            raise Refused("no_links")
        if not self._storage.is_below(path):
            raise Refused("gone")


_TOO_LARGE = Refused("too_large_request")
_META = {"_type": "gradio.FileData"}
_NO_FUNCTION = Function(inputs=None)


def _paths(value: Any) -> Iterator[str]:
    """All file paths in a request, at any depth."""
    if isinstance(value, dict):
        if isinstance(path := value.get("path"), str):
            yield path
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _paths(item)


def _fits(kind: str, value: Any) -> bool:
    """Whether a component of this type can send this value. Only files, images and videos are checked."""
    if value is None or kind not in ("file", "image", "video"):
        return True
    return (
        isinstance(value, dict)
        and (kind == "image" or (isinstance(value.get("path"), str) and value.get("meta") == _META))
        and type(value.get("is_stream", False)) is bool
        and type(value.get("size")) in (int, type(None))
        and all(type(value.get(name)) in (str, type(None)) for name in ("path", "url", "orig_name", "mime_type"))
    )


class _Sent:
    """The `send` of a request: adds our headers to the response, and can hold the response back."""

    def __init__(self, send: _Send) -> None:
        self._send = send
        self.has_begun = self.hides_503 = self.was_hidden = False
        self.count: Callable[[int], None] = lambda num_bytes: None
        """Is called with the number of bytes of each part that was sent."""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            # Gradio's own "queue is full" is replaced by a text in the visitor's language.
            self.was_hidden = self.hides_503 and message["status"] == 503
            self.hides_503 = False
            headers = MutableHeaders(raw=message["headers"])
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        if self.was_hidden:
            return
        self.has_begun = True
        await self._send(message)
        self.count(len(message.get("body", b"")))


def refused(refusal: Refused, request: Request) -> Response:
    """The response to a refused request, in the visitor's language."""
    text = refusal.text(texts_for(request.headers.get("accept-language")))
    status, headers = refusal.status, {}
    if status in (429, 503):
        headers["retry-after"] = str(refusal.values.get("seconds", RETRY_AFTER_S))
    # gradio_client and scripts expect 503. But Gradio's page replaces the text of a 503 with an English one, so its
    # requests get 429 instead.
    if status == 503 and request.headers.get("user-agent", "").startswith("Mozilla/"):
        status = 429 if "/gradio_api/" in request.url.path else status
    return JSONResponse({"detail": text}, status, headers)


def _plain(text: str, status: int) -> Response:
    return Response(text, status, media_type="text/plain")


def _split(netloc: str) -> tuple[str, str]:
    """Split a Host header or an origin into host and port; the default ports 80 and 443 become ""."""
    found = re.fullmatch(r"(\[[0-9a-fA-F]*:[0-9a-fA-F:.]+\]|[^:\[\]@]*)(?::(\d*))?", netloc)
    if found is None:
        return "", ""
    host, port = found[1].lower().removesuffix(".").strip("[]"), found[2] or ""
    return host, "" if port in ("80", "443") else port


def _strip(scope: _Scope, path: str) -> None:
    """Remove the headers that the application must not see."""

    def stays(name: bytes, value: bytes) -> bool:
        if name == b"range":
            # Only files are served in parts, and only one part per request.
            return path.startswith("/gradio_api/file=") and _ONE_RANGE.fullmatch(value.decode("latin-1")) is not None
        return name not in _FORWARDED

    scope["headers"] = [(name, value) for name, value in scope["headers"] if stays(name, value)]


def _replay(scope: _Scope, body: bytes, receive: _Receive) -> _Receive:
    """A `receive` that returns a body that has already been read."""
    headers = Headers(scope=scope)
    kept = [(name, value) for name, value in headers.raw if name not in (b"content-length", b"transfer-encoding")]
    scope["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
    was_given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal was_given
        if was_given:
            return await receive()
        was_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
