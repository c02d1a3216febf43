"""Audio and loaders for the conformance suites."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from engines import registry
from voice_agent.audio.g711 import mulaw_decode, mulaw_encode
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import SpeakRequest


def load_or_skip(port: str, name: str, options: dict[str, Any] | None = None) -> Any:
    try:
        return registry.load(port, name, options)
    except EngineUnavailableError as error:
        pytest.skip(str(error))


@lru_cache(maxsize=1)
def tts(name: str) -> Any:
    return registry.load("tts", name)


@lru_cache(maxsize=64)
def clip(text: str, voice: str) -> bytes:
    async def collect() -> bytes:
        return b"".join([chunk.audio async for chunk in tts("flite").speak(SpeakRequest("t", 1, 1, text, voice))])

    return asyncio.run(collect())


def word_ends_ms(text: str, voice: str) -> tuple[int, ...]:
    """Where the words of ``clip`` end."""

    async def last() -> tuple[int, ...]:
        return [chunk async for chunk in tts("flite").speak(SpeakRequest("t", 1, 1, text, voice))][-1].word_ends_ms

    return asyncio.run(last())


def phone_line(audio: bytes, before_ms: int = 240, after_ms: int = 100) -> bytes:
    """Mu-law audio through a 300-3400 Hz line with a little noise, and silence round it."""
    taps = np.arange(-100, 101)
    low, high = (2 * hz / 8000 for hz in (300, 3400))
    band = (np.sinc(high * taps) * high - np.sinc(low * taps) * low) * np.hamming(201)
    samples = mulaw_decode(audio).astype(float) * 0.5
    samples = np.concatenate((np.zeros(before_ms * 8), samples, np.zeros(after_ms * 8)))
    noise = np.random.default_rng(1).normal(0, 20, len(samples))
    return mulaw_encode(np.clip(np.convolve(samples, band, "same") + noise, -32768, 32767).astype(np.int16))
