"""A stack of one's own for a measurement: ``voice-agent up`` in a child process that ends with the block."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.carrier import CallTarget
from voice_agent.errors import VoiceAgentError

_START_WITHIN_S = 240.0
_STOP_WITHIN_S = 60.0
UP = (sys.executable, "-m", "cluster.cli", "up")


class StackFailedError(VoiceAgentError):
    """The stack that was to be measured did not start."""

    code = "bench_failed"


@dataclass(frozen=True, slots=True)
class RunningStack:
    """``ready`` is the ready line of ``voice-agent up``; ``api_key`` opens its ``/api``."""

    ready: Mapping[str, Any]
    target: CallTarget
    api_key: str = ""

    @property
    def pids(self) -> dict[str, list[int]]:
        """Process ids by kind."""
        return {str(kind): list(pids) for kind, pids in self.ready["pids"].items()}


@contextlib.asynccontextmanager
async def running_stack(
    profile: str, sets: Mapping[str, str], data_dir: Path, log: Path, up: Sequence[str] = UP
) -> AsyncIterator[RunningStack]:
    """Start ``voice-agent up --profile`` on free ports with a token of its own; what it says goes to ``log``.

    ``up`` is the command. The stack ends when the block does, and also when this process is killed: it watches its
    standard input.

    Raises:
        StackFailedError: it did not become ready; the message has the end of its log.
    """
    token, api_key = secrets.token_hex(16), secrets.token_hex(16)
    fixed = {
        "data_dir": str(data_dir),
        "server.webhook_port": "0",
        "server.media_port": "0",
        "telemetry.metrics_port": "0",
        **sets,
    }
    command = [*up, "--leash", "--profile", profile]
    command += [part for key, value in fixed.items() for part in ("--set", f"{key}={value}")]
    with log.open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**_environment(), "TWILIO_AUTH_TOKEN": token, "VOICE_AGENT_API_KEY": api_key},
            start_new_session=True,
            limit=1 << 20,
        )
        try:
            ready = await _ready_line(child, log)
            base = str(ready["webhook_url"]).removesuffix("/twilio/voice")
            yield RunningStack(ready, CallTarget(webhook_url=base, auth_token=token), api_key)
        finally:
            await _end(child)


def _environment() -> dict[str, str]:
    """Ours, without settings of another stack or of a public address."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VOICE_AGENT") and name not in ("PUBLIC_URL", "RAY_ADDRESS")
    }


async def _ready_line(child: asyncio.subprocess.Process, log: Path) -> dict[str, Any]:
    assert child.stdout is not None
    try:
        async with asyncio.timeout(_START_WITHIN_S):
            line = await child.stdout.readline()
    except TimeoutError as error:
        raise StackFailedError(f"the stack was not ready within {_START_WITHIN_S:.0f} s; see {log}") from error
    if not line:
        raise StackFailedError(f"the stack did not start; the end of {log}: {_tail(log)}")
    ready: dict[str, Any] = json.loads(line)
    return ready


def _tail(log: Path, lines: int = 6) -> str:
    text: Sequence[str] = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(text[-lines:])


async def _end(child: asyncio.subprocess.Process) -> None:
    """Close the leash, wait; kill what does not end (its guard ends the rest)."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(_STOP_WITHIN_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
