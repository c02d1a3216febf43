"""A dead GCS is started again where it can take up what it knew; where it cannot, the stack says that Ray is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.head_watch import (
    MOST_STARTS,
    STORAGE,
    STORAGE_PATH,
    WINDOW_S,
    HeadWatch,
    RayDiedError,
    keep_on_disk,
    on_disk,
)


class Head:
    def __init__(self) -> None:
        self.raylet_alive = True
        self.gcs_alive = True
        self.starts = 0

    def start_gcs(self) -> int:
        self.starts += 1
        self.gcs_alive = True
        return self.starts


def test_a_dead_gcs_is_started_once() -> None:
    head = Head()
    watch = HeadWatch(head, persistent=True)
    watch.look()
    assert head.starts == 0
    head.gcs_alive = False
    watch.look()
    watch.look()
    assert head.starts == 1


def test_without_its_tables_or_without_a_raylet_there_is_no_ray() -> None:
    head = Head()
    head.gcs_alive = False
    with pytest.raises(RayDiedError, match="ray_gcs has died"):
        HeadWatch(head, persistent=False).look()
    head.raylet_alive = False
    with pytest.raises(RayDiedError, match="ray_raylet has died"):
        HeadWatch(head, persistent=True).look()
    assert head.starts == 0


def test_one_that_dies_again_and_again_is_given_up_but_not_one_that_dies_now_and_then() -> None:
    head, now_s = Head(), 0.0
    watch = HeadWatch(head, persistent=True, clock=lambda: now_s)
    for _ in range(2 * MOST_STARTS):
        head.gcs_alive = False
        watch.look()
        now_s += WINDOW_S / (MOST_STARTS - 1)
    now_s += WINDOW_S
    for _ in range(MOST_STARTS):
        head.gcs_alive = False
        watch.look()
    head.gcs_alive = False
    with pytest.raises(RayDiedError, match="times in a minute"):
        watch.look()
    assert head.starts == 3 * MOST_STARTS


@pytest.mark.parametrize(("given", "persistent"), [("", True), ("memory", False)])
def test_tables_lie_where_the_stack_says_and_how_they_are_kept_the_user_may_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, persistent: bool
) -> None:
    monkeypatch.setenv(STORAGE_PATH, "/another/stack")
    monkeypatch.setenv(STORAGE, given)
    if not given:
        monkeypatch.delenv(STORAGE)
    keep_on_disk(tmp_path)
    assert os.environ[STORAGE_PATH] == str(tmp_path)
    assert on_disk() == persistent
