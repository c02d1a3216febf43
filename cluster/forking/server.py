"""Imports what a worker of Ray imports, once, and forks a worker whenever one is asked for.

A worker of its own takes a second of CPU and 80 MB for what it imports before the first line of ours. A forked one
shares those pages with all others until it writes to them, and starts in a few milliseconds. Nothing that is alive may
be in the server when it forks: no thread, no connection, and no random number that two workers would both use.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any, Final

from cluster.forking.client import same_user

_RECEIVE_S: Final = 5.0

PRELOAD: Final = (
    "ray.serve._private.replica",
    "ray.serve._private.proxy",
    "ray.serve._private.controller",
    "ray.serve._private.router",
    "uvloop",
    "actors.call.actor",
    "actors.gateway.gateway",
    "actors.dispatch.dispatcher",
    "actors.dispatch.ray_cluster",
    "actors.journal.journal",
    "actors.remote",
    "serve_apps.build",
    "serve_apps.ingress",
)
"""What calls, their engines and Serve have in common. No engine: a worker of an engine imports its own."""


class NotForkableError(Exception):
    """Workers that are forked from this process would get in one another's way."""


@dataclass(frozen=True, slots=True)
class Request:
    """The worker to become. ``streams`` are its standard streams, as descriptors of the server."""

    argv: list[str]
    environment: dict[str, str]
    folder: str
    streams: tuple[int, ...]


def preload() -> None:
    """Import all, and take it out of garbage collections, which would write to every page.

    Raises:
        NotForkableError: something has started a thread, or drawn a random number in Ray's core.
    """
    import ray.actor

    module: Any = ray.actor
    known = module.ActorClassID

    class Kernel:
        """Draws ids of classes from the kernel: Ray's own generator, once used, would go on alike in each worker."""

        @staticmethod
        def from_random() -> Any:
            return known(os.urandom(known.size()))

    module.ActorClassID = Kernel
    try:
        for name in PRELOAD:
            importlib.import_module(name)
    finally:
        module.ActorClassID = known
    gc.collect()
    gc.freeze()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise NotForkableError(f"an import has started {threads - 1} threads")
    if _drawn_in_a_fork() == _drawn_in_a_fork():
        raise NotForkableError("an import has drawn a random id: two workers would draw the same")


def _drawn_in_a_fork() -> bytes:
    from ray import WorkerID

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, WorkerID.from_random().binary())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as drawn:
        return drawn.read()


def serve(path: str, raylet: int) -> Request | None:
    """Fork workers until the raylet, a pidfd, has ended. Returns None then, and in each worker what it is to become."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{path}.new")
    listener.listen(128)
    os.rename(f"{path}.new", path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listener.fileno(), raylet], [], [])
        if raylet in ready:
            return None
        link, _ = listener.accept()
        with link:
            link.settimeout(_RECEIVE_S)
            request = _receive(link) if same_user(link) else None
            if request is None:
                continue
            if os.fork() == 0:
                listener.close()
                os.close(raylet)
                return request
            for stream in request.streams:
                os.close(stream)
            with contextlib.suppress(OSError):  # who asked has ended
                link.sendall(b".")


def _receive(link: socket.socket) -> Request | None:
    """Read a request; None where the one who asks has ended meanwhile, or stands still."""
    streams = array.array("i")
    whole, text = 0, b""
    with contextlib.suppress(OSError):
        size, rights, _, _ = link.recvmsg(4, socket.CMSG_SPACE(3 * streams.itemsize))
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                streams.frombytes(data)
        whole = int.from_bytes(size, "big")
        with link.makefile("rb") as body:
            text = body.read(whole)
    if not whole or len(text) < whole:
        for stream in streams:
            os.close(stream)
        return None
    told = json.loads(text)
    return Request(told["argv"], told["environment"], told["folder"], tuple(streams))


def become(request: Request) -> None:
    """Be the worker that was asked for, to its end."""
    # With a worker Ray ends its whole group of processes, so each has a group of its own, as one that Ray has started.
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv = request.argv
    sys.path.insert(0, os.path.dirname(request.argv[0]))
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    runpy.run_path(request.argv[0], run_name="__main__")


def main() -> None:
    """Serve the socket that the first argument names."""
    raylet = os.pidfd_open(int(os.environ["RAY_RAYLET_PID"]))
    preload()
    request = serve(sys.argv[1], raylet)
    if request is not None:
        become(request)


if __name__ == "__main__":
    main()
