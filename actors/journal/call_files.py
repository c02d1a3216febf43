"""What a run keeps of each call on disk: ``calls/<call id>/events.jsonl`` and ``turns.json``."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from actors.journal.record_codec import from_plain, to_plain
from voice_agent.dialog.records import TurnRecord
from voice_agent.errors import ProtocolError

_SAFE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class CallFiles:
    """Blocking writes, made on a thread. Files are readable by their owner only: they hold what people said."""

    def __init__(self, run_dir: Path) -> None:
        self._calls = run_dir / "calls"

    def folder(self, call_id: str) -> Path | None:
        """The folder of a call; None for an id that is no plain name."""
        return self._calls / call_id if _SAFE.fullmatch(call_id) else None

    def append_events(self, call_id: str, entries: Sequence[dict[str, Any]]) -> None:
        """Add lines to ``events.jsonl``.

        Raises:
            OSError: the disk does not take them.
        """
        folder = self.folder(call_id)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n" for entry in entries)
        with open(folder / "events.jsonl", "a", encoding="utf-8", opener=_private) as file:
            file.write(lines)

    def write_turns(self, call_id: str, turns: Sequence[TurnRecord]) -> None:
        """Replace ``turns.json`` by these turns; a reader never sees half a file.

        Raises:
            OSError: the disk does not take it.
        """
        folder = self.folder(call_id)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        plain = [to_plain(turn) | {"v2v_self_ms": turn.v2v_self_reported_ms} for turn in turns]
        fresh = folder / "turns.json.new"
        with open(fresh, "w", encoding="utf-8", opener=_private) as file:
            json.dump(plain, file, ensure_ascii=False, indent=1)
        fresh.replace(folder / "turns.json")

    def remembered(self, call_id: str, tail: int) -> tuple[list[dict[str, Any]], list[TurnRecord]]:
        """The newest ``tail`` log entries and the turns of a call a former process wrote of; empty when there are none.

        A file that cannot be read, or was not written to its end, counts as far as it makes sense.
        """
        folder = self.folder(call_id)
        if folder is None or not folder.is_dir():
            return [], []
        entries: deque[dict[str, Any]] = deque(maxlen=tail)
        turns: list[TurnRecord] = []
        with suppress(OSError, ValueError), open(folder / "events.jsonl", encoding="utf-8") as file:
            for line in file:
                entries.append(json.loads(line))
        with suppress(OSError, ValueError, ProtocolError):
            plain = json.loads((folder / "turns.json").read_text("utf-8"))
            for one in plain:
                one.pop("v2v_self_ms", None)
                record = from_plain(one)
                turns += [record] if isinstance(record, TurnRecord) else []
        return list(entries), turns


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
