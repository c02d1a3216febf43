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
import subprocess
import sys
import time

FOLDER = "VOICE_AGENT_FORK_DIR"
"""Environment variable: the folder of the servers' sockets."""

_ANSWER_S = 30.0
_START_S = 60.0


def socket_path() -> str:
    """Where the server for workers with this code listens. Other code (a deployed version) has a server of its own."""
    code = "\0".join((sys.executable, os.environ.get("PYTHONPATH", ""), os.getcwd()))
    return os.path.join(os.environ[FOLDER], f"fork-{hashlib.sha256(code.encode()).hexdigest()[:12]}")


def ask(path: str, argv: list[str]) -> bool:
    """Have a worker forked; False where no server listens or it does not answer."""
    request = json.dumps({"argv": argv, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    streams = array.array("i", [0, 1, 2])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_ANSWER_S)
        try:
            link.connect(path)
            link.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            link.sendall(request)
            return link.recv(1) == b"."
        except OSError:
            return False


def start_server(path: str, argv: list[str]) -> bool:
    """Start a server and wait until it listens; False where it ends instead.

    The arguments of a worker follow its own: a worker writes its title over the memory of its arguments, and without
    room there it would write over its environment, by which a stack knows its processes.
    """
    if os.path.exists(path):
        os.unlink(path)
    command = [sys.executable, "-P", "-m", "cluster.forking.server", path, *argv]
    server = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + _START_S
    while not os.path.exists(path):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            return False
        time.sleep(0.02)
    return True


def main() -> None:
    """Start one worker."""
    path, argv = socket_path(), sys.argv[1:]
    if ask(path, argv):
        return
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        forked = ask(path, argv) or (start_server(path, argv) and ask(path, argv))
    if not forked:
        print("voice-agent: no fork server, so this worker imports all by itself", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, *argv])


if __name__ == "__main__":
    main()
