"""One local page and its endpoints: loopback unless a token guards it, bounded bodies, one piece of work at a time, errors in one plain line.

The one module here that needs FastAPI and uvicorn (``attention-suite-core-runtime[server]``); nothing else of this package imports it.
A domain gives functions that take a `Call` and return plain values; this room knows HTTP, they do not.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from core_runtime.cli import plain
from core_runtime.errors import UserError, clean

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        size: bytes of the largest body.
        waiting: requests that may wait for their turn; further ones are told to come back.
        seconds: that a body may take to arrive.
    """

    size: int = 64 * 1024 * 1024
    waiting: int = 64
    seconds: float = 60.0


@dataclass(frozen=True)
class Call:
    """One request, without HTTP.

    Attributes:
        body: its bytes.
        query: name → values, in their order.
    """

    body: bytes
    query: Mapping[str, Sequence[str]]

    def one(self, name: str, default: str) -> str:
        """The last value of a name."""
        return self.query[name][-1] if self.query.get(name) else default


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def local_app(
    title: str,
    page: str,
    endpoints: Mapping[str, Callable[[Call], Any]],
    *,
    token: str | None = None,
    limits: Limits = Limits(),
    hosts: Sequence[str] = LOOPBACK,
) -> FastAPI:
    """A page at ``/``, ``/health``, and functions behind POST.

    Args:
        title: of the application.
        page: HTML without outside references.
        endpoints: path → function of a `Call`; run in a thread, one at a time. A `UserError` is status 400.
        token: that callers must bring (``Authorization: Bearer TOKEN``); None: none is needed.
        limits: of bodies and of waiting.
        hosts: names that the server may be called by; others are refused, so that no page of another site reaches it by a name of its own.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    turn = asyncio.Semaphore(1)
    waiting = 0

    def checked(request: Request) -> None:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if host not in hosts:
            raise _Refused(421, f"this server is not {clean(host)[:60]!r}", "call it by the address that it printed")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise _Refused(403, "pages of other sites may not call this server")

    def admitted(request: Request) -> None:
        if token is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        # headers are bytes, which come decoded as Latin-1
        if not secrets.compare_digest(given.encode("latin-1"), token.encode()):
            raise _Refused(401, "the token is missing or wrong", "send 'Authorization: Bearer TOKEN'")

    async def answer(request: Request, function: Callable[[Call], Any]) -> Any:
        nonlocal waiting
        checked(request)
        admitted(request)
        if waiting >= limits.waiting:
            raise _Refused(503, f"{waiting} requests are waiting already", "try again later")
        waiting += 1
        try:
            body = await _read_body(request, limits)
            query: dict[str, list[str]] = {}
            for name, value in request.query_params.multi_items():
                query.setdefault(name, []).append(value)
            async with turn:
                if await request.is_disconnected():  # nobody waits for it any more
                    raise ClientDisconnect
                return await run_in_threadpool(function, Call(body, query))
        finally:
            waiting -= 1

    def register(path: str, function: Callable[[Call], Any]) -> None:
        async def endpoint(request: Request) -> Response:
            try:
                return _reply(200, await answer(request, function))
            except _Refused as refused:
                return _reply(refused.status, {"error": clean(refused.message), "hint": refused.hint})
            except UserError as error:
                return _reply(400, {"error": clean(error.message), "hint": clean(error.hint)})
            except ClientDisconnect:
                return Response(status_code=499)
            except Exception as error:
                logging.getLogger(__name__).exception("%s", path)
                return _reply(
                    500, {"error": f"unexpected {type(error).__name__}", "hint": "the server's log has the details"}
                )

        app.add_api_route(path, endpoint, methods=["POST"], response_model=None)

    for path, function in endpoints.items():
        register(path, function)

    @app.get("/", response_model=None)
    async def show(request: Request) -> Response:
        try:
            checked(request)
        except _Refused as refused:
            return _reply(refused.status, {"error": refused.message, "hint": refused.hint})
        return Response(page, media_type="text/html; charset=utf-8", headers=_HEADERS)

    @app.get("/health", response_model=None)
    async def health() -> Response:
        return _reply(200, {"ok": True, "waiting": waiting})

    return app


async def _read_body(request: Request, limits: Limits) -> bytes:
    """The whole body, as far as the limits allow."""
    too_large = _Refused(413, f"the body has more than {limits.size:,} bytes", "send a smaller one")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.size:
        raise too_large
    parts: list[bytes] = []
    total = 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                total += len(part)
                if total > limits.size:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise _Refused(408, f"the body did not arrive within {limits.seconds:g} s") from None
    return b"".join(parts)


def _reply(status: int, value: Any) -> Response:
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return Response(text, status, media_type="application/json", headers=_HEADERS)


def read_token(path: Path | None) -> str | None:
    """The secret of ``--token``.

    Raises:
        UserError: the file cannot be read or holds nothing.
    """
    if path is None:
        return None
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token {path}: cannot be read ({error})", "give a text file that holds the secret") from None
    if not secret:
        raise UserError(f"--token {path} is empty", "write a secret into it")
    return secret


def bind(host: str, port: int, token: str | None) -> socket.socket:
    """A socket to listen on; port 0 takes any that is free.

    Raises:
        UserError: an address beyond this machine without a token, or one that cannot be had.
    """
    if host not in LOOPBACK and token is None:
        raise UserError(
            f"--host {host} can be reached from other machines",
            "--token makes callers bring a secret; 127.0.0.1 needs none",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror}", "--port chooses another, 0 any free one"
        ) from None
    return listening


def serve(app: FastAPI, listening: socket.socket, *, limits: Limits = Limits()) -> None:
    """Answers until it is stopped (Ctrl-C)."""
    with contextlib.closing(listening):
        server_of(app, limits).run(sockets=[listening])


def server_of(app: FastAPI, limits: Limits = Limits()) -> uvicorn.Server:
    """The server of an application, not started."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.waiting + 64,
        timeout_keep_alive=5,
    )
    return uvicorn.Server(config)
