"""New code for living calls: actors of the new code are made, calls are handed over between turns, old actors end.

    starting -> canary -> moving -> done
        \\          \\-> returning -> failed      (the new actors do not come up, or do not keep the first call)

A hand-over is a take-over whose former owner still lives: the gateway gives the next actor the call's state and its own
epoch. So it may come at any moment; between two turns the caller's and the agent's words are nowhere under way.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, replace
from typing import Any, Final

from actors.dispatch.pool import Cluster, Host, HostPool
from actors.dispatch.registry import CallRegistry
from actors.link.messages import FAULT, UNREADABLE
from configs.runtime import CodeVersion, StackContext
from voice_agent.errors import CapacityError, ProtocolError, VoiceAgentError

logger = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Calls that are waited for and handed over at the same time."""
POLL_S: Final = 0.2
ANSWER_S: Final = 2.0
RESUME_WITHIN_S: Final = 20.0
BAD_ENDS: Final = ("failed", "lost")
WHY_NOT: Final = {
    UNREADABLE: "the new code cannot read the state of a call of the old",
    FAULT: "the new code failed on the first call, which is back on the old; its log has the trace",
}
IDLE: Final = ("idle", "done", "failed")


class RolloutError(VoiceAgentError):
    """New code did not take over; the calls are where they were."""

    code = "rollout_failed"


class Rollout:
    """One at a time. ``run`` never raises: ``status`` says what became of it."""

    def __init__(self, pool: HostPool, calls: CallRegistry, cluster: Cluster) -> None:
        self._pool = pool
        self._calls = calls
        self._cluster = cluster
        self._phase = "idle"
        self._why = ""
        self._target: CodeVersion | None = None
        self._before: StackContext | None = None
        self._task: asyncio.Task[None] | None = None
        self._counts = {"moved": 0, "between_turns": 0, "kept": 0}
        self.newest = 0

    def status(self) -> dict[str, Any]:
        """``phase``, ``target``, ``moved`` calls, those of them ``between_turns``, calls ``kept`` by code they need."""
        return {
            "phase": self._phase,
            "why": self._why,
            "target": asdict(self._target) if self._target else {},
            "before": asdict(self._before.code) if self._before else {},
            "hosts": {code: len(self._pool.of_code(code)) for code in sorted({host.code for host in self._pool.hosts})},
            **self._counts,
        }

    def prepare(self, context: StackContext) -> StackContext:
        """Claim the rollout for this context, which gets the next number; ``run`` follows.

        Raises:
            ProtocolError: one is under way.
        """
        if self._phase not in IDLE:
            raise ProtocolError(f"a deploy is under way ({self._phase}); wait for it, or roll it back")
        context = self._numbered(context)
        self._before = self._pool.context
        self._begin(context)
        return context

    def _numbered(self, context: StackContext) -> StackContext:
        seen = [host.code for host in self._pool.hosts]
        self.newest = max([self.newest, self._pool.context.code.number, *seen]) + 1
        return replace(context, code=replace(context.code, number=self.newest))

    async def run(self, context: StackContext, canary_s: float, within_s: float) -> None:
        """Bring new code to the calls; if it does not hold the first one, bring that one back."""
        assert self._before is not None
        self._task = asyncio.current_task()
        try:
            first = await self._pool.create(context)
            self._phase = "canary"
            await self._canary(first, canary_s, within_s)
        except (VoiceAgentError, TimeoutError) as error:
            self._why = str(error) or "the new call actor did not start in time"
            logger.warning("deploy given up", extra={"version": context.code.version, "reason": self._why})
            self._phase = "returning"
            await self._roll(self._before, within_s)
            self._phase = "failed"
            return
        await self._take_over(context, within_s)

    @property
    def unfinished(self) -> bool:
        """Whether hosts of several codes are there, though nobody is at it: the former dispatcher was."""
        return self._phase in IDLE and any(host.code != self._code for host in self._pool.hosts)

    async def resume(self) -> None:
        """Go on with what a former dispatcher began; the newest code is what it wanted."""
        self._task = asyncio.current_task()
        self._begin(self._pool.context)
        await self._take_over(self._pool.context, RESUME_WITHIN_S)

    def back(self, within_s: float) -> Any:
        """The way back, as a coroutine to be run.

        Raises:
            ProtocolError: there is none.
        """
        if self._before is None:
            raise ProtocolError("there is no deploy to roll back: deploy the code that is wanted instead")
        before, alive = self._before, bool(self._pool.of_code(self._before.code.number))
        if not alive:
            before = self._numbered(before)
        self.newest = max(self.newest, before.code.number)
        return self._go_back(before, within_s)

    async def _go_back(self, before: StackContext, within_s: float) -> None:
        """Those who run the former code still take calls at once; else they are made anew from its package."""
        former, self._task = self._task, asyncio.current_task()
        if former is not None and not former.done():
            former.cancel()
            await asyncio.wait((former,))
        left = self._pool.context
        self._begin(before)
        await self._take_over(before, within_s)
        self._before = left

    def _begin(self, context: StackContext) -> None:
        self._phase, self._why, self._target = "starting", "", context.code
        self._counts = dict.fromkeys(self._counts, 0)
        logger.info("deploy begins", extra={"version": context.code.version, "number": context.code.number})

    async def _take_over(self, context: StackContext, within_s: float) -> None:
        self._phase = "moving"
        await self._roll(context, within_s)
        self._phase = "done"
        logger.info("deploy done", extra={"version": context.code.version, **self._counts})

    # --- the first call ---

    async def _canary(self, first: Host, canary_s: float, within_s: float) -> None:
        """One call goes ahead and has to live there for a while. Where there is none, new calls are the proof.

        Raises:
            RolloutError: it did not stay.
        """
        for call_id in [one.call_id for one in self._calls.entries() if one.live and one.host_id]:
            if not await self._move(call_id, first.code, within_s):
                self._check_kept(call_id, first.code)
                continue
            await self._survives(call_id, first, canary_s)
            return

    async def _survives(self, call_id: str, first: Host, canary_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + canary_s
        while loop.time() < until_s:
            await asyncio.sleep(POLL_S)
            entry = self._calls.get(call_id)
            self._check_kept(call_id, first.code)
            if entry is None:
                ended = self._calls.state(call_id, ()).partition(":")[2]
                if ended in BAD_ENDS:
                    raise RolloutError(f"the first call did not live on the new code: {ended}")
                return
            if entry.host_id != first.host_id or self._pool.get(first.host_id) is not first:
                raise RolloutError("the first call left the new code: its actor died or froze")

    def _check_kept(self, call_id: str, code: int) -> None:
        entry = self._calls.get(call_id)
        why = WHY_NOT.get(entry.barred.get(code, "")) if entry is not None else None
        if why is not None:
            raise RolloutError(why)

    def _refused(self, call_id: str, code: int) -> bool:
        entry = self._calls.get(call_id)
        return entry is not None and code in entry.barred

    # --- all the others ---

    async def _roll(self, context: StackContext, within_s: float) -> None:
        """Until no host of other code is left: hand over what it has, end it when it is empty."""
        self._pool.context = context
        while others := [host for host in self._pool.hosts if host.code != context.code.number]:
            for host in others:
                if not host.calls and not await self._holds(host):
                    await self._pool.retire(host)
            waiting = [call_id for host in others for call_id in host.calls if not self._refused(call_id, self._code)]
            self._counts["kept"] = sum(self._refused(call_id, self._code) for host in others for call_id in host.calls)
            await asyncio.gather(*(self._move(call_id, self._code, within_s) for call_id in waiting[:AT_ONCE]))
            if others:
                await asyncio.sleep(POLL_S)

    @property
    def _code(self) -> int:
        return self._pool.context.code.number

    async def _holds(self, host: Host) -> bool:
        """Whether a host has anything of a call, as it says itself; one that does not answer is left to the watch.

        Its calls are known here, but state that waits for a carrier to come back is known only there.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                status = await host.client.status()
        except (VoiceAgentError, TimeoutError):
            return True
        return bool(status.get("calls") or status.get("orphans"))

    async def _move(self, call_id: str, code: int, within_s: float) -> bool:
        """Hand one call over, between two turns if that comes within ``within_s``. True when it is there."""
        entry = self._calls.get(call_id)
        source = self._pool.get(entry.host_id) if entry is not None else None
        if entry is None or source is None or not entry.live or not entry.gateway_id or code in entry.barred:
            return False
        between = await self._turn_of(source, call_id, within_s)
        if self._calls.get(call_id) is not entry or entry.host_id != source.host_id:
            return False
        try:
            host = self._pool.place(call_id, code=code)
        except CapacityError:
            return False  # more hosts are being made
        # Known here first: the gateway may ask for another host before its answer to this has come.
        self._calls.place(entry, host.host_id)
        has_it = await self._cluster.move_call(entry.gateway_id, call_id, host.address)
        if has_it == source.host_id and entry.host_id == host.host_id:
            host.calls.discard(call_id)
            self._calls.place(entry, source.host_id)
        elif entry.host_id != source.host_id:
            source.calls.discard(call_id)
        moved = has_it == host.host_id
        self._counts["moved"] += moved
        self._counts["between_turns"] += moved and between
        return moved

    async def _turn_of(self, source: Host, call_id: str, within_s: float) -> bool:
        """Wait for the end of a turn; code that cannot tell is not waited for."""
        try:
            async with asyncio.timeout(within_s + ANSWER_S):
                return await source.client.await_turn(call_id, within_s)
        except (VoiceAgentError, TimeoutError):
            return False
