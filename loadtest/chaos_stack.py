"""The processes of a running stack as something to kill: which there are, which one has a call, when it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import psutil

from loadtest.qdrant_stand_in import QdrantStandIn
from loadtest.sampler import CALL_ACTOR, kind_of
from loadtest.stack_process import RunningStack

POLL_S: Final = 0.05
GATEWAY: Final = "media_gateway"
POSTGRES: Final = "postgres"
QDRANT: Final = "qdrant"
"""Its stand-in, of which this process is the parent."""


@dataclass(frozen=True, slots=True)
class Victim:
    """A process, and the calls it has something of (all of them when it serves all)."""

    kind: str
    pid: int
    calls: tuple[str, ...] = ()


class StackView:
    """What the stack says of itself over ``/api``, and what the machine says of its processes."""

    def __init__(self, stack: RunningStack, http: httpx.AsyncClient, qdrant: QdrantStandIn | None = None) -> None:
        self._qdrant = qdrant
        self._root = stack.pids["cli"][0]
        self._http = http
        self._base = stack.target.webhook_url
        self._headers = {"X-API-Key": stack.api_key}

    async def get(self, path: str) -> Any:
        """JSON of the stack; None when it does not answer with success."""
        try:
            answer = await self._http.get(self._base + path, headers=self._headers, timeout=8.0)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.is_success else None

    async def status(self) -> dict[str, Any]:
        """``/api/status``; empty while it cannot be had."""
        return dict(await self.get("/api/status") or {})

    async def actor_of(self, call_sid: str) -> Victim | None:
        """The call actor a call is on; None when it has none now."""
        status = await self.status()
        host_id = next(
            (call["host_id"] for _, calls in _gateway_calls(status) for sid, call in calls.items() if sid == call_sid),
            "",
        )
        host = status.get("dispatcher", {}).get("hosts", {}).get(host_id)
        if not host or not host["pid"]:
            return None
        # Gateways know who is there; the dispatcher's list may hold calls that are on their way.
        there = (
            sid for _, calls in _gateway_calls(status) for sid, call in calls.items() if call["host_id"] == host_id
        )
        return Victim(CALL_ACTOR, int(host["pid"]), tuple(there))

    async def gateway_of(self, call_sid: str) -> Victim | None:
        """The media gateway a call is on."""
        status = await self.status()
        for gateway_id, calls in _gateway_calls(status):
            if call_sid in calls:
                return Victim(GATEWAY, int(status["gateways"][gateway_id]["pid"]), tuple(calls))
        return None

    def one_of(self, kind: str) -> Victim | None:
        """A process of a kind: the first server of Postgres, the newest replica of a stage."""
        found = self.processes(kind)
        return Victim(kind, found[-1].pid) if found else None

    def processes(self, kind: str) -> list[psutil.Process]:
        """Living processes of a kind, oldest first."""
        if kind == QDRANT:
            return [psutil.Process(pid) for pid in (self._qdrant and self._qdrant.pid,) if pid]
        try:
            below = psutil.Process(self._root).children(recursive=kind != POSTGRES)
        except psutil.Error:
            return []
        return [one for one in below if _is(one, kind) and _alive(one)]


def _gateway_calls(status: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    gateways = status.get("gateways", {})
    return [(gateway_id, gateway["calls"]) for gateway_id, gateway in gateways.items() if "calls" in gateway]


def _is(process: psutil.Process, kind: str) -> bool:
    try:
        return process.name().startswith(POSTGRES) if kind == POSTGRES else kind_of(process) == kind
    except psutil.Error:
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def kill(victim: Victim) -> float:
    """``kill -9``; Unix time of it."""
    now_s = time.time()
    os.kill(victim.pid, signal.SIGKILL)
    return now_s


class Recovery:
    """When a killed process is replaced, in ms from the kill; None when it is not within ``within_s``."""

    def __init__(self, view: StackView, ongoing: Callable[[], Collection[str]], within_s: float = 30.0) -> None:
        """``ongoing`` names the calls that are up as the carrier sees it: who has hung up need not come back."""
        self._view = view
        self._ongoing = ongoing
        self._within_s = within_s
        self._copy_answers = 0

    async def ms(self, victim: Victim, killed_at_s: float, before: int) -> list[float] | None:
        """One figure for each call that was on a call actor, one for any other process.

        ``before`` is how many processes of the kind there were.
        """
        give_up_at_s = killed_at_s + self._within_s
        if victim.kind == QDRANT:
            self._copy_answers = await self._copies()
        while time.time() < give_up_at_s:
            found = await self._recovered(victim, killed_at_s, before)
            if found is not None:
                return found
            await asyncio.sleep(POLL_S)
        return None

    async def without_ms(self, victim: Victim, stopped_at_s: float) -> list[float] | None:
        """From a stop until others have its work; None when that was not in time.

        One figure for each call of a call actor, until it is with another; one for a replica, until a breaker is open.
        """
        give_up_at_s = stopped_at_s + self._within_s
        while time.time() < give_up_at_s:
            if victim.kind == CALL_ACTOR:
                found = await self._moved(victim, stopped_at_s)
            else:
                found = [(time.time() - stopped_at_s) * 1000] if await self._avoided(victim.kind) else None
            if found is not None:
                return found
            await asyncio.sleep(POLL_S)
        return None

    async def asked_again(self, stage: str) -> bool:
        """Wait until no call actor avoids a replica of the stage any more; False when that does not come in time."""
        give_up_at_s = time.time() + self._within_s
        while time.time() < give_up_at_s:
            if await self._avoided(stage) is False:
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _avoided(self, stage: str) -> bool | None:
        """By any actor with calls; None when none has. Without a call an actor asks nobody, so it learns nothing."""
        hosts = (await self._view.status()).get("dispatcher", {}).get("hosts", {})
        busy = [host for host in hosts.values() if host.get("calls")]
        return any(host.get("stages", {}).get(stage, {}).get("replicas") for host in busy) if busy else None

    async def _recovered(self, victim: Victim, killed_at_s: float, before: int) -> list[float] | None:
        if victim.kind == CALL_ACTOR:
            return await self._moved(victim, killed_at_s)
        if victim.kind == GATEWAY:
            return await self._on_a_gateway(victim, killed_at_s)
        if victim.kind == POSTGRES:
            journal = (await self._view.status()).get("journal", {})
            back = not journal.get("store_away", True) and not journal.get("spooled_bytes", 1)
            back = back and await self._view.get("/api/calls") is not None
        elif victim.kind in ("dispatcher", "journal"):
            part = (await self._view.status()).get(victim.kind, {})
            back = bool(part) and "error" not in part
        else:
            there = [process.pid for process in self._view.processes(victim.kind)]
            back = len(there) >= before and victim.pid not in there and await self._view.get("/readyz") is not None
            if victim.kind == QDRANT:
                back = back and await self._searched_again()
        return [(time.time() - killed_at_s) * 1000] if back else None

    async def _searched_again(self) -> bool:
        """Whether the copy of Qdrant has answered, and then, to each actor with calls, Qdrant itself."""
        hosts = (await self._view.status()).get("dispatcher", {}).get("hosts", {})
        asking = [host.get("stages", {}).get("retriever", {}) for host in hosts.values() if host.get("calls")]
        return await self._copies() > self._copy_answers and all(
            stage.get("answering") == stage.get("engine") for stage in asking
        )

    async def _copies(self) -> int:
        """Answers by the copy so far."""
        hosts = (await self._view.status()).get("dispatcher", {}).get("hosts", {})
        return sum(host.get("stages", {}).get("retriever", {}).get("fallbacks", 0) for host in hosts.values())

    async def _moved(self, victim: Victim, killed_at_s: float) -> list[float] | None:
        """From the kill to the next actor's first word, for each call, as the gateways noted it."""
        status = await self._view.status()
        moves = {
            move["call_id"]: (move["lost_at_s"] - killed_at_s) * 1000 + move["listening_ms"]
            for gateway in status.get("gateways", {}).values()
            for move in gateway.get("moves", ())
            if move["lost_at_s"] >= killed_at_s - 0.05
        }
        if any(sid in self._ongoing() and sid not in moves for sid in victim.calls):
            return None
        return [moves[sid] for sid in victim.calls if sid in moves]

    async def _on_a_gateway(self, victim: Victim, killed_at_s: float) -> list[float] | None:
        """When each call's new stream began; once all that are up have one, and an actor."""
        status, now_s = await self._view.status(), time.time()
        there = {sid: call for _, calls in _gateway_calls(status) for sid, call in calls.items() if call["host_id"]}
        if not status or any(sid not in there for sid in victim.calls if sid in self._ongoing()):
            return None
        began_s = {sid: now_s - there[sid]["now_ms"] / 1000 for sid in victim.calls if sid in there}
        return [max(0.0, (at_s - killed_at_s) * 1000) for at_s in began_s.values()]
