"""``python -m loadtest.chaos``: calls go on while the processes under them are killed or stopped, one after the other.

Starts a stack of its own with simulated engines, keeps calls going, and strikes by plan: call actors in the middle of
listening, thinking and speaking, every other kind of process at any time; call actors and replicas of engines are
stopped as well (SIGSTOP, later SIGCONT). Then it reads back from the recordings and
from Postgres what of the calls was lost. Exit status 0 when the verdict is good.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx

from configs.settings import AgentSettings
from loadtest.bench import SCRIPT as _BENCH_SCRIPT
from loadtest.bench import describe_machine, varied
from loadtest.chaos_report import STOPPED, ChaosReport, Strike, summarise
from loadtest.chaos_stack import GATEWAY, POSTGRES, QDRANT, Recovery, StackView, Victim, kill
from loadtest.chaos_verdict import CallVerdict, Said, judge_agent, judge_caller, judge_records, phrases_in, spoken_ms
from loadtest.place import CallOutcome, CallProgress, place_calls
from loadtest.qdrant_stand_in import QdrantStandIn
from loadtest.recording import read_stereo
from loadtest.sampler import CALL_ACTOR, GCS
from loadtest.script import CallerScript, load_script
from loadtest.speech import CallerSpeech
from loadtest.stack_process import RunningStack, running_stack
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.errors import VoiceAgentError

SCRIPT: Final = _BENCH_SCRIPT.with_name("chaos.yaml")
REPLY: Final = "We open at nine every single morning. Please come in whenever it suits you best."
_COMPANY: Final = "Harbor Street Bicycles"
MOMENTS: Final = ("listening", "thinking", "speaking")
OTHERS: Final = (
    GATEWAY, "dispatcher", "stt", "journal", "llm", "tts", "serve_controller", "tools", POSTGRES, "retriever",
    QDRANT, "ingress", "proxy_actor", GCS,
)  # fmt: skip
_CUES: Final = {"listening": ("caller_says", 0.5), "thinking": ("caller_says", 0.25), "speaking": ("agent_speaks", 1.2)}
"""What a moment begins with, and how long after it to strike; thinking counts from the end of the line."""
STALLED: Final = (CALL_ACTOR, "llm", "tts")
"""Kinds that are stopped for a while: what is frozen is not dead, and nobody is told. Not the recogniser: a replica
that has the session of no call is asked by nobody, so nobody need go round it."""
_GAP_S: Final = 2.0
_CUE_WITHIN_S: Final = 90.0
_RECORDED_WITHIN_S: Final = 30.0

SETS: Final = {
    "calls.calls_per_actor": "2",
    "calls.max_calls": "8",
    "calls.spare_actors": "2",
    "media.gateways": "2",
    "stt.replicas": "2",
    "llm.replicas": "2",
    "tts.replicas": "2",
    "tools.replicas": "2",
    "tts.voice": "words",
    "stt.options.texts": json.dumps(["That was {spoken_ms} milliseconds of speech."]),
    "llm.options.text": REPLY,
    "agent.company": _COMPANY,
}


def plan(
    actor_kills: int,
    rounds: int,
    others: Sequence[str] = OTHERS,
    stalls: int = 0,
    stalled: Sequence[str] = STALLED,
) -> list[tuple[str, str]]:
    """(kind, moment) in order: actors between all others, each moment as often; ``stalls`` times each stop."""
    rest = [(kind, "") for _ in range(rounds) for kind in others]
    rest += [(kind, STOPPED) for _ in range(stalls) for kind in stalled]
    actors = [(CALL_ACTOR, MOMENTS[number % len(MOMENTS)]) for number in range(actor_kills)]
    mixed: list[tuple[str, str]] = []
    for place in range(max(len(rest), len(actors))):
        mixed += actors[place : place + 1] + rest[place : place + 1]
    return mixed


@dataclass(slots=True)
class Traffic:
    """Calls as the carrier sees them: which are up, since when, and who waits for what."""

    zero_s: dict[str, float] = field(default_factory=dict)
    ongoing: set[str] = field(default_factory=set)
    lines_s: dict[str, float] = field(default_factory=dict)
    _cue: asyncio.Future[CallProgress] | None = None
    _kind: str = ""

    def note(self, happened: CallProgress) -> None:
        """Follow the calls."""
        sid = happened.call_sid
        self.zero_s.setdefault(sid, time.time() - happened.at_ms / 1000)
        if happened.kind == "ended":
            self.ongoing.discard(sid)
        else:
            self.ongoing.add(sid)
        if happened.kind == self._kind and self._cue is not None and not self._cue.done():
            self._cue.set_result(happened)

    async def cue(self, kind: str) -> CallProgress:
        """The next time that something of a kind happens."""
        self._kind, self._cue = kind, asyncio.get_running_loop().create_future()
        return await self._cue


class Striker:
    """Strikes by plan while calls go on."""

    def __init__(self, view: StackView, traffic: Traffic, say: Callable[[str], None]) -> None:
        self._view = view
        self._traffic = traffic
        self._recovery = Recovery(view, lambda: traffic.ongoing)
        self._say = say
        self.strikes: list[Strike] = []
        self.missed: list[str] = []

    async def run(self, planned: Sequence[tuple[str, str]]) -> None:
        """All of the plan."""
        for kind, moment in planned:
            await asyncio.sleep(_GAP_S)
            try:
                async with asyncio.timeout(_CUE_WITHIN_S):
                    victim = await self._victim(kind, moment)
            except TimeoutError:
                self._say(f"{kind} {moment}: nothing to strike")
                self.missed.append(f"{kind} {moment}".strip())
                continue
            await (self._stall(victim) if moment == STOPPED else self._strike(victim, moment))

    async def _victim(self, kind: str, moment: str) -> Victim:
        """Who it hits, at the moment it is to be hit."""
        cue, delay_s = _CUES.get(moment, ("agent_speaks", 0.5))
        while True:
            happened = await self._traffic.cue(cue)
            began_s = time.monotonic()
            victim = await self._found(kind, happened.call_sid)
            if victim is not None:
                break
        if moment == "thinking":
            delay_s += self._traffic.lines_s.get(happened.text_pii, 1.5)
        await asyncio.sleep(max(0.0, began_s + delay_s - time.monotonic()))
        return victim

    async def _found(self, kind: str, call_sid: str) -> Victim | None:
        if kind == CALL_ACTOR:
            return await self._view.actor_of(call_sid)
        if kind == GATEWAY:
            return await self._view.gateway_of(call_sid)
        victim = await asyncio.to_thread(self._view.one_of, kind)
        return victim and replace(victim, calls=tuple(self._traffic.ongoing))

    async def _strike(self, victim: Victim, moment: str) -> None:
        before = len(await asyncio.to_thread(self._view.processes, victim.kind))
        with suppress(ProcessLookupError):
            at_s = kill(victim)
            recovered = await self._recovery.ms(victim, at_s, before)
            self.strikes.append(Strike(victim.kind, moment, at_s, victim.calls, recovered))
            told = "never" if recovered is None else ", ".join(f"{ms:.0f} ms" for ms in recovered)
            self._say(f"{victim.kind} {moment} killed ({len(victim.calls)} calls); recovered: {told}")

    async def _stall(self, victim: Victim) -> None:
        """Stop it until others have taken its work, then let it go on."""
        os.kill(victim.pid, signal.SIGSTOP)
        at_s = time.time()
        try:
            recovered = await self._recovery.without_ms(victim, at_s)
        finally:
            with suppress(ProcessLookupError):  # it may have been replaced
                os.kill(victim.pid, signal.SIGCONT)
        if victim.kind != CALL_ACTOR and not await self._recovery.asked_again(victim.kind):
            recovered = None
        self.strikes.append(Strike(victim.kind, STOPPED, at_s, victim.calls, recovered))
        told = "never" if recovered is None else ", ".join(f"{ms:.0f} ms" for ms in recovered)
        self._say(f"{victim.kind} stopped ({len(victim.calls)} calls); gone round: {told}")


async def run_chaos(
    stack: RunningStack,
    folder: Path,
    planned: Sequence[tuple[str, str]],
    *,
    calls: int,
    say: Callable[[str], None],
    qdrant: QdrantStandIn | None = None,
) -> ChaosReport:
    """Keep ``calls`` calls going until the plan is done, then judge each of them. ``qdrant`` is what the stack uses."""
    script, traffic = load_script(SCRIPT), Traffic()
    lines = await CallerSpeech.open().lines(script.lines)
    traffic.lines_s = {text: len(audio) / 8000 for (text, _), audio in lines.items()}
    outcomes: list[CallOutcome] = []
    async with httpx.AsyncClient(trust_env=False) as http:
        view = StackView(stack, http, qdrant)
        striker = Striker(view, traffic, say)
        striking = asyncio.create_task(striker.run(planned))
        while not striking.done():
            outcomes += await _round(stack, script, folder / f"round-{len(outcomes) // calls + 1}", calls, traffic)
        await striking
        verdicts = [
            await _judge(
                view, outcome, striker.strikes, traffic, {text: spoken_ms(a) for (text, _), a in lines.items()}
            )
            for outcome in outcomes
        ]
    report = summarise(describe_machine(), striker.strikes, verdicts, outcomes)
    return replace(report, missed=tuple(striker.missed))


async def _round(
    stack: RunningStack, script: CallerScript, folder: Path, calls: int, traffic: Traffic
) -> list[CallOutcome]:
    return await place_calls(
        stack.target, [varied(script, number) for number in range(calls)], folder, 1.0, traffic.note
    )


async def _judge(
    view: StackView, outcome: CallOutcome, strikes: Sequence[Strike], traffic: Traffic, said_ms: dict[str, int]
) -> CallVerdict:
    verdict = CallVerdict(outcome.call_sid)
    if not outcome.ok:
        verdict.lost = f"{outcome.ended_by}: {outcome.reason} {' '.join(outcome.said)}".strip()
    zero_s = traffic.zero_s.get(outcome.call_sid, 0.0)
    cut_ms = [
        round((strike.at_s - zero_s) * 1000)
        for strike in strikes
        if strike.kind == GATEWAY and outcome.call_sid in strike.calls
    ]
    agent = AgentSettings(company=_COMPANY)
    said = Said(
        agent.greeting.format(company=_COMPANY), REPLY, agent.reprompt, (agent.filler, agent.hold), agent.apology,
        (agent.not_understood, agent.goodbye, agent.silence_goodbye),
    )  # fmt: skip
    heard = phrases_in(mulaw_encode(read_stereo(outcome.recording)[1]), said.all)
    judge_agent(verdict, outcome.lines, heard, cut_ms, said)
    record = await _recorded(view, outcome.call_sid)
    lines = [(line, said_ms[line.text]) for line in outcome.lines]
    judge_caller(verdict, lines, record, outcome.media_start_ms, cut_ms)
    judge_records(verdict, record)
    return verdict


async def _recorded(view: StackView, call_sid: str) -> dict[str, object]:
    """The call as Postgres has it, once it is there as ended."""
    give_up_at_s = time.monotonic() + _RECORDED_WITHIN_S
    record: dict[str, object] = {}
    while time.monotonic() < give_up_at_s:
        record = await view.get(f"/api/calls/{call_sid}") or {}
        if record.get("ended_at") is not None:
            return record
        await asyncio.sleep(0.5)
    return record


async def _main(arguments: argparse.Namespace) -> int:
    out_dir: Path = arguments.out
    await asyncio.to_thread(out_dir.mkdir, parents=True, exist_ok=True)
    sets = SETS | dict(pair.split("=", 1) for pair in arguments.set)
    ours = "kb.qdrant_url" not in sets
    others = tuple(kind for kind in OTHERS if ours or kind != QDRANT)
    if arguments.kinds is not None:
        others = tuple(kind for kind in arguments.kinds.split(",") if kind)
    stalled = tuple(kind for kind in arguments.stalled.split(",") if kind)
    planned = plan(arguments.actor_kills, arguments.rounds, others, arguments.stalls, stalled)
    _say(f"starting a stack; {len(planned)} strikes, {arguments.calls} calls at a time")
    with QdrantStandIn(out_dir / "qdrant") as qdrant:
        sets = {"kb.qdrant_url": qdrant.url} | sets
        async with running_stack("simulated", sets, out_dir / "var", out_dir / "up.log") as stack:
            report = await run_chaos(
                stack, out_dir, planned, calls=arguments.calls, say=_say, qdrant=qdrant if ours else None
            )
    report.write(out_dir)
    print(report.markdown())
    return 0 if report.good else 1


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / time.strftime("chaos-%Y%m%d-%H%M%S"))
    parser.add_argument("--calls", type=int, default=4, help="calls at a time")
    parser.add_argument("--actor-kills", type=int, default=12, help="spread over listening, thinking and speaking")
    parser.add_argument("--rounds", type=int, default=2, help="how often every other kind is killed")
    parser.add_argument("--stalls", type=int, default=1, help="how often each of --stalled is stopped")
    parser.add_argument("--stalled", default=",".join(STALLED), help="the kinds that are stopped, with commas between")
    parser.add_argument("--kinds", help=f"the other kinds, with commas between; {','.join(OTHERS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the stack")
    try:
        raise SystemExit(asyncio.run(_main(parser.parse_args())))
    except VoiceAgentError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
