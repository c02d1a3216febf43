"""Flows from YAML: those that ship, those of the docs, and every kind of mistake with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configs.flows import found, of, read_flow, shipped
from configs.loader import resolve
from voice_agent.errors import ConfigError
from voice_agent.flow.definition import Ask, Branch, Menu, Option
from voice_agent.flow.runner import FlowRunner

DOCS = Path(__file__).parents[2] / "docs" / "dialogs.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)

GOOD = """\
flow: f
start: a
anywhere:
  - {words: [agent], key: 0, next: end}
states:
  a:
    say: Number?
    ask: number
    type: digits
    length: 4
    next: b
    on_fail: end
  b:
    branch:
      - {if: number, equals: 1001, next: end}
    otherwise: end
  end: {hang_up: goodbye}
"""


def read(tmp_path: Path, text: str) -> str:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_flow(path)
    return str(caught.value).replace(f"{path}:", "")


def test_flows_that_ship_can_be_walked() -> None:
    assert shipped() == ["appointment", "order_status"]
    settings = resolve("simulated", None, ["tools.transfer_targets.staff=+15550100"], env={}).settings
    for name in shipped():
        chosen = settings.model_copy(update={"dialog": settings.dialog.model_copy(update={"flow": name})})
        flow = of(chosen, probe=True)
        assert flow is not None
        assert FlowRunner(flow).begin().say
    assert of(settings) is None


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_every_example_of_the_page_loads(block: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(block)
    assert FlowRunner(read_flow(path)).begin().position.node


def test_the_page_tells_every_kind_and_type() -> None:
    page = DOCS.read_text(encoding="utf-8")
    kinds = "say ask menu model tool branch transfer hang_up digits phone yes_no number date choice text email".split()
    assert [name for name in kinds if f"| `{name}` |" not in page] == []
    assert len(BLOCKS) >= 6


def test_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(GOOD)
    flow = read_flow(path)
    assert flow.anywhere == (Option("end", (("agent",),), "0"),)
    ask, branch = flow.states["a"], flow.states["b"]
    assert isinstance(ask, Ask)
    assert (ask.type.shortest, ask.type.longest, ask.tries) == (4, 4, 3)
    assert isinstance(branch, Branch)
    assert branch.cases[0].operands == ("1001",)
    order = read_flow(found(Path("order_status"))).states["menu"]
    assert isinstance(order, Menu)
    assert ("status", "of", "my", "order") in order.options[0].phrases


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("start: a", "start: x", "2: start = 'x': one of a, b, end is wanted"),
        ("start: a", "begin: a", "2: begin = 'a': there is no such key; a flow with flow, about, start"),
        ("next: b", "next: bb", "11: states.a.next = 'bb': one of a, b, end is wanted; did you mean b?"),
        ("next: end}\nstates", "next: nowhere}\nstates", "4: anywhere[0].next = 'nowhere': one of a, b, end"),
        ("key: 0", "key: 12", "4: anywhere[0].key = 12: one key of 0 to 9 or *"),
        ("words: [agent]", "words: agent", "4: anywhere[0].words = 'agent': a list of words"),
        ("[agent]", "[(agent]", "4: anywhere[0].words[0] = '(agent': brackets that match"),
        ("{words: [agent], key: 0, next: end}", "{next: end}", "4: anywhere[0]: words or key is wanted"),
        ("key: 0, next", "repeat: true, next", "4: anywhere[0]: either next or repeat: true is wanted"),
        ("type: digits", "type: digit", "9: states.a.type = 'digit': one of digits, yes_no"),
        ("length: 4", "length: four", "10: states.a.length = 'four': a whole number from 1 to 40 is wanted"),
        ("length: 4", "low: 4", "10: states.a.low = 4: a slot of type digits takes length, shortest, longest"),
        ("length: 4", "shortest: 5\n    longest: 4", "10: states.a.shortest = 5: at most 4"),
        ("length: 4", "tries: 0", "10: states.a.tries = 0: a whole number from 1 to 10"),
        ("length: 4", "retries: 4", "10: states.a.retries = 4: there is no such key"),
        ("    on_fail: end\n", "", "6: states.a.on_fail: text is wanted"),
        ("say: Number?", "say: 5", "7: states.a.say = 5: text is wanted; put it in quotes"),
        ("say: Number?", "say: '{numbr}?'", "7: states.a.say = '{numbr}?': a slot or a tool's field is wanted"),
        ("say: Number?", "say: '{number}?'", "7: states.a.say = '{number}?': number is not filled on every way"),
        ("say: Number?", "say: 'a { b'", "7: states.a.say = 'a { b': {slot} or {tool.field} in braces"),
        ("equals: 1001", "equal: 1001", "15: states.b.branch[0].equal = 1001: there is no such key"),
        ("equals: 1001", "less: many", "15: states.b.branch[0].less = 'many': a number is wanted"),
        ("equals: 1001", "matches: '(a+)+b'", "15: states.b.branch[0].matches = '(a+)+b': a pattern whose cost"),
        ("equals: 1001", "equals: 1, less: 2", "15: states.b.branch[0]: exactly one of equals, in"),
        ("if: number", "if: order.state", "15: states.b.branch[0].if = 'order.state': a slot or a tool's field"),
        ("otherwise: end", "otherwise: b", "16: states.b.otherwise = 'b': a loop in which the caller has a turn"),
        ("  end: {hang", "  End: {hang", "17: states.End: a name of a-z"),
        ("  end: {hang_up: goodbye}", "  end: goodbye", "17: states.end = 'goodbye': a mapping with one of ask, menu"),
        ("{hang_up: goodbye}", "{next: a}", "17: states.end: one of ask, menu, model"),
        ("{hang_up: goodbye}", "{hang_up: x}\n  z: {hang_up: y}", "18: states.z: a way that leads here is wanted"),
        ("  end:", "  a:", "17: states.a is given twice (line 6)"),
    ],
    ids=lambda value: value[:40],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    assert old in GOOD
    assert wanted in read(tmp_path, GOOD.replace(old, new, 1))


def test_all_mistakes_are_told_at_once_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("length: 4", "length: x").replace("key: 0", "key: 99").replace("equals", "equal")
    lines = [int(line.partition(":")[0]) for line in read(tmp_path, text).splitlines()]
    assert lines == sorted(lines)
    assert {4, 10, 15} <= set(lines)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("tool: look_up_order", "tool: look_up", "states.look_up.tool = 'look_up': a tool is wanted; there are"),
        ("with: {order_number:", "with: {number:", "look_up_order takes order_number"),
        ("transfer: staff", "transfer: '+15550100'", "a name of tools.transfer_targets is wanted, which has staff"),
    ],
)
def test_tools_and_people_are_those_of_the_settings(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    path = tmp_path / "f.yaml"
    text = found(Path("order_status")).read_text(encoding="utf-8").replace(old, new, 1)
    if old.startswith("tool"):
        text = text.replace("look_up_order.", "look_up.")
    path.write_text(text)
    chosen = [f"dialog.flow={path}", "tools.transfer_targets.staff=+15550100"]
    with pytest.raises(ConfigError, match=re.escape(wanted)):
        of(resolve("simulated", None, chosen, env={}).settings)
