"""The TwiML documents this platform answers with.

Source: Twilio's ``<Connect>``, ``<Stream>``, ``<Say>``, ``<Dial>`` and ``<Enqueue>`` pages.
"""

from __future__ import annotations

from collections.abc import Mapping

from twilio.twiml.voice_response import Connect, Dial, VoiceResponse

from voice_agent.errors import ConfigError

CONTENT_TYPE = "application/xml"
TOKEN_PARAMETER = "token"
PARAMETER_CHARS = 500
"""Name and value of a ``<Parameter>`` together must be shorter than this."""


def connect(
    *, media_url: str, token: str, action_url: str, status_url: str, about: Mapping[str, str] | None = None
) -> str:
    """Hand the call's audio to a media gateway.

    ``<Connect>`` blocks; when the stream ends, Twilio asks ``action_url`` what comes next. ``media_url`` must have no
    query string (Twilio drops it or refuses, error 31920), so the token is a ``<Parameter>``.
    ``about``: what else the gateway is to know of the call; what does not fit into a parameter, or is empty, is left
    out.
    """
    response = VoiceResponse()
    verb = Connect(action=action_url)
    stream = verb.stream(url=media_url, status_callback=status_url)
    stream.parameter(name=TOKEN_PARAMETER, value=token)
    for name, value in (about or {}).items():
        if value and len(name) + len(value) < PARAMETER_CHARS:
            stream.parameter(name=name, value=value)
    response.append(verb)
    return str(response)


def say_and_hang_up(words: str) -> str:
    """Say something with the carrier's own voice and end the call."""
    response = VoiceResponse()
    response.say(words)
    response.hangup()
    return str(response)


def wait(words: str, *, seconds: int, url: str) -> str:
    """Let the caller wait, with the carrier's own voice first where there are ``words``; then ask ``url`` again."""
    response = VoiceResponse()
    if words:
        response.say(words)
    response.pause(length=seconds)
    response.redirect(url)
    return str(response)


def transfer(target: str) -> str:
    """Connect the caller to a number, a SIP address or a queue; the call ends with that.

    Args:
        target: ``+15550100``, ``sip:user@host`` or ``queue:name``.

    Raises:
        ConfigError: the target is none of these.
    """
    response = VoiceResponse()
    kind, _, rest = target.partition(":")
    if kind == "queue" and rest:
        response.enqueue(rest)
    elif kind in ("sip", "sips") and rest:
        dial = Dial()
        dial.sip(target)
        response.append(dial)
    elif target.startswith("+"):
        response.dial(target)
    else:
        raise ConfigError(f"nobody can be connected to {target!r}; a number, sip:user@host or queue:name is wanted")
    return str(response)


def hang_up() -> str:
    """End the call."""
    response = VoiceResponse()
    response.hangup()
    return str(response)
