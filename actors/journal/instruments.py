"""Prometheus instruments made from the catalogue, and what moves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from voice_agent import metrics
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.metrics import Metric


class Instruments:
    """One set per process, in a registry of its own. The number of series does not depend on the number of calls."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[str, Any] = {metric.name: self._make(metric) for metric in metrics.CATALOGUE}
        self._totals: dict[str, int] = {}
        self._dropped: Mapping[str, int] = {}

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        if metric.kind == "counter":
            return Counter(metric.name, metric.help, metric.labels, registry=self.registry)
        if metric.kind == "gauge":
            return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry)

    def _of(self, metric: Metric, *labels: str) -> Any:
        instrument = self._made[metric.name]
        return instrument.labels(*labels) if labels else instrument

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        self._of(metric, *labels).inc(by)

    def level(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._of(metric, *labels).set(value)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a histogram."""
        self._of(metric, *labels).observe(value)

    # --- what is measured ---

    def turn(self, record: TurnRecord) -> None:
        """A turn is over."""
        self.count(metrics.TURNS, record.kind, record.outcome)
        self.count(metrics.SPECULATIONS, by=record.speculations)
        for stage in record.failed_stages:
            self.count(metrics.STAGE_FAILURES, stage)
        for stage, engine in record.engines.items():
            self.count(metrics.STAGE_ANSWERS, stage, engine)
        self.count(metrics.FILLERS, by=record.fillers)
        if record.v2v_self_reported_ms is not None:
            self.observe(metrics.V2V_SECONDS, record.v2v_self_reported_ms / 1000)
        for stage_times in metrics.STAGES:
            begin, end = getattr(record.times, stage_times.begin), getattr(record.times, stage_times.end)
            if begin is not None and end is not None and end >= begin:
                self.observe(metrics.STAGE_SECONDS, (end - begin) / 1000, stage_times.name)

    def call_ended(self, record: CallRecord) -> None:
        """A call is over."""
        self.count(metrics.CALLS_ENDED, metrics.reason_label(record.end_reason))
        self.count(metrics.BARGE_INS, by=record.barge_ins)
        self.observe(metrics.CALL_SECONDS, record.duration_ms / 1000)

    def cluster(self, status: Mapping[str, Any]) -> None:
        """What the dispatcher says of itself."""
        hosts = status["hosts"].values()
        self.level(metrics.CALLS_LIVE, status["live"])
        self.level(metrics.SLOTS_FREE, status["free"])
        self.level(metrics.HOSTS, len(hosts), "ready")
        self.level(metrics.HOSTS, status["hosts_starting"], "starting")
        self.level(metrics.HOSTS, status["hosts_wanted"], "wanted")
        self.level(metrics.LOOP_LAG, max((host["loop_lag_ms"] for host in hosts), default=0.0) / 1000)
        self._breakers([host.get("stages", {}) for host in hosts])
        self._advance(metrics.HOST_DEATHS, status["host_deaths"])
        self._unsent({host_id: host.get("journal_dropped", 0) for host_id, host in status["hosts"].items()})
        overload = status["overload"]
        self.level(metrics.OVERLOAD_LEVEL, overload["level"])
        self.level(metrics.CALLS_WAITING, overload["waiting"])
        for reason, total in overload["refused"].items():
            self._advance(metrics.CALLS_REFUSED, total, reason)
        for outcome, total in status["counts"].items():
            self._advance(metrics.ADMISSIONS, total, outcome)

    def _breakers(self, hosts: Sequence[Mapping[str, Any]]) -> None:
        for stage in {stage for stages in hosts for stage in stages}:
            seen = [stages[stage] for stages in hosts if stage in stages]
            self.level(metrics.BREAKERS_OPEN, sum(bool(one["replicas"]) for one in seen), stage, "replica")
            self.level(metrics.BREAKERS_OPEN, sum(one["answering"] != one["engine"] for one in seen), stage, "engine")

    def _unsent(self, dropped: Mapping[str, int]) -> None:
        """Records that call actors gave up, by host; a host's count begins at 0."""
        for host_id, total in dropped.items():
            self.count(metrics.JOURNAL_DROPPED, "unsent", by=max(0, total - self._dropped.get(host_id, 0)))
        self._dropped = dropped

    def _advance(self, metric: Metric, total: int, *labels: str) -> None:
        """Bring a counter to a total that another process keeps, which starts at 0 again when that restarts."""
        key = "/".join((metric.name, *labels))
        before = self._totals.get(key, 0)
        self.count(metric, *labels, by=total - before if total >= before else total)
        self._totals[key] = total
