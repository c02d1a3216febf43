"""What every process of one running stack is given: the settings plus what was decided at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel

from configs.settings import Settings

GATEWAY_NUMBER: Final = "{gateway}"
"""Stands for the number of a gateway in ``server.public_media_url``."""


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """Which code a process runs.

    Attributes:
        number: counts deploys of a stack, from 1; the newest is the highest.
        version: hash of the code's content.
        label: what people call it.
        package: URI of the code in the cluster; empty: what is installed on the nodes.
    """

    number: int = 1
    version: str = ""
    label: str = ""
    package: str = ""


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
        media_url: public WebSocket URL of the media gateways, path included; ``media_url_of`` is that of each.
        code: what the processes made from this context run.
        foreign: settings of other code that passed through here, kept for processes that know them.

    It is pickled as plain values, because the process that reads it may run older or newer code: what a version does
    not know is passed on, what it misses has its default.
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
    code: CodeVersion = CodeVersion()
    foreign: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        plain["settings"] = _merged(self.foreign, self.settings.model_dump())
        plain["code"] = {one.name: getattr(self.code, one.name) for one in fields(self.code)}
        del plain["foreign"]
        return _context_of, (plain,)

    def media_url_of(self, slot: int) -> str:
        """Public URL of the node's gateway ``slot`` (from 0): its number in the URL, or the next ports."""
        if GATEWAY_NUMBER in self.media_url:
            return self.media_url.replace(GATEWAY_NUMBER, str(slot + 1))
        parts = urlsplit(self.media_url)
        if slot == 0 or parts.port is None:
            return self.media_url
        return parts._replace(netloc=f"{parts.hostname}:{parts.port + slot}").geturl()


def _context_of(plain: Mapping[str, Any]) -> StackContext:
    """A context as this code understands it. The name is part of what is pickled, so it stays."""
    names = {one.name for one in fields(StackContext)}
    codes = {one.name for one in fields(CodeVersion)}
    values = {name: value for name, value in plain.items() if name in names}
    values["settings"] = Settings.model_validate(_known(Settings, plain["settings"]))
    values["code"] = CodeVersion(**{name: value for name, value in plain.get("code", {}).items() if name in codes})
    return StackContext(**values, foreign=plain["settings"])


def _known(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the model has no field for, at any depth."""
    known = {}
    for name, value in values.items():
        if name in model.model_fields:
            kind = model.model_fields[name].annotation
            inner = isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, Mapping)
            known[name] = _known(kind, value) if inner else value  # type: ignore[arg-type]
    return known


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        # Options of an engine are a whole: what was taken out of them stays out.
        merged[name] = _merged(merged[name], value) if both and name != "options" else value
    return merged
