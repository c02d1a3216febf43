"""Engines by name: a lazy table, and one entry-point group for engines of third parties.

Nothing is imported before it is asked for, so a process pays only for the libraries of the engines it runs. A package
outside this code base adds an engine with an entry point in the group ``voice_agent.engines`` whose name is
``<port>.<name>``, e.g. ``stt.my-recogniser = "my_package.stt:MyRecogniser"``.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from voice_agent.errors import ConfigError, EngineUnavailableError

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "voice_agent.engines"
AUTO = "auto"

_TABLE: Mapping[str, Mapping[str, str]] = {
    "stt": {
        "fallback": "engines.fallback_stt:FallbackSpeechToText",
        "faulty": "engines.faulty:FaultySpeechToText",
        "faster-whisper": "engines.stt_faster_whisper:FasterWhisperEngine",
        "pocketsphinx": "engines.stt_pocketsphinx:PocketsphinxEngine",
        "simulated": "engines.simulated:SimulatedSpeechToText",
    },
    "llm": {
        "fallback": "engines.fallback_llm:FallbackLanguageModel",
        "faulty": "engines.faulty:FaultyLanguageModel",
        "extractive": "engines.llm_extractive:ExtractiveAnswerer",
        "openai": "engines.llm_openai:OpenAIChat",
        "ray-serve-llm": "engines.llm_ray_serve:RayServeChat",
        "simulated": "engines.simulated:SimulatedLanguageModel",
    },
    "tts": {
        "fallback": "engines.fallback_tts:FallbackTextToSpeech",
        "faulty": "engines.faulty:FaultyTextToSpeech",
        "flite": "engines.tts_flite:FliteEngine",
        "espeak": "engines.tts_espeak:EspeakEngine",
        "coqui": "engines.tts_coqui:CoquiEngine",
        "simulated": "engines.simulated:SimulatedTextToSpeech",
    },
    "vad": {
        "silero": "engines.vad_silero:SileroVad",
        "energy": "engines.vad_energy:EnergyVad",
    },
    "turn": {
        "words": "engines.turn_words:TurnWords",
        "smart-turn": "engines.turn_smart:SmartTurn",
    },
    "embed": {
        "minilm": "engines.embed_minilm:MiniLmEmbedder",
        "sentence-transformers": "engines.embed_sentence_transformers:SentenceTransformersEmbedder",
    },
}
# What `auto` tries, best first.
_AUTO: Mapping[str, tuple[str, ...]] = {"tts": ("flite", "espeak")}


def ports() -> tuple[str, ...]:
    """The ports an engine can be loaded for."""
    return tuple(_TABLE)


def names(port: str) -> tuple[str, ...]:
    """Every engine name allowed for ``port``, sorted, third parties and ``auto`` included.

    Raises:
        ConfigError: there is no such port.
    """
    found = {*_builtin(port), *_third_party(port)}
    if port in _AUTO:
        found.add(AUTO)
    return tuple(sorted(found))


def load(port: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Make the engine ``name`` of ``port``; ``options`` are its constructor's keyword arguments.

    ``auto`` takes the first engine of the port that can run here and logs a warning when it is not the best one;
    ``capabilities.name`` of the engine says which it is.

    Raises:
        ConfigError: no such port, engine or option; the message lists what is allowed.
        EngineUnavailableError: the engine cannot run on this machine.
    """
    given = dict(options or {})
    if name == AUTO and port in _AUTO:
        return _load_auto(port, given)
    factory = _factory(port, name)
    _check_options(port, name, factory, given)
    return factory(**given)


def _load_auto(port: str, options: dict[str, Any]) -> Any:
    reasons: list[str] = []
    for name in _AUTO[port]:
        try:
            factory = _factory(port, name)
            known = _option_names(factory)
            # Each candidate gets the options it knows: the rest are meant for the other ones.
            engine = factory(**{key: value for key, value in options.items() if known is None or key in known})
        except EngineUnavailableError as error:
            reasons.append(f"{name}: {error}")
            continue
        if reasons:
            logger.warning(
                "engine fell back", extra={"port": port, "engine": name, "wanted": _AUTO[port][0], "reasons": reasons}
            )
        return engine
    raise EngineUnavailableError(f"No {port} engine can run here. " + " ".join(reasons))


def _builtin(port: str) -> Mapping[str, str]:
    try:
        return _TABLE[port]
    except KeyError:
        raise ConfigError(f"There is no engine port {port!r}; allowed: {', '.join(_TABLE)}.") from None


def _third_party(port: str) -> dict[str, EntryPoint]:
    prefix = f"{port}."
    return {
        point.name.removeprefix(prefix): point
        for point in entry_points(group=ENTRY_POINT_GROUP)
        if point.name.startswith(prefix)
    }


def _factory(port: str, name: str) -> Callable[..., Any]:
    table = _builtin(port)
    if name in table:
        return _resolve(port, name, table[name])
    point = _third_party(port).get(name)
    if point is None:
        raise ConfigError(f"There is no {port} engine {name!r}; allowed: {', '.join(names(port))}.")
    return _resolve(port, name, point.value)


def _resolve(port: str, name: str, target: str) -> Callable[..., Any]:
    module_name, _, class_name = target.partition(":")
    try:
        factory: Callable[..., Any] = getattr(import_module(module_name), class_name)
    except ImportError as error:
        raise EngineUnavailableError(f"The {port} engine {name!r} needs a library that is missing: {error}.") from error
    except AttributeError:
        raise ConfigError(f"The {port} engine {name!r} is registered as {target!r}, which does not exist.") from None
    return factory


def _option_names(factory: Callable[..., Any]) -> set[str] | None:
    """Keyword arguments the factory takes; None when it takes any."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _check_options(port: str, name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    known = _option_names(factory)
    unknown = sorted(set(options) - known) if known is not None else []
    if unknown:
        allowed = ", ".join(sorted(known or ())) or "none"
        raise ConfigError(f"The {port} engine {name!r} has no option {', '.join(unknown)}; allowed: {allowed}.")
