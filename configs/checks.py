"""What single settings cannot say about themselves: URLs, and values that contradict each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from configs.settings import Settings

_TARGET_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_TARGET = re.compile(r"\+[1-9]\d{5,14}|sips?:[^\s@:]+@[^\s@]+|queue:[A-Za-z0-9_-]{1,64}")


def contradictions(settings: Settings) -> list[tuple[str, str]]:
    """(key, what is wanted) of every setting that does not fit."""
    return [*_urls(settings), *_orders(settings), *_targets(settings)]


def _urls(settings: Settings) -> Iterator[tuple[str, str]]:
    server = settings.server
    wanted = (
        ("server.public_url", server.public_url, ("https", "http"), "e.g. https://voice.example.com"),
        ("server.public_media_url", server.public_media_url, ("wss", "ws"), "e.g. wss://voice.example.com/media"),
        ("kb.qdrant_url", settings.kb.qdrant_url, ("http", "https"), "e.g. http://qdrant:6333"),
        ("telemetry.otlp_endpoint", settings.telemetry.otlp_endpoint, ("http", "https"), "e.g. http://collector:4318"),
        ("storage.dsn", settings.storage.dsn, ("postgresql", "postgres"), "e.g. postgresql://user@host:5432/voice"),
    )
    for name, value, schemes, example in wanted:
        if value and not _fits(value, schemes, query=name == "storage.dsn"):
            words = " or ".join(f"{scheme}://" for scheme in schemes)
            yield name, f"a URL that starts with {words}, has a host and no query is wanted, {example}"


def _fits(value: str, schemes: tuple[str, ...], *, query: bool) -> bool:
    try:
        parts: SplitResult = urlsplit(value)
        host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    if query:  # a DSN may name its host as ?host=/folder
        return parts.scheme in schemes and (host or bool(parts.query))
    return parts.scheme in schemes and host and not parts.query and not parts.fragment


def _orders(settings: Settings) -> Iterator[tuple[str, str]]:
    turn, media = settings.turn, settings.media
    if turn.endpoint_short_ms > turn.endpoint_ms:
        yield "turn.endpoint_short_ms", f"at most turn.endpoint_ms ({turn.endpoint_ms}) is wanted"
    if turn.endpoint_long_ms < turn.endpoint_ms:
        yield "turn.endpoint_long_ms", f"at least turn.endpoint_ms ({turn.endpoint_ms}) is wanted"
    if media.pause_ms > turn.endpoint_short_ms:
        yield "media.pause_ms", f"at most turn.endpoint_short_ms ({turn.endpoint_short_ms}) is wanted"
    if media.lead_ms < media.chunk_ms:
        yield "media.lead_ms", f"at least media.chunk_ms ({media.chunk_ms}) is wanted"
    for name in ("stt", "llm", "tts", "retriever"):
        stage = getattr(settings, name)
        if stage.max_replicas and stage.max_replicas < stage.replicas:
            yield f"{name}.max_replicas", f"0 or at least {name}.replicas ({stage.replicas}) is wanted"


def _targets(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, target in settings.tools.transfer_targets.items():
        if not _TARGET_NAME.fullmatch(name):
            yield "tools.transfer_targets", f"{name}: a name of small letters, digits, _ and - is wanted"
        if not _TARGET.fullmatch(target):
            yield "tools.transfer_targets", f"{name}: a number like +15550100, sip:user@host or queue:name is wanted"
