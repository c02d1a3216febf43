"""``<data_dir>/stack.json``: how other commands find the stack of a data folder, and the lock that keeps it alone."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from voice_agent.errors import VoiceAgentError

_STATE = "stack.json"
_LOCK = "stack.lock"


class StackRunningError(VoiceAgentError):
    """Another stack runs on this data folder."""

    code = "stack_running"


class NoStackError(VoiceAgentError):
    """No stack runs on this data folder."""

    code = "no_stack"


@dataclass(frozen=True, slots=True)
class StackState:
    """A running stack, as its own file (mode 0600) tells it. URLs have no trailing slash.

    ``public_url`` is what Twilio signs, ``local_url`` is where this machine reaches the ingress. ``simulated``: one
    engine of a call at least is a latency profile instead of a model. ``ray_dashboard`` and ``ray_token_path`` are what
    `ray job submit` needs; empty where there is no dashboard, or no token.
    ``ray_address`` lets another command join the stack's Ray.
    """

    pid: int
    started: float
    run_id: str
    run_dir: str
    profile: str
    public_url: str
    local_url: str
    media_url: str
    local_media_url: str
    ray_namespace: str
    secret_api_key: str = field(repr=False)
    secret_auth_token: str = field(repr=False)
    simulated: bool = False
    ray_dashboard: str = ""
    ray_address: str = ""
    ray_token_path: str = ""


def state_path(data_dir: Path) -> Path:
    """Where the state of a stack on this data folder is."""
    return data_dir / _STATE


def write(data_dir: Path, state: StackState) -> None:
    """Write the state, readable by this user only, in one step."""
    path = state_path(data_dir)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(state), file)
    temporary.replace(path)


def remove_own(data_dir: Path) -> None:
    """Forget the stack of this process; that of another is left alone. Idempotent."""
    state = find(data_dir)
    if state is None or state.pid == os.getpid():
        state_path(data_dir).unlink(missing_ok=True)


def find(data_dir: Path) -> StackState | None:
    """The stack that runs on this data folder, or None. A file whose process is gone counts as none."""
    try:
        state = StackState(**json.loads(state_path(data_dir).read_text()))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, TypeError):
        return None
    return state if _alive(state) else None


def require(data_dir: Path) -> StackState:
    """The running stack.

    Raises:
        NoStackError: there is none.
    """
    state = find(data_dir)
    if state is None:
        raise NoStackError(f"no stack is running on {data_dir}; start one with `voice-agent up` (or give --data-dir)")
    return state


def _alive(state: StackState) -> bool:
    # A process id is used again after a while: the one that wrote the file existed before the file did.
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(state.pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= state.started + 1.0
    return False


class DataDirLock:
    """One stack per data folder. The kernel frees the lock of a process that was killed."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StackRunningError: another stack has it.
        """
        self._data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._data_dir / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            state = find(self._data_dir)
            who = f" (pid {state.pid}, {state.local_url})" if state else ""
            raise StackRunningError(
                f"another stack{who} uses {self._data_dir}; stop it, or give this one its own with --set data_dir=PATH"
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
