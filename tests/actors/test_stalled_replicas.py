"""A replica that stalls is given up by the caller's own deadline, and avoided until a probe of it succeeds."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from local_plane import ListJournal, kit_of

pytest.importorskip("ray")

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.request_router.common import ReplicaQueueLengthCache
from ray.serve.config import RequestRouterConfig

from actors.call import replica_watch, replicas, serve_plane
from actors.call.clause_speech import speech_of
from actors.call.jobs import answer_of, items_of
from actors.call.replica_watch import ReplicaWatch
from actors.call.replicas import _Avoiding
from actors.call.serve_plane import ServePlane
from actors.call.stalls import StageDeadlines
from configs.settings import DeadlineSettings
from voice_agent.errors import DeadlineExceededError, EngineFailedError, ReplicaLostError, ReplicaStalledError
from voice_agent.ports import SearchRequest, SearchResponse, SpeakRequest, SpeechChunk

SUSPECT_S = DeadlineSettings().suspect_s
QUICK = {"retriever": StageDeadlines(0.05), "tts": StageDeadlines(0.05, behind_s=0.05)}


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def watch(monkeypatch):
    clock = Clock()
    made = ReplicaWatch(clock)
    made.clock = clock
    made.known("Retriever", frozenset("ab"))
    made.known("TextToSpeech", frozenset("ab"))
    monkeypatch.setattr(serve_plane, "WATCH", made)
    monkeypatch.setattr(replica_watch, "WATCH", made)
    return made


class Replica:
    """Answers of a stage, one after the other: a list is a stream, "hang" never comes."""

    def __init__(self, watch, deployment, answers):
        self.watch, self.deployment, self.answers = watch, deployment, answers
        self.cancelled, self.served = 0, []

    def remote(self, _):
        there = sorted(self.watch._known[self.deployment])
        replica = next((name for name in there if not self.watch.avoid(self.deployment, name)), "a")
        self.served.append(replica)
        request_id = f"r{len(self.served)}"
        self.watch.routed(request_id, self.deployment, replica)
        return Response(self, request_id, self.answers.pop(0))


class Response:
    def __init__(self, owner, request_id, answer):
        self.owner, self.request_id, self.answer = owner, request_id, answer

    def __await__(self):
        return self._one().__await__()

    async def _one(self):
        return await (asyncio.Event().wait() if self.answer == "hang" else asyncio.sleep(0, self.answer))

    async def __aiter__(self):
        for item in self.answer if isinstance(self.answer, list) else ["hang"]:
            if item == "hang":
                await asyncio.Event().wait()
            if isinstance(item, Exception):
                raise item
            yield item

    def cancel(self):
        self.owner.cancelled += 1


def plane_with(stage, replica):
    plane = ServePlane(deadlines=QUICK)
    plane._handles[stage] = replica
    return plane


async def test_a_request_that_hangs_is_asked_of_another_replica(watch):
    replica = Replica(watch, "Retriever", ["hang", SearchResponse(())])
    plane = plane_with("retriever", replica)
    loop = asyncio.get_running_loop()
    assert await answer_of(lambda: plane.search(SearchRequest("CA1", "q")), loop.time() + 5) == SearchResponse(())
    assert (replica.served, replica.cancelled, plane.open_requests) == (["a", "b"], 1, 0)


async def test_where_there_is_no_other_replica_lateness_is_waited_for(watch):
    watch.known("Retriever", frozenset("a"))
    replica = Replica(watch, "Retriever", ["hang"])
    plane = plane_with("retriever", replica)
    with pytest.raises(DeadlineExceededError):
        await answer_of(lambda: plane.search(SearchRequest("CA1", "q")), asyncio.get_running_loop().time() + 0.3)
    assert replica.served == ["a"]


async def test_a_busy_plane_is_not_asked_twice(watch, monkeypatch):
    replica = Replica(watch, "Retriever", ["hang"])
    plane = plane_with("retriever", replica)
    monkeypatch.setattr(ServePlane, "load", property(lambda _: 0.9))
    asked = []
    watch.asks("Retriever", asked.append)
    with pytest.raises(DeadlineExceededError):
        await answer_of(lambda: plane.search(SearchRequest("CA1", "q")), asyncio.get_running_loop().time() + 0.3)
    assert (replica.served, asked) == (["a"], ["a"])
    assert not watch.avoid("Retriever", "a")


async def test_a_voice_that_does_not_begin_is_asked_of_another_replica(watch):
    replica = Replica(watch, "TextToSpeech", ["hang", [SpeechChunk(b"1", last=True)]])
    plane = plane_with("tts", replica)
    items = [item async for item in items_of(lambda: plane.speak(SpeakRequest("CA1", 1, 0, "hi")), 5.0)]
    assert items == [SpeechChunk(b"1", last=True)]
    assert (replica.served, plane.open_requests) == (["a", "b"], 0)


async def test_a_voice_at_fault_before_it_was_heard_is_asked_of_another_replica_and_its_own_is_avoided(watch):
    silent = [EngineFailedError("the tts engine gave silence for words")]
    replica = Replica(watch, "TextToSpeech", [silent, [SpeechChunk(b"1", last=True)]])
    plane = plane_with("tts", replica)
    items = [item async for item in items_of(lambda: plane.speak(SpeakRequest("CA1", 1, 0, "hi")), 5.0)]
    assert items == [SpeechChunk(b"1", last=True)]
    assert replica.served == ["a", "b"]
    assert watch.avoid("TextToSpeech", "a")


async def test_a_voice_that_trickles_is_ended_and_its_replica_avoided(watch):
    replica = Replica(watch, "TextToSpeech", [[SpeechChunk(b"1"), "hang"]])
    plane = plane_with("tts", replica)
    stream = items_of(lambda: plane.speak(SpeakRequest("CA1", 1, 0, "hi")), 5.0)
    assert await anext(stream) == SpeechChunk(b"1")
    with pytest.raises(DeadlineExceededError):
        await anext(stream)
    assert watch.avoid("TextToSpeech", "a")


async def test_a_voice_whose_replica_dies_is_told_from_one_at_fault_and_the_replica_is_avoided(watch):
    for error, kind in (
        (ActorDiedError(), ReplicaLostError),
        (ActorUnavailableError("away", None), ReplicaLostError),
        # A replica that lives, and tells of the death of something else.
        (RayTaskError("speak", "", ActorDiedError()).as_instanceof_cause(), EngineFailedError),
        (EngineFailedError("no voice"), EngineFailedError),
    ):
        plane = plane_with("tts", Replica(watch, "TextToSpeech", [[SpeechChunk(b"1"), error]]))
        stream = items_of(lambda plane=plane: plane.speak(SpeakRequest("CA1", 1, 0, "hi")), 5.0)
        assert await anext(stream) == SpeechChunk(b"1")
        with pytest.raises(EngineFailedError) as raised:
            await anext(stream)
        assert type(raised.value) is kind
    assert watch.avoid("TextToSpeech", "a")


PIECE, REST = b"1" * 80, b"2" * 80
CLAUSE = [SpeechChunk(PIECE), SpeechChunk(REST, last=True)]
BROKEN = [SpeechChunk(PIECE), "hang"]


async def spoken(replica, *, behind_s=60.0):
    """A clause as a call has it spoken by these replicas: its audio, and the kind of failure that ended it."""
    plane, heard, failure = plane_with("tts", replica), [], None
    kit = replace(kit_of(plane, ListJournal()), behind_s=behind_s)
    try:
        async for chunk in speech_of(kit, SpeakRequest("CA1", 1, 0, "hi"), lambda: 0):
            heard.append(chunk.audio)
    except (DeadlineExceededError, EngineFailedError) as error:
        failure = type(error)
    assert plane.open_requests == 0
    return b"".join(heard), failure


async def test_a_clause_that_stalls_in_the_middle_is_gone_on_with_by_the_other_replica(watch):
    replica = Replica(watch, "TextToSpeech", [BROKEN, CLAUSE])
    assert await spoken(replica) == (PIECE + REST, None)
    assert (replica.served, replica.cancelled) == (["a", "b"], 1)
    assert watch.avoid("TextToSpeech", "a")


async def test_another_engine_does_not_go_on_and_nobody_is_asked_a_third_time(watch):
    first, other = [SpeechChunk(PIECE, engine="coqui"), "hang"], [replace(chunk, engine="flite") for chunk in CLAUSE]
    replica = Replica(watch, "TextToSpeech", [first, other])
    assert await spoken(replica) == (PIECE, EngineFailedError)
    assert replica.served == ["a", "b"]


async def test_a_second_replica_that_stalls_too_is_given_up_when_the_ear_has_been_empty_for_long(watch):
    replica = Replica(watch, "TextToSpeech", [BROKEN, BROKEN])
    assert await spoken(replica, behind_s=0.2) == (PIECE, DeadlineExceededError)
    assert replica.served == ["a", "b"]


async def test_a_clause_that_stalls_on_the_only_replica_fails_at_once(watch):
    watch.known("TextToSpeech", frozenset("a"))
    replica = Replica(watch, "TextToSpeech", [BROKEN, CLAUSE])
    assert await spoken(replica) == (PIECE, DeadlineExceededError)
    assert replica.served == ["a"]


async def test_clauses_that_stall_open_the_breaker_though_each_was_gone_on_with(watch):
    for _ in range(DeadlineSettings().faults):
        assert watch.open() == {}
        await spoken(Replica(watch, "TextToSpeech", [BROKEN, CLAUSE]))
        watch.clock.now_s += SUSPECT_S + 0.1
    assert watch.open() == {"TextToSpeech": {"a": "open"}}


@pytest.mark.parametrize("alive", [False, True])
async def test_a_replica_that_gives_no_sign_of_life_is_given_up_before_one_that_may_catch_up(watch, monkeypatch, alive):
    """The clause is late for ever, and the deadline of a slow engine is far away."""
    monkeypatch.setattr(watch, "_clock", time.monotonic)
    watch.asks("TextToSpeech", lambda name: watch.answers("TextToSpeech", name) if alive else None)
    plane = plane_with("tts", Replica(watch, "TextToSpeech", [BROKEN]))
    plane._deadlines = {"tts": StageDeadlines(behind_s=60.0, mute_s=0.02)}
    stream = plane.speak(SpeakRequest("CA1", 1, 0, "hi"))
    assert await anext(stream) == SpeechChunk(PIECE)
    if alive:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.2)
    else:
        with pytest.raises(ReplicaStalledError):
            await anext(stream)
    assert watch.avoid("TextToSpeech", "a") is not alive


def test_a_replica_is_no_probe_for_a_request_that_it_has_just_failed(watch):
    """Its breaker has been open for long, so that a probe is due when a request that it had before stalls."""
    for number in range(4):
        watch.routed(f"r{number}", "Retriever", "a")
    for number in range(3):
        watch.failed(f"r{number}")
    watch.clock.now_s += 6
    watch.failed("r3")
    assert not watch.wants_probe("Retriever", "a")
    watch.clock.now_s += SUSPECT_S + 0.1
    assert watch.wants_probe("Retriever", "a")


@pytest.mark.parametrize(
    ("deadlines", "given", "audio_bytes", "waited_s", "patience_s"),
    [
        (StageDeadlines(1.0, 2.0), 0, 0, 0.0, 1.0),
        (StageDeadlines(1.0, 2.0), 3, 0, 9.0, 2.0),
        (StageDeadlines(1.0, behind_s=0.5), 1, 16_000, 0.5, 2.0),
        (StageDeadlines(1.0, behind_s=0.5), 1, 800, 3.0, 0.5),
    ],
)
def test_speech_is_judged_by_its_own_playout(deadlines, given, audio_bytes, waited_s, patience_s):
    assert deadlines.item_s(given, audio_bytes, waited_s) == patience_s


def test_a_suspect_is_avoided_for_a_while_and_one_that_stalls_often_until_a_probe_succeeds(watch):
    watch.routed("r1", "Retriever", "a")
    watch.failed("r1")
    assert watch.avoid("Retriever", "a")
    watch.clock.now_s += SUSPECT_S + 0.1
    assert not watch.avoid("Retriever", "a")
    for number in range(2, 4):
        watch.routed(f"r{number}", "Retriever", "a")
        watch.failed(f"r{number}")
    watch.clock.now_s += SUSPECT_S + 0.1
    assert watch.avoid("Retriever", "a")
    assert watch.open() == {"Retriever": {"a": "open"}}
    watch.clock.now_s += 10
    assert watch.wants_probe("Retriever", "a")
    assert not watch.wants_probe("Retriever", "a")
    watch.routed("probe", "Retriever", "a")
    watch.over("probe", well=True)
    assert not watch.avoid("Retriever", "a")
    assert watch.open() == {}


@pytest.mark.parametrize(("given", "avoided"), [([SpeechChunk(b"1"), "hang"], False), (["hang"], True)])
async def test_a_probe_that_is_left_counts_by_what_it_gave_and_the_next_request_may_be_one(watch, given, avoided):
    watch.configure(DeadlineSettings(faults=1, suspect_s=1.0))
    watch.routed("r0", "TextToSpeech", "a")
    watch.failed("r0")
    watch.clock.now_s += 10
    assert watch.wants_probe("TextToSpeech", "a")
    watch.known("TextToSpeech", frozenset("a"))
    stream = plane_with("tts", Replica(watch, "TextToSpeech", [given])).speak(SpeakRequest("CA1", 1, 0, "hi"))
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await stream.aclose()
    assert watch.avoid("TextToSpeech", "a") is avoided
    assert watch.wants_probe("TextToSpeech", "a") is avoided


async def test_nothing_is_kept_of_requests_however_they_end(watch):
    answers = [[SpeechChunk(b"1", last=True)], [SpeechChunk(b"1"), "hang"], [EngineFailedError("no")]]
    plane = plane_with("tts", Replica(watch, "TextToSpeech", answers))
    for _ in range(3):
        stream = plane.speak(SpeakRequest("CA1", 1, 0, "hi"))
        with suppress(EngineFailedError):
            await anext(stream)
        await stream.aclose()
    watch.known("Retriever", frozenset("a"))
    plane._handles["retriever"] = Replica(watch, "Retriever", ["hang", SearchResponse(())])
    asked = asyncio.create_task(plane.search(SearchRequest("CA1", "q")))
    await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await plane.search(SearchRequest("CA1", "q"))
    assert (plane.open_requests, len(watch._served), len(watch._probes)) == (0, 0, 0)


def test_a_process_that_gives_no_sign_of_life_is_no_longer_what_it_was_and_is_not_probed_by_a_call(watch):
    for number in range(50):
        watch.routed(f"well{number}", "Retriever", "a")
        watch.over(f"well{number}", well=True)
    for _ in range(3):
        watch.silent("Retriever", "a")
    assert watch.open() == {"Retriever": {"a": "open"}}
    watch.clock.now_s += 10
    assert not watch.wants_probe("Retriever", "a")
    watch.answers("Retriever", "a")
    assert watch.wants_probe("Retriever", "a")


def test_breakers_obey_the_settings(watch):
    watch.configure(DeadlineSettings(faults=1, cool_down_s=2.0, suspect_s=1.0))
    watch.routed("r1", "Retriever", "a")
    watch.failed("r1")
    assert watch.open() == {"Retriever": {"a": "open"}}
    watch.clock.now_s += 1.9
    assert not watch.wants_probe("Retriever", "a")
    watch.clock.now_s += 0.2
    assert watch.wants_probe("Retriever", "a")


def test_replicas_that_are_gone_are_forgotten(watch):
    watch.routed("r1", "Retriever", "a")
    watch.failed("r1")
    watch.known("Retriever", frozenset("bc"))
    assert not watch.avoid("Retriever", "a")


@pytest.mark.parametrize("name", ["AvoidingRouter", "StickyAvoidingRouter"])
def test_routers_as_serve_sends_them_share_the_watch_of_their_process(name):
    sent = RequestRouterConfig(request_router_class=f"actors.call.replicas.{name}").get_request_router_class()
    assert sent.choose_replicas.__globals__["replica_watch"].WATCH is serve_plane.WATCH
    assert isinstance(sent.replica_queue_len_cache, property)


class Base:
    def __init__(self, ranks):
        self._deployment_id = SimpleNamespace(name="Retriever")
        self._ranks = ranks
        self._replicas_list = ranks[0]
        self._event_loop = asyncio.get_running_loop()
        self.replica_queue_len_cache = ReplicaQueueLengthCache()

    async def _probe_queue_lens(self, replicas, backoff_index):
        return [(replica, None) for replica in replicas]

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        return self._ranks

    async def _choose_replica_for_request(self, pending_request, *, is_retry=False):
        return (await self.choose_replicas(self._ranks[0]))[0][0]


class Router(_Avoiding, Base):
    pass


async def test_routers_go_round_what_stalls_while_there_is_another(watch):
    a, b = (SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "ab")
    watch.routed("r1", "Retriever", "a")
    watch.failed("r1")
    assert await Router([[a, b]]).choose_replicas([a, b]) == [[b]]
    assert await Router([[a]]).choose_replicas([a, b]) == [[b]]
    watch.routed("r2", "Retriever", "b")
    watch.failed("r2")
    assert await Router([[a, b]]).choose_replicas([a, b]) == [[a, b]]
    request = SimpleNamespace(metadata=SimpleNamespace(request_id="r3"))
    assert await Router([[a, b]])._choose_replica_for_request(request) is a
    assert watch._served["r3"] == ("Retriever", "a")


class Asked:
    """A replica of which only the process is asked for: silent so often, then it answers."""

    def __init__(self, name, silences):
        self.replica_id = ReplicaID(name, DeploymentID("Retriever"))
        self.silences, self.heard = silences, asyncio.Event()

    async def get_queue_len(self, *, deadline_s):
        self.silences -= 1
        if self.silences >= 0:
            await asyncio.Event().wait()
        self.heard.set()
        return 0


async def test_a_replica_that_stalled_is_asked_until_it_answers(watch, monkeypatch):
    monkeypatch.setattr(replicas, "ANSWER_S", 0.01)
    a, b = Asked("a", 3), Asked("b", 0)
    router = Router([[a, b]])
    watch.routed("r1", "Retriever", "a")
    watch.failed("r1")
    await a.heard.wait()
    assert watch.open() == {"Retriever": {"a": "open"}}
    await asyncio.gather(*router._asked.values())
    watch.clock.now_s += 10
    assert await router.choose_replicas([a, b]) == [[a]]
    assert router.replica_queue_len_cache.get(a.replica_id) == 0, "Serve sends it there without a question first"


async def test_one_that_does_not_tell_serve_its_queue_is_asked_although_no_request_stalled(watch, monkeypatch):
    monkeypatch.setattr(replicas, "ANSWER_S", 0.01)
    a, b = Asked("a", 3), Asked("b", 0)
    router = Router([[a, b]])
    assert await router._probe_queue_lens([a], 0) == [(a, None)]
    await a.heard.wait()
    assert watch.open() == {"Retriever": {"a": "open"}}


async def test_one_that_is_gone_is_asked_no_more(watch, monkeypatch):
    monkeypatch.setattr(replicas, "ANSWER_S", 0.01)
    router = Router([[Asked("a", 1 << 30), Asked("b", 0)]])
    router._begin_asking("a")
    router._replicas_list = router._replicas_list[1:]
    async with asyncio.timeout(5):
        await asyncio.gather(*router._asked.values())
