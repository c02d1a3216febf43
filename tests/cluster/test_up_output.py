"""Standard output of ``voice-agent up`` is for programs: the ready line and nothing else."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster import stack

up = importlib.import_module("cluster.commands.up")


class _Ready:
    def as_dict(self) -> dict[str, Any]:
        return {"ready": True}


class _Stack:
    """Starts nothing; somebody beside it prints, as Ray does."""

    def __init__(self, *_: object) -> None: ...

    def start(self) -> _Ready:
        print("(raylet) WARNING: 44 PYTHON worker processes have been started")
        return _Ready()

    def stop(self) -> None: ...


class _NoSignals:
    def install(self) -> None: ...

    def stopping(self) -> None: ...


def _until_told(_: object) -> None:
    print("(raylet) one more")
    raise KeyboardInterrupt


def test_what_others_print_goes_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack, "Stack", _Stack)
    monkeypatch.setattr(up, "_Stopper", _NoSignals)
    monkeypatch.setattr(up, "_watch", _until_told)
    before = sys.stdout
    up.up(None, None, None, tmp_path, False)
    assert sys.stdout is before
    told = capsys.readouterr()
    assert [json.loads(line) for line in told.out.splitlines()] == [{"ready": True}]
    assert "44 PYTHON" in told.err
    assert "one more" in told.err
