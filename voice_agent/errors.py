"""One tree of errors. Each has a stable ``code``, says whether a retry can help, and tells the user what to do."""

from __future__ import annotations

from typing import ClassVar


class VoiceAgentError(Exception):
    """Root of the tree. ``str(error)`` is a sentence for the user; ``code`` is stable and documented."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[type[VoiceAgentError], tuple[str]]:
        """Errors cross process borders, so they pickle by class and message."""
        return type(self), (self.message,)


class ConfigError(VoiceAgentError):
    """A configuration file or value is wrong; the message names file, key and what is allowed."""

    code = "config"


class EngineUnavailableError(VoiceAgentError):
    """An engine cannot run here (library, model file or device missing)."""

    code = "engine_unavailable"


class EngineFailedError(VoiceAgentError):
    """An engine failed on one request."""

    code = "engine_failed"
    retryable = True


class ReplicaLostError(EngineFailedError):
    """The replica that had the request is dead or out of reach; no fault of its engine."""


class DeadlineExceededError(VoiceAgentError):
    """A stage did not answer within its deadline."""

    code = "deadline_exceeded"
    retryable = True


class ReplicaStalledError(DeadlineExceededError):
    """The replica that had the request has stalled, and there is another one to ask."""


class ProtocolError(VoiceAgentError):
    """A peer sent something its protocol does not allow."""

    code = "protocol"


class AuthError(VoiceAgentError):
    """A signature, token or API key is missing, wrong, expired, re-used or meant for another call."""

    code = "auth"


class CapacityError(VoiceAgentError):
    """No room for another call."""

    code = "capacity"
    retryable = True


class StorageError(VoiceAgentError):
    """Postgres or the vector store refused or is out of reach."""

    code = "storage"
    retryable = True


class RecordRefusedError(StorageError):
    """A record was understood and refused, or cannot be dealt with: sending it again cannot help."""

    code = "storage_refused"
    retryable = False


class DocumentError(VoiceAgentError):
    """A knowledge-base document cannot be read; the others are still ingested."""

    code = "document"
