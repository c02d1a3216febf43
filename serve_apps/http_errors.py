"""Errors and limits of the HTTP side: JSON ``{"code", "message"}``, and a cap on the size of a request."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voice_agent.errors import VoiceAgentError

MAX_BODY_BYTES = 64 * 1024

_log = logging.getLogger(__name__)

_STATUS = {
    "auth": 401,
    "protocol": 400,
    "config": 400,
    "document": 404,
    "capacity": 503,
    "storage": 503,
    "unreachable": 503,
    "engine_unavailable": 503,
    "engine_failed": 502,
    "deadline_exceeded": 504,
}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


class HttpError(Exception):
    """An answer other than 2xx, in the form every client of this API gets."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def answer(status: int, code: str, message: str) -> JSONResponse:
    """The error document."""
    headers = {"Retry-After": "2"} if status == 503 else None
    return JSONResponse({"code": code, "message": message}, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` an error document, and cap its requests."""
    app.add_exception_handler(HttpError, _on_http_error)
    app.add_exception_handler(VoiceAgentError, _on_our_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_starlette)
    app.add_middleware(Border)


async def _on_http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HttpError)
    return answer(error.status, error.code, error.message)


async def _on_our_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VoiceAgentError)
    status = _STATUS.get(error.code, 500)
    if status >= 500:
        _log.warning("request failed", extra={"route": _route(request.scope), "code": error.code})
    return answer(status, error.code, error.message)


async def _on_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The value itself is not repeated: it may be a question somebody asked.
    problems = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    return answer(422, "invalid_request", "; ".join(problems))


async def _on_starlette(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return answer(error.status_code, _HTTP_CODES.get(error.status_code, "http"), str(error.detail))


def _route(scope: Scope) -> str:
    """The route's pattern: a path may hold what must not be logged."""
    return str(getattr(scope.get("route"), "path", "unknown"))


class Border:
    """The request border: reads the body up to a limit before the app runs, and lets no exception out.

    Raises nothing: a body over ``MAX_BODY_BYTES`` is answered 413, an unexpected exception 500 without its text.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._read(scope, receive)
        if body is None:
            await _send_error(send, 413, "too_large", f"a request body may have {self._limit_bytes} bytes")
            return
        await self._run(scope, _Replay(body, receive), send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def tracked(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, tracked)
        except Exception:
            _log.exception("request failed unexpectedly", extra={"route": _route(scope)})
            if started:
                raise
            await _send_error(send, 500, "internal", "something went wrong here; the log says what")

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None when it is too large. A client that goes away leaves what it sent so far."""
        if _declared_length(scope) > self._limit_bytes:
            return None
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(pieces)
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._limit_bytes:
                return None
            if not message.get("more_body", False):
                return b"".join(pieces)


class _Replay:
    """``receive`` for the app: the body once, then whatever the server says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


async def _send_error(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"code": code, "message": message}).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
