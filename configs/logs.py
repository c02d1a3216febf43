"""Logging of the stack's processes: one line for each message, with its fields as ``key=value``."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any, Final, TypeVar

PACKAGES: Final = ("actors", "cluster", "configs", "engines", "kb", "loadtest", "serve_apps", "storage", "voice_agent")
"""Loggers that are ours; those of libraries keep their own levels."""

SERVE_LOGGING: Final = {"enable_access_log": False}
"""For Ray Serve's proxy and controller. They would log a line for each request, which nobody reads, and hold a thousand
of them, 1 MB, until these are written."""

REPLICA_LOGGING: Final = {**SERVE_LOGGING, "log_level": "WARNING"}
"""For each deployment, since replicas do not take over what ``serve.start`` is told. Without the level they would still
make a line for each request, and then drop it."""

HIDDEN: Final = "(hidden)"

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[^\s\"=\\]+")

K = TypeVar("K")


class FieldFormatter(logging.Formatter):
    """Adds the fields given as ``extra``. Those about people (``pii`` in the name) are named, never shown."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        """The line, without a trace."""
        # Libraries hang fields of their own on every record, with an underscore in front.
        given = ((key, value) for key, value in record.__dict__.items() if key not in _STANDARD and key[0] != "_")
        fields = [f"{key}={_shown(key, value)}" for key, value in given]
        return " ".join([super().formatMessage(record), *fields])


def _shown(key: str, value: object) -> str:
    if "pii" in key.split("_"):
        return HIDDEN
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def set_up(level: str) -> None:
    """Log ``telemetry.log_level`` and above of our packages to standard error. Idempotent; the last level holds."""
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(level)
        if not any(isinstance(handler.formatter, FieldFormatter) for handler in logger.handlers):
            # In a replica `sys.stderr` is Serve's log by now, which reads the sources of all that is on the stack for a
            # line, and keeps them: 2 MB in the ingress.
            handler = logging.StreamHandler(sys.__stderr__)
            handler.setFormatter(FieldFormatter())
            logger.addHandler(handler)
            logger.propagate = False


def logging_at_start(kind: type[K], level: str) -> type[K]:
    """``kind`` for a process of its own: its constructor first sets up logging there."""

    def construct(self: Any, *arguments: Any, **named: Any) -> None:
        set_up(level)
        kind.__init__(self, *arguments, **named)

    made: type[K] = type(kind.__name__, (kind,), {"__init__": construct, "__doc__": kind.__doc__})
    return made
