"""Run scenarios against real stacks over real sockets, and judge each by records and audio.

Scenarios that need the same settings share a stack. Each run writes ``call.wav``, ``caller.json`` and ``verdict.json``
into a folder of its own; ``eval.json`` holds them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from loadtest.bench import describe_machine
from loadtest.carrier import CallTarget
from loadtest.measure import stretches
from loadtest.place import CallOutcome, place_call
from loadtest.recording import read_stereo
from loadtest.scenario import Scenario
from loadtest.stack_process import running_stack
from loadtest.turn_audio import AgentVoice
from loadtest.verdict import Evidence, cut_offs, judge

_RECORD_WITHIN_S: Final = 10.0
_RECORD_POLL_S: Final = 0.25
_AGENT_HOLE_MS: Final = 500
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EvalTarget:
    """A running stack: where to call, and the key of its ``/api``."""

    call: CallTarget
    api_key: str


@dataclass(frozen=True, slots=True)
class ScenarioRun:
    """One run of one scenario.

    ``verdict``: passed, failed, or skipped (``reasons`` says what is missing); ``figures`` and ``turns`` are for
    reports.
    """

    name: str
    theme: str
    run: int
    verdict: str
    reasons: tuple[str, ...] = ()
    call_sid: str = ""
    figures: Mapping[str, Any] | None = None
    turns: tuple[Mapping[str, Any], ...] = ()
    folder: str = ""


@dataclass(frozen=True, slots=True)
class EvalResult:
    """All runs. ``simulated``: the profile's engines are; its figures are of the platform, not of models.

    ``sets``: settings beside those of the profile.
    """

    at: str
    machine: str
    profile: str
    simulated: bool
    sets: Mapping[str, str]
    runs: tuple[ScenarioRun, ...]

    @property
    def failed(self) -> int:
        """How many runs were not as expected."""
        return sum(run.verdict == "failed" for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """What to run, and how.

    Attributes:
        scenarios, repeat: each scenario so many times.
        profile: of the stacks that are started.
        data_dir: their data folder; knowledge that is there is used again.
        out_dir: results go there.
        sets: settings of all stacks; a scenario's own win.
        jobs: calls at once. More than one makes each slower on a small machine.
        missing: says why settings cannot be had, empty when they can; scenarios that need such are skipped.
    """

    scenarios: Sequence[Scenario]
    profile: str
    data_dir: Path
    out_dir: Path
    repeat: int = 1
    jobs: int = 1
    sets: Mapping[str, str] = field(default_factory=dict)
    missing: Callable[[Mapping[str, str]], str] = lambda sets: ""


async def run_eval(plan: EvalPlan, tell: Tell | None = None, target: EvalTarget | None = None) -> EvalResult:
    """Run the plan; ``target`` is a stack that runs already and has all settings wanted.

    Raises:
        StackFailedError: a stack did not start.
    """
    say = tell or (lambda text: None)
    plan.out_dir.mkdir(parents=True, exist_ok=True)
    runs: list[ScenarioRun] = []
    for number, (sets, scenarios) in enumerate(_by_settings(plan.scenarios)):
        wanted = {**plan.sets, **dict(sets)}
        reason = plan.missing(wanted)
        if reason:
            runs += [ScenarioRun(one.name, one.theme, 1, "skipped", (reason,)) for one in scenarios]
            continue
        async with _stack(plan, wanted, number, target, say) as stack:
            runs += await _run_all(plan, scenarios, stack, say)
    result = EvalResult(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        profile=plan.profile,
        simulated=plan.profile == "simulated",
        sets=dict(plan.sets),
        runs=tuple(runs),
    )
    (plan.out_dir / "eval.json").write_text(
        json.dumps(result.as_dict(), indent=1, default=str) + "\n", encoding="utf-8"
    )
    return result


def _by_settings(scenarios: Sequence[Scenario]) -> Iterator[tuple[tuple[tuple[str, str], ...], list[Scenario]]]:
    groups: dict[tuple[tuple[str, str], ...], list[Scenario]] = {}
    for scenario in scenarios:
        groups.setdefault(tuple(sorted(scenario.sets)), []).append(scenario)
    yield from groups.items()


@contextlib.asynccontextmanager
async def _stack(
    plan: EvalPlan, sets: Mapping[str, str], number: int, target: EvalTarget | None, say: Tell
) -> AsyncIterator[EvalTarget]:
    if target is not None:
        yield target
        return
    told = ", ".join(f"{key}={value}" for key, value in sets.items())
    say(f"starting a stack: profile {plan.profile}{', ' + told if told else ''}")
    common = {"agent.company": "Harbor Street Bicycles", "calls.max_calls": str(plan.jobs + 2)}
    log = plan.out_dir / f"up-{number}.log"
    async with running_stack(plan.profile, {**common, **sets}, plan.data_dir, log) as stack:
        yield EvalTarget(stack.target, stack.api_key)


async def _run_all(plan: EvalPlan, scenarios: Sequence[Scenario], stack: EvalTarget, say: Tell) -> list[ScenarioRun]:
    voice = await asyncio.to_thread(AgentVoice.open)
    gate = asyncio.Semaphore(plan.jobs)

    async def one(scenario: Scenario, run: int) -> ScenarioRun:
        async with gate:
            done = await run_scenario(scenario, run, stack, plan.out_dir, voice)
        say(f"{done.verdict:8} {scenario.theme}: {scenario.name}" + "".join(f"\n           {r}" for r in done.reasons))
        return done

    async with asyncio.TaskGroup() as tasks:
        wanted = [tasks.create_task(one(scenario, run)) for scenario in scenarios for run in range(1, plan.repeat + 1)]
    return [task.result() for task in wanted]


async def run_scenario(
    scenario: Scenario, run: int, target: EvalTarget, out_dir: Path, voice: AgentVoice
) -> ScenarioRun:
    """Place one call and judge it. A call that the stack lost track of has failed; the others go on."""
    folder = out_dir / scenario.theme / f"{re.sub(r'[^a-z0-9]+', '-', scenario.name.lower()).strip('-')}-{run}"
    folder.mkdir(parents=True, exist_ok=True)
    script = replace(scenario.script, seed=scenario.script.seed + run - 1)
    outcome = await place_call(target.call, script, folder)
    record, lost = await _record(outcome, target)
    evidence = await _evidence(outcome, record, voice)
    reasons = (lost,) if lost else tuple(judge(scenario.expect, evidence))
    done = ScenarioRun(
        name=scenario.name,
        theme=scenario.theme,
        run=run,
        verdict="failed" if reasons else "passed",
        reasons=reasons,
        call_sid=outcome.call_sid,
        figures=_figures(outcome, evidence),
        turns=tuple(dict(turn) for turn in evidence.turns),
        folder=str(folder),
    )
    (folder / "verdict.json").write_text(json.dumps(asdict(done), indent=1, default=str) + "\n", encoding="utf-8")
    return done


async def _record(outcome: CallOutcome, target: EvalTarget) -> tuple[dict[str, Any], str]:
    """The call as the platform recorded it, once its end is; and what is wrong when that never comes."""
    nothing: dict[str, Any] = {"turn_records": []}
    if not outcome.streams:
        return nothing, ""
    url = f"{target.call.webhook_url}/api/calls/{outcome.call_sid}"
    deadline_s = time.monotonic() + _RECORD_WITHIN_S
    async with httpx.AsyncClient(trust_env=False, headers={"X-API-Key": target.api_key}) as http:
        while True:
            answer = await http.get(url)
            record: dict[str, Any] = answer.json() if answer.is_success else {}
            if record.get("end_reason"):
                return record, ""
            if time.monotonic() > deadline_s:
                return nothing, f"the platform recorded no end of the call: HTTP {answer.status_code}"
            await asyncio.sleep(_RECORD_POLL_S)


async def _evidence(outcome: CallOutcome, record: Mapping[str, Any], voice: AgentVoice) -> Evidence:
    _, agent = await asyncio.to_thread(read_stereo, outcome.recording)
    answered = outcome.streams > 0 and not outcome.stream_errors
    return Evidence(
        record=record,
        measures=outcome.measures,
        agent=stretches(agent, _AGENT_HOLE_MS),
        lines=outcome.lines,
        ended_by=outcome.ended_by,
        failure="" if answered else f"{outcome.ended_by}: {outcome.reason} {' '.join(outcome.stream_errors)}".strip(),
        audio=await voice.turns(agent, record["turn_records"], outcome.media_start_ms),
    )


def _figures(outcome: CallOutcome, evidence: Evidence) -> dict[str, Any]:
    measures = outcome.measures
    return {
        "v2v_ms": [turn.v2v_ms for turn in measures.turns],
        "barge_in_ms": [barge_in.latency_ms for barge_in in measures.barge_ins],
        "cut_offs": len(cut_offs(evidence)),
        "lines": [asdict(line) for line in evidence.lines],
        "interrupted": sum(turn["outcome"] == "interrupted" for turn in evidence.turns),
        "counters": dict(evidence.record.get("counters", {})),
        "end_reason": evidence.record.get("end_reason", ""),
        "lateness_p95_ms": measures.lateness_ms.p95,
        "audio": [asdict(turn) for turn in evidence.audio],
    }
