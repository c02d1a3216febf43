"""The shell round one call's pure core: feed events, execute commands, sleep until the deadline."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from actors.call.kit import CallKit, GatewayPort, Machine
from actors.call.log import CallLog
from actors.call.outbox import CallBegan, CallMoved
from actors.call.packing import packed, unpacked
from actors.call.turn_jobs import JobContext, TurnJobs, Utterances
from actors.link.messages import FAULT, HANDED_OVER, Attach, Control, Play, Snapshot, ToGateway
from voice_agent.dialog.commands import (
    CancelTurn,
    ClearPlayout,
    CloseUtterance,
    EndCall,
    Generate,
    HoldPlayout,
    RecordTurn,
    ReleaseTurn,
    ResumePlayout,
    Retrieve,
    RunTool,
    Synthesise,
    Transcribe,
)
from voice_agent.dialog.events import CallStarted, CarrierStopped, Event, LoadChanged, SpeechPaused
from voice_agent.dialog.records import CallRecord

logger = logging.getLogger(__name__)

MAX_EVENTS: Final = 4096
"""Events waiting for one call; more means that its loop is stuck, and the call is ended as failed."""

SNAPSHOT_EVERY_S: Final = 0.1
"""A call whose state moves without anything being done that counts (words streaming in) is snapshotted this often."""

REPEATABLE: Final = frozenset({Transcribe, Retrieve, Generate, Synthesise})
"""Requests to engines: a successor whose state is from before them makes them once more, and nobody hears it."""

TIME_FIELDS: Final = ("onset_ms", "speech_end_ms", "at_ms")
"""Fields of events that are times on the call's clock; ``heard_ms`` and ``duration_ms`` are lengths."""

_SHIFT: Final = "shift_ms"
"""Key beside the machine's state in a packed snapshot."""

LOAD_STEP: Final = 0.1
"""Changes of the load below this are not told."""

ORPHANED: Final = "orphaned"
"""Reason when the gateway is gone; the call may come back by another."""


def shifted(event: Event, by_ms: int) -> Event:
    """An event with its times moved to another clock."""
    times = {name: getattr(event, name) + by_ms for name in TIME_FIELDS if hasattr(event, name)}
    return replace(event, **times) if times else event


class EventOverrunError(RuntimeError):
    """More events than the loop of a call could take; a fault in this process, not of a peer."""


class CallOverError(RuntimeError):
    """Work was started for a call whose tasks are being cancelled."""


class CallShell:
    """One call from ``Attach`` to ``Detach`` or ``EndCall``. ``run`` is its one root task and returns when it is over.

    Everything it starts lives in one task group: when ``run`` has returned, no task and no request of the call is left.
    """

    def __init__(self, attach: Attach, port: GatewayPort, kit: CallKit, *, reconnected: bool = False) -> None:
        self.call_id = attach.call_id
        self.epoch = attach.epoch
        self.port = port
        self._attach = attach
        self._kit = kit
        self._loop = asyncio.get_running_loop()
        self._machine = self._make_machine()
        self._reconnected = reconnected
        # Another gateway began its clock at 0 again; the dialog's goes on from where it was.
        self._shift_ms = self._shift(attach)
        self._zero_s = self._loop.time() - (attach.now_ms + self._shift_ms) / 1000
        self._events: deque[Event] = deque()
        self._load = 0.0
        self._wake = asyncio.Event()
        self._over = ""
        self._ended = False
        self._turns = 0
        self._group: asyncio.TaskGroup | None = None
        self._snapshot = attach.snapshot
        self._answered = False
        self._early: list[tuple[int, int, bytes]] = []
        self._early_samples = 0
        self._told = 0
        self._snapshot_due_s: float | None = None
        self._moved = self._acted = False
        self._log = CallLog(attach.call_id, attach.epoch, kit.outbox, enabled=kit.event_log)
        context = JobContext(
            call_id=attach.call_id,
            epoch=attach.epoch,
            traceparent=attach.traceparent,
            kit=kit,
            spawn=self._spawn,
            emit=self.deliver,
            play=self._play,
        )
        self._jobs = TurnJobs(context)
        self._utterances = Utterances(context)
        self._commands = self._table()
        self._alarm: asyncio.TimerHandle | None = None

    # --- from the link ---

    def from_gateway(self, event: Event) -> None:
        """Take an event whose times are on the gateway's clock."""
        self._told += 1
        if isinstance(event, SpeechPaused):
            self._tell_load()
        self.deliver(shifted(event, self._shift_ms) if self._shift_ms else event)

    def _tell_load(self) -> None:
        """A pause is where the dialog decides whether to prepare a reply that may be thrown away."""
        load = self._kit.load
        if abs(load - self._load) >= LOAD_STEP:
            self._load = load
            self.deliver(LoadChanged(load))

    def deliver(self, event: Event) -> None:
        """Take an event. Never waits."""
        if len(self._events) < MAX_EVENTS:
            self._events.append(event)
        elif not self._over:
            self._over = "overrun"
        self._wake.set()

    def audio(self, utterance: int, offset_samples: int, audio: bytes) -> None:
        """Take caller audio, mu-law 8 kHz."""
        if self._over:
            return
        if self._group is None:
            # The gateway's ring bounds how much of an utterance is told again.
            self._early.append((utterance, offset_samples, audio))
            self._early_samples += len(audio)
            self._wake.set()
            return
        try:
            self._utterances.audio(utterance, offset_samples, audio)
        except CallOverError:
            logger.info("caller audio after a fault", extra={"call_id": self.call_id})

    def detach(self, reason: str) -> None:
        """The gateway takes the call away. What was delivered before is still fed."""
        if reason not in (HANDED_OVER, ORPHANED):
            self.deliver(CarrierStopped(reason))
        self._over = self._over or reason
        self._wake.set()

    @property
    def snapshot(self) -> bytes:
        """Newest state, packed; empty before the first transition."""
        return self._snapshot

    @property
    def open_jobs(self) -> int:
        """Jobs and utterances that are not over."""
        return self._jobs.open + self._utterances.open

    @property
    def over(self) -> bool:
        """True once the call is to end or to go: it takes no more room, though the last of its jobs may still stop."""
        return bool(self._over)

    @property
    def between_turns(self) -> bool:
        """Nobody speaks and nothing is under way: the moment at which a hand-over costs nothing."""
        return self._machine.between_turns and not self._events

    @property
    def ended(self) -> bool:
        """True once the dialog has ended and was recorded."""
        return self._ended

    # --- the loop ---

    async def run(self) -> None:
        """Live the call. Never raises but for cancellation: a fault ends this call and no other."""
        try:
            await self._hear_replay()
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._begin()
                while not self._over:
                    await self._wake.wait()
                    self._wake.clear()
                    self._turn_of_loop()
                self._turn_of_loop()
                if self._snapshot_due_s is not None:
                    self._send_snapshot()
                self._jobs.cancel_all()
                # A successor with the same gateway goes on with the sessions that are open at the recogniser.
                self._utterances.drop_all(forget=self._over != HANDED_OVER)
                if self._over == "overrun":
                    raise EventOverrunError(f"more than {MAX_EVENTS} events waiting")
        except Exception:
            # The call border: whatever went wrong in this call stays in this call.
            logger.exception("call failed", extra={"call_id": self.call_id})
            self._fail()
        finally:
            self._group = None
            if self._alarm is not None:
                self._alarm.cancel()
            self._over = self._over or "stopped"
            self._log.close()

    async def _hear_replay(self) -> None:
        """What was asked of the recogniser is asked again at once, so the whole utterance must be here first."""
        while self._early_samples < self._attach.replay_samples and not self._over:
            await self._wake.wait()
            self._wake.clear()

    def _begin(self) -> None:
        self._wake.set()
        early, self._early = self._early, []
        for utterance, offset_samples, audio in early:
            self.audio(utterance, offset_samples, audio)
        if self._attach.snapshot:
            self._kit.outbox.add(CallMoved(self.call_id, self.epoch, self._machine.turn))
            self._snapshot_due_s = self._loop.time()
            self._log.note(self._now_ms(), "reconnected" if self._reconnected else "taken_over", epoch=self.epoch)
            if self._reconnected:
                self._machine.reconnect()
            else:
                self._machine.reopen()
            return
        attach = self._attach
        started_at_s = self._kit.wall_clock() - attach.now_ms / 1000
        self._kit.outbox.add(
            CallBegan(attach.call_id, attach.caller_pii, attach.called, started_at_s, attach.traceparent)
        )
        self.deliver(CallStarted(attach.call_id, attach.caller_pii, attach.called))

    def _turn_of_loop(self) -> None:
        """Feed all that waits, fire the deadline, and set the alarm for the next one."""
        self._moved, self._acted = bool(self._events), False
        self._execute()
        while self._events and not self._ended:
            event, now_ms = self._events.popleft(), self._now_ms()
            self._log.event(now_ms, event)
            self._machine.receive(event, now_ms)
            self._execute()
        due_ms = self._machine.next_deadline_ms()
        if due_ms is not None and due_ms <= self._now_ms() and not self._ended:
            self._machine.on_deadline(self._now_ms())
            self._execute()
            self._moved = True
        if self._moved:
            self._keep_snapshot(at_once=self._acted)
        elif self._snapshot_due_s is not None and self._loop.time() >= self._snapshot_due_s:
            self._send_snapshot()
        self._set_alarm()

    def _now_ms(self) -> int:
        """The call's clock, as the gateway keeps it."""
        return int((self._loop.time() - self._zero_s) * 1000)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._over:
            return
        due_ms = self._machine.next_deadline_ms()
        # Half a millisecond late, so that the truncated clock has reached the deadline when it rings.
        times_s = [self._zero_s + due_ms / 1000 + 0.0005] if due_ms is not None else []
        if self._snapshot_due_s is not None:
            times_s.append(self._snapshot_due_s)
        if times_s:
            self._alarm = self._loop.call_at(min(times_s), self._wake.set)

    # --- state for a replacement ---

    def _keep_snapshot(self, *, at_once: bool) -> None:
        if at_once:
            self._send_snapshot()
        elif self._snapshot_due_s is None:
            self._snapshot_due_s = self._loop.time() + SNAPSHOT_EVERY_S

    def _send_snapshot(self) -> None:
        self._snapshot_due_s = None
        state = packed({**self._machine.snapshot(), _SHIFT: self._shift_ms})
        if (state != self._snapshot or not self._answered) and not self._ended:
            self._snapshot, self._answered = state, True
            # All that was told has been fed by now, so the state speaks for it.
            self._send(Snapshot(self.call_id, self.epoch, state, self._told))

    # --- commands ---

    def _execute(self) -> None:
        """Execute what the machine commands, and note whether a successor must know of it."""
        for command in self._machine.take_commands():
            self._log.command(self._now_ms(), command)
            self._commands[type(command)](command)
            self._moved = True
            self._acted = self._acted or type(command) not in REPEATABLE

    def _table(self) -> dict[type[Any], Callable[[Any], None]]:
        jobs, utterances = self._jobs, self._utterances
        return {
            Transcribe: utterances.transcribe,
            CloseUtterance: self._close_utterance,
            Retrieve: jobs.retrieve,
            Generate: jobs.generate,
            Synthesise: jobs.synthesise,
            RunTool: jobs.run_tool,
            ReleaseTurn: lambda command: jobs.release(command.turn, interruptible=command.interruptible),
            CancelTurn: lambda command: jobs.cancel(command.turn),
            HoldPlayout: lambda _: self._control("hold"),
            ResumePlayout: lambda _: self._control("resume"),
            ClearPlayout: lambda command: self._control("clear", command.turn),
            RecordTurn: self._record_turn,
            EndCall: self._end_call,
        }

    def _close_utterance(self, command: CloseUtterance) -> None:
        self._control("close_utterance", command.utterance)
        self._utterances.close(command.utterance)

    def _record_turn(self, command: RecordTurn) -> None:
        self._turns += 1
        self._jobs.cancel(command.record.turn)
        self._kit.outbox.add(replace(command.record, epoch=self.epoch, code=self._kit.code))

    def _end_call(self, command: EndCall) -> None:
        self._control("hang_up", reason=command.reason)
        self._log.close()
        self._kit.outbox.add(replace(command.record, epoch=self.epoch))
        self._ended = True
        self._over = self._over or command.reason or "ended"

    def _control(self, verb: str, number: int = 0, reason: str = "") -> None:
        self._send(Control(self.call_id, self.epoch, verb, number, reason))

    def _play(self, turn: int, clause: int, audio: bytes, last: bool, interruptible: bool) -> None:
        self._send(Play(self.call_id, self.epoch, turn, clause, audio, last, interruptible))

    def _send(self, message: ToGateway) -> None:
        # A refused message needs no handling here: the link is gone, and its owner suspends the call.
        self.port.send(message)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        try:
            if self._group is None:
                raise CallOverError(f"job {name} started outside the life of its call")
            return self._group.create_task(work, name=f"{self.call_id}/{name}")
        except RuntimeError as error:
            # A group that is being cancelled after a fault takes no more tasks.
            work.close()
            raise CallOverError(f"job {name} started while its call was ending") from error

    # --- the end nobody wanted ---

    def _fail(self) -> None:
        """Hang up and leave a record, so that a fault is a short call and not a dead line."""
        if self._ended:
            return
        self._ended = True
        self._control("hang_up", reason=FAULT)
        self._log.note(self._now_ms(), "failed")
        self._kit.outbox.add(
            CallRecord(
                call_id=self.call_id,
                caller_pii=self._attach.caller_pii,
                called=self._attach.called,
                duration_ms=self._now_ms(),
                turns=self._turns,
                end_reason="failed",
                epoch=self.epoch,
            )
        )

    def _shift(self, attach: Attach) -> int:
        """How far the dialog's clock is ahead of the gateway's, in ms; a successor at that gateway goes on with it."""
        if self._reconnected:
            return max(0, self._machine.now_ms - attach.now_ms)
        return int(unpacked(attach.snapshot).get(_SHIFT, 0)) if attach.snapshot else 0

    def _make_machine(self) -> Machine:
        if not self._attach.snapshot:
            return self._kit.machines.new(self.call_id)
        return self._kit.machines.restore(unpacked(self._attach.snapshot))
