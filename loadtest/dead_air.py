"""``python -m loadtest.dead_air``: how long a caller hears nothing while engines hang, fall silent, trickle or stop.

Starts a stack of its own with simulated engines that misbehave on command and two replicas of each stage, keeps calls
going, and brings one fault after the other over them. What is measured is the recording: within the agent's turn, from
the caller's last sound or the agent's to the agent's next. Exit status 0 when none of it is longer than ``--limit-ms``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from configs.settings import AgentSettings
from loadtest.bench import describe_machine
from loadtest.chaos import REPLY, SETS
from loadtest.chaos_stack import StackView
from loadtest.chaos_verdict import phrases_in
from loadtest.measure import Stretch, stretches
from loadtest.place import CallOutcome, place_calls
from loadtest.recording import read_stereo
from loadtest.script import AgentSilent, CallerScript, HangUp, Say
from loadtest.stack_process import RunningStack, running_stack
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.errors import VoiceAgentError

STAGES: Final = ("stt", "llm", "tts")
KINDS: Final = ("hang", "silence", "trickle", "slow_start", "error", "stopped")
STOPPED: Final = "stopped"
"""One of two replicas gets SIGSTOP, and SIGCONT afterwards; all other kinds are of both replicas' engines."""
LIMIT_MS: Final = 1500
_LEAD_S: Final = 12.0
_HOLD_S: Final = {STOPPED: 8.0}
_HOLD_ELSE_S: Final = 5.0
_BETWEEN_S: Final = 3.0
_CALLERS_PATIENCE_MS: Final = 3000
"""The caller speaks again after this silence: what the agent says later than that is lost to the measurement."""
_QUESTIONS: Final = ("Where is your shop?", "When is delivery free?", "Do you repair electric bikes?")
_CLAUSES: Final = tuple(f"{clause.rstrip('.')}." for clause in REPLY.split(". "))
_HOLE_MS: Final = 100
_SPEECH_HOLE_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Fault:
    """Something is wrong from ``begin_s`` to ``end_s`` (Unix time). ``survived``: what was stopped was not replaced."""

    stage: str
    kind: str
    begin_s: float
    end_s: float
    survived: bool = True

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.stage} {self.kind}"


@dataclass(frozen=True, slots=True)
class HeardTurn:
    """The agent's turn as the caller hears it, in ms of the recording: from the caller's last sound on.

    Attributes:
        gaps_ms: each silence before and between the agent's sounds; one more when the caller gave up waiting.
        fillers, apologies: recorded phrases that were heard.
        broken: clauses of the answer that broke off.
        finished: it ended with the end of an answer, or with an apology.
    """

    call_sid: str
    start_ms: int
    end_ms: int
    gaps_ms: tuple[int, ...]
    fillers: int
    apologies: int
    broken: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Row:
    """The turns that a fault fell into."""

    fault: str
    turns: int
    longest_ms: int
    over_limit: int
    fillers: int
    apologies: int
    broken: int
    unfinished: int


def turns_of(outcome: CallOutcome) -> list[HeardTurn]:
    """Read the agent's turns out of a call's recording; the greeting is none."""
    caller, agent = read_stereo(outcome.recording)
    said = AgentSettings(company=SETS["agent.company"])
    fillers = (said.filler, said.hold)
    ends = (_CLAUSES[-1], said.apology, said.not_understood, said.unknown, said.reprompt)
    heard = phrases_in(mulaw_encode(agent), [*_CLAUSES, *fillers, *ends, said.greeting.format(company=said.company)])
    lines, sounds = stretches(caller, _SPEECH_HOLE_MS), stretches(agent, _HOLE_MS)
    turns = []
    for number, line in enumerate(lines):
        until_ms = lines[number + 1].start_ms if number + 1 < len(lines) else len(agent) // 8
        phrases = [phrase for phrase in heard if line.end_ms <= phrase.start_ms < until_ms]
        finished = any(phrase.text in ends and phrase.whole for phrase in phrases[-1:])
        turns.append(
            HeardTurn(
                outcome.call_sid,
                line.end_ms,
                until_ms,
                gaps_ms(sounds, line.end_ms, until_ms, finished=finished),
                sum(phrase.text in fillers for phrase in phrases),
                sum(phrase.text == said.apology for phrase in phrases),
                sum(phrase.text in _CLAUSES and not phrase.whole and not phrase.first for phrase in phrases),
                finished,
            )
        )
    return turns


def gaps_ms(sounds: Sequence[Stretch], from_ms: int, until_ms: int, *, finished: bool) -> tuple[int, ...]:
    """Silences between ``from_ms`` and ``until_ms``: before each sound, and behind the last of a turn not finished."""
    gaps, quiet_ms = [], from_ms
    for sound in sounds:
        if from_ms < sound.end_ms and sound.start_ms < until_ms:
            gaps.append(max(0, sound.start_ms - quiet_ms))
            quiet_ms = sound.end_ms
    if not finished:
        gaps.append(max(0, until_ms - quiet_ms))
    return tuple(gaps)


class Saboteur:
    """Brings the faults over the stack, one at a time. ``control`` holds the files that the engines read."""

    def __init__(self, view: StackView, control: Path, say: Callable[[str], None]) -> None:
        self._view = view
        self._control = control
        self._say = say
        self.faults: list[Fault] = []

    async def run(self, planned: Sequence[tuple[str, str]]) -> None:
        """All of the plan."""
        await asyncio.sleep(_LEAD_S)
        for stage, kind in planned:
            self._say(f"{stage} {kind}")
            begin_s = time.time()
            survived = await (self._stopped(stage) if kind == STOPPED else self._told(stage, kind))
            self.faults.append(Fault(stage, kind, begin_s, time.time(), survived))
            await asyncio.sleep(_BETWEEN_S)

    async def _told(self, stage: str, kind: str) -> bool:
        told = self._control / stage
        told.write_text(kind, encoding="utf-8")
        await asyncio.sleep(_HOLD_ELSE_S)
        told.write_text("", encoding="utf-8")
        return True

    async def _stopped(self, stage: str) -> bool:
        """A replica hangs as a process; whether it was left alive until it went on."""
        victim = await asyncio.to_thread(self._view.one_of, stage)
        if victim is None:
            raise VoiceAgentError(f"the stack has no replica of {stage}")
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(_HOLD_S[STOPPED])
        finally:
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGCONT)
        return psutil.pid_exists(victim.pid)


def settings_of(control: Path, *, fallback: bool, more: Sequence[str] = ()) -> dict[str, str]:
    """Settings of the stack: engines that obey files in ``control``, and with ``fallback`` well ones behind them."""
    inner: dict[str, dict[str, Any]] = {
        "stt": {"texts": ["When do you open?"]},
        "llm": {"text": REPLY},
        "tts": {"speed": 1.5},  # so slow that a stop falls into the middle of clauses
    }
    sets = {key: value for key, value in SETS.items() if ".options." not in key}
    sets |= {"calls.calls_per_actor": "4", "calls.spare_actors": "0", "media.gateways": "1", "tools.replicas": "1"}
    for stage in STAGES:
        sets[f"{stage}.engine"] = "faulty"
        sets[f"{stage}.options"] = json.dumps({"control_file": str(control / stage), "options": inner[stage]})
        if fallback:
            sets[f"{stage}.fallback"] = "simulated"
            sets[f"{stage}.fallback_options"] = json.dumps(inner[stage])
    return sets | dict(pair.split("=", 1) for pair in more)


def script_for(seconds: float, number: int) -> CallerScript:
    """A caller who asks for as long as it takes, and waits long for an answer."""
    when = AgentSilent(_CALLERS_PATIENCE_MS)
    asked = tuple(Say(_QUESTIONS[(place + number) % len(_QUESTIONS)], when) for place in range(int(seconds / 4)))
    length_ms = round(seconds * 1000)
    return CallerScript(
        f"dead-air-{number}", (*asked, HangUp(when)), seed=number, max_call_ms=length_ms + 30_000,
        hang_up_after_ms=length_ms,
    )  # fmt: skip


def rows_of(faults: Sequence[Fault], outcomes: Sequence[CallOutcome], limit_ms: int) -> tuple[list[Row], list[int]]:
    """A row for each fault and one for the turns without; and the longest silence of each turn without."""
    turns: dict[str, list[HeardTurn]] = {name: [] for name in (*(fault.name for fault in faults), "none")}
    for outcome in outcomes:
        for turn in turns_of(outcome)[:-1]:  # the caller hangs up in the last
            begin_s, end_s = (outcome.audio_at_s + ms / 1000 for ms in (turn.start_ms, turn.end_ms))
            hit = [fault.name for fault in faults if fault.begin_s < end_s and begin_s < fault.end_s]
            for name in hit or ["none"]:
                turns[name].append(turn)
    rows = [_row(name, some, limit_ms) for name, some in turns.items()]
    return rows, sorted(max(turn.gaps_ms, default=0) for turn in turns["none"])


def _row(name: str, turns: Collection[HeardTurn], limit_ms: int) -> Row:
    longest = [max(turn.gaps_ms, default=0) for turn in turns]
    return Row(
        name, len(turns), max(longest, default=0), sum(ms > limit_ms for ms in longest),
        sum(turn.fillers for turn in turns), sum(turn.apologies for turn in turns),
        sum(turn.broken for turn in turns), sum(not turn.finished for turn in turns),
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| fault | turns | longest silence, ms | over the limit | fillers | apologies | broken clauses | unfinished |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.fault} | {row.turns} | {row.longest_ms} | {row.over_limit} | {row.fillers} | {row.apologies} "
        f"| {row.broken} | {row.unfinished} |"
        for row in rows
    ]
    return "\n".join(lines)


async def measure_dead_air(
    stack: RunningStack, control: Path, folder: Path, planned: Sequence[tuple[str, str]], calls: int
) -> tuple[list[Fault], list[CallOutcome]]:
    """Place ``calls`` calls that last as long as the plan does, while it is carried out."""
    holds_s = sum(_HOLD_S.get(kind, _HOLD_ELSE_S) + _BETWEEN_S for _, kind in planned)
    scripts = [script_for(_LEAD_S + holds_s, number) for number in range(calls)]
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.TaskGroup() as tasks:
        saboteur = Saboteur(StackView(stack, http), control, _say)
        tasks.create_task(saboteur.run(planned))
        placing = tasks.create_task(place_calls(stack.target, scripts, folder, 1.0))
    return saboteur.faults, placing.result()


async def _main(arguments: argparse.Namespace) -> int:
    out_dir: Path = arguments.out
    await asyncio.to_thread(out_dir.mkdir, parents=True, exist_ok=True)
    # Stage after stage, so that the breakers of one are closed again when its next fault comes.
    planned = [(stage, kind) for kind in arguments.kinds.split(",") for stage in arguments.stages.split(",")]
    with tempfile.TemporaryDirectory(prefix="dead-air-") as name:
        sets = settings_of(Path(name), fallback=not arguments.no_fallback, more=arguments.set)
        async with running_stack("simulated", sets, out_dir / "var", out_dir / "up.log") as stack:
            faults, outcomes = await measure_dead_air(stack, Path(name), out_dir, planned, arguments.calls)
    rows, ordinary_ms = rows_of(faults, outcomes, arguments.limit_ms)
    broken = [f"{call.call_sid}: {call.ended_by}: {call.reason}" for call in outcomes if not call.ok]
    good = not broken and not any(row.over_limit for row in rows)
    report = {
        "machine": describe_machine(), "simulated": True, "fallback": not arguments.no_fallback, "good": good,
        "limit_ms": arguments.limit_ms, "calls_lost": broken, "rows": [asdict(row) for row in rows],
        "without_a_fault_ms": ordinary_ms, "faults": [asdict(fault) for fault in faults],
    }  # fmt: skip
    (out_dir / "dead_air.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    print(f"\ncalls lost: {', '.join(broken) or 'none'}; {'good' if good else 'NOT GOOD'}")
    return 0 if good else 1


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.dead_air", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / time.strftime("dead-air-%Y%m%d-%H%M%S"))
    parser.add_argument("--calls", type=int, default=4, help="calls at a time")
    parser.add_argument("--stages", default=",".join(STAGES), help="with commas between")
    parser.add_argument("--kinds", default=",".join(KINDS), help="faults of each stage, with commas between")
    parser.add_argument("--limit-ms", type=int, default=LIMIT_MS, help="the longest silence that is good")
    parser.add_argument("--no-fallback", action="store_true", help="no engine behind those at fault")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the stack")
    try:
        raise SystemExit(asyncio.run(_main(parser.parse_args())))
    except VoiceAgentError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
