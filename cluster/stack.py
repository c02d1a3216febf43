"""One run of the platform on this machine: what is started, in which order, and how all of it ends.

    data folder locked -> run folder, ports, secrets -> guard
      -> Postgres, migrations, knowledge base   (a thread and a child process)  \\
      -> Ray                                    (main thread) -> actors || Serve apps -> ready

``start`` runs on the main thread: Ray's processes die with the thread that forked them. Whatever goes wrong, and at
whatever point, ``stop`` ends what was started by then; a stack whose process is killed is ended by its guard.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import checks, code, forking, ports, processes, statefile
from cluster.guard import Charge, Guard
from cluster.keeper import Keeper
from cluster.ray_local import RayCluster
from cluster.statefile import DataDirLock, StackState
from cluster.steps import Steps
from cluster.stores import StoresChild
from configs.process import settle
from configs.runtime import StackContext
from configs.settings import Settings
from voice_agent.errors import VoiceAgentError

if TYPE_CHECKING:
    from cluster.wiring import Wiring
    from storage.embedded import EmbeddedPostgres

_log = logging.getLogger(__name__)

_READY_TIMEOUT_S = 60.0
_STORES_STOP_TIMEOUT_S = 40.0


class NotReadyError(VoiceAgentError):
    """The stack started, but did not become ready."""

    code = "not_ready"
    retryable = True


@dataclass(frozen=True, slots=True)
class Ready:
    """What ``voice-agent up`` prints when calls may come."""

    state: StackState
    pids: dict[str, list[int]]
    times_s: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The ready line. No secret is in it: they are in ``<data_dir>/stack.json``."""
        return {
            "ready": True,
            "webhook_url": f"{self.state.public_url}/twilio/voice",
            "media_url": self.state.media_url,
            "api": f"{self.state.local_url}/api",
            "local_url": self.state.local_url,
            "run_dir": self.state.run_dir,
            "profile": self.state.profile,
            "ray_dashboard": self.state.ray_dashboard,
            "ray_token_path": self.state.ray_token_path,
            "pids": self.pids,
            "start_s": self.times_s,
        }


class Stack:
    """Starts and stops one stack. Not reusable."""

    def __init__(self, settings: Settings, steps: Steps) -> None:
        self._steps = steps
        self._settings = checks.with_whole_paths(settings)
        self._data_dir = settings.data_dir.absolute()
        self._lock = DataDirLock(self._data_dir)
        self._ray = RayCluster(self._settings)
        self._postgres: EmbeddedPostgres | None = None
        self._keeper: Keeper | None = None
        self._guard: Guard | None = None
        self._wiring: Wiring | None = None
        self._stores: Future[str] | None = None
        self._child: StoresChild | None = None
        self._given_up = threading.Event()
        self._run_dir: Path | None = None
        self._mark = ""

    def start(self) -> Ready:
        """Start everything and wait until calls may come.

        Raises:
            VoiceAgentError: something cannot run; what was started so far is ended by ``stop``.
        """
        began_s = time.monotonic()
        checks.check(self._settings)
        # The lock comes first: a stack that runs on this folder holds the ports as well, and is the better answer.
        self._lock.acquire()
        self._settings = _with_secrets_and_ports(self._settings)
        run_id = _new_run_id()
        self._run_dir = self._settings.runs_dir.absolute() / run_id
        self._run_dir.mkdir(parents=True)
        self._mark = processes.new_mark(run_id)
        os.environ[processes.MARK] = self._mark
        self._ray.prepare(self._settings.server)
        self._guard = Guard(self._charge())
        self._stores = _in_thread(self._start_stores, "stores")
        with self._steps.step("ray"):
            self._ray.start()
        dsn = self._stores.result()
        if self._postgres is not None:
            self._keeper = Keeper(self._postgres)
            self._keeper.start()
        context = self._context(run_id, dsn)
        from cluster.wiring import Wiring

        self._wiring = Wiring(context, self._steps)
        self._wiring.start()
        state = self._state(context)
        with self._steps.step("ready check"):
            _await_ready(state.local_url)
        statefile.write(self._data_dir, state)
        self._steps.times_s["total"] = round(time.monotonic() - began_s, 3)
        settle()
        pids = self.pids()
        if self._ray.forks_workers and forking.KIND not in pids:
            _log.warning(
                "no fork server runs: each worker takes 60 MB more and a second to start; Ray's raylet.err says why"
            )
        return Ready(state, pids, dict(self._steps.times_s))

    def look(self) -> None:
        """Mend what only the process of the stack can mend; to be called on the main thread, again and again.

        Raises:
            RayDiedError: the stack's Ray is gone for good.
        """
        self._ray.look()

    def pids(self) -> dict[str, list[int]]:
        """Process ids of the stack by kind, this process as ``cli``."""
        kinds = processes.by_kind(processes.marked(self._mark))
        kinds["cli"] = [os.getpid()]
        if self._guard is not None:
            kinds["guard"] = [self._guard.pid]
        return kinds

    def stop(self) -> None:
        """End everything that was started, in order: calls, records, models, Ray, Postgres. Idempotent."""
        statefile.remove_own(self._data_dir)
        if self._wiring is not None:
            with self._steps.step("calls ended, records written"):
                self._wiring.stop()
            self._wiring = None
        with self._steps.step("ray stopped"):
            self._ray.stop(logs_to=None if self._run_dir is None else self._run_dir / "logs" / "ray")
        self._stop_stores()
        # Nothing should be left here; what is, must not outlive the stack.
        if self._mark:
            left = [one for one in processes.marked(self._mark) if processes.kind_of(one) not in ("postgres", "guard")]
            processes.end(left, grace_s=2.0)
        if self._guard is not None:
            self._guard.release()
            self._guard = None
        self._lock.release()

    def _charge(self) -> Charge:
        return Charge(
            mark=self._mark,
            data_dir="" if self._settings.storage.dsn else str(self._data_dir),
            state_file=str(statefile.state_path(self._data_dir)),
            folders=tuple(str(folder) for folder in self._ray.folders),
        )

    def _start_stores(self) -> str:
        """Postgres, its schema, the knowledge base. Runs beside the start of Ray. Returns the DSN."""
        dsn = self._settings.storage.dsn
        if not dsn:
            from storage.embedded import EmbeddedPostgres

            with self._steps.step("postgres"):
                self._postgres = EmbeddedPostgres(self._data_dir)
                dsn = self._postgres.start()
        if self._given_up.is_set():
            raise NotReadyError("the start was given up")
        with self._steps.step("schema and knowledge base"):
            self._child = StoresChild(self._settings, self._data_dir, dsn)
            self._child.wait(self._steps.line)
        return dsn

    def _stop_stores(self) -> None:
        self._given_up.set()
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        if self._child is not None:
            self._child.stop()
        if self._stores is not None:
            # Its own failure was raised in `start`, or is of no interest once the start was given up.
            with contextlib.suppress(VoiceAgentError, OSError, TimeoutError, ValueError):
                self._stores.result(timeout=_STORES_STOP_TIMEOUT_S)
            self._stores = None
        if self._postgres is not None:
            with self._steps.step("postgres stopped"):
                self._postgres.stop()
            self._postgres = None

    def _context(self, run_id: str, dsn: str) -> StackContext:
        server = self._settings.server
        assert self._run_dir is not None
        return StackContext(
            settings=self._settings,
            run_id=run_id,
            run_dir=self._run_dir,
            data_dir=self._data_dir,
            dsn=dsn,
            link_secret=secrets.token_urlsafe(32),
            stream_token_secret=secrets.token_urlsafe(32),
            api_key=server.api_key,
            webhook_url=(server.public_url or _local_url(server.host, server.webhook_port)).rstrip("/"),
            code=code.installed(),
            media_url=server.public_media_url or _local_media_url(server.host, server.media_port),
        )

    def _state(self, context: StackContext) -> StackState:
        server = self._settings.server
        return StackState(
            pid=os.getpid(),
            started=time.time(),
            run_id=context.run_id,
            run_dir=str(context.run_dir),
            profile=self._settings.profile,
            public_url=context.webhook_url,
            local_url=_local_url(server.host, server.webhook_port),
            media_url=context.media_url,
            local_media_url=_local_media_url(server.host, server.media_port),
            ray_namespace=self._settings.ray.namespace,
            secret_api_key=context.api_key,
            secret_auth_token=self._settings.twilio.auth_token,
            simulated=simulated(self._settings),
            ray_dashboard=self._ray.dashboard_url,
            ray_token_path=str(self._ray.token_path or ""),
            ray_address=self._ray.address,
        )


def simulated(settings: Settings) -> bool:
    """Whether an engine of a call is a latency profile instead of a model."""
    return "simulated" in (settings.stt.engine, settings.llm.engine, settings.tts.engine)


def _with_secrets_and_ports(settings: Settings) -> Settings:
    """Free ports for 0, an API key, and an auth token for emulated calls when Twilio's is not given."""
    server = settings.server
    webhook = ports.resolve(server.host, server.webhook_port, "server.webhook_port")
    media = ports.resolve_row(server.host, server.media_port, "server.media_port", settings.media.gateways)
    metrics = ports.resolve("127.0.0.1", settings.telemetry.metrics_port, "telemetry.metrics_port")
    return settings.model_copy(
        update={
            "server": server.model_copy(
                update={
                    "webhook_port": webhook,
                    "media_port": media,
                    "api_key": server.api_key or secrets.token_urlsafe(24),
                }
            ),
            "telemetry": settings.telemetry.model_copy(update={"metrics_port": metrics}),
            "twilio": settings.twilio.model_copy(
                update={"auth_token": settings.twilio.auth_token or secrets.token_hex(16)}
            ),
        }
    )


def _new_run_id() -> str:
    return f"{datetime.now(UTC).astimezone():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def _local_url(host: str, port: int) -> str:
    return f"http://{_reachable(host)}:{port}"


def _local_media_url(host: str, port: int) -> str:
    from actors.gateway.twilio_leg import MEDIA_PATH

    return f"ws://{_reachable(host)}:{port}{MEDIA_PATH}"


def _in_thread(work: Callable[[], str], name: str) -> Future[str]:
    """Run ``work`` on a daemon thread: a start that is given up must not wait for it at exit."""
    future: Future[str] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the future carries it to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _await_ready(local_url: str) -> None:
    import httpx

    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    last = "no answer"
    with httpx.Client(base_url=local_url, timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline_s:
            try:
                answer = client.get("/readyz")
            except httpx.HTTPError as error:
                last = str(error)
            else:
                if answer.is_success:
                    return
                last = answer.text[:500]
            time.sleep(0.1)
    raise NotReadyError(f"the stack is not ready after {_READY_TIMEOUT_S:.0f} s: {last}")
