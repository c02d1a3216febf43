"""Place emulated calls against a running stack, record them and measure them at the ear."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.caller import LEFT, ScriptedCaller, SpokenLine
from loadtest.carrier import CallTarget, CallTrace, EmulatedCall
from loadtest.measure import CallMeasures, loud_mulaw, measure_loud
from loadtest.recording import write_stereo
from loadtest.script import CallerScript
from loadtest.speech import CallerSpeech
from loadtest.ticker import Ticker
from loadtest.webhooks import WebhookClient
from voice_agent.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CallProgress:
    """Something happened in a call.

    ``kind``: caller_says, caller_presses, caller_hangs_up, agent_speaks, agent_silent, unanswered, ended. ``text_pii``
    holds the caller's words or keys, or why the call ended. ``at_ms`` counts from answering.
    """

    call_sid: str
    at_ms: int
    kind: str
    text_pii: str = ""


OnProgress = Callable[[CallProgress], None]


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """One call, recorded and measured.

    Attributes:
        ended_by, media_start_ms, rang_at_s, cuts: see ``CallTrace``.
        audio_at_s: Unix time of the recording's first sample.
        wav: the recording; None when it was not kept.
        lines: what the caller said, and when.
        said: what the carrier's ``<Say>`` said, such as a refusal.
        unanswered: steps of the script for which the agent did not do what they wait for.
        caller_speech: what spoke for the caller.
    """

    call_sid: str
    script: str
    ended_by: str
    reason: str
    said: tuple[str, ...]
    stream_errors: tuple[str, ...]
    answer_ms: float
    open_ms: float
    streams: int
    clears: int
    dropped_frames: int
    unanswered: int
    measures: CallMeasures
    wav: Path | None
    caller_speech: str
    media_start_ms: int = 0
    rang_at_s: float = 0.0
    audio_at_s: float = 0.0
    cuts: int = 0
    lines: tuple[SpokenLine, ...] = ()

    @property
    def recording(self) -> Path:
        """Where the recording is.

        Raises:
            ConfigError: it was not kept.
        """
        if self.wav is None:
            raise ConfigError(f"the recording of call {self.call_sid} was not kept")
        return self.wav

    @property
    def ok(self) -> bool:
        """The call had a stream and was ended by one of the two who talked, or its caller left as the load ended."""
        began = self.streams > 0 or self.reason == LEFT
        return began and self.ended_by in ("caller", "agent", "transferred") and not self.stream_errors

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all of it, with derived figures."""
        content = asdict(self)
        content["wav"] = str(self.wav) if self.wav is not None else None
        content["ok"] = self.ok
        measures = content["measures"]
        measures["v2v_ms"] = asdict(self.measures.v2v_ms)
        measures["barge_in_ms"] = asdict(self.measures.barge_in_ms)
        measures["starved_ms"] = self.measures.starved_ms
        for turn, source in zip(measures["turns"], self.measures.turns, strict=True):
            turn["v2v_ms"] = source.v2v_ms
        for barge_in, interruption in zip(measures["barge_ins"], self.measures.barge_ins, strict=True):
            barge_in["latency_ms"] = interruption.latency_ms
        return content


async def place_call(
    target: CallTarget, script: CallerScript, out_dir: Path, on_progress: OnProgress | None = None
) -> CallOutcome:
    """Place one real-time call and write ``call.wav`` and ``caller.json`` into ``out_dir``.

    A call that fails is an outcome, not an exception.

    Raises:
        ConfigError: the script asks for a voice that is not there.
        EngineUnavailableError: nothing can speak for the caller.
    """
    outcomes = await _place([script], [out_dir], target, rate_per_s=1.0, on_progress=on_progress)
    return outcomes[0]


async def place_calls(
    target: CallTarget,
    scripts: Sequence[CallerScript],
    out_dir: Path,
    rate_per_s: float,
    on_progress: OnProgress | None = None,
) -> list[CallOutcome]:
    """Place one call for each script, ``rate_per_s`` new ones each second, all in this process.

    Call n writes into ``out_dir/call-00n``. Recording and measuring wait until the last call is over, so that they do
    not make the generator late. Raises as ``place_call``.
    """
    folders = [out_dir / f"call-{number:03d}" for number in range(len(scripts))]
    return await _place(scripts, folders, target, rate_per_s=rate_per_s, on_progress=on_progress)


async def _place(
    scripts: Sequence[CallerScript],
    folders: Sequence[Path],
    target: CallTarget,
    *,
    rate_per_s: float,
    on_progress: OnProgress | None,
) -> list[CallOutcome]:
    speech = await asyncio.to_thread(CallerSpeech.open)
    lines = [await speech.lines(script.lines) for script in scripts]
    ticker = Ticker()
    async with WebhookClient() as http, asyncio.TaskGroup() as tasks:
        clock = tasks.create_task(ticker.run())
        calls = []
        for number, script in enumerate(scripts):
            notes = Notes(on_progress)
            caller = ScriptedCaller(script, lines[number], notes.note)
            call = EmulatedCall(target, caller, http, ticker)
            notes.call_sid = call.trace.call_sid
            delay_s = number / rate_per_s
            calls.append((caller, tasks.create_task(_run(call, delay_s, notes))))
        await asyncio.wait([task for _, task in calls])
        clock.cancel()
    outcomes = []
    for (caller, task), folder in zip(calls, folders, strict=True):
        outcome = await asyncio.to_thread(_finish, caller, task.result(), folder, speech.description)
        outcomes.append(outcome)
    return outcomes


class Notes:
    """Turns one caller's notes into progress."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self.call_sid = ""

    def note(self, at_ms: int, kind: str, text: str) -> None:
        """Called by the caller."""
        if self._on_progress is not None:
            self._on_progress(CallProgress(self.call_sid, at_ms, kind, text))


async def _run(call: EmulatedCall, delay_s: float, notes: Notes) -> CallTrace:
    await asyncio.sleep(delay_s)
    trace = await call.run()
    notes.note(len(trace.audio.caller) // 8, "ended", f"{trace.ended_by}: {trace.reason}")
    return trace


def _finish(caller: ScriptedCaller, trace: CallTrace, folder: Path, speech: str) -> CallOutcome:
    wav = folder / "call.wav"
    outcome = outcome_of(caller, trace, wav, speech)
    (folder / "caller.json").write_text(json.dumps(outcome.as_dict(), indent=1) + "\n", encoding="utf-8")
    return outcome


def outcome_of(caller: ScriptedCaller, trace: CallTrace, wav: Path | None, speech: str) -> CallOutcome:
    """Write the recording, where there is a place for it, and measure.

    What is measured are the caller's words and what the caller heard, without the line's noise and echo.
    """
    audio = trace.audio
    if wav is not None:
        write_stereo(wav, bytes(audio.caller), bytes(audio.agent))
    return CallOutcome(
        call_sid=trace.call_sid,
        script=caller.script.name,
        ended_by=trace.ended_by,
        reason=trace.reason,
        said=tuple(trace.said),
        stream_errors=tuple(trace.stream_errors),
        answer_ms=round(trace.answer_ms, 1),
        open_ms=round(trace.open_ms, 1),
        streams=trace.streams,
        media_start_ms=trace.media_start_ms,
        rang_at_s=round(trace.rang_at_s, 3),
        audio_at_s=round(audio.began_at_s, 3),
        cuts=trace.cuts,
        clears=trace.clears,
        dropped_frames=trace.dropped_frames,
        unanswered=caller.unanswered,
        lines=tuple(caller.spoken),
        measures=measure_loud(
            loud_mulaw(caller.mouth), loud_mulaw(audio.agent), underruns=trace.underruns, lateness_ms=audio.lateness_ms
        ),
        wav=wav,
        caller_speech=speech,
    )
