"""Writes ``docs/metrics.md`` from the catalogue: ``python -m configs.metrics_page docs/metrics.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from voice_agent.metrics import CATALOGUE, END_REASONS, STAGES, Metric

_HEAD = """# Metrics

Everything the platform exports at `/metrics` on `telemetry.metrics_port`, in Prometheus' text format. This page is made
from the catalogue in `voice_agent/metrics.py` (`python -m configs.metrics_page docs/metrics.md`); a test fails when it
is stale. Metrics of Ray and Ray Serve are described in their own documentation; a local Ray keeps them with
`ray.dashboard=true` only.

A label takes few values, known beforehand: a call, a caller or a process is never one. Per call there are the records
(`voice-agent calls show ID`).

| metric | kind | unit | labels | meaning |
|---|---|---|---|---|
"""
_REASONS = """
## `reason` of `voice_calls_ended_total`

{reasons}; anything else is counted as `other`. A transfer is counted without its target.
"""
_STAGES = """
## `stage` of `voice_stage_seconds`

Each stage lasts until its first result, since that is what the caller waits for. The fields are those of the stage
times that `voice-agent calls show ID --json` has for each turn.

| stage | from | to |
|---|---|---|
"""
_BUCKETS = """
## Buckets

Upper bounds in seconds; one more holds the rest.

| metric | buckets |
|---|---|
"""


def render() -> str:
    """The page as Markdown."""
    parts = [_HEAD, *(_row(metric) for metric in CATALOGUE)]
    parts.append(_REASONS.format(reasons=", ".join(f"`{reason}`" for reason in sorted(END_REASONS))))
    parts += [_STAGES, *(f"| `{stage.name}` | `{stage.begin}` | `{stage.end}` |\n" for stage in STAGES)]
    parts += [_BUCKETS, *(_buckets(metric) for metric in CATALOGUE if metric.buckets)]
    return "".join(parts)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |\n"


def _buckets(metric: Metric) -> str:
    return f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |\n"


if __name__ == "__main__":
    page = render()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
