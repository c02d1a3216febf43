"""OpenTelemetry spans of calls, made from their turn records: ``call > turn > stages``.

Made afterwards and in one process, because exporters in call actors would cost each of them memory and a thread. Text
of people goes under ``voice.pii.*`` and only when asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from actors.call.outbox import CallBegan
from configs.settings import Settings
from voice_agent.dialog.records import CallRecord, StageTimes, TurnRecord
from voice_agent.metrics import STAGES

MAX_OPEN: Final = 2_000
MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class SpanNames:
    """Which models the stages ran on, for span names and attributes."""

    stt: str
    llm: str
    llm_provider: str
    tts_voice: str
    collection: str

    @classmethod
    def of(cls, settings: Settings) -> SpanNames:
        """From the settings of the stack."""
        return cls(
            stt=settings.stt.engine,
            llm=str(settings.llm.options.get("model", settings.llm.engine)),
            llm_provider=settings.llm.engine,
            tts_voice=settings.tts.voice,
            collection=settings.kb.collection,
        )


@dataclass(slots=True)
class _OpenCall:
    span: Span
    zero_ns: int


class CallSpans:
    """Turns become spans when they are over. The oldest calls are closed when more than ``MAX_OPEN`` never ended."""

    def __init__(self, exporter: SpanExporter, names: SpanNames, *, with_pii: bool = False) -> None:
        self._names = names
        self._with_pii = with_pii
        self._provider = TracerProvider(resource=Resource.create({"service.name": "voice-agent"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("voice_agent")
        self._open: OrderedDict[str, _OpenCall] = OrderedDict()

    @classmethod
    def otlp(cls, settings: Settings) -> CallSpans:
        """Export by OTLP over HTTP to ``telemetry.otlp_endpoint``."""
        endpoint = settings.telemetry.otlp_endpoint.rstrip("/")
        exporter = OTLPSpanExporter(endpoint=endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces")
        return cls(exporter, SpanNames.of(settings), with_pii=settings.telemetry.trace_pii)

    def began(self, record: CallBegan) -> None:
        """Open the span of a call, under the caller's trace where it gave one."""
        if record.call_id in self._open:
            return
        zero_ns = int(record.started_at_s * 1e9)
        parent = TraceContextTextMapPropagator().extract({"traceparent": record.traceparent})
        attributes = {"gen_ai.conversation.id": record.call_id, "voice.called": record.called}
        if self._with_pii:
            attributes["voice.pii.caller"] = record.caller_pii
        span = self._tracer.start_span("call", parent, SpanKind.SERVER, attributes, start_time=zero_ns)
        assert isinstance(span, Span)
        self._open[record.call_id] = _OpenCall(span, zero_ns)
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].span.end()

    def turn(self, record: TurnRecord) -> None:
        """Spans of a turn and its stages."""
        call = self._open.get(record.call_id)
        span_ms = _extent(record.times)
        if call is None or span_ms is None:
            return
        turn = self._span("turn", call, call.span, span_ms, self._turn_attributes(record))
        for stage in STAGES:
            begin, end = getattr(record.times, stage.begin), getattr(record.times, stage.end)
            if begin is not None and end is not None and end >= begin:
                name, attributes = self._stage(stage.name, record, end - begin)
                self._span(name, call, turn, (begin, end), attributes)

    def ended(self, record: CallRecord) -> None:
        """Close the span of a call."""
        call = self._open.pop(record.call_id, None)
        if call is not None:
            call.span.set_attributes({"voice.end_reason": record.end_reason, "voice.turns": record.turns})
            call.span.end(call.zero_ns + record.duration_ms * MS)

    def close(self) -> None:
        """Export what is left; blocks for a moment."""
        for call in self._open.values():
            call.span.end()
        self._open.clear()
        self._provider.shutdown()

    def _span(
        self, name: str, call: _OpenCall, parent: Span, span_ms: tuple[int, int], attributes: dict[str, Any]
    ) -> Span:
        begin_ms, end_ms = span_ms
        span = self._tracer.start_span(
            name,
            set_span_in_context(parent),
            SpanKind.INTERNAL,
            attributes,
            start_time=call.zero_ns + begin_ms * MS,
        )
        span.end(call.zero_ns + end_ms * MS)
        assert isinstance(span, Span)
        return span

    def _turn_attributes(self, record: TurnRecord) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "voice.turn.index": record.turn,
            "voice.turn.kind": record.kind,
            "voice.interrupted": record.outcome == "interrupted",
            "voice.speculations": record.speculations,
            "voice.sources": record.sources,
            "voice.failed_stages": record.failed_stages,
            "gen_ai.conversation.id": record.call_id,
        }
        if record.v2v_self_reported_ms is not None:
            attributes["voice.v2v_latency_ms"] = record.v2v_self_reported_ms
        if self._with_pii:
            attributes |= {
                "voice.pii.caller_text": record.caller_text_pii,
                "voice.pii.agent_text": record.agent_text_pii,
                "voice.pii.heard_text": record.heard_text_pii,
            }
        return attributes

    def _stage(self, stage: str, record: TurnRecord, took_ms: int) -> tuple[str, dict[str, Any]]:
        names = self._names
        if stage == "chat":
            return f"chat {names.llm}", {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": names.llm_provider,
                "gen_ai.request.model": names.llm,
                "gen_ai.request.stream": True,
                "gen_ai.output.type": "speech",
                "gen_ai.response.time_to_first_chunk": took_ms / 1000,
                "gen_ai.conversation.id": record.call_id,
            }
        if stage == "retrieval":
            return f"retrieval {names.collection}", {"gen_ai.operation.name": "retrieval"}
        if stage == "tts":
            return f"tts {names.tts_voice}", {"voice.tts.voice": names.tts_voice}
        if stage == "stt":
            return "stt", {"voice.stt.engine": names.stt, "voice.stt.confidence": record.caller_confidence}
        return stage, {}


def _extent(times: StageTimes) -> tuple[int, int] | None:
    """First and last of the times of a turn; None when nothing happened."""
    known = [value for name in StageTimes.__slots__ if (value := getattr(times, name)) is not None]
    return (min(known), max(known)) if known else None
