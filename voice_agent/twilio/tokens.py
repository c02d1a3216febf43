"""Stream tokens: what a signed webhook gives to the media stream of its call.

A token is ``base64url(claims) . base64url(HMAC-SHA256(secret, claims))``, about 200 characters, well under Twilio's 500
for a ``<Parameter>``. It is bound to one call and one gateway and expires. Single use is kept by the gateway, which
remembers the nonces it has seen until they expire.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json

from voice_agent.errors import AuthError

_VERSION = 1
_LONGEST = 450


def mint(secret: str, *, call_id: str, audience: str, expires_at_s: float, nonce: str) -> str:
    """A token for ``call_id`` at the gateway ``audience``, valid until ``expires_at_s`` (Unix time).

    Raises:
        AuthError: there is no secret, or the claims are too long for a TwiML parameter.
    """
    claims = [_VERSION, call_id, audience, round(expires_at_s * 1000), nonce]
    body = _encode(json.dumps(claims, separators=(",", ":")).encode())
    token = f"{body}.{_sign(secret, body)}"
    if len(token) > _LONGEST:
        raise AuthError(f"stream token is {len(token)} characters long, TwiML parameters hold {_LONGEST}")
    return token


def verify(secret: str, token: str, *, call_id: str, audience: str, now_s: float) -> str:
    """Check a token that came in ``start`` and return its nonce.

    Raises:
        AuthError: with a message of its own for each reason: malformed, forged, expired, another call, another gateway.
    """
    body, dot, signature = token.partition(".")
    if not dot or len(token) > _LONGEST or not token.isascii():
        raise AuthError("stream token is malformed")
    if not hmac.compare_digest(_sign(secret, body).encode(), signature.encode()):
        raise AuthError("stream token has a wrong signature")
    version, token_call_id, token_audience, expires_at_ms, nonce = _claims(body)
    if version != _VERSION:
        raise AuthError("stream token has an unknown version")
    if now_s * 1000 >= expires_at_ms:
        raise AuthError("stream token has expired")
    if not _same(token_call_id, call_id):
        raise AuthError("stream token belongs to another call")
    if not _same(token_audience, audience):
        raise AuthError("stream token belongs to another gateway")
    return nonce


def _claims(body: str) -> tuple[int, str, str, int, str]:
    """The five claims of a body whose signature is right."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        version, call_id, audience, expires_at_ms, nonce = claims
        return int(version), str(call_id), str(audience), int(expires_at_ms), str(nonce)
    except (ValueError, TypeError, binascii.Error) as error:
        raise AuthError("stream token is malformed") from error


def _same(left: str, right: str) -> bool:
    # A peer's JSON may hold lone surrogates, which plain UTF-8 refuses.
    return hmac.compare_digest(left.encode(errors="surrogatepass"), right.encode(errors="surrogatepass"))


def _sign(secret: str, body: str) -> str:
    if not secret:
        raise AuthError("there is no stream token secret; refusing to sign or to accept tokens")
    return _encode(hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
