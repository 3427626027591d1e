"""The ASGI application: the gate, and behind it our own routes and Gradio's page."""

from collections.abc import Iterable
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request, Response
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from video_module import __version__
from video_module.web import api, routes
from video_module.web.api import Service
from video_module.web.examples import Examples
from video_module.web.gate import Function, Gate, refused
from video_module.web.limits import Refused
from video_module.web.login import Accounts
from video_module.web.page import CSS, ENDPOINTS, JOB_NAMES, THEME, build_page, page_script
from video_module.web.texts import TEXTS
from video_module.web.uploads import Uploads

# Visitors whose state Gradio keeps, about 80 kB each. Its default is 10,000.
_MAX_SESSIONS = 100


def build_application(
    service: Service, accounts: Accounts, *, allowed_hosts: Iterable[str], examples: Examples, root_path: str
) -> Any:
    """Build the ASGI application. It answers under any IP address and the names in `allowed_hosts`."""
    # Without a CORSMiddleware here, Gradio adds one that lets any website read its answers.
    app = FastAPI(
        title=TEXTS["en"]["title"],
        version=__version__,
        openapi_url=None,
        middleware=[Middleware(CORSMiddleware)],
        exception_handlers={Refused: _answer_refusal},
    )
    uploads = Uploads(service.storage, service.limits)
    app.include_router(api.routes(service, uploads))
    app.include_router(routes.description_routes(app, root_path=root_path))
    app.include_router(routes.upload_routes(uploads, service.storage))
    app.include_router(routes.login_routes(accounts, root_path=root_path))
    page, translate = build_page(
        service, examples=examples, sign_out_at=f"{root_path}/logout" if accounts.are_needed else None
    )
    # launch() has an argument for this, but mount_gradio_app() does not.
    page.state_session_capacity = _MAX_SESSIONS
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        root_path=root_path or None,
        theme=THEME,
        css=CSS,
        js="() => window.finishPage()",
        head=f"<script>{page_script(service.limits)}</script>",
        i18n=translate,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        show_error=False,
    )
    return Gate(
        app,
        allowed_hosts=allowed_hosts,
        accounts=accounts,
        jobs=service.jobs,
        storage=service.storage,
        backlog=service.backlog,
        limits=service.limits,
        functions=_functions(page),
        inputs=api.INPUTS,
        root_path=root_path,
    )


async def _answer_refusal(request: Request, refusal: Refused) -> Response:
    return refused(refusal, request)


def _functions(page: gr.Blocks) -> dict[int, Function]:
    """The functions that the browser may call, from the same config that Gradio sends to it."""
    config = page.get_config_file()
    kinds = {component["id"]: component["type"] for component in config["components"]}
    return {
        function["id"]: Function(
            inputs=[kinds[number] for number in function["inputs"]],
            is_job=function["api_name"] in JOB_NAMES,
            is_endpoint=function["api_name"] in ENDPOINTS,
            is_stream=function["connection"] == "stream",
        )
        for function in config["dependencies"]
        if function["backend_fn"]  # the others run in the browser
    }
