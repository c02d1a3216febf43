"""The call actor: a warm, re-used process that hosts calls, each in a shell of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from actors.call.kit import CallKit
from actors.call.orphans import LOST, Orphans
from actors.call.outbox import JournalOutbox, JournalPort
from actors.call.plane import ModelPlane
from actors.call.shell import ORPHANED, CallShell
from actors.link.codec import Message
from actors.link.connection import LinkConnection, LinkLimits, LinkServer
from actors.link.messages import (
    HANDED_OVER,
    HOST_FULL,
    UNREADABLE,
    Attach,
    CallerAudio,
    CallEvent,
    Control,
    Detach,
)
from actors.tasks import LoopLag, TaskKeeper
from configs import main_thread
from configs.process import begin_work
from configs.runtime import StackContext
from voice_agent.admission import HostAddress
from voice_agent.dialog.events import HangUpRequested
from voice_agent.errors import ConfigError, ProtocolError, StorageError
from voice_agent.metrics import STREAM_LOST

logger = logging.getLogger(__name__)

FLUSH_S: Final = 2.0
TURN_POLL_S: Final = 0.05
GATEWAY_SILENCE_S: Final = 5.0
"""A gateway is given more time than an actor: nobody is better off when its calls are left early."""
HEAP_MB: Final = 1.0
HEAP_MB_PER_CALL: Final = 0.3
"""What the calls of an actor take of the heap at most in half an hour at ten calls, and some more."""


@dataclass(frozen=True, slots=True)
class CallEdges:
    """What a call actor meets outside its process; in a cluster all of it is Ray."""

    plane: ModelPlane
    journal: JournalPort
    bind_host: str


class CallActor:
    """Hosts up to ``calls.calls_per_actor`` calls. Plain class: the dispatcher's factory makes it a Ray actor.

    Args:
        context: the stack.
        host_id: its name, ``call-host-<n>``.
        edges: for tests; None connects to the Ray cluster this process belongs to.
    """

    def __init__(self, context: StackContext, host_id: str, edges: CallEdges | None = None) -> None:
        self._context = context
        self._host_id = host_id
        self._edges = edges
        self._capacity = context.settings.calls.calls_per_actor
        self._shells: dict[str, CallShell] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._address: HostAddress | None = None
        self._starting = asyncio.Lock()
        self._tasks = TaskKeeper()
        self._lag = LoopLag()
        self._kit: CallKit | None = None
        self._server: LinkServer | None = None
        self._orphans: Orphans | None = None

    async def start(self) -> HostAddress:
        """Warm the model plane, then listen for the media link. Idempotent.

        Raises:
            EngineUnavailableError: a stage of the model plane does not answer.
        """
        async with self._starting:
            if self._address is None:
                self._address = await self._start()
            return self._address

    async def _start(self) -> HostAddress:
        _check_code(self._context)
        edges = self._edges or await _cluster_edges(self._context)
        await edges.plane.warm()
        settings = self._context.settings
        outbox = JournalOutbox(edges.journal)
        self._tasks.start(outbox.run(), "outbox")
        self._tasks.start(self._lag.run(), "loop-lag")
        self._kit = replace(CallKit.of(settings, edges.plane, outbox), code=self._context.code.version)
        await self._kit.recordings.record(edges.plane, settings.tts.voice)
        self._orphans = Orphans(self._kit.machines, outbox, keep_s=settings.calls.reserve_s)
        self._server = LinkServer(
            self._serve,
            name=self._host_id,
            secret=self._context.link_secret,
            limits=LinkLimits().patient(GATEWAY_SILENCE_S),
        )
        host, port = await self._server.start(edges.bind_host)
        begin_work(HEAP_MB + HEAP_MB_PER_CALL * self._capacity)
        main_thread.rest()
        return HostAddress(self._host_id, host, port)

    async def status(self) -> dict[str, Any]:
        """What runs here. After the last call ``tasks`` and ``open_requests`` are 0."""
        address, kit = self._address, self._kit
        return {
            "host_id": self._host_id,
            "host": address.host if address else "",
            "port": address.port if address else 0,
            "pid": os.getpid(),
            "capacity": self._capacity,
            "code": asdict(self._context.code),
            "calls": {
                call_id: {"epoch": shell.epoch, "gateway": _peer(shell)} for call_id, shell in self._shells.items()
            },
            "orphans": self._orphans.call_ids if self._orphans else [],
            "tasks": sum(1 + shell.open_jobs for shell in self._shells.values()),
            "open_requests": kit.plane.open_requests if kit else 0,
            "journal_waiting": kit.outbox.waiting if kit else 0,
            "journal_dropped": kit.outbox.dropped if kit else 0,
            "loop_lag_ms": self._lag.worst_ms,
            "recent_lag_ms": self._lag.recent_ms,
            "plane_load": round(kit.plane.load, 3) if kit else 0.0,
            "stages": kit.plane.health() if kit else {},
            "not_recorded": list(kit.recordings.missing) if kit else [],
            "late_rules": kit.outbox.redactor.late_rules() if kit and kit.outbox.redactor else [],
        }

    async def hang_up(self, call_id: str, reason: str) -> bool:
        """End a call with a goodbye. False when it is not here."""
        shell = self._shells.get(call_id)
        if shell is not None:
            shell.deliver(HangUpRequested(reason))
        return shell is not None

    async def context(self) -> StackContext:
        """The stack as this actor was told of it, for a dispatcher that has to make more like it."""
        return self._context

    async def overload(self, level: int) -> None:
        """The dispatcher's word on how loaded the cluster is; see ``voice_agent.overload``."""
        if self._kit is not None:
            self._kit.overload.level = level

    async def await_turn(self, call_id: str, within_s: float) -> bool:
        """Wait until a call is between two turns, ``within_s`` at most. False when it is not, or is not here."""
        give_up_at_s = asyncio.get_running_loop().time() + within_s
        while (shell := self._shells.get(call_id)) is not None and not shell.over:
            if shell.between_turns:
                return True
            if asyncio.get_running_loop().time() >= give_up_at_s:
                break
            await asyncio.sleep(TURN_POLL_S)
        return False

    async def stop(self) -> None:
        """Let go of all calls (their gateways find them another host), give records to the journal. Idempotent."""
        for shell in tuple(self._shells.values()):
            shell.detach(HANDED_OVER)
        if self._lives:
            await asyncio.wait(tuple(self._lives), timeout=FLUSH_S)
        if self._server is not None:
            await self._server.stop()
        if self._orphans is not None:
            self._orphans.close()
        if self._kit is not None and not await self._kit.outbox.flush(FLUSH_S):
            logger.warning("records lost at stop", extra={"waiting": self._kit.outbox.waiting})
        await self._tasks.aclose()
        self._address = self._server = None

    # --- the media link ---

    async def _serve(self, connection: LinkConnection) -> None:
        """One gateway's link, until it closes; its calls wait for another gateway then."""
        async for message in connection:
            self._take(connection, message)
        for shell in [shell for shell in self._shells.values() if shell.port is connection]:
            self._orphan(shell, LOST)

    def _take(self, connection: LinkConnection, message: Message) -> None:
        if isinstance(message, Attach):
            self._attach(connection, message)
            return
        if not isinstance(message, CallEvent | CallerAudio | Detach):
            raise ProtocolError(f"a gateway sent {type(message).__name__}, which only call actors send")
        shell = self._shells.get(message.call_id)
        if shell is None or shell.port is not connection:
            return  # late news of a call that has ended or moved
        if isinstance(message, CallerAudio):
            shell.audio(message.utterance, message.offset_samples, message.audio)
        elif isinstance(message, CallEvent):
            shell.from_gateway(message.event)
        elif message.reason == STREAM_LOST:
            self._orphan(shell, STREAM_LOST)
        else:
            shell.detach(message.reason)

    def _attach(self, connection: LinkConnection, attach: Attach) -> None:
        assert self._kit is not None
        assert self._orphans is not None
        held = self._shells.get(attach.call_id)
        if held is not None and (held.ended or attach.call_id in self._orphans):
            held = None
        if held is not None and held.port is connection and attach.epoch <= held.epoch:
            logger.warning("attach of an older epoch refused", extra={"call_id": attach.call_id})
            return
        if held is None and sum(not shell.over for shell in self._shells.values()) >= self._capacity:
            connection.send(Control(attach.call_id, attach.epoch, "hang_up", reason=HOST_FULL))
            logger.warning("attach refused, no room", extra={"call_id": attach.call_id, "capacity": self._capacity})
            return
        orphaned = self._orphans.take(attach.call_id)
        if held is not None:
            orphaned = held.snapshot if held.port is not connection else b""
            held.detach(HANDED_OVER if held.port is connection else ORPHANED)
        snapshot = attach.snapshot or orphaned
        try:
            shell = CallShell(
                replace(attach, snapshot=snapshot),
                connection,
                self._kit,
                reconnected=bool(snapshot) and not attach.snapshot,
            )
        except ProtocolError as error:
            logger.warning("snapshot refused", extra={"call_id": attach.call_id, "reason": error.message})
            connection.send(Control(attach.call_id, attach.epoch, "hang_up", reason=UNREADABLE))
            return
        self._shells[attach.call_id] = shell
        life = self._tasks.start(self._live(shell), f"call-{attach.call_id}")
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def _live(self, shell: CallShell) -> None:
        try:
            await shell.run()
        finally:
            if self._shells.get(shell.call_id) is shell:
                del self._shells[shell.call_id]
                if self._orphans is not None:
                    self._orphans.renew(shell.call_id, b"" if shell.ended else shell.snapshot)

    def _orphan(self, shell: CallShell, reason: str) -> None:
        """The gateway or its stream is gone; keep the state until the carrier has found another."""
        assert self._orphans is not None
        shell.detach(ORPHANED)
        if not shell.ended and shell.snapshot:
            logger.warning("call without a gateway", extra={"call_id": shell.call_id, "reason": reason})
            self._orphans.keep(shell.call_id, shell.snapshot, shell.epoch, reason)


def _peer(shell: CallShell) -> str:
    return shell.port.peer if isinstance(shell.port, LinkConnection) else ""


async def _cluster_edges(context: StackContext) -> CallEdges:
    """The edges of a process in a Ray cluster."""
    from actors.call.replica_watch import WATCH
    from actors.call.serve_plane import ServePlane
    from actors.call.stalls import deadlines_of
    from actors.clients import RayJournal, node_address

    stt, deadlines = context.settings.stt, context.settings.deadlines
    WATCH.configure(deadlines)
    plane = ServePlane(sticky=max(stt.replicas, stt.max_replicas) > 1, deadlines=deadlines_of(deadlines))
    journal = RayJournal(context.settings.ray.namespace)
    try:
        await journal.find()
    except StorageError as error:
        logger.warning("journal not found yet", extra={"reason": str(error)})
    return CallEdges(plane, journal, node_address())


def _check_code(context: StackContext) -> None:
    """An actor that was made for a package runs in its folder, and must have imported the code there and no other.

    Raises:
        ConfigError: it has not.
    """
    if context.code.package and not Path(__file__).resolve().is_relative_to(Path.cwd().resolve()):
        raise ConfigError(f"a call actor of code {context.code.version} runs what is in {Path(__file__).parents[2]}")
