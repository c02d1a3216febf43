"""The TwiML documents this platform answers with. Source: Twilio's ``<Connect>``, ``<Stream>``, ``<Say>`` pages."""

from __future__ import annotations

from twilio.twiml.voice_response import Connect, VoiceResponse

CONTENT_TYPE = "application/xml"
TOKEN_PARAMETER = "token"


def connect(*, media_url: str, token: str, action_url: str, status_url: str) -> str:
    """Hand the call's audio to a media gateway.

    ``<Connect>`` blocks; when the stream ends, Twilio asks ``action_url`` what comes next. ``media_url`` must have no
    query string (Twilio drops it or refuses, error 31920), so the token is a ``<Parameter>``.
    """
    response = VoiceResponse()
    verb = Connect(action=action_url)
    stream = verb.stream(url=media_url, status_callback=status_url)
    stream.parameter(name=TOKEN_PARAMETER, value=token)
    response.append(verb)
    return str(response)


def say_and_hang_up(words: str) -> str:
    """Say something with the carrier's own voice and end the call."""
    response = VoiceResponse()
    response.say(words)
    response.hangup()
    return str(response)


def hang_up() -> str:
    """End the call."""
    response = VoiceResponse()
    response.hangup()
    return str(response)
