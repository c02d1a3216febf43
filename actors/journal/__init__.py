"""Journal: records in, Postgres, metrics, spans and files out."""

from actors.journal.journal import Journal

__all__ = ["Journal"]
