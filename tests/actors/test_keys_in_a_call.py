"""Keys from the carrier's socket through the gateway into a scripted dialog, while the agent speaks."""

from __future__ import annotations

from pathlib import Path

from gateway_kit import until
from test_gateway_with_actor import staged

from voice_agent.dialog.records import CallRecord
from voice_agent.twilio.messages import OutClear, OutMedia


async def test_keys_stop_the_agent_and_walk_the_flow(tmp_path: Path) -> None:
    sections = {
        "dialog": {"flow": "order_status"},
        "tools": {"transfer_targets": {"staff": "+15550100"}},
        "turn": {"keys_pause_s": 0.2},
    }
    async with staged(tmp_path, **sections) as stage:
        stage.plane.speech_ms = 3_000
        caller = await stage.bench.dial()
        await caller.start()
        await until(lambda: caller.of(OutMedia))
        await caller.dtmf("1")
        await until(lambda: caller.of(OutClear))
        await until(lambda: stage.turns())
        assert (stage.turns()[0].kind, stage.turns()[0].outcome) == ("greeting", "interrupted")
        assert len(caller.heard()) < 3 * 8000
        before = len(caller.of(OutMedia))
        await until(lambda: len(caller.of(OutMedia)) > before)
        stage.plane.speech_ms = 100
        await caller.dtmf("0")
        await until(lambda: stage.journal.of(CallRecord))
        assert stage.journal.of(CallRecord)[0].end_reason == "transfer:staff"
        assert "four digit order number" in stage.turns()[1].agent_text_pii
        assert stage.turns()[2].heard_text_pii == "I will connect you to a colleague. Please hold the line."
