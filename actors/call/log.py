"""The event log of one call on its way to the journal: gathered until the outbox sends, then one record."""

from __future__ import annotations

from typing import Any

from actors.call.outbox import JournalOutbox, LogEntries
from voice_agent.dialog.commands import Command
from voice_agent.dialog.event_log import command_entry, event_entry
from voice_agent.dialog.events import Event


class CallLog:
    """Numbers entries within an epoch, so that the journal can refuse what it has."""

    def __init__(self, call_id: str, epoch: int, outbox: JournalOutbox, *, enabled: bool) -> None:
        self._call_id = call_id
        self._epoch = epoch
        self._outbox = outbox
        self._enabled = enabled
        self._entries: list[dict[str, Any]] = []
        self._number = 0
        self._source = f"{call_id}/{epoch}"
        if enabled:
            outbox.attach(self._source, self.flush)

    def event(self, t_ms: int, event: Event) -> None:
        """Log an event."""
        if self._enabled:
            self._add(event_entry(t_ms, event))

    def command(self, t_ms: int, command: Command) -> None:
        """Log a command."""
        if self._enabled:
            self._add(command_entry(t_ms, command))

    def note(self, t_ms: int, note: str, **fields: Any) -> None:
        """Log something that is neither, e.g. a take-over."""
        if self._enabled:
            self._add({"t_ms": t_ms, "note": note, **fields})

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._entries:
            self._outbox.add(LogEntries(self._call_id, self._epoch, tuple(self._entries)))
            self._entries = []

    def close(self) -> None:
        """Hand over the rest; nothing is logged afterwards."""
        self.flush()
        self._enabled = False
        self._outbox.detach(self._source)

    def _add(self, entry: dict[str, Any]) -> None:
        self._number += 1
        if not self._entries:
            self._outbox.notify()
        # Masked as it is logged, not when the batch goes out: many calls at once would hold up the loop.
        kept = self._outbox.redactor.entry(self._call_id, entry) if self._outbox.redactor else entry
        self._entries.append({"n": self._number, **kept})
        if len(self._entries) >= 256:
            self.flush()
