"""What a call leaves behind: one record a turn, one a call. Text of people is only under keys that say ``pii``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class StageTimes:
    """When things happened in a turn, in ms on the call's clock; ``None`` where a stage did not run.

    ``pause_ms`` is when the words were asked for, ``transcript_ms`` when those came that the reply was made from: both
    may lie before the end of speech. ``speech_end_ms`` is the end of the caller's last loud frame as the gateway's VAD
    saw it; ``playout_started_ms`` is when the first agent frame went to the carrier. Their difference is the
    *self-reported* voice-to-voice latency; what the caller hears is measured at the carrier's socket.
    """

    speech_start_ms: int | None = None
    speech_end_ms: int | None = None
    pause_ms: int | None = None
    transcript_ms: int | None = None
    retrieved_ms: int | None = None
    first_token_ms: int | None = None
    first_clause_ms: int | None = None
    first_audio_ms: int | None = None
    endpoint_ms: int | None = None
    released_ms: int | None = None
    playout_started_ms: int | None = None
    playout_ended_ms: int | None = None


@dataclass(slots=True)
class TurnRecord:
    """One exchange: what the caller said, what the agent said, what of it was heard, and the times.

    ``kind`` is greeting, reply, reprompt, apology, filler or goodbye. ``outcome`` is completed, interrupted or cut (the
    leg went away). ``speculations`` counts replies prepared for this turn, the kept one included. ``engines`` says
    which engine really answered, by stage (stt, llm, tts); ``fillers`` counts recorded phrases that broke a silence.
    ``epoch`` and ``code`` are filled in by the shell: which owner of the call wrote it, and the version of its code.
    """

    call_id: str
    turn: int
    kind: str
    times: StageTimes
    caller_text_pii: str = ""
    caller_confidence: float = 0.0
    agent_text_pii: str = ""
    heard_text_pii: str = ""
    sources: tuple[str, ...] = ()
    outcome: str = "completed"
    speculations: int = 0
    tool_calls: tuple[str, ...] = ()
    failed_stages: tuple[str, ...] = ()
    engines: dict[str, str] = field(default_factory=dict)
    fillers: int = 0
    epoch: int = 0
    code: str = ""

    @property
    def v2v_self_reported_ms(self) -> int | None:
        """Voice-to-voice by our own clock, or None when the turn was not an answer to speech."""
        if self.times.speech_end_ms is None or self.times.playout_started_ms is None:
            return None
        return self.times.playout_started_ms - self.times.speech_end_ms


@dataclass(slots=True)
class CallRecord:
    """The whole call. ``end_reason``: one of ``voice_agent.metrics.END_REASONS``, a transfer with its target.

    ``epoch`` as in ``TurnRecord``; 0: not written by an owner of the call.
    """

    call_id: str
    caller_pii: str = ""
    called: str = ""
    duration_ms: int = 0
    turns: int = 0
    barge_ins: int = 0
    end_reason: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
