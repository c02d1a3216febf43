"""The carrier's HTTP: form posts over connections that are kept, as a carrier keeps them.

A call is five posts, and what they cost is missing on the clock that all calls of a process share; aiohttp's parser is
in C, and its pool is not looked through for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import aiohttp


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of a response."""

    status: int
    text: str

    @property
    def is_success(self) -> bool:
        """Status 2xx."""
        return 200 <= self.status < 300


class WebhookClient:
    """Posts forms. One owner; use it as a context."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> WebhookClient:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str], timeout_s: float) -> Answer:
        """Post a form. It is sent once: a connection that breaks is an error, kept or new.

        Raises:
            OSError: the server cannot be reached, does not answer in time (``TimeoutError``) or not in HTTP/1.1.
        """
        assert self._session is not None
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(url, data=form, headers=headers, allow_redirects=False) as answer,
            ):
                return Answer(answer.status, await answer.text())
        except aiohttp.ClientConnectorError as error:
            raise error.os_error from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            raise ConnectionError(f"no answer in HTTP/1.1: {error}") from error
