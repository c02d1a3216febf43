"""Private data is masked here, in the call's own process, before anything of a call leaves it to be kept.

Log entries pass ``entry`` on their way into the outbox, turn records ``record``. Files, live views, spans, the spool
and Postgres come after the outbox, so none of them ever has what was masked.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.policy.engine import PolicyEngine
from voice_agent.policy.keeping import CALLER_ID, CallerNumber, Keeper, kept_number

logger = logging.getLogger(__name__)

CALLS: Final = 256
"""Calls remembered at once; the one longest untouched goes first. A process hosts far fewer."""

_Record = TypeVar("_Record")


class Redactor:
    """One per process. Says in the log when a rule takes longer than its budget again and again.

    ``caller_number``: what is kept of the number that the carrier names.
    """

    def __init__(self, policy: PolicyEngine, caller_number: CallerNumber = "whole") -> None:
        self._policy = policy
        self._caller_number: CallerNumber = caller_number
        self._calls: OrderedDict[str, Keeper] = OrderedDict()

    def entry(self, call_id: str, entry: dict[str, Any]) -> dict[str, Any]:
        """A log entry as it may be kept."""
        kept = self._keeper(call_id).entry(entry)
        self._tell_late()
        return kept

    def record(self, record: _Record) -> _Record:
        """A record as it may be kept. After the record of a call's end the call is forgotten."""
        if isinstance(record, TurnRecord):
            kept = self._keeper(record.call_id).turn(record)
            self._tell_late()
            return cast(_Record, kept)
        if isinstance(record, CallRecord):
            self._calls.pop(record.call_id, None)
        number = getattr(record, CALLER_ID, "")
        if self._caller_number == "whole" or not number:
            return record
        # Of the two records that hold it, the one of the call's start is a class of the outbox, which imports this.
        return cast(_Record, replace(cast(Any, record), caller_pii=kept_number(number, self._caller_number)))

    def late_rules(self) -> list[str]:
        """Rules that take longer than their budget again and again, by now."""
        return [name for name, counted in self._policy.statistics().items() if counted.late]

    def _keeper(self, call_id: str) -> Keeper:
        keeper = self._calls.get(call_id)
        if keeper is None:
            keeper = self._calls[call_id] = Keeper(self._policy, self._caller_number)
            if len(self._calls) > CALLS:
                self._calls.popitem(last=False)
        self._calls.move_to_end(call_id)
        return keeper

    def _tell_late(self) -> None:
        late: Iterable[str] = self._policy.take_late()
        for name in late:
            counted = self._policy.statistics()[name]
            extra = {"rule": name, "budget_ms": counted.budget_ms, "worst_ms": round(counted.worst_ms, 3)}
            logger.warning("policy rule takes longer than its budget", extra=extra)
