"""The media gateway: terminates the legs of a node's calls and owns everything a carrier can see of them.

It outlives the actors of its calls: it keeps the caller's audio, the playout and the newest state of each call, and
hands them to another actor when one dies.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter, deque
from dataclasses import asdict, fields
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from actors.gateway.call_services import CallCounters, CallServices
from actors.gateway.dispatcher_port import DispatcherPort
from actors.gateway.gateway_call import GatewayCall
from actors.gateway.host_links import HostLinks
from actors.gateway.media_socket import MediaServer, SocketLimits
from actors.gateway.pulse import Pulse
from actors.gateway.takeover import TakeOver
from actors.gateway.twilio_leg import MEDIA_PATH, TwilioLeg
from actors.gateway.vad_batch import VadBatch
from actors.link.connection import LinkLimits
from actors.tasks import LoopLag, TaskKeeper
from configs.runtime import StackContext
from engines import registry
from voice_agent.admission import HostAddress
from voice_agent.errors import AuthError, CapacityError, ProtocolError, VoiceAgentError
from voice_agent.playout import PlayoutStatistics
from voice_agent.twilio import signature, tokens
from voice_agent.twilio.messages import Start

logger = logging.getLogger(__name__)

REGISTER_S: Final = 30.0
RETRY_S: Final = 0.2
STOP_S: Final = 8.0
DRAINED: Final = "drained"
MOST_NONCES: Final = 100_000
MOVES_KEPT: Final = 64
"""Take-overs that ``status`` tells of; the oldest go first."""


class NonceMemory:
    """Nonces of tokens used, until the tokens expire. Full of living ones it refuses (policy: fail)."""

    def __init__(self, keep_s: float, most: int = MOST_NONCES) -> None:
        self._keep_s = keep_s
        self._most = most
        self._used: dict[str, float] = {}

    def use(self, nonce: str, now_s: float) -> None:
        """Remember a nonce.

        Raises:
            AuthError: it was used before.
            CapacityError: more tokens are alive than can be remembered.
        """
        if nonce in self._used:
            raise AuthError("stream token was used before")
        for known in list(self._used):
            if self._used[known] > now_s:
                break
            del self._used[known]
        if len(self._used) >= self._most:
            raise CapacityError("too many stream tokens are alive")
        self._used[nonce] = now_s + self._keep_s


class MediaGateway:
    """One or some per node. Plain class; the composition root makes it a Ray actor.

    Args:
        context: the stack.
        gateway_id: its name, ``gateway-<node>``; the audience of the tokens minted for it.
        dispatcher: for tests; None takes the named actor of the Ray cluster this process belongs to.
        slot: which of the node's gateways this is, from 0; it listens that many ports further on.
    """

    def __init__(
        self, context: StackContext, gateway_id: str, dispatcher: DispatcherPort | None = None, slot: int = 0
    ) -> None:
        settings = context.settings
        self._context = context
        self._gateway_id = gateway_id
        self._dispatcher = dispatcher or _ray_dispatcher(settings.ray.namespace)
        self._tasks = TaskKeeper()
        self._lag = LoopLag()
        self._pulse = Pulse()
        self._calls: dict[str, GatewayCall] = {}
        self._lives: dict[asyncio.Task[None], str] = {}
        self._moves: deque[TakeOver] = deque(maxlen=MOVES_KEPT)
        self._refused: Counter[str] = Counter()
        self._ended = Counter[str]()
        self._playout = PlayoutStatistics()
        self._counters = CallCounters()
        # A token lives token_ttl_s from minting; twice that covers clocks that differ between nodes.
        self._nonces = NonceMemory(2 * settings.twilio.token_ttl_s)
        self._slot = slot
        self._media_url = context.media_url_of(slot)
        self._address: dict[str, Any] = {}
        self._services: CallServices | None = None
        self._server: MediaServer | None = None
        self._starting = asyncio.Lock()
        self._stopping = False

    # --- life ---

    async def start(self) -> dict[str, Any]:
        """Load the voice detector, listen for carriers, tell the dispatcher. Idempotent.

        Returns:
            ``gateway_id``, ``host``, ``port``, ``media_url``, ``pid``.

        Raises:
            EngineUnavailableError: the voice activity engine cannot run here.
            OSError: the media port is taken.
            CapacityError: the dispatcher does not answer.
        """
        async with self._starting:
            if not self._address:
                self._address = await self._begin()
            return self._address

    async def _begin(self) -> dict[str, Any]:
        settings = self._context.settings
        vad = VadBatch(registry.load("vad", settings.media.vad_engine, {}))
        vad.warm()
        limits = LinkLimits().patient(settings.media.actor_silence_ms / 1000)
        links = HostLinks(self._gateway_id, self._context.link_secret, self._tasks, limits)
        self._services = CallServices(
            settings.media, self._dispatcher, links, vad, self._pulse, self._over, self._moved
        )
        sockets = SocketLimits(
            message_bytes=settings.twilio.max_message_bytes,
            sockets=2 * settings.calls.max_calls + 64,
            handshake_s=settings.twilio.start_timeout_s,
        )
        self._server = MediaServer(lambda: TwilioLeg(self, settings.twilio), sockets, self._pulse)
        wanted = settings.server.media_port
        port = await self._server.start(settings.server.host, wanted + self._slot if wanted else 0)
        self._media_url = _with_port(self._media_url, port)
        self._tasks.start(self._lag.run(), "loop-lag")
        try:
            await self._register()
        except CapacityError:
            # Nobody sends calls here, and the next attempt needs the port.
            await self._server.stop()
            raise
        return {
            "gateway_id": self._gateway_id,
            "host": settings.server.host,
            "port": port,
            "media_url": self._media_url,
            "pid": os.getpid(),
        }

    async def _register(self) -> None:
        """The dispatcher may be restarting; it is asked for a while."""
        give_up_at_s = time.monotonic() + REGISTER_S
        while True:
            try:
                await self._dispatcher.register_gateway(self._gateway_id, self._media_url)
            except CapacityError:
                if time.monotonic() >= give_up_at_s:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def stop(self) -> None:
        """End every call (the carrier asks for another gateway), close every socket and link. Idempotent."""
        self._stopping = True
        if self._server is None or self._services is None:
            return
        self._server.stop_listening()
        for call in tuple(self._calls.values()):
            call.end(DRAINED, 1001, "going away")
        if self._lives:
            await asyncio.wait(tuple(self._lives), timeout=STOP_S)
        await self._server.stop()
        self._services.vad.close()
        await self._services.links.close()
        await self._tasks.aclose()
        self._server = None
        self._address = {}

    async def status(self) -> dict[str, Any]:
        """What runs here. After the last call ``tasks``, ``sockets`` and ``attached`` are 0; idle links are kept."""
        services, server = self._services, self._server
        return {
            **self._address,
            "calls": {call_id: call.status() for call_id, call in self._calls.items()},
            "sockets": server.open_sockets if server else 0,
            "sockets_over_limit": server.refused if server else 0,
            "tasks": len(self._lives),
            "links": len(services.links) if services else 0,
            "attached": services.links.attached if services else 0,
            "refused": dict(self._refused),
            "ended": dict(self._ended),
            "vad": asdict(services.vad.statistics) if services else {},
            "playout": _total(self._playout, *(call.ledger.statistics for call in self._calls.values())),
            "counters": _total(self._counters, *(call.counters for call in self._calls.values())),
            "moves": [asdict(move) for move in self._moves],
            "loop_lag_ms": self._lag.worst_ms,
        }

    async def media_url(self) -> str:
        """Where carriers reach this gateway; empty before it listens."""
        return self._media_url if self._server is not None and not self._stopping else ""

    async def move_call(self, call_id: str, address: HostAddress) -> str:
        """Hand a call over to another host while its own lives: the id of the host that has it then, empty for none."""
        call = self._calls.get(call_id)
        return await call.move(address) if call is not None else ""

    async def recent_lag_ms(self) -> float:
        """How late the event loop wakes now."""
        return self._lag.recent_ms

    async def has_call(self, call_id: str) -> bool:
        """Whether a call has, or had a moment ago, its stream here."""
        return call_id in self._calls

    # --- for legs ---

    def check_upgrade(self, path: str, headers: dict[str, str]) -> tuple[HTTPStatus, str] | None:
        """Path, then signature over the configured public URL."""
        if urlsplit(path).path != MEDIA_PATH:
            self.count_refused("path")
            return HTTPStatus.NOT_FOUND, f"media streams are at {MEDIA_PATH}"
        twilio = self._context.settings.twilio
        given = headers.get("x-twilio-signature", "")
        if twilio.verify_signatures and not signature.upgrade_valid(twilio.auth_token, given, self._media_url):
            self.count_refused("signature")
            return HTTPStatus.FORBIDDEN, "the request is not signed by Twilio for this address"
        return None

    def begin(self, leg: TwilioLeg, start: Start) -> GatewayCall:
        """Authenticate a stream and begin its call; no actor is touched before it is.

        A carrier that has lost a stream may come back before the loss is seen here: the new stream has the call.

        Raises:
            AuthError: token or account are not right.
            CapacityError: too many tokens are alive.
            ProtocolError: the gateway is stopping.
        """
        settings, now_s = self._context.settings, time.time()
        if self._stopping or self._services is None:
            raise ProtocolError("the gateway is stopping")
        nonce = tokens.verify(
            self._context.stream_token_secret,
            start.parameters.get("token", ""),
            call_id=start.call_sid,
            audience=self._gateway_id,
            now_s=now_s,
        )
        if settings.twilio.account_sid and start.account_sid != settings.twilio.account_sid:
            raise AuthError("the stream belongs to another account")
        self._nonces.use(nonce, now_s)
        former, before = self._calls.get(start.call_sid), None
        if former is not None:
            former.give_way()
            before = [life for life, call_id in self._lives.items() if call_id == start.call_sid][-1]
        call = self._calls[start.call_sid] = GatewayCall(leg, start, self._services, before)
        life = self._tasks.start(call.run(), f"call-{start.call_sid}")
        self._lives[life] = start.call_sid
        life.add_done_callback(lambda done: self._lives.pop(done, None))
        return call

    def count_refused(self, reason: str) -> None:
        """A socket was refused or closed for an error of its peer."""
        self._refused[reason] += 1

    # --- for calls ---

    def _moved(self, move: TakeOver) -> None:
        self._moves.append(move)
        self._tasks.start(self._tell(move), f"moved-{move.call_id}")

    async def _tell(self, move: TakeOver) -> None:
        """For the metrics: best effort."""
        try:
            await self._dispatcher.took_over(move.reason, move.listening_ms / 1000)
        except VoiceAgentError as error:
            logger.info("take-over not counted", extra={"call_id": move.call_id, "reason": error.message})

    def _over(self, call: GatewayCall) -> None:
        """A call has given everything back."""
        if self._calls.get(call.call_id) is call:
            del self._calls[call.call_id]
        _add(self._playout, call.ledger.statistics)
        _add(self._counters, call.counters)
        self._ended[call.over] += 1


def _ray_dispatcher(namespace: str) -> DispatcherPort:
    from actors.gateway.ray_dispatcher import RayDispatcher

    return RayDispatcher(namespace)


def _with_port(url: str, port: int) -> str:
    """The URL with the port that was bound, where it names port 0."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.hostname}:{port}").geturl() if parts.port == 0 else url


def _add(total: Any, part: Any) -> None:
    for field in fields(total):
        setattr(total, field.name, getattr(total, field.name) + getattr(part, field.name))


def _total(*parts: Any) -> dict[str, int]:
    return {field.name: sum(getattr(part, field.name) for part in parts) for field in fields(parts[0])}
