"""What is done to Postgres and the knowledge base before the models start, in a process of its own.

It runs while the stack's process starts Ray, which forks there: a fork waits for threads that are inside a numerical
library, and may wait for ever. So whatever computes embeddings has to be in another process.

The child reads one JSON object from standard input and writes JSON lines: ``{"line": ...}`` for people, then
``{"done": true}`` or ``{"code": ..., "error": ...}``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from configs import logs
from configs.settings import Settings
from voice_agent.errors import ConfigError, VoiceAgentError

if TYPE_CHECKING:
    from kb.knowledge import IngestReport

_END_WITHIN_S = 5.0

Tell = Callable[[str], None]


class StoresFailedError(VoiceAgentError):
    """Postgres or the knowledge base could not be made ready."""

    code: ClassVar[str] = "stores"


class StoresChild:
    """The child process. ``stop`` may come from another thread at any time."""

    def __init__(self, settings: Settings, data_dir: Path, dsn: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.stores"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C at the terminal is for the stack's process, which ends this one when it is time.
            start_new_session=True,
        )
        wanted = {"settings": settings.model_dump(mode="json"), "data_dir": str(data_dir), "dsn": dsn}
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(json.dumps(wanted))

    def wait(self, tell: Tell) -> None:
        """Pass on what it tells until it is through.

        Raises:
            StoresFailedError: it failed; the message is its own.
        """
        assert self._process.stdout is not None
        for text in self._process.stdout:
            told = json.loads(text)
            if "line" in told:
                tell(told["line"])
            elif "error" in told:
                raise StoresFailedError(told["error"])
        status = self._process.wait()
        if status:
            raise StoresFailedError(f"the process that prepares the knowledge base ended with status {status}")

    def stop(self) -> None:
        """End it, if it has not ended. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


async def migrate(dsn: str) -> list[str]:
    """Bring the schema up to date; returns the migrations that ran.

    Raises:
        StorageError: Postgres is out of reach, or a migration failed.
    """
    from storage.database import Database

    database = await Database.connect(dsn, 1)
    try:
        return await database.migrate()
    finally:
        await database.close()


def ingest_sources(settings: Settings, data_dir: Path, dsn: str, tell: Tell) -> IngestReport:
    """Ingest ``kb.sources``; documents that have not changed cost a hash each.

    The embedded vector store belongs to one process at a time: it is closed again before the retriever opens it.

    Raises:
        ConfigError: a source does not exist.
        StorageError: the store or the ledger failed.
    """
    from kb.opening import open_knowledge_base

    missing = [str(path) for path in settings.kb.sources if not path.exists()]
    if missing:
        raise ConfigError(f"kb.sources: there is no {', '.join(missing)} (seen from {Path.cwd()})")
    base = open_knowledge_base(settings, data_dir=data_dir, dsn=dsn)
    try:
        return base.ingest(list(settings.kb.sources), lambda done, total, name: tell(f"{done + 1}/{total} {name}"))
    finally:
        base.close()


def summary(report: IngestReport) -> Iterator[str]:
    """A report in lines for people; a document that could not be read gets one of its own."""
    counts = {"added": report.added, "changed": report.changed, "removed": report.removed}
    changes = [f"{len(sources)} {name}" for name, sources in counts.items() if sources]
    yield f"version {report.kb_version}: " + (", ".join(changes) or f"{len(report.unchanged)} unchanged")
    for source, reason in report.failed:
        yield f"not ingested: {source}: {reason}"


def main() -> None:
    """The child."""
    wanted = json.load(sys.stdin)
    settings, data_dir, dsn = Settings.model_validate(wanted["settings"]), Path(wanted["data_dir"]), wanted["dsn"]
    logs.set_up(settings.telemetry.log_level)

    def say(**told: object) -> None:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    try:
        asyncio.run(migrate(dsn))
        report = ingest_sources(settings, data_dir, dsn, lambda text: say(line=text))
    except VoiceAgentError as error:
        say(code=error.code, error=error.message)
        sys.exit(1)
    for text in summary(report):
        say(line=text)
    say(done=True)


if __name__ == "__main__":
    main()
