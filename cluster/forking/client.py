"""Stands in for Python when Ray starts a worker: asks the fork server for one, and ends.

Ray runs it as ``py_executable``, with what a worker is started with: script, arguments, environment, folder, standard
streams. It runs without ``site`` and imports nothing but the standard library, because it is started for each worker.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import time

FOLDER = "VOICE_AGENT_FORK_DIR"
"""Environment variable: the folder of the servers' sockets, which nobody else may enter."""

_ANSWER_S = 30.0
_START_S = 60.0


def socket_path(folder: str) -> str:
    """Where the server for workers with this code listens. Other code (a deployed version) has a server of its own."""
    code = "\0".join((sys.executable, os.environ.get("PYTHONPATH", ""), os.getcwd()))
    return os.path.join(folder, f"fork-{hashlib.sha256(code.encode()).hexdigest()[:12]}")


def same_user(link: socket.socket) -> bool:
    """Whether the other end of a Unix socket is a process of this user."""
    _, user, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.geteuid())


def ask(path: str, argv: list[str]) -> bool:
    """Have a worker forked; False where no server of this user listens, or it ends meanwhile.

    Raises:
        TimeoutError: it may fork the worker yet, so nobody else may start it.
    """
    request = json.dumps({"argv": argv, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    streams = array.array("i", [0, 1, 2])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_ANSWER_S)
        try:
            link.connect(path)
            if not same_user(link):
                return False
            link.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            link.sendall(request)
            return link.recv(1) == b"."
        except TimeoutError:
            raise
        except OSError:
            return False


def start_server(path: str, argv: list[str]) -> bool:
    """Start a server and wait until it listens; False where it ends instead, and then for good.

    The arguments of a worker follow its own: a worker writes its title over the memory of its arguments, and without
    room there it would write over its environment, by which a stack knows its processes.
    """
    for left in (path, f"{path}.new"):
        if os.path.exists(left):
            os.unlink(left)
    command = [sys.executable, "-P", "-m", "cluster.forking.server", path, *argv]
    server = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + _START_S
    while not os.path.exists(path):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            with open(failed_path(path), "w"):
                return False
        time.sleep(0.02)
    return True


def failed_path(path: str) -> str:
    """The file that says that no server can run for this code: workers need not try one after the other."""
    return f"{path}.failed"


def fork(argv: list[str]) -> bool:
    """Have a worker forked, by a new server if need be; False where that cannot be."""
    folder = os.environ.get(FOLDER, "")
    if not os.path.isdir(folder):
        return False
    path = socket_path(folder)
    if ask(path, argv):
        return True
    with open(f"{path}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(failed_path(path)):
            return False
        return ask(path, argv) or (start_server(path, argv) and ask(path, argv))


def main() -> None:
    """Start one worker."""
    argv = sys.argv[1:]
    try:
        forked = fork(argv)
    except TimeoutError:
        sys.exit("voice-agent: the fork server does not answer; Ray starts another worker in place of this one")
    if not forked:
        print("voice-agent: no fork server, so this worker imports all by itself", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, *argv])


if __name__ == "__main__":
    main()
