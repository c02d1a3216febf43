import asyncio
import json

import pytest
from fake_stack import AUTH_TOKEN, FakeStack, tone
from twilio.request_validator import RequestValidator

from loadtest.carrier import CallTarget
from loadtest.leg import MediaLeg, StreamIds
from loadtest.place import place_call, place_calls
from loadtest.recording import read_stereo
from loadtest.script import After, AgentSilent, AgentSpeaking, AwaitHangUp, CallerScript, HangUp, Press, Say
from voice_agent.twilio import messages

HANG_UP = "<Response><Hangup/></Response>"
SHORT = CallerScript("short", (HangUp(After(300)),))
WAITS = CallerScript("waits", (AwaitHangUp(10_000),))


@pytest.fixture
def stack_of():
    def make(agent, **twiml):
        return FakeStack(agent, {"/twilio/voice": FakeStack.connect, "/twilio/stream-ended": HANG_UP, **twiml})

    return make


async def call(stack, script, tmp_path, **target):
    return await asyncio.wait_for(
        place_call(CallTarget(stack.url, AUTH_TOKEN, **target), script, tmp_path, None), timeout=60
    )


async def idle(peer):
    await peer.wait_for(messages.Stop)


async def test_webhooks_and_upgrade_are_signed_as_twilio_signs_them(stack_of, tmp_path):
    async with stack_of(idle) as stack:
        outcome = await call(stack, SHORT, tmp_path)
    official = RequestValidator(AUTH_TOKEN)
    assert stack.requests[0][0] == "/twilio/voice"
    assert {path for path, _, _ in stack.requests} == {"/twilio/voice", "/twilio/stream-status", "/twilio/status"}
    for path, form, head in stack.requests:
        given = next(
            line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("x-twilio-signature")
        )
        assert official.validate(stack.url + path, form, given)
        assert form["CallSid"] == outcome.call_sid
    assert stack.headers[0]["x-twilio-signature"] == official.compute_signature(stack.media_url, {})
    assert [form["StreamEvent"] for form in stack.posts("/twilio/stream-status")] == [
        "stream-started",
        "stream-stopped",
    ]
    assert stack.posts("/twilio/status")[0]["CallStatus"] == "completed"
    assert outcome.ok
    assert (outcome.ended_by, outcome.reason) == ("caller", "script_done")


async def test_the_stream_as_the_server_sees_it(stack_of, tmp_path):
    script = CallerScript("keys", (Press("1#", After(100)), HangUp(After(300))))
    async with stack_of(idle) as stack:
        outcome = await call(stack, script, tmp_path)
    received = stack.peers[0].received
    assert isinstance(received[0], messages.Connected)
    start = received[1]
    assert (start.call_sid, start.parameters) == (outcome.call_sid, {"token": "t0"})
    assert [message.sequence for message in received[1:]] == list(range(1, len(received)))
    media = [message for message in received if isinstance(message, messages.Media)]
    assert [message.chunk for message in media] == list(range(1, len(media) + 1))
    assert [message.timestamp_ms for message in media] == [20 * number for number in range(len(media))]
    assert all(len(message.payload) == 160 for message in media)
    assert [message.digit for message in received if isinstance(message, messages.Dtmf)] == ["1", "#"]
    assert isinstance(received[-1], messages.Stop)


async def test_public_addresses_are_signed_and_local_ones_are_used(tmp_path):
    public, wss = "https://voice.example.com", "wss://voice.example.com/media"
    twiml = {"/twilio/voice": lambda stack: stack.connect(action=f"{public}/twilio/stream-ended", url=wss)}
    async with FakeStack(idle, twiml) as stack:
        await call(stack, SHORT, tmp_path, public_url=public, media_url=stack.media_url)
    official = RequestValidator(AUTH_TOKEN)
    _, form, head = stack.requests[0]
    assert official.compute_signature(f"{public}/twilio/voice", form) in head
    assert stack.headers[0]["x-twilio-signature"] == official.compute_signature(wss, {})


async def test_voice_to_voice_is_what_the_server_made_it(stack_of, tmp_path):
    waits_s = 0.3

    async def agent(peer):
        await peer.play(tone(500))
        await peer.mark("greeting")
        quiet = 0
        spoke = False
        seen = 0
        while quiet < waits_s * 50:
            media = await peer.wait_for(messages.Media, seen + 1)
            seen = len(media)
            loud = len(set(media[-1].payload)) > 20
            spoke = spoke or loud
            quiet = 0 if loud or not spoke else quiet + 1
        await peer.play(tone(600))
        await idle(peer)

    script = CallerScript("one turn", (Say("When are you open?", AgentSilent(300)), HangUp(AgentSilent(300))))
    async with stack_of(agent) as stack:
        outcome = await call(stack, script, tmp_path)
    (turn,) = outcome.measures.turns
    assert turn.v2v_ms >= waits_s * 1000
    assert outcome.unanswered == 0
    assert outcome.measures.starved == ()
    assert stack.peers[0].marks() == ["greeting"]
    caller, agent_heard = read_stereo(outcome.wav)
    assert caller.any()
    assert agent_heard.any()
    written = json.loads((tmp_path / "caller.json").read_text())
    assert written["measures"]["turns"][0]["v2v_ms"] == turn.v2v_ms
    assert written["caller_speech"]


async def test_clear_cuts_what_was_queued_and_echoes_the_marks(stack_of, tmp_path):
    async def agent(peer):
        await peer.play(tone(4000))
        await peer.mark("long")
        await peer.wait_for(messages.Media, 20)
        assert peer.marks() == []
        await peer.clear()
        await peer.wait_for(messages.Mark)
        await idle(peer)

    async with stack_of(agent) as stack:
        outcome = await call(stack, CallerScript("x", (HangUp(After(1500)),)), tmp_path)
    assert stack.peers[0].marks() == ["long"]
    assert outcome.clears == 1
    _, heard = read_stereo(outcome.wav)
    assert 0 < sum(abs(heard.astype(int)) > 1000) < 8 * 4000 / 2


async def test_barge_in_is_measured(stack_of, tmp_path):
    async def agent(peer):
        await peer.play(tone(8000))
        seen = 0
        while True:
            media = await peer.wait_for(messages.Media, seen + 1)
            seen = len(media)
            if len(set(media[-1].payload)) > 20:
                break
        await peer.clear()
        await idle(peer)

    script = CallerScript("barge", (Say("Stop it please.", AgentSpeaking(500)), HangUp(After(200))))
    async with stack_of(agent) as stack:
        outcome = await call(stack, script, tmp_path)
    (barge_in,) = outcome.measures.barge_ins
    assert 0 <= barge_in.latency_ms < 4000, "the agent had seconds of speech left"


async def test_starved_speech_is_seen_in_the_buffer(stack_of, tmp_path):
    async def agent(peer):
        await peer.play(tone(200))
        await peer.wait_for(messages.Media, 25)
        await peer.play(tone(200))
        await peer.mark("end")
        await peer.wait_for(messages.Mark)
        await peer.wait_for(messages.Media, 50)
        await peer.play(tone(200))
        await peer.mark("next clause")
        await idle(peer)

    async with stack_of(agent) as stack:
        outcome = await call(stack, CallerScript("x", (HangUp(After(4000)),)), tmp_path)
    (hole,) = outcome.measures.starved
    assert hole.gap_ms > 0
    assert len(outcome.measures.pauses) == 1


async def test_a_server_that_goes_away_is_asked_by_its_action_url(stack_of, tmp_path):
    async def agent(peer):
        await peer.play(tone(200))
        await peer.wait_for(messages.Media, 5)
        if len(peer_count) == 0:
            peer_count.append(1)
            peer.socket.transport.abort()
        else:
            await peer.socket.close()

    peer_count = []
    documents = iter([FakeStack.connect, HANG_UP])
    twiml = {"/twilio/stream-ended": lambda stack: d(stack) if callable(d := next(documents)) else d}
    async with stack_of(agent, **twiml) as stack:
        outcome = await call(stack, WAITS, tmp_path)
    assert outcome.streams == 2
    assert (outcome.ended_by, outcome.reason) == ("agent", "hang-up by TwiML")
    assert stack.posts("/twilio/stream-ended")[0]["CallStatus"] == "in-progress"
    sids = {peer.start.stream_sid for peer in stack.peers}
    assert len(sids) == 2
    assert {peer.start.call_sid for peer in stack.peers} == {outcome.call_sid}


async def test_reconnecting_for_ever_ends(stack_of, tmp_path):
    async def agent(peer):
        await peer.socket.close()

    async with stack_of(agent, **{"/twilio/stream-ended": FakeStack.connect}) as stack:
        outcome = await call(stack, WAITS, tmp_path)
    assert outcome.ended_by == "carrier"
    assert "documents" in outcome.reason
    assert len(stack.peers) == 10


async def test_a_call_handed_on_after_its_stream_is_a_good_call(stack_of, tmp_path):
    async def agent(peer):
        await peer.socket.close()

    handed_on = {"/twilio/stream-ended": "<Response><Dial><Sip>sip:desk@example.com</Sip></Dial></Response>"}
    async with stack_of(agent, **handed_on) as stack:
        outcome = await call(stack, WAITS, tmp_path)
    assert (outcome.ended_by, outcome.reason, outcome.ok) == ("transferred", "sip:desk@example.com", True)


async def test_without_an_action_the_call_ends_with_the_stream(tmp_path):
    async def agent(peer):
        await peer.socket.close()

    async with FakeStack(agent, {"/twilio/voice": lambda stack: stack.connect(action="")}) as stack:
        outcome = await call(stack, WAITS, tmp_path)
    assert (outcome.ended_by, outcome.reason) == ("agent", "end of the TwiML document")


@pytest.mark.parametrize(
    ("document", "ended_by", "reason"),
    [
        ("<Response><Say>We are full.</Say><Hangup/></Response>", "refused", "hang-up"),
        ("<Response><Reject reason='busy'/></Response>", "rejected", "busy"),
        ("<Response><Dial>+15550199</Dial></Response>", "transferred", "15550199"),
        ("<Response><Enqueue>sales</Enqueue></Response>", "transferred", "queue:sales"),
        ("<Response/>", "refused", "end of the TwiML"),
        ("this is not xml", "carrier", "not XML"),
        ("<Response><Sing/></Response>", "carrier", "verb Sing"),
        ((403, "no"), "carrier", "HTTP 403"),
        ((500, ""), "carrier", "HTTP 500"),
    ],
)
async def test_what_the_voice_webhook_may_answer(document, ended_by, reason, tmp_path):
    async with FakeStack(idle, {"/twilio/voice": document}) as stack:
        outcome = await call(stack, WAITS, tmp_path)
    assert outcome.ended_by == ended_by
    assert reason in outcome.reason
    assert not outcome.ok
    assert stack.peers == []


async def test_say_is_kept(tmp_path):
    async with FakeStack(idle, {"/twilio/voice": "<Response><Say>We are full.</Say></Response>"}) as stack:
        outcome = await call(stack, WAITS, tmp_path)
    assert outcome.said == ("We are full.",)


async def test_nobody_listens(tmp_path):
    outcome = await place_call(CallTarget("http://127.0.0.1:9", AUTH_TOKEN), WAITS, tmp_path, None)
    assert outcome.ended_by == "carrier"
    assert "ConnectionRefusedError" in outcome.reason


async def test_a_refused_upgrade_is_told(stack_of, tmp_path):
    async with stack_of(idle) as stack:
        outcome = await call(stack, WAITS, tmp_path, media_url="ws://127.0.0.1:9/media")
    assert outcome.streams == 0
    assert "stream was refused" in outcome.stream_errors[0]
    assert stack.posts("/twilio/stream-status")[0]["StreamEvent"] == "stream-error"


@pytest.mark.parametrize(
    "message",
    [
        "garbage",
        {"event": "sing"},
        {"event": "media", "streamSid": "other", "media": {"payload": ""}},
        {"event": "stop"},
    ],
)
async def test_a_server_that_breaks_the_protocol_loses_the_stream(stack_of, tmp_path, message):
    async def agent(peer):
        await peer.raw(message)
        await peer.socket.wait_closed()

    async with stack_of(agent) as stack:
        outcome = await call(stack, WAITS, tmp_path)
    assert "31924" in outcome.stream_errors[0]
    assert not outcome.ok


async def test_hanging_up_while_the_webhook_is_slow_ends_the_call(stack_of, tmp_path):
    """Between two streams the caller can hang up too: the clock goes on."""

    async def agent(peer):
        await peer.socket.close()

    pause = "<Response><Pause length='30'/></Response>"
    async with stack_of(agent, **{"/twilio/stream-ended": pause}) as stack:
        outcome = await call(stack, CallerScript("x", (HangUp(After(500)),)), tmp_path)
    assert outcome.ended_by == "caller"
    assert stack.posts("/twilio/status")


async def test_cancelling_a_call_leaves_no_task_and_no_socket(stack_of, tmp_path):
    async with stack_of(idle) as stack:
        before = asyncio.all_tasks()
        task = asyncio.create_task(call(stack, WAITS, tmp_path))
        await stack.connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stack.peers[0].socket.wait_closed()
        await asyncio.sleep(0.05)
        # The fake server's own connection handlers may still be closing.
        left = {t for t in asyncio.all_tasks() - before if "loadtest" in repr(t.get_coro()) and "fake" not in repr(t)}
    assert not left


async def test_many_calls_in_one_process(stack_of, tmp_path):
    async def agent(peer):
        await peer.play(tone(300))
        await idle(peer)

    progress = []
    scripts = [CallerScript(f"c{number}", (HangUp(AgentSilent(100)),)) for number in range(8)]
    async with stack_of(agent) as stack:
        outcomes = await place_calls(stack.target, scripts, tmp_path, rate_per_s=50, on_progress=progress.append)
    assert [outcome.script for outcome in outcomes] == [script.name for script in scripts]
    assert all(outcome.ok and outcome.wav.exists() for outcome in outcomes)
    assert len({outcome.call_sid for outcome in outcomes}) == 8
    assert len({outcome.wav for outcome in outcomes}) == 8
    assert {item.kind for item in progress} >= {"agent_speaks", "caller_hangs_up", "ended"}
    assert outcomes[0].measures.lateness_ms.count > 10


def test_a_slow_reader_loses_audio_but_does_not_stop_the_clock():
    class Wire:
        waiting_bytes = 0

        def __init__(self):
            self.sent = []

        def send(self, text):
            self.sent.append(messages.parse(text.decode()))

    wire = Wire()
    leg = MediaLeg(StreamIds("MZ1", "CA1", "AC1"))
    leg.open(wire, {})
    for size in (0, 10**6, 10**6, 0):
        wire.waiting_bytes = size
        leg.tick(b"\xff" * 160)
    assert leg.dropped_frames == 2
    assert [message.sequence for message in wire.sent[1:]] == [1, 2, 5], "the server can see that two are missing"
    assert leg.playout.ticks == 4
