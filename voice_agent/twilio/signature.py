"""Twilio's request signatures: base64(HMAC-SHA1(auth token, URL + sorted names and values of the form)).

The URL is always the *configured* public one, never one built from ``Host`` or ``X-Forwarded-*``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit, urlunsplit

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def compute(auth_token: str, url: str, params: Mapping[str, str | Sequence[str]]) -> str:
    """The ``X-Twilio-Signature`` of a request. A parameter given several times has a sequence of values."""
    signed = [url]
    for name in sorted(params):
        value = params[name]
        values = [value] if isinstance(value, str) else sorted(set(value))
        signed.extend(name + single for single in values)
    digest = hmac.new(auth_token.encode(), "".join(signed).encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def webhook_valid(auth_token: str, signature: str, url: str, params: Mapping[str, str | Sequence[str]]) -> bool:
    """Whether ``signature`` is right for a form POST to ``url``, with or without the scheme's default port."""
    return _any_valid(auth_token, signature, _port_variants(url), params)


def upgrade_valid(auth_token: str, signature: str, media_url: str) -> bool:
    """Whether ``signature`` is right for the WebSocket upgrade of ``<Stream url=media_url>``.

    Twilio signs the URL as written in the TwiML. Tools in the field sign the https form, with the default port, or
    with a trailing slash; all of these name the same configured endpoint, so all are accepted.
    """
    parts = urlsplit(media_url)
    schemes = {"wss": ("wss", "https"), "ws": ("ws", "http")}.get(parts.scheme, (parts.scheme,))
    path = parts.path.rstrip("/")
    urls = [
        variant
        for scheme in schemes
        for spelling in (path, path + "/")
        for variant in _port_variants(urlunsplit(parts._replace(scheme=scheme, path=spelling)))
    ]
    return _any_valid(auth_token, signature, urls, {})


def _port_variants(url: str) -> list[str]:
    """The URL as it is and, where its port is the scheme's default or left out, the other spelling."""
    parts = urlsplit(url)
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None:
        return [url]
    host = parts.netloc.removesuffix(f":{default}")
    if parts.port not in (None, default):
        return [url]
    return [url, *(urlunsplit(parts._replace(netloc=netloc)) for netloc in (host, f"{host}:{default}"))]


def _any_valid(auth_token: str, signature: str, urls: Iterable[str], params: Mapping[str, str | Sequence[str]]) -> bool:
    """Compare with each candidate in constant time; all are tried, so time does not tell which one fits."""
    if not auth_token or not signature.isascii():
        return False
    given = signature.encode()
    matches = [hmac.compare_digest(compute(auth_token, url, params).encode(), given) for url in dict.fromkeys(urls)]
    return any(matches)
