"""The folder of a load's report: ``report.html``, ``summary.json``, Parquet, ``audio/``; and the verdict in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from loadtest.swarm import report, tables, thresholds
from loadtest.swarm.plan import LoadPlan
from loadtest.swarm.run import LoadResult, LoadTarget, Tell, run_load

EXIT_STATUS = {thresholds.PASSED: 0, thresholds.FAILED: 1, thresholds.INVALID: 2}


@dataclass(frozen=True, slots=True)
class Judged:
    """A load that was run, written and judged."""

    load: LoadResult
    checks: tuple[thresholds.Check, ...]
    verdict: str

    @property
    def exit_status(self) -> int:
        """0 passed, 1 failed, 2 invalid."""
        return EXIT_STATUS[self.verdict]


async def run_and_judge(target: LoadTarget, plan: LoadPlan, folder: Path, tell: Tell) -> Judged:
    """Run a load and write its folder. Raises as ``run_load``."""
    without = tables.parquet_missing()
    if without:
        tell(f"there will be no Parquet files: {without}")
    return write(await run_load(target, plan, folder, tell), folder)


def write(load: LoadResult, folder: Path) -> Judged:
    """Judge a load and write all that is kept of it."""
    checks = tuple(thresholds.check(load.content, load.swarm.plan.thresholds))
    verdict = thresholds.verdict(load.content, checks)
    told = {
        **load.content,
        "verdict": verdict,
        "thresholds": [
            {
                "figure": item.threshold.figure,
                "allowed": item.threshold.allowed,
                "found": item.found,
                "passed": item.passed,
            }
            for item in checks
        ],
    }
    (folder / "summary.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if not tables.parquet_missing():
        tables.write_parquet(folder, load.swarm, load.samples, load.records)
    report.write_report(folder / "report.html", load, checks, verdict)
    return Judged(load, checks, verdict)
