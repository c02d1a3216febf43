"""The size and the flags of a local Ray. That nothing of it is left, is told by the tests of whole stacks."""

from __future__ import annotations

import os

import pytest

from cluster.ray_local import RayCluster, cluster_size, stack_environment
from configs.settings import CallSettings, Settings, SpeechToTextSettings


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
    cluster.prepare(settings.server)
    assert os.environ[flag] == "3"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert cluster.temp_dir is None, "a cluster that is not ours gets no folder"
