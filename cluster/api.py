"""The REST API of a running stack, as the other commands use it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from cluster import statefile
from cluster.statefile import StackState
from configs.settings import Settings
from voice_agent.errors import VoiceAgentError


class ApiError(VoiceAgentError):
    """The running stack did not answer, or refused."""

    code = "api"


class Api:
    """Calls to ``/api`` and ``/readyz`` of one stack. Blocking."""

    def __init__(self, state: StackState, *, timeout_s: float = 10.0) -> None:
        self._client = httpx.Client(
            base_url=state.local_url, headers={"X-API-Key": state.secret_api_key}, timeout=timeout_s, trust_env=False
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int) -> Any:
        """GET, as JSON.

        Raises:
            ApiError: no answer, or one that says no.
        """
        return self._request("GET", path, params=query)

    def post(self, path: str, body: object) -> Any:
        """POST a JSON body; see ``get``."""
        return self._request("POST", path, json=body)

    def delete(self, path: str, **query: str | int) -> Any:
        """DELETE; see ``get``."""
        return self._request("DELETE", path, params=query)

    def _request(self, method: str, path: str, **what: Any) -> Any:
        try:
            answer = self._client.request(method, path, **what)
        except httpx.HTTPError as error:
            raise ApiError(f"the stack at {self._client.base_url} does not answer: {error}") from error
        if answer.is_error:
            raise ApiError(f"{method} {path}: {answer.status_code}: {_reason(answer)}")
        return answer.json() if answer.content else None


@contextlib.contextmanager
def of_running(settings: Settings, *, timeout_s: float = 10.0) -> Iterator[Api | None]:
    """The API of the stack that runs on the data folder of these settings; None when none does."""
    state = statefile.find(settings.data_dir.absolute())
    if state is None:
        yield None
        return
    with Api(state, timeout_s=timeout_s) as api:
        yield api


def _reason(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:200]
    if isinstance(body, dict):
        return str(body.get("detail") or body.get("message") or body)
    return str(body)
