"""Twilio's webhook forms: read within limits, and believed only when signed for the configured public URL."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastapi import Request

from configs.runtime import StackContext
from serve_apps.http_errors import HttpError
from voice_agent.twilio.signature import webhook_valid

MAX_FIELDS = 200
_CALL_SID = re.compile(r"[A-Za-z0-9_-]{2,64}")
_FORM = "application/x-www-form-urlencoded"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Form:
    """A webhook's parameters. ``call_id`` is its CallSid."""

    call_id: str
    fields: Mapping[str, str | Sequence[str]]

    def get(self, name: str) -> str:
        """A parameter, the first when it is given several times; empty when it is not."""
        value = self.fields.get(name, "")
        return value if isinstance(value, str) else value[0]


async def signed_form(request: Request, context: StackContext) -> Form:
    """Read a webhook and check its signature over the configured public URL, the path, the query and all parameters.

    Raises:
        HttpError: 400 for what is no form, 403 when the signature is missing or wrong.
    """
    fields = _parse(request.headers.get("content-type", ""), await request.body())
    _check_signature(request, context, fields)
    account = context.settings.twilio.account_sid
    form = Form(_first(fields, "CallSid"), fields)
    if account and form.get("AccountSid") != account:
        raise HttpError(403, "auth", "the webhook is of another account than twilio.account_sid")
    if not _CALL_SID.fullmatch(form.call_id):
        raise HttpError(400, "protocol", "the form has no valid CallSid")
    return form


def _parse(content_type: str, body: bytes) -> dict[str, str | list[str]]:
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise HttpError(400, "protocol", f"a form is wanted: Content-Type {_FORM}")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            encoding="utf-8",
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise HttpError(400, "protocol", f"the form is malformed, or has more than {MAX_FIELDS} fields") from error
    fields: dict[str, str | list[str]] = {}
    for name, value in pairs:
        before = fields.get(name)
        if before is None:
            fields[name] = value
        else:
            fields[name] = [*([before] if isinstance(before, str) else before), value]
    return fields


def _check_signature(request: Request, context: StackContext, fields: Mapping[str, str | Sequence[str]]) -> None:
    settings = context.settings.twilio
    if not settings.verify_signatures:
        return
    # Never from Host or X-Forwarded-*: whoever sends the request writes those.
    url = context.webhook_url + request.scope["path"]
    if query := request.scope["query_string"].decode("latin-1"):
        url = f"{url}?{query}"
    signature = request.headers.get("x-twilio-signature", "")
    if not webhook_valid(settings.auth_token, signature, url, fields):
        why = "no auth token is configured" if not settings.auth_token else "missing" if not signature else "wrong"
        _log.warning("webhook refused", extra={"signature": why})
        raise HttpError(403, "auth", f"the Twilio signature is {why if settings.auth_token else 'not verifiable'}")


def _first(fields: Mapping[str, str | Sequence[str]], name: str) -> str:
    value = fields.get(name, "")
    return value if isinstance(value, str) else value[0]
