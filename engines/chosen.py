"""The engines that settings name, checked before anything starts: a replica's failure is told much later and worse."""

from __future__ import annotations

from configs.settings import Settings
from engines import registry
from voice_agent.errors import ConfigError


def check_names(settings: Settings) -> None:
    """Refuse names of engines that nobody registered.

    Raises:
        ConfigError: one line for each of them, with the names that are allowed.
    """
    wanted: tuple[tuple[str, str, str], ...] = (
        ("stt", "stt.engine", settings.stt.engine),
        ("llm", "llm.engine", settings.llm.engine),
        ("tts", "tts.engine", settings.tts.engine),
        ("turn", "turn.model", settings.turn.model),
        ("embed", "retriever.engine", settings.retriever.engine),
        ("vad", "media.vad_engine", settings.media.vad_engine),
    )
    fallbacks = {"stt": settings.stt.fallback, "llm": settings.llm.fallback, "tts": settings.tts.fallback}
    wanted += tuple((port, f"{port}.fallback", name) for port, name in fallbacks.items() if name)
    problems = [
        f"{key}: there is no {port} engine {name!r}; allowed: {', '.join(registry.names(port))}."
        for port, key, name in wanted
        if name not in registry.names(port)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
