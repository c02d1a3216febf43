"""Twilio's webhooks. A caller is never left on a dead line: whatever fails here ends in words and a hang-up."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from configs import policies
from configs.runtime import StackContext
from serve_apps import twiml
from serve_apps.backends import Backends
from serve_apps.forms import Form, signed_form
from serve_apps.http_errors import HttpError
from storage.calls import CarrierEvent
from voice_agent.admission import Refusal
from voice_agent.errors import VoiceAgentError
from voice_agent.metrics import STREAM_LOST
from voice_agent.twilio import tokens

MAX_RECONNECTS = 3
"""New streams given to one call after its stream was lost, before the caller is told and the call ended."""

SAY_AGAIN = 3
"""A waiting caller is told again at every third question."""

SETTLE_S = 1.0
"""How long a stream's end may take to reach the dispatcher before the call counts as cut off."""

_OVER = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
_CUT_OFF = frozenset({"ended:lost", "ended:expired", f"ended:{STREAM_LOST}"})
"""Ends nobody chose: the caller may still be there."""
_FAILED = "ended:failed"
_WAITING = frozenset({"queued", "reserved", "lost"})
_TRANSFER = "ended:transfer:"
_KEPT = frozenset(
    {
        "CallStatus", "CallDuration", "SipResponseCode", "ErrorCode", "ErrorMessage", "StreamSid", "StreamName",
        "StreamEvent", "StreamError", "Timestamp", "SequenceNumber", "Direction",
    }
)  # fmt: skip
"""Fields of a callback worth keeping; numbers and places of people are not among them."""

_log = logging.getLogger(__name__)


class Webhooks:
    """The handlers. ``clock`` is Unix time in seconds; ``nonce`` makes a token unique."""

    def __init__(
        self,
        context: StackContext,
        backends: Backends,
        *,
        clock: Callable[[], float] = time.time,
        nonce: Callable[[], str] = lambda: secrets.token_urlsafe(12),
        settle_s: float = SETTLE_S,
    ) -> None:
        self._context = context
        self._backends = backends
        self._clock = clock
        self._nonce = nonce
        self._settle_s = settle_s

    def router(self) -> APIRouter:
        """Routes under /twilio."""
        router = APIRouter(prefix="/twilio", tags=["twilio"])
        for path, handler in (
            ("/voice", self.voice),
            ("/stream-ended", self.stream_ended),
            ("/status", self.status),
            ("/stream-status", self.stream_status),
        ):
            router.add_api_route(path, handler, methods=["POST"], response_class=Response, response_model=None)
        return router

    async def voice(self, request: Request) -> Response:
        """A call comes in: a stream to a gateway, or words why not."""
        form = await signed_form(request, self._context)
        return await self._spoken(form, self._connect(form, _attempt(request)))

    async def stream_ended(self, request: Request) -> Response:
        """The stream is over: so is the call, or somebody is dialled, or its gateway was lost and another takes it."""
        form = await signed_form(request, self._context)
        return await self._spoken(form, self._after_stream(form, _attempt(request)))

    async def status(self, request: Request) -> Response:
        """The call's progress. A call that ended before its stream began gives its slot back at once."""
        form = await signed_form(request, self._context)
        status = form.get("CallStatus")
        key = ":".join((status, form.get("SequenceNumber"), form.get("Timestamp")))
        await self._keep(
            CarrierEvent(form.call_id, f"call:{key}", "call", status, form.get("ErrorMessage"), _kept(form))
        )
        if status in _OVER:
            await self._release_waiting(form.call_id)
        return Response(status_code=204)

    async def stream_status(self, request: Request) -> Response:
        """The stream's progress. This is the only place where Twilio tells of a failed handshake."""
        form = await signed_form(request, self._context)
        event, error = form.get("StreamEvent"), form.get("StreamError")
        key = ":".join((event, form.get("StreamSid"), form.get("Timestamp")))
        if event == "stream-error":
            _log.warning("carrier reports a stream error", extra={"call_id": form.call_id, "error": error})
        await self._keep(CarrierEvent(form.call_id, f"stream:{key}", "stream", event, error, _kept(form)))
        return Response(status_code=204)

    async def _spoken(self, form: Form, work: Awaitable[str]) -> Response:
        """TwiML from ``work``; words and a hang-up when it fails, for no caller may be left on a dead line."""
        try:
            document = await work
        except VoiceAgentError as error:
            _log.warning("call cannot be taken", extra={"call_id": form.call_id, "code": error.code})
            document = self._sorry()
        except Exception:  # noqa: BLE001 - the request border: words for the caller come first
            _log.exception("webhook failed unexpectedly", extra={"call_id": form.call_id})
            document = self._sorry()
        return Response(document, media_type=twiml.CONTENT_TYPE)

    def _sorry(self) -> str:
        return twiml.say_and_hang_up(self._context.settings.agent.out_of_service)

    async def _connect(self, form: Form, attempt: int) -> str:
        answer = await self._backends.dispatcher.admit(form.call_id, form.get("From"), form.get("To"))
        base = f"{self._context.webhook_url}/twilio"
        # The count travels in the URL that Twilio signs: it needs no memory here, and nobody else can set it.
        again = f"?attempt={attempt}" if attempt else ""
        if isinstance(answer, Refusal) and answer.reason == "queue":
            words = "" if answer.asked % SAY_AGAIN else self._context.settings.agent.queue
            return twiml.wait(words, seconds=answer.wait_s, url=f"{base}/voice{again}")
        if isinstance(answer, Refusal):
            _log.warning("call refused", extra={"call_id": form.call_id, "reason": answer.reason})
            return twiml.say_and_hang_up(self._context.settings.agent.full_house)
        token = tokens.mint(
            self._context.stream_token_secret,
            call_id=form.call_id,
            audience=answer.gateway_id,
            expires_at_s=self._clock() + self._context.settings.twilio.token_ttl_s,
            nonce=self._nonce(),
        )
        return twiml.connect(
            media_url=answer.media_url,
            token=token,
            action_url=f"{base}/stream-ended{again}",
            status_url=f"{base}/stream-status",
            about={"caller": form.get("From"), "called": form.get("To"), "stream": str(attempt or "")},
        )

    async def _after_stream(self, form: Form, attempt: int) -> str:
        if form.get("CallStatus") in _OVER:
            await self._release_waiting(form.call_id)
            return twiml.hang_up()
        state = await self._settled_state(form.call_id)
        if state.startswith(_TRANSFER):
            return await self._transfer(form, state.removeprefix(_TRANSFER))
        if state == _FAILED:
            return self._sorry()
        if state.startswith("ended") and state not in _CUT_OFF:
            return twiml.hang_up()
        if attempt >= MAX_RECONNECTS:
            _log.error("call given up after repeated stream failures", extra={"call_id": form.call_id})
            return self._sorry()
        _log.warning("stream lost, reconnecting", extra={"call_id": form.call_id, "state": state, "attempt": attempt})
        return await self._connect(form, attempt + 1)

    async def _transfer(self, form: Form, name: str) -> str:
        """Only those whom the configuration names can be reached: what is asked for may come from a language model."""
        settings = self._context.settings
        target = settings.tools.transfer_targets.get(name, "")
        # Rules may name an address instead; they are read from files, so only when it is not one of the names.
        if not target and name in await asyncio.to_thread(policies.put_through_to, settings):
            target = name
        if not target:
            _log.error("transfer to somebody who is not listed", extra={"call_id": form.call_id, "target_pii": name})
            return self._sorry()
        _log.info("call transferred", extra={"call_id": form.call_id, "target_pii": name})
        return twiml.transfer(target)

    async def _settled_state(self, call_id: str) -> str:
        """The call's state. The gateway closes the socket first and reports the end after, so ``live`` may be stale."""
        deadline_s = time.monotonic() + self._settle_s
        while True:
            state = await self._backends.dispatcher.call_state(call_id)
            if state != "live" or time.monotonic() >= deadline_s:
                return state
            await asyncio.sleep(0.05)

    async def _release_waiting(self, call_id: str) -> None:
        """Give back the slot of a call that waits for a stream which will not come: the caller is gone."""
        try:
            if await self._backends.dispatcher.call_state(call_id) in _WAITING:
                await self._backends.dispatcher.release(call_id, "caller_hung_up")
        except VoiceAgentError as error:
            # The reservation runs out by itself.
            _log.warning("slot not given back early", extra={"call_id": call_id, "code": error.code})

    async def _keep(self, event: CarrierEvent) -> None:
        """Into the call's event log and into Postgres; Twilio is asked to try again only when neither took it."""
        entry: dict[str, Any] = {"type": "carrier", "kind": event.kind, "event": event.event, "error": event.error}
        failed = 0
        keepers: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: self._backends.journal.events(event.call_id, [entry | {"at_s": self._clock()}]),
            lambda: self._backends.calls.add_carrier_event(event),
        )
        for keep in keepers:
            try:
                await keep()
            except VoiceAgentError as error:
                failed += 1
                _log.warning("carrier event not kept", extra={"call_id": event.call_id, "code": error.code})
        if failed == len(keepers):
            raise HttpError(503, "unreachable", "neither the journal nor Postgres could keep this")


def _attempt(request: Request) -> int:
    text = request.query_params.get("attempt", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else MAX_RECONNECTS


def _kept(form: Form) -> dict[str, str]:
    return {name: form.get(name) for name in sorted(_KEPT) if form.get(name)}
