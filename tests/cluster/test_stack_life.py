"""A stack that is given up while it starts leaves nothing. How stacks that ran end, the tests with calls tell."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from stack_kit import END_WITHIN_S, launched

from storage.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.timeout(900)]


@pytest.mark.parametrize("during", ["postgres", "models"])
def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path, during: str) -> None:
    # After "postgres" Ray is half started, with "models" the Serve applications are.
    with launched(tmp_path) as up:
        up.wait_for("+ ray " if during == "models" else "+ postgres ")
        time.sleep(1.5)
        os.killpg(up.process.pid, signal.SIGINT)  # a terminal signals the whole group
        assert up.process.wait(timeout=END_WITHIN_S) == 0
        assert up.left() == []
        assert EmbeddedPostgres(up.data_dir).pid is None
