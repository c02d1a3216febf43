"""One call in the gateway: the caller's audio in, the agent's audio out, and the actor that holds the dialog.

Everything but finding an actor happens in callbacks, so a barge-in is answered in the tick of the loop that found it.
The one task of a call is ``run``: it claims an actor, replaces one that is lost, and gives everything back at the end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from actors.gateway.call_services import CallCounters, CallServices
from actors.gateway.caller_ear import CallerEar
from actors.gateway.host_links import HostLink
from actors.gateway.takeover import TakeOverClock
from actors.gateway.twilio_leg import FAILED, TwilioLeg
from actors.link.messages import (
    FAULT,
    HANDED_OVER,
    HOST_FULL,
    UNREADABLE,
    Attach,
    CallerAudio,
    CallEvent,
    Control,
    Detach,
    Play,
    Snapshot,
)
from voice_agent.admission import HostAddress
from voice_agent.dialog.events import (
    CarrierStopped,
    ClausePlayed,
    DtmfReceived,
    Event,
    PlayoutHeld,
    PlayoutStarted,
)
from voice_agent.errors import ProtocolError, VoiceAgentError
from voice_agent.metrics import STREAM_LOST
from voice_agent.playout import PlayoutAction, PlayoutLedger, PlayoutSettings, SendAudio, SendClear, SendMark
from voice_agent.twilio.messages import Start

logger = logging.getLogger(__name__)

CLAIM_S: Final = 5.0
REPLACE_S: Final = 10.0
RELEASE_S: Final = 5.0
RETRY_S: Final = 0.1
MOST_HOSTS: Final = 5
"""Hosts tried one after another before a call is given up."""
UNCONFIRMED_EVENTS: Final = 256
_NOT_IN_THE_STATE: Final = (PlayoutStarted, ClausePlayed, DtmfReceived)
"""What a new actor could not see from the call's state."""
STREAM_EPOCHS: Final = 1000
"""Epochs of one stream; the next stream of a call, by whatever gateway, begins above them all."""
_ELSEWHERE: Final = (HOST_FULL, UNREADABLE, FAULT)
"""Reasons for which an actor gives a call away that need not end."""
MOVED: Final = "moved"
MOVE_S: Final = 5.0
"""An actor that a call is moved to says within this time that it has it."""


class GatewayCall:
    """One call, from its ``start`` to its end. The call's clock is 0 at ``start``."""

    def __init__(
        self, leg: TwilioLeg, start: Start, services: CallServices, before: asyncio.Task[None] | None = None
    ) -> None:
        """``before`` is the life of the call's former stream here, when the carrier was faster than its end."""
        media = services.media
        self._counters = CallCounters()
        self.ledger = PlayoutLedger(
            PlayoutSettings(
                lead_ms=media.lead_ms, chunk_ms=media.chunk_ms, mark_timeout_ms=int(media.mark_timeout_s * 1000)
            )
        )
        self.ear = CallerEar(self, media, services.vad)
        self._start = start
        self._leg = leg
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._zero_s = time.monotonic()
        self._epoch = self._first_epoch = STREAM_EPOCHS * _number(start.parameters.get("stream", ""))
        self._snapshot = b""
        self._told = 0
        self._unconfirmed: deque[tuple[int, Event]] = deque(maxlen=UNCONFIRMED_EVENTS)
        self._clock = TakeOverClock(start.call_sid)
        self._before = before
        self._replaced = False
        self._link: HostLink | None = None
        self._lost_reason = ""
        self._target: HostAddress | None = None
        self._moved: asyncio.Future[None] | None = None
        self._move_epoch = 0
        self._over = ""
        self._changed = asyncio.Event()
        self._scope: asyncio.Timeout | None = None
        self._due_s: float | None = None

    # --- looking in ---

    @property
    def call_id(self) -> str:
        """Twilio's CallSid."""
        return self._start.call_sid

    @property
    def now_ms(self) -> int:
        """The call's clock."""
        return int((time.monotonic() - self._zero_s) * 1000)

    @property
    def over(self) -> str:
        """Why the call ended; empty while it lives."""
        return self._over

    @property
    def counters(self) -> CallCounters:
        """Up to now."""
        leg, counters = self._leg, self._counters
        counters.frames, counters.missing = leg.frames, leg.sequence.missing
        counters.malformed, counters.out_of_order = leg.errors["malformed"], leg.errors["out_of_order"]
        return counters

    def status(self) -> dict[str, Any]:
        """For ``MediaGateway.status``."""
        return {
            "host_id": self._link.address.host_id if self._link else "",
            "epoch": self._epoch,
            "now_ms": self.now_ms,
            "frames": self._leg.frames,
            "utterance": self.ear.utterance,
            "speaking": self.ear.speaking,
            "held": self.ledger.held,
            "takeovers": self._counters.takeovers,
        }

    # --- the one task ---

    async def run(self) -> None:
        """Live the call: find its actor, and another when that is lost, until the leg is gone."""
        self._services.pulse.join(self._beat)
        failed, misses = "", 0
        try:
            if self._before is not None:
                await asyncio.wait((self._before,), timeout=RELEASE_S)
            while not self._over:
                if self._target is not None and self._link is not None:
                    failed = await self._move_to(self._target, self._link)
                    continue
                address = await self._find(failed)
                if address is None:
                    break
                failed = address.host_id
                if await self._attach(address):
                    misses = 0
                    await self._changed.wait()
                elif (misses := misses + 1) >= MOST_HOSTS:
                    self.end(FAILED, 1011, "no call actor can be reached")
        finally:
            await self._give_back()

    async def _find(self, failed: str) -> HostAddress | None:
        """The call's host, or the next one; None when the call ended meanwhile or there is none to be had."""
        try:
            async with asyncio.timeout(REPLACE_S if failed else CLAIM_S) as self._scope:
                while not self._over:
                    address = await self._ask(failed)
                    if address is not None:
                        return address
                    await asyncio.sleep(RETRY_S)
        except (TimeoutError, VoiceAgentError):
            self.end(FAILED, 1011, "call actor lost" if failed else "no call actor")
        finally:
            self._scope = None
        return None

    async def _ask(self, failed: str) -> HostAddress | None:
        """One question to the dispatcher; None when asking again may help."""
        dispatcher = self._services.dispatcher
        try:
            if failed:
                return await dispatcher.replace(self.call_id, failed, self._lost_reason)
            return await dispatcher.claim(self.call_id)
        except VoiceAgentError as error:
            logger.warning("no call actor", extra={"call_id": self.call_id, "reason": error.message})
            if not error.retryable:
                raise
            return None

    async def _attach(self, address: HostAddress) -> bool:
        """Put the call on a host. False when the host cannot be reached."""
        self._changed.clear()
        try:
            async with asyncio.timeout(CLAIM_S) as self._scope:
                link = await self._services.links.attach(address, self)
        except (OSError, VoiceAgentError) as error:
            logger.warning("call actor not reached", extra={"call_id": self.call_id, "reason": repr(error)})
            await asyncio.sleep(0 if self._over else RETRY_S)
            return False
        finally:
            self._scope = None
        self._link = link
        if self._over:
            return True
        self._epoch += 1
        self._counters.takeovers += self._epoch > self._first_epoch + 1
        self._clock.found(address.host_id)
        self._hand_over(link)
        return not link.connection.closed

    async def move(self, address: HostAddress) -> str:
        """Go to another host while this one lives: the id of the host that has the call then, empty for none.

        It is the other one once that has said so. A call that was refused there, or lost meanwhile, is on its way to
        whatever host the dispatcher names next.
        """
        if not self._over and self._link is not None and self._moved is None and self._link.address != address:
            self._target, self._moved = address, self._loop.create_future()
            self._changed.set()
            try:
                async with asyncio.timeout(MOVE_S):
                    await self._moved
            except TimeoutError:
                logger.warning("move not confirmed", extra={"call_id": self.call_id, "to": address.host_id})
            finally:
                self._target = self._moved = None
        return self._link.address.host_id if self._link is not None and not self._over else ""

    async def _move_to(self, address: HostAddress, former: HostLink) -> str:
        """Link first, then let go of the former host. The id of the host to be replaced when the link is lost.

        Until the ``Attach`` the former host has the call; from then on its epoch is over.
        """
        self._target = link = None
        self._changed.clear()
        try:
            async with asyncio.timeout(CLAIM_S) as self._scope:
                link = await self._services.links.attach(address, self)
        except (OSError, VoiceAgentError) as error:
            logger.warning("call not moved", extra={"call_id": self.call_id, "reason": repr(error)})
        finally:
            self._scope = None
        if link is None or self._over:
            self._settle_move()
            if link is not None:
                self._services.links.detach(link, self)
            elif self._link is not None and not self._over:
                await self._changed.wait()
            return former.address.host_id
        self._clock.lost(MOVED)
        self._link = link
        self._epoch = self._move_epoch = self._epoch + 1
        self._counters.moves += 1
        self._clock.found(address.host_id)
        self._hand_over(link)
        former.send(Detach(self.call_id, HANDED_OVER))
        self._services.links.detach(former, self)
        if not link.connection.closed:
            await self._changed.wait()
        return address.host_id

    def _settle_move(self) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    def _hand_over(self, link: HostLink) -> None:
        """Tell the actor everything it needs: the state, what happened since, and the open utterance from its start."""
        parameters = self._start.parameters
        link.send(
            Attach(
                call_id=self.call_id,
                epoch=self._epoch,
                now_ms=self.now_ms,
                caller_pii=parameters.get("caller", ""),
                called=parameters.get("called", ""),
                traceparent=parameters.get("traceparent", ""),
                snapshot=self._snapshot,
                replay_samples=self.ear.to_tell_again(),
            )
        )
        self._told = 0
        waiting, self._unconfirmed = self._unconfirmed, deque(maxlen=UNCONFIRMED_EVENTS)
        for _, event in waiting:
            self._tell(event)
        self.ledger.refeed()
        position = self.ledger.position(self.now_ms)
        if self.ledger.held and position is not None:
            self._tell(PlayoutHeld(*position, self.now_ms))
        self.ear.tell_again()

    async def _give_back(self) -> None:
        """The end: nothing of the call stays behind."""
        self._services.pulse.leave(self._beat)
        self.ear.close()
        reason = self._over or FAILED
        link, self._link = self._link, None
        if link is not None:
            if reason != STREAM_LOST:  # the dialog goes on when the carrier comes back on another stream
                link.send(CallEvent(self.call_id, CarrierStopped(reason)))
            link.send(Detach(self.call_id, reason))
            self._services.links.detach(link, self)
        if self._replaced:
            self._services.over(self)
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._services.dispatcher.release(self.call_id, reason)
        except (TimeoutError, VoiceAgentError) as error:
            # The dispatcher finds out by itself that no host knows the call.
            logger.warning("call not released", extra={"call_id": self.call_id, "reason": repr(error)})
        finally:
            self._services.over(self)

    def give_way(self) -> None:
        """The carrier has opened another stream for this call: its end here is no end of the call."""
        self._replaced = not self._over
        self.end(STREAM_LOST, 1001, "another stream has the call")

    def end(self, reason: str, code: int, words: str) -> None:
        """End the call: close the leg and let ``run`` give everything back. Idempotent."""
        if self._over:
            return
        self._over = reason
        self._leg.close(code, words)
        self._services.pulse.leave(self._beat)
        self._changed.set()
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(self._loop.time())

    # --- from the carrier ---

    def audio(self, payload: bytes) -> None:
        """Caller audio."""
        if not self._over:
            self.ear.hear(payload)

    def dtmf(self, digit: str) -> None:
        """A key was pressed."""
        if not self._over:
            self.event(DtmfReceived(digit))

    def mark(self, name: str) -> None:
        """A mark came back."""
        self._guard(lambda: self._do(self.ledger.mark_echoed(name, self.now_ms)))

    def gone(self, reason: str) -> None:
        """The leg is over."""
        self.end(reason, 1000, "over")

    # --- from the ear ---

    def agent_heard(self) -> bool:
        """The agent is being heard."""
        return self.ledger.playing(self.now_ms)

    def caller_began(self) -> None:
        """Hold first, talk about it afterwards: the caller must not hear another frame."""
        now_ms = self.now_ms
        if self.ledger.interruptible(now_ms):
            self._counters.holds_by_voice += 1
            self._do(self.ledger.hold(now_ms))

    def listen_closely(self, closely: bool) -> None:
        """The caller may fall silent with the next packet."""
        self._leg.listen_closely(closely)

    def event(self, event: Event) -> None:
        """Tell the actor. What a new one could not see otherwise is kept until a snapshot covers it."""
        self._counters.events += 1
        self._tell(event)

    def _tell(self, event: Event) -> None:
        self._told += 1
        if isinstance(event, _NOT_IN_THE_STATE):
            self._unconfirmed.append((self._told, event))
        if self._link is not None:
            self._link.send(CallEvent(self.call_id, event))

    def upload(self, utterance: int, offset_samples: int, audio: bytes) -> None:
        """Caller audio for the actor; while there is none the ear keeps it."""
        if self._link is not None:
            self._counters.uploads += 1
            self._link.send(CallerAudio(self.call_id, utterance, offset_samples, audio))

    def fault(self, error: Exception) -> None:
        """A fault in one call ends that call and no other."""
        logger.error("call failed in the gateway", extra={"call_id": self.call_id}, exc_info=error)
        self.end(FAILED, 1011, "internal error")

    # --- from the actor ---

    def from_actor(self, message: Play | Control | Snapshot) -> None:
        """A message of the call's actor; those of an older epoch are refused."""
        if message.epoch != self._epoch:
            self._counters.stale_messages += 1
        elif isinstance(message, Play):
            self._guard(lambda: self._play(message))
        elif isinstance(message, Control):
            self._guard(lambda: self._control(message))
        else:
            self._counters.snapshots += 1
            self._snapshot = message.state
            while self._unconfirmed and self._unconfirmed[0][0] <= message.events:
                self._unconfirmed.popleft()
            if self._move_epoch == self._epoch:
                self._settle_move()
            if (moved := self._clock.listening()) is not None:
                self._services.moved(moved)

    def link_lost(self, link: HostLink, reason: str) -> None:
        """The actor is gone; ``run`` finds another."""
        if self._link is link:
            self._link = None
            self._lost_reason = reason
            if self._move_epoch == self._epoch:
                self._settle_move()
            self._clock.lost(reason)
            self._changed.set()

    def _play(self, play: Play) -> None:
        taken = self.ledger.play(play.turn, play.clause, play.audio, last=play.last, interruptible=play.interruptible)
        self._counters.refused_plays += not taken
        self._do(self.ledger.advance(self.now_ms))

    def _control(self, control: Control) -> None:
        now_ms = self.now_ms
        if control.verb == "hold":
            self._do(self.ledger.hold(now_ms))
        elif control.verb == "resume":
            self._do(self.ledger.resume(now_ms))
        elif control.verb == "clear":
            self._do(self.ledger.clear(control.number, now_ms))
        elif control.verb == "close_utterance":
            self.ear.close_utterance(control.number)
        elif control.verb == "hang_up" and control.reason in _ELSEWHERE and self._link is not None:
            self._services.links.detach(self._link, self)
            self.link_lost(self._link, control.reason)
        elif control.verb == "hang_up":
            self.end(control.reason or FAILED, 1000, "call ended")
        else:
            raise ProtocolError(f"a call actor commands {control.verb!r}, which no gateway knows")

    # --- inside ---

    def _do(self, actions: list[PlayoutAction]) -> None:
        for action in actions:
            if isinstance(action, SendAudio):
                self._leg.send_audio(action.audio)
                self.ear.agent_says(action.heard_at_ms, action.audio)
            elif isinstance(action, SendMark):
                self._leg.send_mark(action.name)
            elif isinstance(action, SendClear):
                self._leg.send_clear()
                self.ear.agent_stopped(self.now_ms)
            else:
                self.event(action)
        due_ms = self.ledger.next_deadline_ms()
        self._due_s = self._zero_s + due_ms / 1000 if due_ms is not None else None

    def _beat(self) -> None:
        """At each beat of the pulse: a chunk may be due. One beat late is far within the lead."""
        if self._due_s is not None and time.monotonic() >= self._due_s:
            self._guard(lambda: self._do(self.ledger.advance(self.now_ms)))

    def _guard(self, step: Callable[[], None]) -> None:
        """The call border."""
        if self._over:
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the call border
            self.fault(error)


def _number(text: str) -> int:
    """How many streams the call had before, as the ingress told the carrier."""
    return int(text) if text.isdecimal() and len(text) < 5 else 0
