"""/healthz: this process is alive. /readyz: calls can come in, and if not, which part is not ready and why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from serve_apps.backends import Backends
from voice_agent.errors import VoiceAgentError

CHECK_TIMEOUT_S = 3.0


def router(backends: Backends, *, timeout_s: float = CHECK_TIMEOUT_S) -> APIRouter:
    """Routes without a key: they tell no secrets."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", response_model=None)
    async def readyz() -> JSONResponse:
        """Each part with ``ok`` and, when it is not, ``why``; 503 unless all are."""
        parts = await readiness(backends, timeout_s)
        ready = all(part["ok"] for part in parts.values())
        return JSONResponse({"ready": ready, "parts": parts}, status_code=200 if ready else 503)

    return routes


async def readiness(backends: Backends, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Ask every part at once; the slowest may take ``timeout_s``."""
    checks: Mapping[str, Callable[[Backends], Awaitable[dict[str, str]]]] = {
        "dispatcher": _dispatcher,
        "journal": _journal,
        "stages": _stages,
        "postgres": _postgres,
    }
    results = await asyncio.gather(*(_checked(name, check(backends), timeout_s) for name, check in checks.items()))
    found = {name: why for result in results for name, why in result.items()}
    return {name: {"ok": not why, "why": why} for name, why in found.items()}


async def _checked(name: str, check: Awaitable[dict[str, str]], timeout_s: float) -> dict[str, str]:
    try:
        async with asyncio.timeout(timeout_s):
            return await check
    except TimeoutError:
        return {name: f"no answer within {timeout_s:g} s"}
    except VoiceAgentError as error:
        return {name: error.message}


async def _dispatcher(backends: Backends) -> dict[str, str]:
    status = await backends.dispatcher.status()
    wrong = "draining: no new calls are taken" if status.get("draining") else ""
    if not wrong and not status.get("hosts"):
        wrong = "no call actor is up yet"
    return {"dispatcher": wrong, "gateway": "" if status.get("gateways") else "no media gateway is registered"}


async def _journal(backends: Backends) -> dict[str, str]:
    await backends.journal.status()
    return {"journal": ""}


async def _stages(backends: Backends) -> dict[str, str]:
    return dict(await backends.stages.health())


async def _postgres(backends: Backends) -> dict[str, str]:
    await backends.calls.ping()
    return {"postgres": ""}
