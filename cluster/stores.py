"""What is done to Postgres and the knowledge base before the models start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cluster.steps import Steps
from configs.settings import Settings
from kb.knowledge import IngestReport
from kb.opening import open_knowledge_base
from storage.database import Database
from voice_agent.errors import ConfigError


async def migrate(dsn: str) -> list[str]:
    """Bring the schema up to date; returns the migrations that ran.

    Raises:
        StorageError: Postgres is out of reach, or a migration failed.
    """
    database = await Database.connect(dsn, 1)
    try:
        return await database.migrate()
    finally:
        await database.close()


def ingest_sources(settings: Settings, data_dir: Path, dsn: str, steps: Steps) -> IngestReport:
    """Ingest ``kb.sources``; documents that have not changed cost a hash each.

    The embedded vector store belongs to one process at a time: it is closed again before the retriever opens it.

    Raises:
        ConfigError: a source does not exist.
        StorageError: the store or the ledger failed.
    """
    missing = [str(path) for path in settings.kb.sources if not path.exists()]
    if missing:
        raise ConfigError(f"kb.sources: there is no {', '.join(missing)} (seen from {Path.cwd()})")
    base = open_knowledge_base(settings, data_dir=data_dir, dsn=dsn)
    try:
        return base.ingest(
            list(settings.kb.sources), lambda done, total, name: steps.line(f"{done + 1}/{total} {name}")
        )
    finally:
        base.close()


def summary(report: IngestReport) -> Iterator[str]:
    """A report in lines for people; a document that could not be read gets one of its own."""
    counts = {"added": report.added, "changed": report.changed, "removed": report.removed}
    changes = [f"{len(sources)} {name}" for name, sources in counts.items() if sources]
    yield f"knowledge base {report.kb_version}: " + (", ".join(changes) or f"{len(report.unchanged)} unchanged")
    for source, reason in report.failed:
        yield f"not ingested: {source}: {reason}"
