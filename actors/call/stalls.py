"""How long a call waits for one replica before it asks another, and what tells that a stream has stalled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from configs.settings import DeadlineSettings

T = TypeVar("T")

BYTES_PER_S: Final = 8000
IN_REPLICA: Final = 1.5
"""A replica with a fallback engine may need its own deadline first, and then the fallback's time."""

MUTE: Final = 0.5
"""Of the patience with a voice that falls behind: so soon one is given up whose process is not there either."""


@dataclass(frozen=True, slots=True)
class StageDeadlines:
    """Seconds to the first result of an attempt, and between items; None: only the job's own patience counts.

    Speech may be ``behind_s`` behind its own playout, and ``mute_s`` when its replica gives no sign of life either.
    """

    first_s: float | None = None
    next_s: float | None = None
    behind_s: float | None = None
    mute_s: float | None = None

    def item_s(self, given: int, audio_bytes: int, waited_s: float) -> float | None:
        """Patience with the next item of a stream.

        Args:
            given: items so far.
            audio_bytes: audio so far; speech must keep up with its own playout, give or take ``behind_s``.
            waited_s: since the first item.
        """
        if not given:
            return self.first_s
        if self.behind_s is not None:
            return max(0.0, audio_bytes / BYTES_PER_S - waited_s) + self.behind_s
        return self.next_s


def deadlines_of(settings: DeadlineSettings) -> dict[str, StageDeadlines]:
    """By stage."""
    return {
        "stt": StageDeadlines(settings.stt_s * IN_REPLICA),
        "retriever": StageDeadlines(settings.search_s),
        "llm": StageDeadlines(settings.llm_first_s * IN_REPLICA, settings.llm_next_s * IN_REPLICA),
        "tts": StageDeadlines(
            settings.tts_first_s * IN_REPLICA, behind_s=settings.tts_behind_s, mute_s=settings.tts_behind_s * MUTE
        ),
    }


Alarm = tuple[float, Callable[[], bool]]
"""Seconds, and what is called then: whether to give up."""


async def within(work: Awaitable[T], *alarms: Alarm) -> T:
    """Await ``work``; it is cancelled when an alarm says so, else waited for as long as it takes.

    Raises:
        TimeoutError: it was given up.
    """
    if not alarms:
        return await work
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:

        def ring(give_up: Callable[[], bool]) -> None:
            if give_up():
                scope.reschedule(loop.time())

        set_alarms = [loop.call_later(after_s, ring, give_up) for after_s, give_up in alarms]
        try:
            return await work
        finally:
            for alarm in set_alarms:
                alarm.cancel()
