"""Records in, and out to the store, the disk, the metrics and the spans."""

from __future__ import annotations

import asyncio
import json
import stat
import urllib.request

import pytest
from local_plane import until
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from actors.call.outbox import CallBegan, CallMoved, LogEntries
from actors.journal.journal import CALLS_KEPT, TAIL, Journal
from actors.journal.record_codec import from_plain, to_plain
from actors.journal.spans import CallSpans, SpanNames
from actors.journal.spool import Spool
from configs.runtime import StackContext
from configs.settings import Settings
from voice_agent import metrics
from voice_agent.dialog.records import CallRecord, StageTimes, TurnRecord
from voice_agent.errors import ConfigError, ProtocolError, StorageError

NAMES = SpanNames("pocketsphinx", "tiny-llm", "openai", "slt", "kb")


class RefusedError(StorageError):
    retryable = False


class ListStore:
    def __init__(self):
        self.records, self.away, self.refuses, self.attempts, self.closed = [], None, (), 0, False

    async def write(self, record):
        self.attempts += 1
        await asyncio.sleep(0)
        if self.away:
            raise self.away
        if record.call_id in self.refuses:
            raise RefusedError("no")
        self.records.append(record)

    async def close(self):
        self.closed = True


def times(**values):
    return StageTimes(**values)


def turn(call_id="CA1", number=2, **values):
    values = {
        "kind": "reply",
        "times": times(
            speech_end_ms=1000,
            pause_ms=1100,
            transcript_ms=1150,
            retrieved_ms=1180,
            first_token_ms=1280,
            first_clause_ms=1300,
            first_audio_ms=1360,
            endpoint_ms=1400,
            released_ms=1400,
            playout_started_ms=1420,
            playout_ended_ms=3000,
        ),
        "caller_text_pii": "when do you open",
        "agent_text_pii": "We open at nine.",
        "heard_text_pii": "We open at nine.",
        "sources": ("hours.md",),
        "speculations": 2,
        "failed_stages": ("retrieve",),
    } | values
    return TurnRecord(call_id=call_id, turn=number, **values)


def a_call(call_id):
    return [
        CallBegan(call_id, "+1", "+2", 1_000_000.0),
        turn(call_id),
        CallRecord(call_id, "+1", "+2", duration_ms=60_000, turns=1, barge_ins=1, end_reason="goodbye"),
    ]


class Made:
    def __init__(self, tmp_path, store=None, **settings):
        settings = {"telemetry": {"metrics_port": 0} | settings.pop("telemetry", {})} | settings
        self.context = StackContext(
            Settings.model_validate(settings), "r", tmp_path / "run", tmp_path / "data", "", "s", "s", "k", "", ""
        )
        self.store = store or ListStore()
        self.exporter = InMemorySpanExporter()
        self.journal = Journal(self.context, self.store, CallSpans(self.exporter, NAMES))
        self.journal._writer._retry_s = 0.01

    async def samples(self):
        port = (await self.journal.status())["metrics_port"]
        url = f"http://127.0.0.1:{port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        found = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in found if not s.name.endswith("_created")}


@pytest.fixture
async def made(tmp_path):
    made = Made(tmp_path)
    yield made
    made.store.away = None
    await made.journal.stop()


async def test_records_reach_the_store_in_order(made):
    await made.journal.batch(a_call("CA1"))
    await made.journal.call_started("CA2", "+1", "+2", 5.0)
    await until(lambda: len(made.store.records) == 4)
    assert [type(record).__name__ for record in made.store.records] == [
        "CallBegan",
        "TurnRecord",
        "CallRecord",
        "CallBegan",
    ]


async def test_spool_while_the_store_is_away_and_catch_up_in_order(made):
    made.store.away = StorageError("gone")
    for n in range(5):
        await made.journal.batch(a_call(f"CA{n}"))

    async def spooled():
        return (await made.journal.status())["spooled_bytes"] > 0

    await until(spooled)
    status = await made.journal.status()
    assert status["store_away"] == "gone"
    path = made.context.data_dir / "spool" / "journal.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made.store.away = None
    await until(lambda: len(made.store.records) == 15)
    assert [r.call_id for r in made.store.records] == [f"CA{n}" for n in range(5) for _ in range(3)]
    assert not path.exists()
    await made.journal.turn(turn("CA9"))
    await until(lambda: len(made.store.records) == 16)


async def test_what_was_spooled_survives_a_restart(tmp_path):
    first = Made(tmp_path)
    first.store.away = StorageError("gone")
    await first.journal.batch(a_call("CA1"))
    await until(lambda: first.store.attempts > 1)
    import actors.journal.journal

    actors.journal.journal.FLUSH_S, before = 0.05, actors.journal.journal.FLUSH_S
    try:
        assert not await first.journal.stop()
    finally:
        actors.journal.journal.FLUSH_S = before
    second = Made(tmp_path)
    await second.journal.start()
    await until(lambda: len(second.store.records) == 3)
    assert second.store.records == a_call("CA1")
    assert await second.journal.stop()
    assert second.store.closed


async def test_a_record_the_store_refuses_holds_up_nothing(made):
    made.store.refuses = ("CA1",)
    await made.journal.batch(a_call("CA1") + a_call("CA2"))
    await until(lambda: len(made.store.records) == 3)
    samples = await made.samples()
    assert samples["voice_journal_dropped_total", (("cause", "refused"),)] == 3


def test_spool_is_bounded_and_skips_what_is_broken(tmp_path):
    spool = Spool(tmp_path / "s.jsonl", 1000)
    kept = 0
    while spool.put(turn(number=kept + 1)):
        kept += 1
    assert 0 < kept < 10
    assert spool.waiting_bytes <= 1000
    with (tmp_path / "s.jsonl").open("ab") as file:
        file.write(b'{"record":"turn"}\nnonsense\n{"record": "tu')
    again = Spool(tmp_path / "s.jsonl", 1000)
    seen = []
    while (record := again.head()) is not None:
        seen.append(record.turn)
        again.pop()
    assert seen == list(range(1, kept + 1))
    assert not (tmp_path / "s.jsonl").exists()
    assert again.put(turn())


@pytest.mark.parametrize("record", a_call("CA1"))
def test_records_survive_json(record):
    assert from_plain(json.loads(json.dumps(to_plain(record)))) == record


def test_foreign_json_is_no_record():
    with pytest.raises(ProtocolError):
        from_plain({"record": "thing"})
    with pytest.raises(ProtocolError):
        from_plain({"record": "turn", "call_id": "CA1"})


async def test_metrics_count_each_record_once(made):
    await made.journal.batch(a_call("CA1"))
    await made.journal.batch(a_call("CA1"))
    samples = await made.samples()
    assert samples["voice_calls_started_total", ()] == 1
    assert samples["voice_calls_ended_total", (("reason", "goodbye"),)] == 1
    assert samples["voice_turns_total", (("kind", "reply"), ("outcome", "completed"))] == 1
    assert samples["voice_v2v_self_reported_seconds_sum", ()] == pytest.approx(0.42)
    stages = {key[1][0][1]: value for key, value in samples.items() if key[0] == "voice_stage_seconds_sum"}
    assert stages == pytest.approx(
        {"stt": 0.05, "endpointing": 0.4, "retrieval": 0.03, "chat": 0.1, "tts": 0.06, "playout": 0.02}
    )
    assert samples["voice_stage_failures_total", (("stage", "retrieve"),)] == 1
    assert samples["voice_barge_ins_total", ()] == 1
    assert samples["voice_speculations_total", ()] == 2


async def test_series_are_flat_over_many_calls(made):
    await made.journal.batch(a_call("CA0"))
    before = set(await made.samples())
    for n in range(1, CALLS_KEPT + 50):
        await made.journal.batch(a_call(f"CA{n}"))
    assert set(await made.samples()) == before
    assert len(made.journal._calls) == CALLS_KEPT
    assert not made.journal._spans._open


async def test_unknown_end_reasons_do_not_make_series(made):
    for n in range(5):
        await made.journal.call_ended(CallRecord(f"CA{n}", end_reason=f"reason {n}"))
    samples = await made.samples()
    assert samples["voice_calls_ended_total", (("reason", "other"),)] == 5


async def test_dispatcher_totals_become_counters_also_over_its_restart(made):
    status = {
        "live": 2,
        "free": 8,
        "hosts": {"call-host-1": {"loop_lag_ms": 3.0}},
        "hosts_starting": 1,
        "hosts_wanted": 2,
        "host_deaths": 1,
        "overload": {"level": 2, "waiting": 3, "refused": {"full": 4}},
        "counts": {"admitted": 5, "refused": 0},
    }
    await made.journal.cluster_status(status)
    await made.journal.cluster_status(status | {"counts": {"admitted": 7}})
    await made.journal.cluster_status(status | {"counts": {"admitted": 2}, "host_deaths": 0})
    samples = await made.samples()
    assert samples["voice_admissions_total", (("outcome", "admitted"),)] == 9
    assert samples["voice_host_deaths_total", ()] == 1
    assert samples["voice_calls_live", ()] == 2
    assert samples["voice_overload_level", ()] == 2
    assert samples["voice_calls_waiting", ()] == 3
    assert samples["voice_calls_refused_total", (("reason", "full"),)] == 4
    assert samples["voice_host_loop_lag_seconds", ()] == pytest.approx(0.003)


async def test_what_call_actors_gave_up_is_counted_also_over_their_death(made):
    status = {
        "live": 0, "free": 0, "hosts_starting": 0, "hosts_wanted": 2, "host_deaths": 0, "counts": {},
        "overload": {"level": 0, "waiting": 0, "refused": {}},
    }  # fmt: skip
    for dropped in ({"a": 2, "b": 1}, {"b": 3}, {"b": 3, "c": 1}):
        hosts = {name: {"loop_lag_ms": 0.0, "journal_dropped": count} for name, count in dropped.items()}
        await made.journal.cluster_status(status | {"hosts": hosts})
    samples = await made.samples()
    assert samples["voice_journal_dropped_total", (("cause", "unsent"),)] == 6


async def test_take_overs_are_counted_by_what_ended_the_link(made):
    for reason in ("silent", "peer_closed", "silent", "moved", "protocol: a frame of 1 bytes is over the link's limit"):
        await made.journal.take_over(reason, 0.06)
    samples = await made.samples()
    counts = {labels[0][1]: n for (name, labels), n in samples.items() if name == "voice_take_over_seconds_count"}
    assert counts == {"silent": 2, "closed": 1, "moved": 1, "other": 1}
    assert samples["voice_take_over_seconds_sum", (("reason", "silent"),)] == pytest.approx(0.12)


async def test_a_record_that_cannot_be_dealt_with_is_left_out_and_the_rest_goes_on(made, caplog):
    bad = turn("CA1", 3, times=None)
    await made.journal.batch([turn("CA1", 2), bad, turn("CA1", 4)])
    await until(lambda: len(made.store.records) == 2)
    assert [record.turn for record in made.store.records] == [2, 4]
    samples = await made.samples()
    assert samples["voice_journal_dropped_total", (("cause", "bad"),)] == 1
    assert "bad record left out" in [record.message for record in caplog.records]


def test_catalogue_is_consistent():
    names = [metric.name for metric in metrics.CATALOGUE]
    assert len(names) == len(set(names))
    for metric in metrics.CATALOGUE:
        assert metric.name.startswith("voice_")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert not {"call", "call_id", "caller", "host", "pid"} & set(metric.labels)


async def test_taken_metrics_port_is_said_in_words(made, tmp_path):
    port = (await made.journal.status())["metrics_port"]
    second = Made(tmp_path / "second", telemetry={"metrics_port": port})
    with pytest.raises(ConfigError, match=r"telemetry\.metrics_port"):
        await second.journal.start()


async def test_a_call_without_an_end_is_ended_once(made):
    await made.journal.batch(a_call("CA1")[:2])
    await made.journal.call_lost("CA1", "lost")
    await made.journal.call_lost("CA1", "lost")
    await made.journal.call_lost("CA7", "lost")
    await made.journal.batch(a_call("CA2"))
    await made.journal.call_lost("CA2", "failed")
    await until(lambda: len(made.store.records) == 6)
    ends = [(r.call_id, r.end_reason, r.turns) for r in made.store.records if isinstance(r, CallRecord)]
    assert ends == [("CA1", "lost", 1), ("CA2", "goodbye", 1)]


async def test_event_log_files_and_tail(made):
    entries = tuple({"n": n, "t_ms": n, "event": "ClausePlayed"} for n in range(1, 4))
    await made.journal.batch([LogEntries("CA1", 1, entries)])
    await made.journal.batch([LogEntries("CA1", 1, entries), LogEntries("CA1", 2, entries[:1])])
    await made.journal.events("CA1", [{"type": "carrier"}])
    tail = await made.journal.live_events("CA1", 0)
    assert [entry["seq"] for entry in tail] == [1, 2, 3, 4, 5]
    assert await made.journal.live_events("CA1", 4) == [{"seq": 5, "type": "carrier"}]
    assert await made.journal.live_events("CA7", 0) == []
    path = made.context.run_dir / "calls" / "CA1" / "events.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == tail
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_tail_is_bounded(made):
    for n in range(3):
        await made.journal.events("CA1", [{"t_ms": n}] * 1000)
    tail = await made.journal.live_events("CA1", 0)
    assert len(tail) == TAIL
    assert tail[-1]["seq"] == 3000


async def test_turns_json(made):
    await made.journal.batch([turn(number=1, kind="greeting"), turn(number=2), turn(number=2)])
    plain = json.loads((made.context.run_dir / "calls" / "CA1" / "turns.json").read_text())
    assert [(one["turn"], one["v2v_self_ms"]) for one in plain] == [(1, 420), (2, 420)]


async def test_a_restarted_journal_goes_on_where_it_was(made):
    await made.journal.batch([turn(number=1), LogEntries("CA1", 1, ({"n": 1, "t_ms": 1}, {"n": 2, "t_ms": 2}))])
    again = Journal(made.context, ListStore())
    await again.batch([turn(number=2), LogEntries("CA1", 1, ({"n": 3, "t_ms": 3},))])
    assert [entry["seq"] for entry in await again.live_events("CA1", 0)] == [1, 2, 3]
    plain = json.loads((made.context.run_dir / "calls" / "CA1" / "turns.json").read_text())
    assert [one["turn"] for one in plain] == [1, 2]
    await again.stop()


async def test_ids_that_are_paths_touch_no_disk(made):
    await made.journal.events("../../etc", [{"t_ms": 1}])
    await made.journal.turn(turn("../x"))
    assert not made.context.run_dir.exists()


async def test_an_unwritable_run_folder_is_counted_not_raised(made):
    made.context.run_dir.parent.mkdir(parents=True, exist_ok=True)
    made.context.run_dir.write_text("a file")
    await made.journal.events("CA1", [{"t_ms": 1}])
    samples = await made.samples()
    assert samples["voice_journal_dropped_total", (("cause", "disk"),)] == 1


async def test_span_tree(made):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await made.journal.batch([CallBegan("CA1", "+1", "+2", 1_000_000.0, trace), *a_call("CA1")[1:]])
    made.journal._spans._provider.force_flush()
    spans = {span.name: span for span in made.exporter.get_finished_spans()}
    call, one = spans["call"], spans["turn"]
    assert format(call.context.trace_id, "032x") == trace.split("-")[1]
    assert one.parent.span_id == call.context.span_id
    stages = {"stt", "endpointing", "retrieval kb", "chat tiny-llm", "tts slt", "playout"}
    assert {name for name, span in spans.items() if span.parent.span_id == one.context.span_id} == stages
    assert one.attributes["voice.v2v_latency_ms"] == 420
    assert one.attributes["voice.turn.index"] == 2
    chat = spans["chat tiny-llm"]
    assert chat.attributes["gen_ai.response.time_to_first_chunk"] == 0.1
    assert chat.start_time == int(1_000_000.0 * 1e9) + 1180 * 1_000_000
    assert call.end_time - call.start_time == 60 * 10**9
    said = [key for span in spans.values() for key in span.attributes if "pii" in key]
    assert not said
    texts = [str(value) for span in spans.values() for value in span.attributes.values()]
    assert not [text for text in texts if "open" in text and "openai" not in text]


async def test_spans_with_words_only_when_asked():
    exporter = InMemorySpanExporter()
    spans = CallSpans(exporter, NAMES, with_pii=True)
    began, one, ended = a_call("CA1")
    spans.began(began)
    spans.turn(one)
    spans.ended(ended)
    spans.close()
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert found["turn"].attributes["voice.pii.caller_text"] == "when do you open"


async def test_the_word_of_a_former_owner_is_refused_but_for_turns_it_had_ended(made):
    journal, store = made.journal, made.store
    await journal.batch([CallBegan("CA1", "+1", "+2", 1_000_000.0), turn("CA1", 1, epoch=1)])
    await journal.batch([CallMoved("CA1", 2, 3), turn("CA1", 3, epoch=2)])
    # Woken up: turn 2 was still on its way when it froze; of turn 3 the next owner has told, turn 4 never was.
    await journal.batch([turn("CA1", 2, epoch=1), turn("CA1", 3, epoch=1), turn("CA1", 4, epoch=1)])
    await journal.batch([CallRecord("CA1", end_reason="gateway_lost", epoch=1)])
    await journal.batch([CallRecord("CA1", end_reason="goodbye", epoch=2)])
    await made.journal._writer.flush(5)
    kept = [record for record in store.records if isinstance(record, TurnRecord)]
    assert [(record.turn, record.epoch) for record in kept] == [(1, 1), (3, 2), (2, 1)]
    assert [record.end_reason for record in store.records if isinstance(record, CallRecord)] == ["goodbye"]
