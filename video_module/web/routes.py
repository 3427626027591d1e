"""Our own routes beside Gradio's: uploads, files, login, and the description of the API."""

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse

from video_module.web.gate import RETRY_AFTER_S
from video_module.web.limits import Refused, address_of
from video_module.web.login import Accounts, login_page
from video_module.web.storage import Storage
from video_module.web.texts import texts_for
from video_module.web.uploads import Form, Uploads, read_body

_MAX_LOGIN_BYTES = 2_000
_PROGRESS_EVERY_S = 0.2

# Types that browsers may play. All other files are sent as downloads.
_SHOWN = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}


def upload_routes(uploads: Uploads, storage: Storage) -> APIRouter:
    """The routes for uploading and downloading files, used by the page and gradio_client instead of Gradio's own.

    Gradio's routes store equal files of two visitors in one place, so neither could be deleted, and have no time limit.
    """
    router = APIRouter(prefix="/gradio_api", include_in_schema=False)

    @router.post("/upload")
    async def upload(request: Request, upload_id: str | None = None) -> Response:
        try:
            received = await uploads.receive(request, field_name="files", upload_id=upload_id)
        except Refused as refusal:
            # The page shows the body of the response unchanged.
            text = refusal.text(texts_for(request.headers.get("accept-language")))
            return Response(text, refusal.status, {"retry-after": str(RETRY_AFTER_S)}, media_type="text/plain")
        return JSONResponse([str(received.path)])

    @router.get("/upload_progress")
    async def progress(upload_id: str) -> Response:
        return StreamingResponse(_progress(uploads.progress, upload_id), media_type="text/event-stream")

    @router.api_route("/file={path:path}", methods=["GET", "HEAD"])
    async def file(path: str) -> Response:
        found = storage.find(path)
        if found is None:
            return Response("Not found", 404, media_type="text/plain")
        media_type = _SHOWN.get(found.suffix.lower())
        return _StoredFile(
            storage,
            found,
            media_type=media_type or "application/octet-stream",
            filename=found.name,
            content_disposition_type="inline" if media_type else "attachment",
        )

    return router


class _StoredFile(FileResponse):
    """A response with a visitor's file, which is not deleted while it is being sent."""

    def __init__(self, storage: Storage, path: Path, **settings: Any) -> None:
        super().__init__(path, **settings)
        self._storage = storage

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._storage.using(self.path):
            await super().__call__(scope, receive, send)


async def _progress(forms: dict[str, Form], upload_id: str) -> AsyncIterator[str]:
    """The events behind the upload progress bar of Gradio's page."""
    shown = 0
    while (form := forms.get(upload_id)) is not None:
        if form.num_bytes > shown and form.path is not None:
            update = {"msg": "update", "orig_name": form.path.name, "chunk_size": form.num_bytes - shown}
            shown = form.num_bytes
            yield f"data: {json.dumps(update)}\n\n"
        await asyncio.sleep(_PROGRESS_EVERY_S)
    yield f"data: {json.dumps({'msg': 'done'})}\n\n"


def login_routes(accounts: Accounts, *, root_path: str) -> APIRouter:
    """The routes for logging in and out. The form may come from the login page or from gradio_client."""
    router = APIRouter(include_in_schema=False)
    home = f"{root_path}/"

    @router.get("/login")
    async def page(request: Request) -> Response:
        return HTMLResponse(_page(request))

    @router.post("/login")
    async def sign_in(request: Request) -> Response:
        too_large = Refused("too_large_request")
        body = b"".join([part async for part in read_body(request, most=_MAX_LOGIN_BYTES, too_large=too_large)])
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        name, password = (form.get(key, [""])[0] for key in ("username", "password"))
        texts = texts_for(request.headers.get("accept-language"))
        is_browser = "text/html" in request.headers.get("accept", "")
        try:
            token = accounts.sign_in(name, password, address=address_of(request))
        except Refused as refusal:
            if not is_browser:
                raise
            return HTMLResponse(_page(request, refusal.text(texts)), refusal.status)
        if token is None:
            if is_browser:
                return HTMLResponse(_page(request, texts["wrong_password"]), 401)
            return JSONResponse({"detail": texts["wrong_password"]}, 401)
        answer = (
            Response(status_code=303, headers={"location": home}) if is_browser else JSONResponse({"success": True})
        )
        is_https = request.url.scheme == "https"
        answer.set_cookie(accounts.cookie, token, path=home, httponly=True, samesite="lax", secure=is_https)
        return answer

    @router.get("/logout")
    async def stay() -> Response:
        # Otherwise Gradio's own route of this name would answer.
        return Response(status_code=405, headers={"allow": "POST"})

    @router.post("/logout")
    async def sign_out(request: Request) -> Response:
        accounts.sign_out(request.cookies.get(accounts.cookie, ""))
        answer = Response(status_code=303, headers={"location": home})
        answer.delete_cookie(accounts.cookie, path=home)
        return answer

    def _page(request: Request, message: str = "") -> str:
        texts = texts_for(request.headers.get("accept-language"))
        return login_page(texts, action=f"{root_path}/login", message=message)

    return router


_DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font-family: system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }}
pre {{ overflow-x: auto; padding: 0.8em; border: 1px solid #8888; border-radius: 6px; }}
td, th {{ text-align: left; padding: 0.2em 1em 0.2em 0; vertical-align: top; }}
</style></head><body>
<h1>{title}</h1>
<pre>curl -F file=@clip.mp4 -F top_k=3 {address}/api/segments</pre>
<p>If the server requires a password, add <code>-u name:password</code>. For tools, see
<a href="openapi.json">openapi.json</a>. Messages are in the language of the <code>Accept-Language</code> header.</p>
{routes}
</body></html>
"""


def description_routes(app: FastAPI, *, root_path: str) -> APIRouter:
    """/api/openapi.json, and /api/docs, a page that loads nothing from other servers."""
    router = APIRouter(prefix="/api", include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(app.openapi())

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        address = f"{request.url.scheme}://{request.url.netloc}{root_path}"
        described = "".join(
            _describe(method, path, operation, app.openapi())
            for path, operations in app.openapi()["paths"].items()
            for method, operation in operations.items()
        )
        return HTMLResponse(_DOCS.format(title=html.escape(app.title), address=html.escape(address), routes=described))

    return router


def _describe(method: str, path: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    """Describe the inputs and responses of a route as HTML."""
    fields = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    rows = [(name, field["type"], field["description"]) for name, field in fields.get("properties", {}).items()]
    answers = [(status, "", answer["description"]) for status, answer in operation["responses"].items()]
    model = operation["responses"]["200"]["content"]["application/json"]["schema"]
    example = json.dumps(_example(model, schema), indent=1)
    tables = "".join(
        "<table>"
        + "".join("<tr>" + "".join(f"<td>{_with_code(cell)}</td>" for cell in row) + "</tr>" for row in table)
        + "</table>"
        for table in (rows, answers)
    )
    return (
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}</p>{tables}"
        f"<pre>{html.escape(example)}</pre>"
    )


def _with_code(text: str) -> str:
    """Convert text to HTML, with backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _example(model: dict[str, Any], schema: dict[str, Any]) -> Any:
    """An example response with types instead of values."""
    if "$ref" in model:
        model = schema["components"]["schemas"][model["$ref"].rpartition("/")[2]]
    if "properties" in model:
        return {name: _example(part, schema) for name, part in model["properties"].items()}
    if "items" in model:
        return [_example(model["items"], schema)]
    return model.get("type", "")
