"""The emulated Twilio side of one call: signed webhooks, TwiML, the signed media socket, what comes after it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from websockets.exceptions import InvalidHandshake, InvalidStatus

from loadtest import twiml
from loadtest.caller import ScriptedCaller
from loadtest.leg import Line, LineAudio, MediaLeg, StreamIds
from loadtest.media_client import MediaClient, open_client
from loadtest.network import Network
from loadtest.playout import FRAME_MS, Underrun
from loadtest.ticker import Ticker
from loadtest.webhooks import WebhookClient
from voice_agent.errors import ProtocolError
from voice_agent.twilio import signature

_MOST_DOCUMENTS = 10
_WEBHOOK_TIMEOUT_S = 15.0
_OPEN_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class CallTarget:
    """The stack that is called.

    Attributes:
        webhook_url: base URL of the ingress as this machine reaches it.
        auth_token: signs webhooks and upgrades.
        public_url: base URL that Twilio would sign, where it differs from ``webhook_url``.
        media_url: WebSocket URL as this machine reaches it, where it differs from the one in the TwiML.
        account_sid: of the emulated account.
        caller: E.164 number of the caller.
        called: E.164 number that is called.
        loopback_only: do not follow TwiML to another machine.
    """

    webhook_url: str
    auth_token: str
    public_url: str = ""
    media_url: str = ""
    account_sid: str = "AC" + "0" * 32
    caller: str = "+15550100001"
    called: str = "+15550100100"
    loopback_only: bool = False


@dataclass(slots=True)
class CallTrace:
    """Everything the carrier saw of one call.

    Attributes:
        ended_by: caller, agent, carrier (a webhook, TwiML or the stream failed), refused (no stream was ever offered),
            transferred or rejected.
        reason: why, in words.
        said: what ``<Say>`` said.
        stream_errors: sockets that could not be opened, or broke the protocol.
        answer_ms: voice webhook's answer time.
        open_ms: from answering to an open stream, upgrade and ``start`` included.
        streams: how many were opened.
        media_start_ms: when the first stream's media began on the caller's clock; the platform's call clock is 0 then.
        rang_at_s: Unix time of the first webhook.
        cuts: how often the network cut the stream.
    """

    call_sid: str
    ended_by: str = ""
    reason: str = ""
    said: list[str] = field(default_factory=list)
    stream_errors: list[str] = field(default_factory=list)
    answer_ms: float = 0.0
    open_ms: float = 0.0
    streams: int = 0
    media_start_ms: int = 0
    rang_at_s: float = 0.0
    cuts: int = 0
    clears: int = 0
    dropped_frames: int = 0
    underruns: list[Underrun] = field(default_factory=list)
    audio: LineAudio = field(default_factory=LineAudio)


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine and nowhere else."""
    host = urlsplit(url).hostname
    if not host:
        return False
    try:
        return _host_is_loopback(host)
    except OSError:
        return False


@lru_cache(maxsize=64)
def _host_is_loopback(host: str) -> bool:
    """Asked once for each host: a resolver that takes its time would hold up every call's clock."""
    found = socket.getaddrinfo(host, None)
    return all(ipaddress.ip_address(str(item[4][0]).partition("%")[0]).is_loopback for item in found)


class _CallEndedError(Exception):
    """The call is over; carries ``ended_by`` and ``reason``."""

    def __init__(self, ended_by: str, reason: str) -> None:
        super().__init__(reason)
        self.ended_by, self.reason = ended_by, reason


class EmulatedCall:
    """One inbound call, from ringing to the last status callback. Run it once."""

    def __init__(
        self,
        target: CallTarget,
        caller: ScriptedCaller,
        http: WebhookClient,
        ticker: Ticker,
        network: Network | None = None,
    ) -> None:
        self._target = target
        self._http = http
        self._ticker = ticker
        self._line = Line(caller, self._caller_hung_up, network, caller.script.seed)
        self._caller_reason = ""
        self._ringing_at_s = 0.0
        self._answered = False
        self._control: asyncio.Task[None] | None = None
        self.trace = CallTrace(call_sid="CA" + uuid.uuid4().hex, audio=self._line.audio)

    async def run(self) -> CallTrace:
        """Place the call and see it through. Only cancellation gets out."""
        self._ringing_at_s, self.trace.rang_at_s = time.monotonic(), time.time()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._control = tasks.create_task(self._documents(tasks))
                await asyncio.wait([self._control])
                self._ticker.remove(self._line)
        finally:
            self._ticker.remove(self._line)
        self.trace.cuts = self._line.cuts
        if self._caller_reason:
            self.trace.ended_by, self.trace.reason = "caller", self._caller_reason
        with suppress(_CallEndedError):
            duration_s = len(self.trace.audio.caller) // 8000
            await self._post("/twilio/status", {"CallStatus": "completed", "CallDuration": str(duration_s)})
        return self.trace

    def cut(self) -> None:
        """The network breaks now."""
        if self._line.leg is not None:
            self._line.cuts += 1
            self._line.leg.cut()

    def _caller_hung_up(self, reason: str) -> None:
        """From the clock. An open stream is stopped by the line; anything else that is going on ends here."""
        self._caller_reason = reason
        if self._line.leg is None and self._control is not None:
            self._control.cancel()

    async def _documents(self, tasks: asyncio.TaskGroup) -> None:
        """Interpret documents one after the other until one ends the call."""
        url, form = self._url("/twilio/voice"), {"CallStatus": "ringing"}
        try:
            for number in range(_MOST_DOCUMENTS):
                document = await self._post(url, form)
                if number == 0:
                    self.trace.answer_ms = (time.monotonic() - self._ringing_at_s) * 1000
                url = await self._interpret(document, url, tasks)
                form = {"CallStatus": "in-progress"}
            raise _CallEndedError("carrier", f"more than {_MOST_DOCUMENTS} TwiML documents")
        except _CallEndedError as end:
            self.trace.ended_by, self.trace.reason = end.ended_by, end.reason

    async def _interpret(self, document: str, base_url: str, tasks: asyncio.TaskGroup) -> str:
        """Run the verbs of one document; returns the URL of the next one."""
        try:
            verbs = twiml.parse(document)
        except ProtocolError as error:
            raise _CallEndedError("carrier", str(error)) from error
        for verb in verbs:
            if isinstance(verb, twiml.Connect):
                await self._connect(verb.stream, base_url, tasks)
                if verb.action:
                    return urljoin(base_url, verb.action)
            elif isinstance(verb, twiml.Redirect):
                return urljoin(base_url, verb.url)
            else:
                await self._simple(verb)
        raise _CallEndedError("agent" if self.trace.streams else "refused", "end of the TwiML document")

    async def _simple(self, verb: twiml.Verb) -> None:
        if isinstance(verb, twiml.Say):
            self.trace.said.append(verb.text)
        elif isinstance(verb, twiml.Pause):
            await asyncio.sleep(verb.length_s)
        elif isinstance(verb, twiml.Dial):
            raise _CallEndedError("transferred", verb.target)
        elif isinstance(verb, twiml.Enqueue):
            raise _CallEndedError("transferred", f"queue:{verb.queue}")
        elif isinstance(verb, twiml.Reject):
            raise _CallEndedError("rejected", verb.reason)
        else:
            raise _CallEndedError("agent" if self.trace.streams else "refused", "hang-up by TwiML")

    # --- the stream ---

    async def _connect(self, stream: twiml.Stream, base_url: str, tasks: asyncio.TaskGroup) -> None:
        """Run a stream to its end, with the status callbacks round it."""
        if not self._answered:
            self._answered = True
            self._ticker.add(self._line)
        ids = StreamIds("MZ" + uuid.uuid4().hex, self.trace.call_sid, self._target.account_sid)
        callback = urljoin(base_url, stream.status_callback) if stream.status_callback else ""
        begin_s = time.monotonic()
        leg = MediaLeg(ids, self._line.uplink(self.trace.streams))
        try:
            socket = await self._open(stream.url, leg)
        except (OSError, InvalidHandshake) as error:
            status = f" with HTTP {error.response.status_code}" if isinstance(error, InvalidStatus) else ""
            text = f"stream was refused{status}: {error or type(error).__name__}"
            self.trace.stream_errors.append(text)
            await self._stream_event(callback, ids, "stream-error", text)
            return
        try:
            leg.open(socket, stream.parameters)
            self.trace.streams += 1
            if self.trace.streams == 1:
                self.trace.open_ms = (time.monotonic() - begin_s) * 1000
                self.trace.media_start_ms = self._line.now_ms
            tasks.create_task(self._stream_event(callback, ids, "stream-started"))
            self._line.leg = leg
            await socket.closed
        finally:
            self._line.leg = None
            socket.abort()
            self._keep(leg)
        await self._stream_event(callback, ids, "stream-stopped")
        if self._caller_reason:
            raise _CallEndedError("caller", self._caller_reason)

    async def _open(self, url: str, leg: MediaLeg) -> MediaClient:
        """The signed upgrade. The signature is over the URL as written in the TwiML."""
        headers = {"X-Twilio-Signature": signature.compute(self._target.auth_token, url, {})}
        reachable = self._target.media_url or url
        if self._target.loopback_only and not is_loopback(reachable):
            raise ConnectionRefusedError(f"{reachable} is not on this machine")
        return await open_client(reachable, headers, leg.take, _OPEN_TIMEOUT_S)

    def _keep(self, leg: MediaLeg) -> None:
        """Add a finished stream to the trace, its times moved onto the call's clock."""
        trace = self.trace
        begin_ms = self._line.now_ms - leg.playout.ticks * FRAME_MS
        trace.underruns += [hole.moved(begin_ms) for hole in leg.playout.underruns]
        trace.clears += leg.playout.clears
        trace.dropped_frames += leg.dropped_frames
        if leg.protocol_error:
            trace.stream_errors.append(leg.protocol_error)

    async def _stream_event(self, callback: str, ids: StreamIds, event: str, error: str = "") -> None:
        if not callback:
            return
        form = {"StreamSid": ids.stream_sid, "StreamEvent": event, "StreamName": ids.stream_sid}
        with suppress(_CallEndedError):
            await self._post(callback, {**form, "StreamError": error} if error else form)

    # --- webhooks ---

    def _url(self, path: str) -> str:
        return (self._target.public_url or self._target.webhook_url).rstrip("/") + path

    async def _post(self, url_or_path: str, extra: Mapping[str, str]) -> str:
        """A signed webhook; returns the body.

        Raises:
            _CallEndedError: the ingress did not answer with 2xx. Twilio ends a call then, unless a fallback URL is set.
        """
        target = self._target
        url = self._url(url_or_path) if url_or_path.startswith("/") else url_or_path
        form = {
            "CallSid": self.trace.call_sid,
            "AccountSid": target.account_sid,
            "From": target.caller,
            "To": target.called,
            "Caller": target.caller,
            "Called": target.called,
            "Direction": "inbound",
            "ApiVersion": "2010-04-01",
            "CallStatus": "in-progress",
            **extra,
        }
        reachable = url.replace(target.public_url, target.webhook_url, 1) if target.public_url else url
        if target.loopback_only and not is_loopback(reachable):
            raise _CallEndedError("carrier", f"webhook {reachable} is not on this machine")
        headers = {"X-Twilio-Signature": signature.compute(target.auth_token, url, form)}
        try:
            answer = await self._http.post(reachable, form, headers, _WEBHOOK_TIMEOUT_S)
        except OSError as error:
            raise _CallEndedError("carrier", f"webhook {url} failed: {type(error).__name__}") from error
        if not answer.is_success:
            raise _CallEndedError("carrier", f"webhook {url} answered HTTP {answer.status} (Twilio error 11200)")
        return answer.text
