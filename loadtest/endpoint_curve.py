"""False cut-offs against endpoint delay, computed on audio: the real voice detector and segmenter, the real recogniser.

What is real: synthesised callers over the telephone band, the voice detector in windows of 32 ms, the segmenter's
onsets and pauses, the words recognised at each pause, and the pure functions that set the endpoint. What is not: no
time passes, so the recogniser's own latency (20 to 60 ms) and the network are not in the delays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from engines import registry
from loadtest.scenario import Scenario
from loadtest.script import AgentSpeaking, Say
from loadtest.sounds import has_words, pieces
from loadtest.speech import CallerSpeech, background, with_noise
from voice_agent.audio.g711 import SILENCE, mulaw_decode
from voice_agent.audio.levels import loud_frames
from voice_agent.dialog.completeness import Completeness
from voice_agent.dialog.listening import PAUSES_KEPT, Pace, endpoint_silence_ms, judge, surprises
from voice_agent.dialog.policy import TurnPolicy
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import TranscribeResponse, TurnModel
from voice_agent.speech import SpeechOnset, SpeechPause, SpeechSegmenter, SpeechSettings

FIXED_MS: Final = (200, 300, 400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
SCALES: Final = (0.7, 0.85, 1.0, 1.25, 1.5)
PAUSE_SCALES: Final = (0.6, 1.0, 1.4)
VOICES: Final = ("rms", "slt")
Tell = Callable[[str], None]
_SAMPLES_PER_MS: Final = 8
_AFTER_MS: Final = 700
_BEFORE_MS: Final = 400
_PREROLL_MS: Final = 240
_FRAMES: Final = 4
_TURN_MODEL_MS: Final = 8000
_NOISE_DBFS: Final = -62.0
_LOUD_DBFS: Final = -45.0


@dataclass(frozen=True, slots=True)
class HeardPause:
    """A pause as the platform sees it, in ms of the line.

    ``end_ms``: of the last loud frame; ``resumed_ms``: when speech that goes on is noticed, None after the last one;
    ``next_ms``: its onset; ``text``: the words recognised so far; ``confidence``: how sure the recogniser is of
    them; ``complete``: a turn model's probability that the caller is done, None where there is no model.
    """

    end_ms: int
    text: str
    resumed_ms: int | None = None
    next_ms: int | None = None
    complete: float | None = None
    confidence: float = 1.0

    def judged(self, policy: TurnPolicy, *, model: bool) -> Completeness:
        """What the dialog would think of its words; ``model``: with what the turn model said."""
        sure = self.confidence >= policy.barge_in_min_confidence
        return judge(self.text, None, self.complete if model else None, sure=sure)


@dataclass(frozen=True, slots=True)
class HeardLine:
    """A caller's turn. ``call`` groups turns of one caller, in order; ``end_ms`` is the true end of the speech."""

    call: str
    text: str
    end_ms: int
    pauses: tuple[HeardPause, ...]

    @property
    def broken(self) -> bool:
        """Whether the platform sees a pause inside it."""
        return len(self.pauses) > 1


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One policy over all turns."""

    policy: str
    turns: int
    cut: int
    mean_delay_ms: float

    @property
    def cut_rate(self) -> float:
        """Share of turns that were cut off."""
        return self.cut / self.turns if self.turns else 0.0


def call_name(scenario: str, scale: float, voice: str) -> str:
    """Names a caller: turns of one are in order, and learnt from."""
    return f"{scenario}, pauses x {scale}, {voice}"


def turns_of(scenarios: Iterable[Scenario]) -> list[tuple[tuple[str, float], str]]:
    """((scenario, scale of its pauses), line) of what callers say while the agent is silent."""
    found = []
    for scenario in scenarios:
        for scale in PAUSE_SCALES:
            lines = [
                step.text
                for step in scenario.script.steps
                if isinstance(step, Say) and not isinstance(step.when, AgentSpeaking) and not step.cut_ms
            ]
            lines = [line for line in lines if has_words(line)]
            if scale != 1.0 and not any(piece.pause_ms for line in lines for piece in pieces(line)):
                continue
            found += [((scenario.name, scale), _scaled(line, scale)) for line in lines]
    return found


def _scaled(line: str, scale: float) -> str:
    return " ".join(
        piece.words or (f"[{round(piece.pause_ms * scale)}]" if piece.pause_ms else f"[{piece.noise}]")
        for piece in pieces(line)
    )


async def hear_lines(
    turns: Sequence[tuple[tuple[str, float], str]],
    vocabulary: Path,
    voices: Sequence[str] = VOICES,
    tell: Callable[[str], None] = print,
) -> list[HeardLine]:
    """Speak every turn in every voice and listen to it.

    Raises:
        EngineUnavailableError: there is no voice detector, no recogniser, no vocabulary, or nothing that speaks.
    """
    speech = CallerSpeech.open()
    detector = registry.load("vad", "silero", {})
    recogniser = registry.load("stt", "pocketsphinx", {"vocabulary_dir": str(vocabulary)})
    engines = _Engines(detector, recogniser, _turn_model())
    found = []
    for voice in voices:
        for number, (call, line) in enumerate(turns):
            audio = (await speech.lines([(line, voice)]))[line, voice]
            found.append(_hear(call_name(*call, voice), line, audio, engines))
            if number % 20 == 0:
                tell(f"endpoints, voice {voice}: {number} of {len(turns)} turns")
    return found


@dataclass(frozen=True, slots=True)
class _Engines:
    detector: Any
    recogniser: Any
    turn_model: TurnModel | None


def _turn_model() -> TurnModel | None:
    """Smart Turn where its file is."""
    try:
        model: TurnModel = registry.load("turn", "smart-turn", {})
    except EngineUnavailableError:
        return None
    return model


def _hear(call: str, line: str, speech: bytes, engines: _Engines) -> HeardLine:
    """One line through voice detector, segmenter, recogniser and turn model."""
    detector = engines.detector
    quiet = SILENCE * (_SAMPLES_PER_MS * _BEFORE_MS)
    audio = with_noise(quiet + speech + SILENCE * (_SAMPLES_PER_MS * _AFTER_MS), background(_NOISE_DBFS, 5))
    loud = np.flatnonzero(loud_frames(mulaw_decode(quiet + speech), 160, _LOUD_DBFS))
    segmenter = SpeechSegmenter(SpeechSettings(window_samples=detector.window_samples))
    session = engines.recogniser.open(call_id=call, utterance=1)
    state, fed, pauses = detector.initial_state(), 0, list[HeardPause]()
    try:
        for at in range(0, len(audio) - detector.window_samples + 1, detector.window_samples):
            window = mulaw_decode(audio[at : at + detector.window_samples]).astype(np.float32) / 32768.0
            probability, (state,) = detector.batch(window[None, :], [state])
            signal = segmenter.accept(float(probability[0]), _levels(window), playing=False)
            if isinstance(signal, SpeechOnset):
                now_ms, onset_ms = segmenter.position // _SAMPLES_PER_MS, signal.at // _SAMPLES_PER_MS
                if pauses:
                    pauses[-1] = replace(pauses[-1], resumed_ms=now_ms, next_ms=onset_ms)
                fed = max(fed, signal.at - _PREROLL_MS * _SAMPLES_PER_MS)
            elif isinstance(signal, SpeechPause):
                session.accept(audio[fed : segmenter.position])
                fed = segmenter.position
                pauses.append(_pause(signal, audio[:fed], session.result(flush=True), engines.turn_model))
    finally:
        session.close()
    return HeardLine(call, line, (int(loud[-1]) + 1) * 20 if len(loud) else 0, tuple(pauses))


def _pause(signal: SpeechPause, audio: bytes, heard: TranscribeResponse, model: TurnModel | None) -> HeardPause:
    complete = model.complete(audio[-_TURN_MODEL_MS * _SAMPLES_PER_MS :], heard.text) if model is not None else None
    return HeardPause(signal.end // _SAMPLES_PER_MS, heard.text, complete=complete, confidence=heard.confidence)


def _levels(window: Any) -> list[float]:
    power = np.mean(np.square(window.reshape(_FRAMES, -1)), axis=1)
    return [float(level) for level in 10.0 * np.log10(np.maximum(power, 1e-12))]


Silence = Callable[[HeardPause, Pace], int]
"""(a pause, the caller's pace) to the silence in ms that ends the turn."""


def fixed(silence_ms: int) -> Silence:
    """The same silence whatever was said."""
    return lambda pause, pace: silence_ms


def adaptive(policy: TurnPolicy, *, model: bool = False) -> Silence:
    """What the dialog does; ``model``: with what the turn model said."""
    return lambda pause, pace: endpoint_silence_ms(pause.judged(policy, model=model), pace, policy)


def scaled(policy: TurnPolicy, scale: float) -> TurnPolicy:
    """All silences of a policy longer or shorter."""
    return replace(
        policy,
        endpoint_ms=round(policy.endpoint_ms * scale),
        endpoint_short_ms=round(policy.endpoint_short_ms * scale),
        endpoint_long_ms=round(policy.endpoint_long_ms * scale),
        endpoint_min_ms=round(policy.endpoint_min_ms * scale),
    )


def surprises_by(model: bool) -> Callable[[HeardPause], bool]:
    """Whether a pause came where the words, or with ``model`` the turn model, did not announce it."""
    return lambda pause: surprises(pause.judged(TurnPolicy(), model=model))


def point(name: str, silence: Silence, lines: Sequence[HeardLine], *, model: bool = False) -> CurvePoint:
    """One policy over turns that were heard; callers are learnt from turn to turn."""
    cut, delays = 0, list[int]()
    call, learnt, unbroken = "", list[int](), 0
    learns = surprises_by(model)
    for line in lines:
        if not line.pauses:
            continue
        if line.call != call:
            call, learnt, unbroken = line.call, [], 0
        was_cut, longest, surprised = False, 0, False
        for pause in line.pauses:
            ends_ms = pause.end_ms + silence(pause, Pace(learnt, unbroken, longest))
            if pause.resumed_ms is None or pause.next_ms is None:
                delays.append(ends_ms - line.end_ms)
            else:
                was_cut = was_cut or ends_ms <= pause.resumed_ms
                longest = max(longest, pause.next_ms - pause.end_ms)
                if learns(pause):
                    learnt, surprised = [*learnt, pause.next_ms - pause.end_ms][-PAUSES_KEPT:], True
        unbroken = 0 if surprised else unbroken + 1
        cut += was_cut
    return CurvePoint(name, len(delays), cut, sum(delays) / len(delays) if delays else 0.0)


def curves(lines: Sequence[HeardLine], policy: TurnPolicy) -> dict[str, list[CurvePoint]]:
    """Fixed silences, and the adaptive policy at several paces."""
    found = {
        "fixed silence": [point(f"{ms} ms", fixed(ms), lines) for ms in FIXED_MS],
        "adaptive": [point(f"x {scale:g}", adaptive(scaled(policy, scale)), lines) for scale in SCALES],
    }
    if any(pause.complete is not None for line in lines for pause in line.pauses):
        found["adaptive with Smart Turn"] = [
            point(f"x {scale:g}", adaptive(scaled(policy, scale), model=True), lines, model=True) for scale in SCALES
        ]
    return found
