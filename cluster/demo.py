"""``voice-agent demo``: one whole call on this machine, from nothing to a summary, with nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import statefile
from cluster.api import Api
from cluster.demo_report import Report, examine, write_files
from cluster.live import LiveView
from voice_agent.errors import VoiceAgentError

if TYPE_CHECKING:
    from cluster.statefile import StackState
    from loadtest.place import CallOutcome, CallProgress

COMPANY = "Harbor Street Bicycles"
_START_WITHIN_S = 180.0
_STOP_WITHIN_S = 45.0
_RECORDS_WITHIN_S = 8.0
_POLL_S = 0.3
_RELAY_LAG_S = 0.1
"""What the stack has said on standard error by the time it is ready is shown before the call begins."""

Tell = Callable[[str, str], None]
"""Called with (style, text) for each line that people see."""


class DemoFailedError(VoiceAgentError):
    """The demo did not show what it must show."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``script`` is the caller's; ``stack_arguments`` go to ``voice-agent up``."""

    script: Path
    data_dir: Path
    stack_arguments: tuple[str, ...] = ()
    check: bool = True


def run(options: DemoOptions, tell: Tell) -> Report:
    """Start a stack, place the call, report.

    Raises:
        DemoFailedError: the stack did not start, or the call was not what it must be.
        KeyboardInterrupt: Ctrl-C or SIGTERM; all processes have ended by then.
    """
    from loadtest.script import load_script

    script = load_script(options.script)
    with _terminating(), _stack(options, tell) as ready:
        state = statefile.require(options.data_dir)
        run_dir = Path(state.run_dir)
        tell("head", f"{script.name}: an emulated caller rings, in real time, over Twilio Media Streams")
        outcome = _place(state, options.script, run_dir, tell)
        if not outcome.streams:
            told = " ".join((outcome.reason, *outcome.said, *outcome.stream_errors))
            raise DemoFailedError(f"the call was not taken: {told}; logs are in {run_dir / 'logs'}")
        with Api(state) as api:
            call = _settled_call(api, outcome.call_sid)
    # The stack has ended: what the journal had to write is written.
    report = examine(outcome, call, simulated=ready["profile"] == "simulated")
    write_files(report, run_dir)
    return report


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _stack(options: DemoOptions, tell: Tell) -> Iterator[dict[str, Any]]:
    """A stack in a child process; it stops when the block ends, and also when this process is killed (the leash)."""
    tell("head", "starting the platform")
    command = [sys.executable, "-m", "cluster.cli", "up", "--leash", *_arguments(options)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert child.stderr is not None
    said: list[str] = []
    reader = threading.Thread(target=_relay, args=(child.stderr, said, tell), daemon=True)
    reader.start()
    try:
        yield _ready_line(child, said)
    finally:
        _end(child)
        reader.join(timeout=2.0)


def _arguments(options: DemoOptions) -> list[str]:
    import kb

    sets = {
        "data_dir": str(options.data_dir),
        "server.webhook_port": "0",
        "server.media_port": "0",
        "telemetry.metrics_port": "0",
        "server.public_url": "",
        "server.public_media_url": "",
        "agent.company": COMPANY,
        "calls.max_calls": "2",
        "calls.calls_per_actor": "1",
        "kb.sources": json.dumps([str(Path(kb.__path__[0]) / "sample")]),
    }
    arguments = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    return [*arguments, *options.stack_arguments]


def _relay(stream: Any, said: list[str], tell: Tell) -> None:
    for line in stream:
        said.append(line.rstrip())
        del said[:-40]
        tell("step", line.rstrip())


def _ready_line(child: subprocess.Popen[str], said: Sequence[str]) -> dict[str, Any]:
    assert child.stdout is not None
    timer = threading.Timer(_START_WITHIN_S, child.kill)
    timer.daemon = True
    timer.start()
    try:
        line = child.stdout.readline()
    finally:
        timer.cancel()
    if not line:
        child.wait(timeout=_STOP_WITHIN_S)
        reason = said[-1].strip() if said and child.returncode > 0 else f"exit status {child.returncode}"
        raise DemoFailedError(f"the platform did not start: {reason}; `voice-agent doctor` looks for the cause")
    time.sleep(_RELAY_LAG_S)
    ready: dict[str, Any] = json.loads(line)
    return ready


def _end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    try:
        child.stdin.close()
        child.wait(timeout=_STOP_WITHIN_S)
    except (KeyboardInterrupt, subprocess.TimeoutExpired, BrokenPipeError):
        # Its guard ends the rest.
        child.kill()
        child.wait()


def _place(state: StackState, script: Path, run_dir: Path, tell: Tell) -> CallOutcome:
    from cluster.commands.call import target_of
    from loadtest.place import place_call
    from loadtest.script import load_script

    follower = _Follower(state, tell)

    def progress(happened: CallProgress) -> None:
        follower.follow(happened.call_sid)
        if happened.kind in ("caller_says", "unanswered"):
            tell(happened.kind, f"{happened.at_ms / 1000:6.2f}  {happened.text_pii}")

    try:
        return asyncio.run(place_call(target_of(state), load_script(script), run_dir, progress))
    finally:
        follower.stop()


class _Follower:
    """Polls the live events of one call on a thread of its own: the emulated caller's clock must not be disturbed."""

    def __init__(self, state: StackState, tell: Tell) -> None:
        self._state = state
        self._tell = tell
        self._call_sid = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-view", daemon=True)

    def follow(self, call_sid: str) -> None:
        if not self._call_sid:
            self._call_sid = call_sid
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        view = LiveView()
        after = 0
        with Api(self._state) as api:
            while True:
                last_round = self._stop.wait(_POLL_S)
                with contextlib.suppress(VoiceAgentError):
                    answer = api.get(f"/api/calls/{self._call_sid}/events", after=after)
                    for entry in answer["events"]:
                        for line in view.feed(entry):
                            self._tell(line.who, f"{line.at_ms / 1000:6.2f}  {line.text}")
                    after = answer["next"]
                if last_round:
                    return


def _settled_call(api: Api, call_sid: str) -> dict[str, Any]:
    """The stored call, once its end is recorded."""
    deadline_s = time.monotonic() + _RECORDS_WITHIN_S
    while True:
        try:
            call: dict[str, Any] = api.get(f"/api/calls/{call_sid}")
        except VoiceAgentError:
            if time.monotonic() > deadline_s:
                raise
        else:
            if call["end_reason"] or time.monotonic() > deadline_s:
                return call
        time.sleep(0.2)
