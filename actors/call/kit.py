"""What the calls of one actor share: the model plane, the way to the journal, the policies, the clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from actors.call.load import ClusterLoad
from actors.call.outbox import JournalOutbox
from actors.call.phrases import Recordings, texts_of
from actors.call.plane import ModelPlane
from actors.call.redaction import Redactor
from actors.link.messages import ToGateway
from configs import flows, policies
from configs.settings import Settings
from voice_agent.call_director import CallDirector
from voice_agent.dialog.commands import Command
from voice_agent.dialog.events import Event
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.policy import AgentPhrases, TurnPolicy
from voice_agent.director import FreeDirector
from voice_agent.flow.runner import FlowRunner
from voice_agent.overload import Level
from voice_agent.plan import Director
from voice_agent.policy.engine import PolicyEngine


class GatewayPort(Protocol):
    """The call's end of the media link."""

    def send(self, message: ToGateway) -> bool:
        """Queue a message; never waits. False when the link is gone."""


class Machine(Protocol):
    """The pure core of a call; see ``voice_agent.dialog.machine``."""

    def receive(self, event: Event, now_ms: int) -> None:
        """Take an event."""

    def take_commands(self) -> list[Command]:
        """Commands since the last call, in order."""

    def on_deadline(self, now_ms: int) -> None:
        """Time has passed."""

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called."""

    def snapshot(self) -> dict[str, Any]:
        """Everything the call remembers, JSON-able."""

    def reopen(self) -> None:
        """After ``restore``: the owner died, command again what it had open."""

    def reconnect(self) -> None:
        """After ``restore``: the gateway died, its queues with it."""

    @property
    def now_ms(self) -> int:
        """The newest time it was told."""

    @property
    def turn(self) -> int:
        """Number of the newest agent turn."""

    @property
    def between_turns(self) -> bool:
        """Nobody speaks, and nothing is under way."""


class MachineFactory(Protocol):
    """Makes the machine of a call."""

    def new(self, call_id: str) -> Machine:
        """For a call that begins."""

    def restore(self, snapshot: Mapping[str, Any]) -> Machine:
        """For a call that another actor had.

        Raises:
            ProtocolError: the snapshot is of a newer version.
        """


@dataclass(frozen=True, slots=True)
class DialogMachines:
    """``MachineFactory`` of real dialogs.

    Attributes:
        policy: turn-taking.
        agent: fixed phrases.
        transfer_targets: names a model may transfer to; None: any.
        director: flow and rules, shared by all calls of the actor; None: a free dialog without rules.
        rules: the same rules, for what is kept.
    """

    policy: TurnPolicy
    agent: AgentPhrases
    transfer_targets: frozenset[str] | None = None
    director: Director | None = None
    rules: PolicyEngine | None = None

    @classmethod
    def of(cls, settings: Settings) -> DialogMachines:
        """From the ``turn``, ``agent``, ``policy`` and ``dialog`` sections; ``{company}`` is filled in.

        Raises:
            ConfigError: a flow or a policy file cannot be read or is wrong.
        """
        turn, agent = settings.turn, settings.agent
        policy = TurnPolicy(
            speculate=turn.speculate,
            endpoint_ms=turn.endpoint_ms,
            first_clause_words=turn.first_clause_words,
            endpoint_short_ms=turn.endpoint_short_ms,
            endpoint_long_ms=turn.endpoint_long_ms,
            endpoint_min_ms=turn.endpoint_min_ms,
            max_speculations=turn.max_speculations,
            max_early_speculations=turn.max_early_speculations,
            speculate_below_load=turn.speculate_below_load,
            keys_pause_ms=round(turn.keys_pause_s * 1000),
            filler_after_ms=round(turn.filler_after_s * 1000),
            barge_in_confirm_ms=turn.barge_in_confirm_ms,
            reprompt_after_ms=round(turn.reprompt_after_s * 1000),
            reprompts=turn.reprompts,
            max_call_ms=round(turn.max_call_s * 1000),
        )
        names = [item.name for item in fields(AgentPhrases)]
        phrases = AgentPhrases(**{name: getattr(agent, name).replace("{company}", agent.company) for name in names})
        targets = frozenset(settings.tools.transfer_targets)
        flow = flows.of(settings)
        rules = PolicyEngine(policies.of(settings), time.perf_counter)
        director = CallDirector(phrases, rules, FlowRunner(flow) if flow is not None else None, targets)
        return cls(policy, phrases, targets, director, rules)

    def new(self, call_id: str) -> Machine:
        """For a call that begins."""
        return DialogMachine(self.policy, self.agent, call_id, self._director())

    def restore(self, snapshot: Mapping[str, Any]) -> Machine:
        """For a call that another actor had."""
        return DialogMachine.restore(dict(snapshot), self.policy, self.agent, self._director())

    def _director(self) -> Director:
        return self.director or FreeDirector(self.agent, self.transfer_targets)


@dataclass(frozen=True, slots=True)
class CallKit:
    """Shared by the calls of one actor.

    Attributes:
        machines: makes the pure core of a call.
        plane: the engines.
        outbox: the way to the journal.
        patience_s: a stage that has given nothing for this long has failed.
        behind_s: the rest of a clause whose replica died or stalled may be so much later than the ear is empty; then a
            phrase is due, and a phrase is never put into a clause.
        top_k: passages per question.
        voice: of the synthesiser.
        event_log: whether events and commands go to the journal.
        code: version of the code that runs here, for turn records.
        recordings: the agent's own phrases as audio, for when no engine speaks.
        wall_clock: Unix time in s, for the record of the call's start only.
        overload: of the cluster, as the dispatcher tells it.
        cheap_stages: stages whose fallback engine answers from ``Level.CHEAP_ENGINES`` on.
    """

    machines: MachineFactory
    plane: ModelPlane
    outbox: JournalOutbox
    patience_s: float = 6.0
    behind_s: float = 1.25
    top_k: int = 4
    voice: str = ""
    event_log: bool = True
    code: str = ""
    recordings: Recordings = field(default_factory=Recordings)
    wall_clock: Callable[[], float] = field(default=time.time)
    overload: ClusterLoad = field(default_factory=ClusterLoad)
    cheap_stages: frozenset[str] = frozenset()

    @property
    def load(self) -> float:
        """0 idle to 1, at which nothing is prepared that may be thrown away."""
        return 1.0 if self.overload.level >= Level.NO_SPECULATION else self.plane.load

    def cheap(self, stage: str) -> bool:
        """Whether the stage's cheaper engine is to answer."""
        return self.overload.level >= Level.CHEAP_ENGINES and stage in self.cheap_stages

    @classmethod
    def of(cls, settings: Settings, plane: ModelPlane, outbox: JournalOutbox) -> CallKit:
        """From the settings of the stack. The outbox is given the rules on what may be kept.

        Raises:
            ConfigError: a flow or a policy file cannot be read or is wrong.
        """
        machines = DialogMachines.of(settings)
        number = settings.policy.caller_number
        outbox.redactor = Redactor(machines.rules, number) if machines.rules is not None else None
        return cls(
            machines=machines,
            plane=plane,
            outbox=outbox,
            patience_s=settings.turn.stage_deadline_s,
            behind_s=settings.turn.filler_after_s,
            top_k=settings.retriever.top_k,
            voice=settings.tts.voice,
            event_log=settings.telemetry.event_log,
            cheap_stages=frozenset(
                stage
                for stage, its in (("llm", settings.llm), ("tts", settings.tts))
                if its.fallback and its.fallback_when_busy
            ),
            recordings=Recordings(texts_of(machines.agent, machines.policy.first_clause_words)),
        )
