"""Overload as the dispatcher sees it: measured signals in, a level and a verdict for each new call out."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any

from actors.dispatch.pool import Cluster, Host
from configs.settings import CallSettings
from voice_agent.errors import VoiceAgentError
from voice_agent.overload import Door, Level, OverloadLadder, Signals, Verdict

logger = logging.getLogger(__name__)

TELL_S = 1.0


class Overload:
    """Level and door of the cluster. ``clock`` gives seconds, a monotonic one."""

    def __init__(self, calls: CallSettings, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._ladder = OverloadLadder()
        self._door = Door(calls.admit_per_s, calls.queue_s, most_waiting=calls.max_calls)
        self._signals = Signals()
        self._gateway_lags_ms: dict[str, float] = {}
        self._refused = Counter[str]()
        self.queued = 0

    @property
    def level(self) -> Level:
        """What is done now."""
        return self._ladder.level

    def ask(self, call_id: str, free: int) -> Verdict:
        """May this new call come in, with ``free`` slots?"""
        verdict = self._door.ask(call_id, free, self.level, self._now_ms())
        self.queued += verdict.reason == "queue" and not verdict.asked
        return verdict

    def refused(self, reason: str) -> None:
        """Count a call that is sent away."""
        self._refused[reason] += 1

    def waits(self, call_id: str) -> bool:
        """Whether a call is in the line."""
        return self._door.waits(call_id)

    def leave(self, call_id: str) -> None:
        """A waiting caller is gone. Idempotent."""
        self._door.leave(call_id)

    async def look(self, hosts: Collection[Host], gateways: Iterable[str]) -> None:
        """Measure, judge, and tell the call actors what has changed.

        Args:
            hosts: their newest status is read; it was asked for just now.
            gateways: are asked.
        """
        await self._ask_gateways(tuple(gateways))
        busy = [host.status for host in hosts if host.calls]
        self._signals = Signals(
            gateway_lag_ms=max(self._gateway_lags_ms.values(), default=0.0),
            actor_lag_ms=max((float(status.get("recent_lag_ms", 0.0)) for status in busy), default=0.0),
            # All actors ask one plane: what only one of them has seen is chance.
            plane_load=sum(float(status.get("plane_load", 0.0)) for status in busy) / max(1, len(busy)),
        )
        before = self.level
        self._ladder.feed(self._signals, self._now_ms())
        if self.level != before:
            logger.warning("overload level", extra={"level": int(self.level), "before": int(before)} | self._reasons())
        await asyncio.gather(*(self._tell(host) for host in hosts if host.level != self.level))

    async def _ask_gateways(self, gateways: tuple[str, ...]) -> None:
        """One that does not answer is as it was: it may be too busy to say so, or only frozen."""
        answers = await asyncio.gather(*(self._cluster.gateway_lag_ms(gateway_id) for gateway_id in gateways))
        before = self._gateway_lags_ms
        self._gateway_lags_ms = {
            gateway_id: before.get(gateway_id, 0.0) if lag_ms is None else lag_ms
            for gateway_id, lag_ms in zip(gateways, answers, strict=True)
        }

    async def _tell(self, host: Host) -> None:
        """Best effort; one that was not reached is told at the next look."""
        level = self.level
        try:
            async with asyncio.timeout(TELL_S):
                await host.client.overload(int(level))
        except (VoiceAgentError, TimeoutError) as error:
            logger.info("level not told", extra={"host_id": host.host_id, "reason": type(error).__name__})
        else:
            host.level = int(level)

    def _reasons(self) -> dict[str, Any]:
        signals = self._signals
        return {
            "why": self._ladder.why,
            "gateway_lag_ms": signals.gateway_lag_ms,
            "actor_lag_ms": signals.actor_lag_ms,
            "plane_load": round(signals.plane_load, 2),
        }

    def status(self) -> dict[str, Any]:
        """For ``/api/status`` and the journal's gauges."""
        return {
            "level": int(self.level),
            "action": self.level.name.lower(),
            "waiting": self._door.waiting(self._now_ms()),
            "refused": dict(self._refused),
        } | self._reasons()

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)
