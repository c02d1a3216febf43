"""What a process has seen of the engines behind the stages: which one answers, and how often it was not the first."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)


class StageHealth:
    """Told by each answer; tells the log when a stage changes its engine."""

    def __init__(self) -> None:
        self._primary: dict[str, str] = {}
        self._answering: dict[str, str] = {}
        self._fallbacks: Counter[str] = Counter()

    def primary(self, stage: str, engine: str) -> None:
        """The engine a stage is meant to use."""
        self._primary[stage] = self._answering[stage] = engine

    def answered(self, stage: str, engine: str) -> str:
        """An engine answered; an empty name is the only one there is. Returns its name, empty while it is not known."""
        if not engine:
            return self._primary.get(stage, "")
        self._fallbacks[stage] += engine != self._primary.get(stage)
        if engine != self._answering.get(stage):
            self._answering[stage] = engine
            fields = {"stage": stage, "engine": engine, "wanted": self._primary.get(stage)}
            if engine == self._primary.get(stage):
                logger.info("engine is back", extra=fields)
            else:
                logger.warning("fallback engine answers", extra=fields)
        return engine

    def status(self, replicas: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """By stage. ``replicas``: breakers that are not closed, by stage."""
        return {
            stage: {
                "engine": engine,
                "answering": self._answering[stage],
                "fallbacks": self._fallbacks[stage],
                "replicas": dict(replicas.get(stage, {})),
            }
            for stage, engine in self._primary.items()
        }
