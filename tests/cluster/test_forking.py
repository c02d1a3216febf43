"""Workers that are forked: each is what Ray asked for, none shares what must be its own, and no server is no harm."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster import forking
from cluster.processes import ONE_THREAD

pytestmark = pytest.mark.skipif(not forking.possible(), reason="the fork server needs Linux")

WORKER = """
import importlib.util, json, os, random, sys, uuid
import numpy
from ray import WorkerID
told = {
    "argv": sys.argv, "mark": os.environ["MARK"], "folder": os.getcwd(), "path": sys.path[0], "parent": os.getppid(),
    "alone": os.getpgrp() == os.getpid(),
    "ids": [WorkerID.from_random().hex(), random.random(), float(numpy.random.random()), uuid.uuid4().hex],
    "beside": importlib.util.find_spec("beside_pythonpath") is not None,
    "preloaded": "ray.serve._private.replica" in sys.modules,
}
with open(sys.argv[1] + ".new", "w") as out:
    json.dump(told, out)
os.rename(sys.argv[1] + ".new", sys.argv[1])
print("a worker's words")
"""


@dataclass
class Place:
    """A folder with a worker's script, and a process in the part of the raylet."""

    folder: Path
    raylet: subprocess.Popen[bytes]

    def start(self, name: str, **environment: str) -> dict[str, object]:
        """Start a worker as Ray does, and return what it tells."""
        out = self.folder / name
        ended = subprocess.run(
            [*shlex.split(forking.python()), str(self.folder / "worker.py"), str(out)],
            env=os.environ
            | ONE_THREAD
            | {forking.FOLDER: str(self.folder), "RAY_RAYLET_PID": str(self.raylet.pid), "MARK": name}
            | environment,
            cwd=self.folder,
            stdout=(self.folder / f"{name}.out").open("wb"),
            stderr=(self.folder / f"{name}.err").open("wb"),
            timeout=120,
            check=True,
        )
        assert ended.returncode == 0
        deadline = time.monotonic() + 60
        while not out.exists():
            assert time.monotonic() < deadline, self.said(name)
            time.sleep(0.02)
        told: dict[str, object] = json.loads(out.read_text())
        return told

    def said(self, name: str, stream: str = "err") -> str:
        """What a worker wrote to a standard stream."""
        return (self.folder / f"{name}.{stream}").read_text()

    def servers(self) -> list[psutil.Process]:
        """Living servers of this folder. Their workers, which keep no title here, look like them."""
        alike = {
            one.pid: one
            for one in psutil.process_iter(["cmdline", "ppid"])
            if "cluster.forking.server" in (one.info["cmdline"] or ()) and str(self.folder) in str(one.info["cmdline"])
        }
        return [one for one in alike.values() if one.info["ppid"] not in alike]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "worker.py").write_text(WORKER)
    raylet = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    place = Place(tmp_path, raylet)
    yield place
    raylet.kill()
    raylet.wait()
    _, alive = psutil.wait_procs(place.servers(), timeout=20)
    assert alive == [], "a server ends with its raylet"


def test_a_worker_is_what_was_asked_for_and_shares_no_random_number(place: Place) -> None:
    first, second = place.start("first"), place.start("second")
    (server,) = place.servers()
    assert first["argv"] == [str(place.folder / "worker.py"), str(place.folder / "first")]
    assert (first["mark"], second["mark"]) == ("first", "second")
    assert first["folder"] == first["path"] == str(place.folder)
    assert first["parent"] == second["parent"] == server.pid
    assert first["preloaded"] is second["preloaded"] is True
    assert first["alone"], "Ray ends the group of a worker with it"
    assert isinstance(first["ids"], list)
    assert isinstance(second["ids"], list)
    assert not set(first["ids"]) & set(second["ids"])
    deadline = time.monotonic() + 20
    while place.said("second", "out") != "a worker's words\n":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_was_killed_is_started_again(place: Place) -> None:
    place.start("first")
    (server,) = place.servers()
    server.send_signal(signal.SIGKILL)
    server.wait(20)
    second = place.start("second")
    (again,) = place.servers()
    assert second["parent"] == again.pid != server.pid


def test_other_code_has_a_server_of_its_own(place: Place) -> None:
    (place.folder / "more").mkdir()
    (place.folder / "more" / "beside_pythonpath.py").touch()
    first, other = place.start("first"), place.start("other", PYTHONPATH=str(place.folder / "more"))
    assert first["parent"] != other["parent"]
    assert (first["beside"], other["beside"]) == (False, True)
    assert len(place.servers()) == 2


def test_without_a_server_a_worker_imports_by_itself_and_says_so(place: Place) -> None:
    # A library that starts a thread when it is imported: a process forked beside it might wait for its locks for ever.
    (place.folder / "sitecustomize.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    told = place.start("first", PYTHONPATH=str(place.folder))
    assert told["preloaded"] is False
    assert "an import has started 1 threads" in place.said("first")
    assert "no fork server, so this worker imports all by itself" in place.said("first")
    assert place.servers() == []
    place.start("second", PYTHONPATH=str(place.folder))
    assert "no fork server, so this worker" in place.said("second")
    assert "an import has started" not in place.said("second"), "one look is enough"


def test_who_asks_and_ends_does_no_harm(place: Place) -> None:
    place.start("first")
    (path,) = (one for one in place.folder.glob("fork-*") if one.is_socket())
    for said in (b"", b"\0\0", (100).to_bytes(4, "big") + b"{"):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(path))
            link.sendall(said)
    (server,) = place.servers()
    assert place.start("second")["parent"] == server.pid
