"""A local Ray leaves nothing behind, however the process that started it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import processes
from cluster.ray_local import RayCluster, cluster_size, stack_environment
from configs.settings import CallSettings, Settings, SpeechToTextSettings

_TOY = """
import json, os, signal, sys, threading
from pathlib import Path
from cluster import processes
from cluster.guard import Charge, Guard
from cluster.ray_local import RayCluster
from configs.settings import Settings

mark = processes.new_mark("toy")
os.environ[processes.MARK] = mark
cluster = RayCluster(Settings())
cluster.prepare()
state = Path(sys.argv[1]) / "stack.json"
state.write_text("{}")
guard = Guard(Charge(mark=mark, data_dir="", state_file=str(state), ray_temp_dir=str(cluster.temp_dir)))
temp_dir = str(cluster.temp_dir)
cluster.start()
import ray

class Toy:
    def mode(self):
        return os.environ["RAY_AUTH_MODE"]

toy = ray.remote(Toy).options(name="toy", lifetime="detached").remote()
mode = ray.get(toy.mode.remote())
stop = threading.Event()
signal.signal(signal.SIGINT, lambda *_: stop.set())
print(json.dumps({"mark": mark, "temp_dir": temp_dir, "mode": mode, "guard": guard.pid}), flush=True)
stop.wait()
cluster.stop(logs_to=Path(sys.argv[1]) / "logs")
guard.release()
"""


def _wait_until_gone(mark: str, timeout_s: float = 30.0) -> list[str]:
    deadline = time.monotonic() + timeout_s
    while (left := processes.marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [" ".join(process.cmdline()) for process in left]


@pytest.mark.ray
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    toy = subprocess.Popen(
        [sys.executable, "-c", _TOY, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert toy.stdout is not None
        told = json.loads(toy.stdout.readline())
        assert told["mode"] == "token"
        kinds = processes.by_kind(processes.marked(told["mark"]))
        assert {"ray_gcs", "ray_raylet", "toy"} <= set(kinds)
        toy.send_signal(how)
        toy.wait(timeout=30)
        assert _wait_until_gone(told["mark"]) == []
        guard_gone = time.monotonic() + 15
        while psutil.pid_exists(told["guard"]) and time.monotonic() < guard_gone:
            time.sleep(0.1)
        assert not psutil.pid_exists(told["guard"])
        assert not Path(told["temp_dir"]).exists()
        if how is signal.SIGKILL:
            assert not (tmp_path / "stack.json").exists(), "the guard removes the state file of a killed stack"
        else:
            assert any((tmp_path / "logs").iterdir()), "the logs outlive Ray's folder"
    finally:
        toy.kill()


def test_the_cluster_is_as_large_as_the_profile_reserves() -> None:
    settings = Settings(
        stt=SpeechToTextSettings(num_cpus=1.0, replicas=2, max_replicas=4),
        calls=CallSettings(calls_per_actor=10, max_calls=95, spare_actors=1, num_cpus=0.5),
    )
    size = cluster_size(settings)
    assert size.call_slots == 140  # ten actors for 95 calls, one spare, three that a deploy may add
    assert size.num_cpus == 13  # 4 stt, 3 x 0.1 for the other stages, 14 x 0.5, 1 for the rest, rounded up


def test_flags_of_the_user_win(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    for key in stack_environment(settings, cluster_size(settings)):
        monkeypatch.delenv(key, raising=False)
    flag = "RAY_worker_niceness"
    monkeypatch.setenv(flag, "3")
    cluster = RayCluster(settings.model_copy(update={"ray": settings.ray.model_copy(update={"address": "auto"})}))
    cluster.prepare()
    assert os.environ[flag] == "3"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert cluster.temp_dir is None, "a cluster that is not ours gets no folder"
