"""CallActor: the shell round the pure core of each call. It imports no engine, no database, no tracing."""

from actors.call.actor import CallActor

__all__ = ["CallActor"]
