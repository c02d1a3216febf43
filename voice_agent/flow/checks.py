"""What is wrong with a flow as a whole: states nobody reaches, targets that are not there, loops without the caller."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from voice_agent.flow.definition import (
    Ask,
    Branch,
    Edge,
    Flow,
    FlowState,
    Menu,
    Model,
    Option,
    Say,
    Tool,
    Waiting,
    edges,
    options,
)
from voice_agent.flow.templates import problem, subjects

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong: ``place`` is the way to it in the flow's file, ``wanted`` says what would be right."""

    place: Place
    wanted: str


def problems(flow: Flow) -> list[Problem]:
    """All that is wrong with a flow, in the order of the file; empty when it can be walked."""
    broken = [*_targets(flow), *_choices(flow), *_slots(flow)]
    # Ways can only be followed when they lead somewhere.
    return broken or [*_unreached(flow), *_loops(flow), *_templates(flow)]


def ways(flow: Flow, state: FlowState) -> Iterator[Edge]:
    """Every way on from a state: its own, those of the menu it lends, and those of ``anywhere``."""
    yield from edges(state)
    if isinstance(state, Model) and state.options_of:
        lender = flow.states[state.options_of]
        if isinstance(lender, Menu):
            yield from options(lender.options, "options_of")
    if isinstance(state, Waiting):
        yield from options(flow.anywhere, "anywhere")


def closest(name: str, names: list[str]) -> str:
    """What may be written instead of ``name``."""
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"one of {', '.join(names)} is wanted{hint}"


def _targets(flow: Flow) -> Iterator[Problem]:
    names = list(flow.states)
    if flow.start not in flow.states:
        yield Problem(("start",), closest(flow.start, names))
    for edge in options(flow.anywhere, "anywhere"):
        if edge.target not in flow.states:
            yield Problem(edge.place, closest(edge.target, names))
    for name, state in flow.states.items():
        for edge in edges(state):
            if edge.target not in flow.states:
                yield Problem(("states", name, *edge.place), closest(edge.target, names))
        if isinstance(state, Model) and state.options_of:
            menus = [menu for menu in names if isinstance(flow.states[menu], Menu)]
            if state.options_of not in menus:
                yield Problem(("states", name, "options_of"), closest(state.options_of, menus))


def _choices(flow: Flow) -> Iterator[Problem]:
    yield from _doubles(flow.anywhere, ("anywhere",))
    for name, state in flow.states.items():
        if isinstance(state, Menu | Model):
            yield from _doubles(state.options, ("states", name, state.kind))
        if isinstance(state, Menu) and not (state.otherwise or state.on_fail):
            yield Problem(("states", name), "on_fail or otherwise is wanted: where what is not understood leads")
        if isinstance(state, Model) and bool(state.turns) != bool(state.next):
            yield Problem(("states", name), "turns and next are wanted together")
        if isinstance(state, Ask) and state.type.kind == "choice":
            listed = tuple(Option("", choice.phrases, choice.key) for choice in state.type.choices)
            yield from _doubles(listed, ("states", name, "choices"))


def _doubles(listed: tuple[Option, ...], place: Place) -> Iterator[Problem]:
    """The same words or the same key cannot lead two ways."""
    taken: dict[object, int] = {}
    for number, option in enumerate(listed):
        keys = [("key", option.key)] if option.key else []
        for what in [*keys, *(("words", phrase) for phrase in option.phrases)]:
            first = taken.setdefault(what, number)
            if first != number:
                kind, written = what
                shown = written if isinstance(written, str) else " ".join(written)
                yield Problem((*place, number, kind), f"{shown!r} is taken already by entry {first + 1} of this list")


def _slots(flow: Flow) -> Iterator[Problem]:
    kinds: dict[str, str] = {}
    tools = {state.tool for state in flow.states.values() if isinstance(state, Tool)}
    for name, state in flow.states.items():
        if isinstance(state, Ask):
            kind = kinds.setdefault(state.slot, state.type.kind)
            if kind != state.type.kind:
                yield Problem(("states", name, "type"), f"the type that {state.slot} has elsewhere, {kind}, is wanted")
            if state.slot in tools:
                yield Problem(("states", name, "ask"), "a name that is not the name of a tool is wanted")


def _unreached(flow: Flow) -> Iterator[Problem]:
    seen, waiting = {flow.start}, [flow.start]
    while waiting:
        for edge in ways(flow, flow.states[waiting.pop()]):
            if edge.target not in seen:
                seen.add(edge.target)
                waiting.append(edge.target)
    for name in flow.states:
        if name not in seen:
            yield Problem(("states", name), "a way that leads here is wanted; no state does")


def _loops(flow: Flow) -> Iterator[Problem]:
    """Without the caller in it, a loop would never end."""
    done: set[str] = set()
    for first in flow.states:
        stack: list[tuple[str, Iterator[Edge]]] = []
        name: str | None = first if first not in done else None
        while name is not None or stack:
            if name is not None:
                state = flow.states[name]
                stack.append((name, edges(state) if isinstance(state, Say | Branch | Tool) else iter(())))
            here, rest = stack[-1]
            edge = next(rest, None)
            name = None
            if edge is None:
                done.add(here)
                stack.pop()
            elif edge.target in (path := [step[0] for step in stack]):
                way = " -> ".join([*path[path.index(edge.target) :], edge.target])
                yield Problem(("states", here, *edge.place), f"a loop in which the caller has a turn is wanted: {way}")
            elif edge.target not in done:
                name = edge.target


# --- templates ---


def _templates(flow: Flow) -> Iterator[Problem]:
    slots = {state.slot for state in flow.states.values() if isinstance(state, Ask)}
    tools = {state.tool for state in flow.states.values() if isinstance(state, Tool)}
    known = _filled_at(flow)
    for number, option in enumerate(flow.anywhere):
        for subject in subjects(option.say):
            yield Problem(("anywhere", number, "say"), f"words without {{{subject}}} are wanted: it may not be filled")
    for name, state in flow.states.items():
        for place, text in _texts(state):
            where = ("states", name, *place)
            if wrong := problem(text):
                yield Problem(where, wrong)
            for subject in subjects(text):
                yield from _subject(subject, where, slots, tools, known[name])
        if isinstance(state, Branch):
            for number, case in enumerate(state.cases):
                # Asking whether it is there is what ``present`` is for.
                have = known[name] if case.test != "present" else slots | tools
                yield from _subject(case.subject, ("states", name, "branch", number, "if"), slots, tools, have)


def _subject(subject: str, place: Place, slots: set[str], tools: set[str], have: set[str]) -> Iterator[Problem]:
    tool, dot, _ = subject.partition(".")
    if tool not in (tools if dot else slots):
        listed = ", ".join([*sorted(slots), *(f"{name}.FIELD" for name in sorted(tools))]) or "none: nothing is asked"
        yield Problem(place, f"a slot or a tool's field is wanted, not {subject}; there are {listed}")
    elif tool not in have:
        yield Problem(place, f"{subject} is not filled on every way that leads here; words without it are wanted")


def _texts(state: FlowState) -> Iterator[tuple[Place, str]]:
    yield ("say",), state.say
    if isinstance(state, Ask | Menu):
        yield ("retry",), state.retry
    if isinstance(state, Menu | Model):
        yield from (((state.kind, place, "say"), option.say) for place, option in enumerate(state.options))
    if isinstance(state, Tool):
        yield from ((("with", name), template) for name, template in state.arguments.items())


def _filled_at(flow: Flow) -> dict[str, set[str]]:
    """The slots and tools that are filled in each state on every way that leads to it."""
    known: dict[str, set[str]] = {flow.start: set()}
    waiting = [flow.start]
    while waiting:
        name = waiting.pop()
        for edge, filled in _filling(flow, name, known[name]):
            before = known.get(edge.target)
            after = filled if before is None else before & filled
            if after != before:
                known[edge.target] = after
                waiting.append(edge.target)
    return {name: known.get(name, set()) for name in flow.states}


def _filling(flow: Flow, name: str, have: set[str]) -> Iterator[tuple[Edge, set[str]]]:
    state = flow.states[name]
    for edge in ways(flow, state):
        filled = set(have)
        if isinstance(state, Ask) and edge.place == ("next",):
            filled.add(state.slot)
        elif isinstance(state, Tool):
            filled.add(state.tool)
        elif isinstance(state, Branch) and edge.place[0] == "branch":
            case = state.cases[int(edge.place[1])]
            if case.test == "present" and case.operands == ("yes",):
                filled.add(case.subject.partition(".")[0])
        yield edge, set() if _forgets(flow, state, edge) else filled


def _forgets(flow: Flow, state: FlowState, edge: Edge) -> bool:
    listed = {"anywhere": flow.anywhere}
    if isinstance(state, Menu | Model):
        listed[state.kind] = state.options
        lender = flow.states.get(state.options_of) if isinstance(state, Model) else None
        listed["options_of"] = lender.options if isinstance(lender, Menu) else ()
    found = listed.get(str(edge.place[0]), ())
    return bool(found) and len(edge.place) > 1 and found[int(edge.place[1])].forget
