"""Serves the page, and nothing but the page: to this computer, and without asking any other."""

import contextlib
import functools
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from l2sae_jax.app.look import css, theme
from l2sae_jax.app.page import build
from l2sae_jax.app.portraits import Editor
from l2sae_jax.app.sessions import Sessions
from l2sae_jax.app.studio import Studio
from l2sae_jax.model import L2SAE

MAX_UPLOAD_BYTES = 30 * 2**20

_SWEEP_SECONDS = 10
_LOCAL = ("127.0.0.1", "localhost")
# Whatever the page might want from elsewhere, the browser does not fetch it.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; "
    "frame-ancestors 'self'"
)
_NOT_KEPT = {"Cache-Control": "no-store"}
_FORM_BYTES = 100_000  # of an upload, that are not its file's
_GONE = "There is no result any more: make the edit again."


def serve(
    model: L2SAE,
    checkpoint: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    samples: Sequence[Path] = (),
) -> None:
    """Serves the page until it is stopped; nothing that visitors brought outlasts it.

    Args:
      checkpoint: what results say they were made with; None is the model shipped.
      host: the address to listen at; "0.0.0.0" is all of this computer's.
      samples: pictures to try the page on.

    Raises:
      ValueError: an IPv6 address.
      OSError: the port is taken, or the address is not this computer's.
    """
    editor = Editor(model)
    with (
        _listening(host, port) as listener,
        _in_background(editor.warm_up),
        _private_folder() as folder,
    ):
        app = make_app(editor, folder, checkpoint, host, samples)
        name = "localhost" if host in _LOCAL else host
        address = f"http://{name}:{listener.getsockname()[1]}"
        print(f"Open {address} in a browser; Ctrl+C ends it.", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run([listener])


def make_app(
    editor: Editor,
    folder: Path,
    checkpoint: str | None = None,
    host: str = "127.0.0.1",
    samples: Sequence[Path] = (),
) -> FastAPI:
    """The page as an ASGI application.

    Args:
      folder: for visitors' pictures; Gradio is told of it by GRADIO_TEMP_DIR.
    """
    sessions = Sessions(folder)
    studio = Studio(editor, sessions, checkpoint)
    gr.set_static_paths([str(path) for path in samples])

    @contextlib.asynccontextmanager
    async def swept(_):
        with _in_background(functools.partial(_sweep, sessions)):
            yield

    app = FastAPI(lifespan=swept, openapi_url=None)
    app.add_middleware(_Guard)
    if host in _LOCAL:  # other names that lead here are set by pages that want to look in
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOCAL)
    _add_results(app, studio)
    return gr.mount_gradio_app(
        app,
        build(studio, samples),
        path="/",
        server_name=host,
        theme=theme(),
        css=css(),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )


def _add_results(app: FastAPI, studio: Studio) -> None:
    @app.get("/results/{token}/photograph")
    def photograph(token: str) -> Response:
        written = studio.write_result(token)
        if written is None:
            return PlainTextResponse(_GONE, 404)
        return FileResponse(written[0], filename=written[1], headers=_NOT_KEPT)

    @app.get("/results/{token}/settings")
    def settings(token: str) -> Response:
        found = studio.settings_of(token)
        if found is None:
            return PlainTextResponse(_GONE, 404)
        disposition = f"attachment; filename*=UTF-8''{quote(found[1])}"
        text = json.dumps(found[0], indent=2)
        headers = {**_NOT_KEPT, "Content-Disposition": disposition}
        return Response(text, media_type="application/json", headers=headers)


class _Guard:
    """Refuses large requests and those for other sites' files, and adds the policy to replies."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length")
        if scope["method"] == "POST" and not (length or "").isdigit():
            await PlainTextResponse("How long is it?", 411)(scope, receive, send)
        elif int(length or 0) > MAX_UPLOAD_BYTES + _FORM_BYTES:
            await PlainTextResponse("Too large", 413)(scope, receive, send)
        elif "://" in scope["path"]:
            await PlainTextResponse("Not here", 404)(scope, receive, send)
        else:
            await self._app(scope, receive, functools.partial(_send_with_policy, send))


async def _send_with_policy(send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        headers["Content-Security-Policy"] = _POLICY
        headers["Referrer-Policy"] = "no-referrer"
    await send(message)


def _sweep(sessions: Sessions, enough: threading.Event) -> None:
    while not enough.wait(_SWEEP_SECONDS):
        sessions.sweep()


@contextlib.contextmanager
def _in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Does something in a thread, which in the end is told that it is enough, and waited for."""
    enough = threading.Event()
    thread = threading.Thread(target=work, args=(enough,))
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    if ":" in host:
        raise ValueError(f"host {host}: expected an IPv4 address or a name, such as 127.0.0.1")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(f"{host}:{port}: {error.strerror}; try another --port") from error
        yield listener


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can read, and that is removed however the program ends."""
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="l2sae_app_", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)
