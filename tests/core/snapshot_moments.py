"""Moments of calls whose snapshots are kept as files, so that every later version of the code proves it reads them.

``python tests/core/snapshot_moments.py`` writes those of the present version to ``tests/data/snapshots``; it never
overwrites one: a file there is what some version once wrote.
"""

from __future__ import annotations

import json
from pathlib import Path

from test_call_director import FlowWorld
from test_dialog_call import World, started

from voice_agent.dialog import commands as c
from voice_agent.dialog import events as e
from voice_agent.dialog.policy import TurnPolicy
from voice_agent.dialog.snapshot import VERSION

FOLDER = Path(__file__).parent.parent / "data" / "snapshots"


def greeting() -> World:
    world = World()
    world.at(0, e.CallStarted("CA1", "+15550100", "+15550199"))
    world.run(900)
    return world


def listening() -> World:
    world = started()
    end = world.say(3000, 1, "when do you open")
    world.run(end + 8000)
    return world


def hearing() -> World:
    world = started()
    world.say(3000, 1, "do you rent bicycles")
    world.run(3600)
    return world


def paused() -> World:
    """A pause, with a reply prepared that may be thrown away."""
    world = started(policy=TurnPolicy(endpoint_short_ms=900, endpoint_min_ms=900))
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 500)
    assert world.machine._s.reply is not None
    return world


def thinking() -> World:
    world = started(llm_ms=2500)
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 1000)
    return world


def speaking() -> World:
    """In the middle of the second clause."""
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 4500)
    return world


def held() -> World:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    world.say(begin + 2000, 2, "when do you open")
    world.run(begin + 2150)
    return world


def ending() -> World:
    world = started()
    end = world.say(3000, 1, "goodbye")
    world.run(end + 900)
    return world


def flow_slots() -> FlowWorld:
    """Inside a flow, with a slot filled and one asked for."""
    world = FlowWorld(policy=TurnPolicy(reprompt_after_ms=60_000))
    world.caller("i want to leave a message")
    world.caller("my name is robin")
    return world


def flow_keys() -> FlowWorld:
    """Keys pressed, not yet enough of them."""
    world = FlowWorld(policy=TurnPolicy(reprompt_after_ms=60_000))
    world.caller("i want to know my order status")
    world.keys("10", wait=400)
    return world


def tool_running() -> FlowWorld:
    world = FlowWorld(policy=TurnPolicy(reprompt_after_ms=60_000), tool_ms=60_000)
    world.caller("i want to know my order status")
    world.caller("one oh oh one", wait=3000)
    assert world.machine._s.reply is not None
    assert world.machine._s.reply.running is not None
    return world


MOMENTS = {
    moment.__name__: moment
    for moment in (
        greeting,
        listening,
        hearing,
        paused,
        thinking,
        speaking,
        held,
        ending,
        flow_slots,
        flow_keys,
        tool_running,
    )
}


def write() -> None:
    """Keep what the present version writes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, moment in MOMENTS.items():
        path = FOLDER / f"v{VERSION}-{name}.json"
        if not path.exists():
            path.write_text(json.dumps(moment().machine.snapshot(), indent=1) + "\n")


if __name__ == "__main__":
    write()
