"""The catalogue of metrics: what is exported, in which unit, with which labels. Dashboards and docs are checked by it.

A label takes few values, known beforehand; a call, a caller or a process is never a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

TURN_BUCKETS_S: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2, 1.7, 2.5, 4.0, 8.0)
STAGE_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 4.0)
CALL_BUCKETS_S: Final = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One exported metric. ``name`` is complete, with unit and ``_total``; ``buckets`` only for histograms."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


CALLS_STARTED: Final = Metric("voice_calls_started_total", "counter", "calls", "Calls whose dialog began.")
CALLS_ENDED: Final = Metric("voice_calls_ended_total", "counter", "calls", "Calls that ended, by reason.", ("reason",))
CALLS_LIVE: Final = Metric("voice_calls_live", "gauge", "calls", "Calls that hold a slot and have a stream.")
CALL_SECONDS: Final = Metric(
    "voice_call_duration_seconds", "histogram", "seconds", "Length of calls.", (), CALL_BUCKETS_S
)
TURNS: Final = Metric(
    "voice_turns_total", "counter", "turns", "Turns of the agent, by kind and outcome.", ("kind", "outcome")
)
BARGE_INS: Final = Metric("voice_barge_ins_total", "counter", "turns", "Times a caller took the turn.")
V2V_SECONDS: Final = Metric(
    "voice_v2v_self_reported_seconds",
    "histogram",
    "seconds",
    "Caller's last loud frame to the agent's first frame sent, by our own clock; what is heard at the ear is later.",
    (),
    TURN_BUCKETS_S,
)
STAGE_SECONDS: Final = Metric(
    "voice_stage_seconds",
    "histogram",
    "seconds",
    "Time a stage of a turn took: stt, endpointing, retrieval, chat, tts, playout.",
    ("stage",),
    STAGE_BUCKETS_S,
)
STAGE_FAILURES: Final = Metric(
    "voice_stage_failures_total", "counter", "jobs", "Jobs of turns that ended without a result.", ("stage",)
)
STAGE_ANSWERS: Final = Metric(
    "voice_stage_answers_total",
    "counter",
    "turns",
    "Turns by the engine that really answered; `recorded` is a phrase from its recording.",
    ("stage", "engine"),
)
FILLERS: Final = Metric("voice_fillers_total", "counter", "phrases", "Recorded phrases that broke a silence.")
BREAKERS_OPEN: Final = Metric(
    "voice_breakers_open",
    "gauge",
    "processes",
    "Call actors that go round a replica of the stage (replica), or are answered by its fallback engine (engine).",
    ("stage", "of"),
)
SPECULATIONS: Final = Metric(
    "voice_speculations_total", "counter", "replies", "Replies prepared before the turn had ended."
)
TAKE_OVER_SECONDS: Final = Metric(
    "voice_take_over_seconds",
    "histogram",
    "seconds",
    "From the loss of a call's actor until the next one listens: closed (the process died), silent (it was frozen, or "
    "only slow; `media.actor_silence_ms` went before), moved (on purpose), other.",
    ("reason",),
    STAGE_BUCKETS_S,
)
ADMISSIONS: Final = Metric(
    "voice_admissions_total",
    "counter",
    "calls",
    "Decisions of the dispatcher: admitted, queued, refused, expired, replaced, lost.",
    ("outcome",),
)
CALLS_REFUSED: Final = Metric(
    "voice_calls_refused_total",
    "counter",
    "calls",
    "Calls sent away: full, overloaded, draining, no_gateway, not_ready.",
    ("reason",),
)
CALLS_WAITING: Final = Metric("voice_calls_waiting", "gauge", "calls", "Callers who wait for a line.")
OVERLOAD_LEVEL: Final = Metric(
    "voice_overload_level",
    "gauge",
    "level",
    "0 normal, 1 no speculation, 2 cheaper engines, 3 newcomers wait, 4 newcomers are refused.",
)
HOSTS: Final = Metric("voice_hosts", "gauge", "processes", "Call actors: ready, starting, wanted.", ("state",))
HOST_DEATHS: Final = Metric("voice_host_deaths_total", "counter", "processes", "Call actors that died.")
SLOTS_FREE: Final = Metric("voice_slots_free", "gauge", "calls", "Calls that could be admitted now.")
LOOP_LAG: Final = Metric(
    "voice_host_loop_lag_seconds", "gauge", "seconds", "Worst lateness of an event loop among the call actors."
)
JOURNAL_QUEUE: Final = Metric(
    "voice_journal_queue_records", "gauge", "records", "Records waiting in memory for Postgres."
)
JOURNAL_SPOOL: Final = Metric("voice_journal_spool_bytes", "gauge", "bytes", "Records waiting on disk for Postgres.")
JOURNAL_DROPPED: Final = Metric(
    "voice_journal_dropped_total",
    "counter",
    "records",
    "Records lost: spool full, refused by Postgres, disk, bad (the journal fails at them), unsent (a call actor gave "
    "up).",
    ("cause",),
)

CATALOGUE: Final = (
    CALLS_STARTED,
    CALLS_ENDED,
    CALLS_LIVE,
    CALL_SECONDS,
    TURNS,
    BARGE_INS,
    V2V_SECONDS,
    STAGE_SECONDS,
    STAGE_FAILURES,
    STAGE_ANSWERS,
    FILLERS,
    BREAKERS_OPEN,
    SPECULATIONS,
    TAKE_OVER_SECONDS,
    ADMISSIONS,
    CALLS_REFUSED,
    CALLS_WAITING,
    OVERLOAD_LEVEL,
    HOSTS,
    HOST_DEATHS,
    SLOTS_FREE,
    LOOP_LAG,
    JOURNAL_QUEUE,
    JOURNAL_SPOOL,
    JOURNAL_DROPPED,
)
"""All of them, in the order of the docs."""

STREAM_LOST: Final = "stream_lost"
"""End of a stream that the carrier did not stop: the caller may still be there and come back on another."""

END_REASONS: Final = frozenset(
    {
        "caller_hung_up",
        "goodbye",
        "silence",
        "max_length",
        "drained",
        "failed",
        "lost",
        "gateway_lost",
        STREAM_LOST,
        "operator",
        "policy",
        "transfer",
    }
)
"""Values of the ``reason`` label; anything else is counted as ``other``."""


def reason_label(end_reason: str) -> str:
    """The label of a call's end: of a transfer without its target, of which there may be any number."""
    reason = end_reason.partition(":")[0]
    return reason if reason in END_REASONS else "other"


_TAKE_OVER_LABELS: Final = {"peer_closed": "closed", "silent": "silent", "moved": "moved"}


def take_over_label(reason: str) -> str:
    """The label of a take-over, from the reason why the link to the former actor was lost."""
    return _TAKE_OVER_LABELS.get(reason, "other")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a turn as a span of ``StageTimes`` fields, for metrics and traces alike."""

    name: str
    begin: str
    end: str


STAGES: Final = (
    Stage("stt", "pause_ms", "transcript_ms"),
    Stage("endpointing", "speech_end_ms", "endpoint_ms"),
    Stage("retrieval", "transcript_ms", "retrieved_ms"),
    Stage("chat", "retrieved_ms", "first_token_ms"),
    Stage("tts", "first_clause_ms", "first_audio_ms"),
    Stage("playout", "released_ms", "playout_started_ms"),
)
"""What the stages of a turn mean: to the first result each, since the caller waits for that."""
