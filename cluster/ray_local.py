"""Ray for one stack: a private local cluster with its own folder, token and ports, or a connection to a given one.

The local cluster is made by ``ray.init`` in the process that runs the stack, on its main thread: the GCS and the raylet
then carry a parent-death signal, so the kernel ends them with that process, whatever ended it, and workers end with
their raylet. ``ray stop`` is never used: it would end every Ray on the machine.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from actors.dispatch.pool import surge
from cluster import forking, head_watch, ports, processes
from cluster.front_door import FrontDoor
from cluster.head_watch import HeadWatch, LocalHead
from configs import main_thread
from configs.settings import ServerSettings, Settings, StageSettings
from voice_agent.errors import ConfigError, VoiceAgentError

CALL_SLOT = "call_slot"
"""Custom Ray resource: one call. Actors without any resource do not keep a node from being judged idle."""

_TEMP_PREFIX = "va-"
_TEMP_PATH_MAX = 40
"""Ray puts Unix sockets up to 66 bytes below its folder; their paths end at 107."""

_OBJECT_STORE_BYTES = 128 * 2**20
_SYSTEM_CPUS = 0.8
"""For the dispatcher, the journal and the ingress; each gateway takes ``_GATEWAY_CPUS``."""
_GATEWAY_CPUS = 0.2
_PACKAGE_KEPT_S = 7 * 24 * 3600

_IDLE_HELPERS = ("ray_monitor", "ray_log_monitor", "ray_dashboard")
"""Ray starts them in any case: the autoscaler of a cluster that does not grow, a reader of logs for a driver that
prints none, a dashboard without pages. 60 MB each."""


class RayStartError(VoiceAgentError):
    """Ray did not come up."""

    code = "ray_start"
    retryable = True


@dataclass(frozen=True, slots=True)
class ClusterSize:
    """Logical resources of a local cluster: what the profile's processes reserve, not what the machine has."""

    num_cpus: int
    call_slots: int
    processes: int


def cluster_size(settings: Settings) -> ClusterSize:
    """What the profile reserves, actors of new code that a deploy starts beside the old included.

    ``settings.ray.num_cpus`` overrides the CPUs.
    """
    stages = (settings.stt, settings.llm, settings.tts, settings.retriever)
    calls = settings.calls
    hosts = math.ceil(calls.max_calls / calls.calls_per_actor) + calls.spare_actors
    more = surge(hosts)
    reserved = sum(_replicas(stage) * stage.num_cpus for stage in stages) + _SYSTEM_CPUS
    reserved += (hosts + more) * calls.num_cpus
    reserved += settings.media.gateways * _GATEWAY_CPUS
    reserved += settings.tools.replicas * settings.tools.num_cpus
    return ClusterSize(
        num_cpus=settings.ray.num_cpus or math.ceil(reserved),
        call_slots=(hosts + more) * calls.calls_per_actor,
        processes=hosts
        + sum(_replicas(stage) for stage in stages)
        + settings.tools.replicas
        + settings.media.gateways
        + 5,
    )


def _replicas(stage: StageSettings) -> int:
    return max(stage.replicas, stage.max_replicas)


def stack_environment(settings: Settings, size: ClusterSize) -> dict[str, str]:
    """Flags that every Ray process of the stack needs. A value already in the environment wins over these."""
    workers = str(min(size.processes, 2 * (os.cpu_count() or 1) + 2))
    return {
        "RAY_AUTH_MODE": settings.ray.auth,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **processes.ONE_THREAD,
        **processes.FEW_HEAPS,
        # Halves the cost of a request: one event loop per replica, gRPC between caller and replica.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # It would open a port per replica and make a shutdown wait 30 s for connections that nobody has.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
        "RAY_SERVE_QUEUE_LENGTH_CACHE_TIMEOUT_S": "60",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # What a replica's engine prints goes to Serve's log, which holds back a thousand lines otherwise.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        # The thread that waits for results reads the sockets itself, instead of being woken by one that does.
        "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
        # An idle stack should cost little: the defaults wake the controller, and every process that has a handle,
        # ten times a second. A dead replica is found by its callers, not by these loops.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.4",
        # A dead HTTP proxy, for which all webhooks wait, is missed after three looks: here each other turn of the
        # controller's loop, by default every ten seconds.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.2",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        # The default, 15, starves calls as soon as anything else runs on the node.
        "RAY_worker_niceness": "0",
        "RAY_worker_maximum_startup_concurrency": workers,
        "RAY_num_workers_soft_limit": workers,
        "RAY_prestart_worker_first_driver": "0",
        # Ray's own figures are for its dashboard: without it none are collected, and the agent walks all processes of
        # the node less often. At half the interval, collected or not, the GCS writes six counters to its tables, whose
        # newest part is in memory: 0.5 KB a second. The log monitor lists all log files ten times a second for a driver
        # that does not print them.
        "RAY_enable_metrics_collection": "1" if settings.ray.dashboard else "0",
        "RAY_metrics_report_interval_ms": "10000" if settings.ray.dashboard else "3600000",
        "REPORTER_UPDATE_INTERVAL_MS": "30000" if settings.ray.dashboard else "60000",
        "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
        "LOG_NAME_UPDATE_INTERVAL_S": "30",
        # Nobody reads the history of tasks, and every request would write to it.
        "RAY_task_events_report_interval_ms": "0",
        "RAY_health_check_initial_delay_ms": "5000",
        "RAY_health_check_period_ms": "2000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "4",
    }


class RayCluster:
    """Starts and stops Ray for one stack.

    ``prepare`` must run before anything imports ray: the flags are read at import. ``start`` must run on the main
    thread: the parent-death signal follows the thread that forked.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._size = cluster_size(settings)
        self._temp_dir: Path | None = None
        self._fork_dir: Path | None = None
        self._door: FrontDoor | None = None
        self._started = False
        self._dashboard = ""
        self._watch: HeadWatch | None = None

    @property
    def temp_dir(self) -> Path | None:
        """Ray's folder: sockets, logs, the token. None when the cluster is not ours."""
        return self._temp_dir

    @property
    def folders(self) -> tuple[Path, ...]:
        """What is to be removed at the end; nothing when the cluster is not ours."""
        return tuple(folder for folder in (self._temp_dir, self._fork_dir) if folder is not None)

    @property
    def address(self) -> str:
        """Where another process finds this Ray; empty before ``start``."""
        if not self._started:
            return ""
        import ray

        return str(ray.get_runtime_context().gcs_address)

    @property
    def token_path(self) -> Path | None:
        """The file with the token of a local cluster that wants one."""
        wanted = self._temp_dir is not None and self._settings.ray.auth == "token"
        return self._temp_dir / "token" if wanted and self._temp_dir is not None else None

    @property
    def dashboard_url(self) -> str:
        """Where a local cluster's dashboard is; empty where there is none."""
        return f"http://{self._dashboard}" if self._dashboard else ""

    @property
    def local(self) -> bool:
        """Whether this stack starts the cluster itself."""
        return not self._settings.ray.address

    @property
    def forks_workers(self) -> bool:
        """Whether workers are forked from a server, see `cluster.forking`."""
        return self.local and self._settings.ray.fork_workers and forking.possible()

    def prepare(self, server: ServerSettings) -> None:
        """Make the folder and the token, open the front door, and set the flags in this process's environment.

        Args:
            server: where webhooks come in, with the port that was chosen.

        Raises:
            ConfigError: no short enough folder for Ray's Unix sockets can be made, or the port of webhooks is taken.
            RayStartError: ray is imported already.
        """
        for key, value in stack_environment(self._settings, self._size).items():
            os.environ.setdefault(key, value)
        os.environ["RAY_AUTH_MODE"] = self._settings.ray.auth
        if not self.local:
            return
        if "ray" in sys.modules:
            raise RayStartError("ray was imported before its flags were set: no module may import it at the top here")
        self._temp_dir = _short_temp_dir()
        os.environ["AUTOSCALER_METRIC_PORT"] = str(ports.free_port())
        os.environ["DASHBOARD_METRIC_PORT"] = str(ports.free_port())
        # Not below Ray's folder: Ray lets everybody write there.
        self._fork_dir = _short_temp_dir()
        os.environ[forking.FOLDER] = str(self._fork_dir)
        self._door = FrontDoor(server.host, server.webhook_port, self._fork_dir)
        head_watch.keep_on_disk(self._temp_dir / "gcs")
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.pop("RAY_AUTH_TOKEN", None)
        if self._settings.ray.auth == "token":
            token_path = self._temp_dir / "token"
            descriptor = os.open(token_path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as token_file:
                token_file.write(secrets.token_hex(32))
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_path)

    def start(self) -> None:
        """Start the local cluster, or connect to ``settings.ray.address``.

        Raises:
            RayStartError: Ray did not come up, or the cluster did not answer.
        """
        import ray

        # What half of a start has left behind goes with `stop`, so it counts as started from here on.
        self._started = True
        if self.forks_workers:
            forking.adopt()
        try:
            started = ray.init(**self._options())
        except (RuntimeError, ConnectionError, OSError, ValueError, TimeoutError) as error:
            where = f"the cluster at {self._settings.ray.address}" if not self.local else "a local Ray"
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RayStartError(f"could not start or reach {where}: {first}") from error
        if not self.local:
            return
        self._watch = HeadWatch(LocalHead(), persistent=head_watch.on_disk())
        if self._settings.ray.dashboard:
            self._dashboard = started.dashboard_url or ""
        else:
            _end_idle_helpers()

    def look(self) -> None:
        """Start a dead GCS of a local cluster again; on the main thread, as ``start``.

        Raises:
            RayDiedError: the cluster is gone for good.
        """
        if self._watch is not None:
            self._watch.look()

    def _options(self) -> dict[str, Any]:
        common: dict[str, Any] = {
            "namespace": self._settings.ray.namespace,
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": logging.ERROR,
        }
        environment = {"worker_process_setup_hook": main_thread.INSTALL}
        if not self.local:
            return common | {"address": self._settings.ray.address, "runtime_env": environment}
        if self.forks_workers:
            environment["py_executable"] = forking.python()
        return common | {
            "runtime_env": environment,
            "address": "local",
            "num_cpus": self._size.num_cpus,
            "resources": {CALL_SLOT: self._size.call_slots},
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": self._settings.ray.dashboard,
            "dashboard_port": self._settings.ray.dashboard_port or None,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(self._temp_dir),
        }

    def stop(self, *, logs_to: Path | None = None) -> None:
        """Stop what ``start`` began and remove Ray's folder; its logs are moved to ``logs_to``. Idempotent."""
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._started:
            import ray

            ray.shutdown()
            self._started = False
        if self._temp_dir is not None:
            if logs_to is not None:
                keep_logs(self._temp_dir, logs_to)
            shutil.rmtree(self._temp_dir, ignore_errors=True)
            self._temp_dir = None
        if self._fork_dir is not None:
            shutil.rmtree(self._fork_dir, ignore_errors=True)
            self._fork_dir = None


def _end_idle_helpers() -> None:
    """Kill those that Ray has started from this process: the autoscaler would report a SIGTERM as its failure."""
    helpers = [one for one in psutil.Process().children() if processes.kind_of(one) in _IDLE_HELPERS]
    for helper in helpers:
        with contextlib.suppress(psutil.NoSuchProcess):
            helper.kill()
    psutil.wait_procs(helpers, timeout=2.0)


def join(settings: Settings, address: str, token_path: str, working_dir: Path | None) -> str:
    """Connect this process to a running stack's Ray; call before anything imports ray.

    Args:
        settings: of that stack.
        address: its GCS.
        token_path: the file with its token; empty where it asks for none, or where the environment has it.
        working_dir: code to put into the cluster, if any.

    Returns:
        URI of that code in the cluster; empty without.

    Raises:
        RayStartError: the cluster did not answer.
    """
    os.environ.update(stack_environment(settings, cluster_size(settings)))
    # A package is kept while an actor uses it, and as long again so that its deploy can be rolled back.
    os.environ["RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S"] = str(_PACKAGE_KEPT_S)
    if token_path:
        os.environ["RAY_AUTH_TOKEN_PATH"] = token_path
    import ray

    environment = {} if working_dir is None else {"working_dir": str(working_dir)}
    try:
        ray.init(
            address=address,
            namespace=settings.ray.namespace,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            runtime_env=environment,
        )
    except (RuntimeError, ConnectionError, OSError, ValueError, TimeoutError) as error:
        raise RayStartError(f"could not reach the stack's Ray at {address}: {error}") from error
    return str(ray.get_runtime_context().runtime_env.get("working_dir", ""))


def keep_logs(temp_dir: Path, target: Path) -> None:
    """Move Ray's logs out of its folder, so that a failed start can be looked into. Nothing to move is no error."""
    logs = temp_dir / "session_latest" / "logs"
    if not logs.is_dir() or target.exists():
        return
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(logs, target, symlinks=True, ignore_dangling_symlinks=True)


def _short_temp_dir() -> Path:
    for root in (tempfile.gettempdir(), "/tmp"):
        if len(root) + len(_TEMP_PREFIX) + 9 > _TEMP_PATH_MAX:
            continue
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir=root))
    raise ConfigError(
        f"Ray needs a writable folder for its sockets with a path under {_TEMP_PATH_MAX} characters; set TMPDIR"
    )
