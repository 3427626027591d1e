"""What may reach Gradio's server: the addresses that the page needs, in requests of bounded size."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr
from gradio.route_utils import upload_fn
from gradio.routes import file_upload_statuses
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from video_module.web.limits import Limits
from video_module.web.storage import Storage, StorageFull
from video_module.web.texts import texts_for

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_UPLOAD_PATH = "/gradio_api/upload"
# The addresses that the page and the API need. Gradio has more, which nobody here asks for: a proxy for foreign links,
# pages of past runs, links that store a visitor's state, an editor.
_OPEN = re.compile(
    r"/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|login|logout|(assets|static|svelte)/.*)?"
    r"|/gradio_api/(info|openapi\.json|app_id|user|login_check|startup-events|theme\.css|upload|upload_progress|reset"
    r"|file=(?!https?:).*|queue/(join|data|status)|call/.+|run/predict|cancel|heartbeat/[^/]+|stream/[^/]+(/close)?)"
)
_QUEUED = re.compile(r"/gradio_api/(queue/join|call/.+)")
# Bytes of a request that is not an upload; the largest are frames of cameras. The limit bounds what a stranger can make
# the server keep in memory.
_MAX_BODY = 8_000_000

# What a form puts around the file of an upload.
_FORM_BYTES = 10_000

_HEADERS = {
    # Scripts, fonts and pictures come from this server alone. Gradio's page has scripts and styles inline.
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class _TooLarge(Exception):
    """The body of a request went on beyond its limit."""


class Gate:
    """ASGI middleware around Gradio's application."""

    def __init__(self, app: Any, *, page: gr.Blocks, limits: Limits) -> None:
        self._app, self._page, self._limits = app, page, limits

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = re.sub(r"/+", "/", scope["path"])
        texts = texts_for(Headers(scope=scope).get("accept-language"))
        if not _OPEN.fullmatch(path if path == "/" else path.removesuffix("/")):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
            return
        await self._pass_on(path, scope, receive, send, texts)

    async def _pass_on(self, path: str, scope: _Scope, receive: _Receive, send: _Send, texts: dict[str, str]) -> None:
        is_upload = path.removesuffix("/") == _UPLOAD_PATH
        is_queued = scope["method"] == "POST" and _QUEUED.fullmatch(path) is not None
        most = self._limits.max_bytes + _FORM_BYTES if is_upload else _MAX_BODY
        too_large = PlainTextResponse(
            texts["too_large_file" if is_upload else "too_large_request"].format(max_file_mb=self._limits.max_file_mb),
            413,
        )
        if int(Headers(scope=scope).get("content-length", 0)) > most:
            await too_large(scope, receive, send)
            return
        # The header may lie or be missing, so what arrives is counted. Once an answer has begun it cannot be replaced
        # any more; Gradio's own "queue is full" is held back and replaced by a text in the visitor's language.
        taken, has_begun, is_full = 0, False, False

        async def receive_counted() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _TooLarge
            return message

        async def send_watched(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun, is_full
            if message["type"] == "http.response.start":
                is_full = is_queued and message["status"] == 503
                has_begun = True
                headers = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            if not is_full:
                await send(message)

        try:
            await self._app(scope, receive_counted, send_watched)
        except _TooLarge:
            if not has_begun:
                await too_large(scope, receive, send_watched)
        if is_full:
            text = texts["busy"].format(waiting=len(self._page._queue))
            await _busy(Headers(scope=scope), text)(scope, receive, send)


def _busy(headers: Headers, text: str) -> Response:
    """What a visitor gets instead of Gradio's answer when the queue is full."""
    # 503 is what gradio_client and scripts understand. For a 503, though, Gradio's page shows an English text of its
    # own, so browsers get another status.
    status = 429 if headers.get("user-agent", "").startswith("Mozilla/") else 503
    return JSONResponse({"detail": text}, status, headers={"retry-after": "30"})


def upload_route(storage: Storage, limits: Limits) -> Route:
    """Replaces Gradio's: each upload gets a folder of its own, and leaves nothing behind if it fails.

    Gradio's own puts equal files of two visitors into one place, so that neither could be deleted.
    """

    async def upload(request: Request) -> Response:
        texts = texts_for(request.headers.get("accept-language"))
        if not _is_signed_in(request):
            return PlainTextResponse(texts["sign_in"], 401)
        upload_id = request.query_params.get("upload_id")
        try:
            with storage.room_for(int(request.headers.get("content-length", limits.max_bytes))):
                return JSONResponse(await _receive(request, storage, max_bytes=limits.max_bytes, upload_id=upload_id))
        except StorageFull:
            return PlainTextResponse(texts["storage_full"], 507)
        except MultiPartException as error:
            if "maximum allowed size" in error.message:
                return PlainTextResponse(texts["too_large_file"].format(max_file_mb=limits.max_file_mb), 413)
            return PlainTextResponse(texts["bad_upload"], 400)
        except (ClientDisconnect, ValueError, KeyError, TypeError, AttributeError, gr.exceptions.InvalidPathError):
            return PlainTextResponse(texts["bad_upload"], 400)  # no form, or not one of files
        finally:
            # Gradio forgets an upload's progress when it was asked for to the end; many clients never ask.
            if upload_id:
                asyncio.get_running_loop().call_later(30, file_upload_statuses.stop_tracking, upload_id)

    return Route(_UPLOAD_PATH, upload, methods=["POST"])


async def _receive(request: Request, storage: Storage, *, max_bytes: int, upload_id: str | None) -> list[str]:
    folder = storage.new_folder()
    try:
        with storage.using(folder):
            files, _, _ = await upload_fn(
                request,
                str(folder),
                max_bytes,
                upload_id,
                upload_progress=file_upload_statuses if upload_id else None,
            )
        if not files:
            raise ValueError("no file in the form")
        return files
    except BaseException:
        storage.drop(folder)
        raise


def _is_signed_in(request: Request) -> bool:
    app = request.app
    if app.auth is None:
        return True
    names = f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}"
    return any(request.cookies.get(name) in app.tokens for name in names)
