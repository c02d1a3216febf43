from __future__ import annotations

from pathlib import Path

from configs.metrics_page import render
from voice_agent.metrics import CATALOGUE

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_metrics_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m configs.metrics_page docs/metrics.md"


def test_every_metric_is_on_the_page_with_its_meaning() -> None:
    page = render()
    for metric in CATALOGUE:
        assert f"| `{metric.name}` | {metric.kind} | {metric.unit} |" in page
        assert len(metric.help) > 5, metric.name
