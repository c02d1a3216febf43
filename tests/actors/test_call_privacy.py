"""A card number is said by a caller, keyed in, and read back by a model; nothing that is kept of the call has it."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from local_plane import FakeGateway, ListJournal, LocalPlane, until
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors.call.kit import CallKit
from actors.call.outbox import JournalOutbox, LogEntries
from actors.call.redaction import Redactor
from actors.call.shell import CallShell
from actors.journal.journal import Journal
from actors.journal.record_codec import to_plain
from actors.journal.spans import CallSpans, SpanNames
from actors.link.messages import Attach
from configs.loader import resolve
from configs.runtime import StackContext
from voice_agent.dialog.events import ClausePlayed, DtmfReceived, PlayoutStarted, SpeechPaused, SpeechStarted
from voice_agent.dialog.records import StageTimes, TurnRecord
from voice_agent.policy.engine import PolicyEngine
from voice_agent.policy.rules import PolicySet, Redact
from voice_agent.ports import ReplyChunk, ToolCall

DIGITS = "4111111111111111"
CARD = "4111 1111 1111 1111"
SPOKEN = "four one one one one one one one one one one one one one one one"
CALLER = "+15558675309"


class MemoryStore:
    """``RecordStore``: what Postgres would have been given."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    async def write(self, record: object) -> None:
        self.kept.append(to_plain(record))

    async def close(self) -> None:
        return None


class Stage:
    """One call in its shell, over a journal with files, spans and a store."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        wanted = ["telemetry.metrics_port=0", "telemetry.event_log=true", *overrides]
        settings = resolve("simulated", None, wanted, env={}).settings
        context = StackContext(settings, "r", folder, folder, "", "s", "s", "k", "http://w", "ws://m")
        self.folder = folder
        self.store = MemoryStore()
        self.exporter = InMemorySpanExporter()
        spans = CallSpans(self.exporter, SpanNames.of(settings), with_pii=True)
        self.journal = Journal(context, self.store, spans)
        self.plane = LocalPlane()
        self.gateway = FakeGateway()
        outbox = JournalOutbox(self.journal, batch_s=0.01)
        self.kit = CallKit.of(settings, self.plane, outbox)
        self.shell = CallShell(Attach("CA1", 1, 0, CALLER, "+15550002", ""), self.gateway, self.kit)

    async def __aenter__(self) -> Stage:
        self.tasks = [asyncio.create_task(self.kit.outbox.run()), asyncio.create_task(self.shell.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.shell.detach("caller_hung_up")
        await asyncio.wait_for(self.tasks[1], 5)
        await self.kit.outbox.flush(2)
        self.tasks[0].cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert await self.journal.stop()

    async def turn(self, number: int, text: str = "") -> None:
        """The caller says something (the greeting is asked for by nothing); the reply is played to its end."""
        now = self.shell._now_ms()
        if text:
            self.plane.transcripts.append(text)
            self.shell.deliver(SpeechStarted(number, now))
            self.shell.audio(number, 0, b"\x10" * 8_000)
            self.shell.deliver(SpeechPaused(number, now))
        seen: set[int] = set()

        def over() -> bool:
            for play in self.gateway.plays():
                if play.turn == number and play.last and play.clause not in seen:
                    seen.add(play.clause)
                    self.shell.deliver(PlayoutStarted(number, play.clause, self.shell._now_ms()))
                    self.shell.deliver(ClausePlayed(number, play.clause, self.shell._now_ms()))
            return any(entry["turn"] == number for entry in self.turns())

        await until(over)

    def turns(self) -> list[dict[str, object]]:
        path = self.folder / "calls" / "CA1" / "turns.json"
        return json.loads(path.read_text()) if path.exists() else []

    async def everything(self) -> dict[str, str]:
        """All that was kept, by where."""
        call = self.folder / "calls" / "CA1"
        spans = [dict(span.attributes or {}) for span in self.exporter.get_finished_spans()]
        return {
            "events.jsonl": (call / "events.jsonl").read_text(),
            "turns.json": (call / "turns.json").read_text(),
            "postgres": json.dumps(self.store.kept),
            "spans": json.dumps(spans),
            "live": json.dumps(await self.journal.live_events("CA1", 0)),
        }


async def test_a_card_number_is_kept_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Stage(tmp_path) as stage:
        await stage.turn(1)
        stage.plane.reply_chunks = [
            ReplyChunk("Your card is 4111 11"),
            ReplyChunk("11 1111 1111, right? "),
            ReplyChunk(tool_call=ToolCall("end", {"card": CARD})),
            ReplyChunk("Thanks.", finish_reason="stop"),
        ]
        stage.plane.failures["search"].clear()
        await stage.turn(2, f"my card is {SPOKEN} and my mail is john at example dot com")
        stage.plane.reply_chunks = [ReplyChunk("We open at nine.", finish_reason="stop")]
        await stage.turn(3, f"or {CARD} when do you open")
        for key in DIGITS:
            stage.shell.deliver(DtmfReceived(key))
        await asyncio.sleep(0.05)
    kept = await stage.everything() | {"log": caplog.text}
    for place, text in kept.items():
        assert DIGITS not in "".join(character for character in text if character.isalnum()), place
        assert CARD not in text, place
        assert SPOKEN not in text, place
        assert "one one one one one one one" not in text, place
        assert "john at example" not in text, place
        assert "11 1111 1111" not in text, place
    keys = [json.loads(line).get("digit_pii", "") for line in kept["events.jsonl"].splitlines()]
    assert "".join(keys).startswith(DIGITS[:6])
    assert DIGITS[:7] not in "".join(keys)
    assert "[card]" in kept["turns.json"]
    assert "[email]" in kept["postgres"]
    assert CALLER in kept["postgres"]  # who called is kept; what they said is not


@pytest.mark.parametrize(("how", "kept"), [("last_four", "[phone]5309"), ("none", "[phone]")])
async def test_the_callers_number_is_kept_as_far_as_it_may_be(tmp_path: Path, how: str, kept: str) -> None:
    async with Stage(tmp_path, f"policy.caller_number={how}") as stage:
        await stage.turn(1)
    everything = await stage.everything()
    for place, text in everything.items():
        assert "555867" not in text, place
    numbers = [record["caller_pii"] for record in stage.store.kept if record.get("caller_pii")]
    assert set(numbers) == {kept}
    assert json.loads(everything["live"])[0]["caller_pii"] == kept


async def test_the_model_is_not_told_but_the_caller_is_understood(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        await stage.turn(1)
        await stage.turn(2, f"charge {CARD} please")
    assert stage.plane.requests["search"][0].query == "charge [card] please"
    assert stage.plane.requests["reply"][0].messages[-1].content == "charge [card] please"


async def test_a_slow_rule_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    times = iter(range(1_000))
    policy = PolicyEngine(PolicySet((Redact("slow", ("card",)),)), lambda: float(next(times)))
    redactor = Redactor(policy)
    for number in range(5):
        redactor.entry("CA1", {"t_ms": number, "note": "n", "text_pii": f"text {number}"})
        redactor.record(TurnRecord("CA1", number, "reply", StageTimes(), f"turn {number}"))
    told = [record for record in caplog.records if "budget" in record.message]
    assert [record.rule for record in told] == ["slow"]
    assert redactor.late_rules() == ["slow"]


async def test_an_outbox_masks_whatever_way_a_turn_comes_in() -> None:
    policy = PolicyEngine(PolicySet((Redact("all", ("card",)),)))
    outbox = JournalOutbox(journal := ListJournal(), Redactor(policy), batch_s=0.0)
    outbox.add(TurnRecord("CA1", 1, "reply", StageTimes(), f"card {CARD}"))
    outbox.add(LogEntries("CA1", 1, ()))
    sending = asyncio.create_task(outbox.run())
    assert await outbox.flush(2)
    sending.cancel()
    assert [record.caller_text_pii for record in journal.of(TurnRecord)] == ["card [card]"]
