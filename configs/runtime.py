"""What every process of one running stack is given: the settings plus what was decided at start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.settings import Settings


@dataclass(frozen=True, slots=True)
class StackContext:
    """One run of the stack. Paths are absolute. The secrets never reach a log or a file but ``stack.json`` (0600).

    Attributes:
        settings: the resolved configuration.
        run_id: folder name under ``runs_dir``.
        run_dir: where this run writes.
        data_dir: where Postgres, Qdrant and vocabularies live.
        dsn: Postgres.
        link_secret: proves membership on the media link.
        stream_token_secret: signs the single-use tokens in TwiML.
        api_key: for ``/api``.
        webhook_url: public base URL of the ingress (what Twilio signs), without a trailing slash.
        media_url: public WebSocket URL of the media gateway, path included.
    """

    settings: Settings
    run_id: str
    run_dir: Path
    data_dir: Path
    dsn: str
    link_secret: str
    stream_token_secret: str
    api_key: str
    webhook_url: str
    media_url: str
