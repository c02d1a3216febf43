"""Tools: runs what an agent asks for, each run once, whatever happens to the one who asked or to this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import httpx

from serve_apps.replica import as_ours
from storage.database import Database
from storage.tool_runs import Run, ToolRunRepository
from voice_agent import tools
from voice_agent.errors import EngineFailedError
from voice_agent.plan import Outcome
from voice_agent.policy.engine import PolicyEngine
from voice_agent.policy.keeping import mask_values
from voice_agent.policy.rules import PolicySet
from voice_agent.ports import Capabilities
from voice_agent.tools import BadArgumentsError, ToolRequest, ToolSpec

VERSION: Final = "1"
_CONNECT_TIMEOUT_S: Final = 5.0
_LARGEST_ANSWER_BYTES: Final = 64 * 1024


class Tools:
    """The deployment. Postgres is connected to when the first tool needs it.

    ``policy`` says what is masked in the arguments and results that the ledger keeps, and in messages.
    """

    def __init__(
        self,
        specs: Sequence[ToolSpec],
        dsn: str,
        *,
        policy: PolicySet | None = None,
        pool_size: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._dsn = dsn
        self._policy = PolicyEngine(policy or PolicySet())
        self._pool_size = pool_size
        self._transport = transport
        self._database: Database | None = None
        self._connecting = asyncio.Lock()

    async def capabilities(self) -> Capabilities:
        """Static facts."""
        return Capabilities(name="tools", version=VERSION, streaming=False)

    async def specs(self) -> list[ToolSpec]:
        """Every tool there is."""
        return list(self._specs.values())

    async def run(self, request: ToolRequest) -> Outcome:
        """Run a tool, or give the outcome its key already has.

        What the one who asked can mend or be told is an outcome with a ``code``; see ``voice_agent.tools``.

        Raises:
            StorageError: Postgres failed; nothing was done, asking again is safe.
            EngineFailedError: the other side of an ``http`` tool failed.
        """
        spec = self._specs.get(request.name)
        if spec is None:
            return Outcome(request.name, False, code=tools.UNKNOWN_TOOL)
        try:
            arguments = tools.checked_arguments(spec, request.arguments)
        except BadArgumentsError as error:
            return _refused_arguments(spec, error)
        if not tools.usable(spec):
            return Outcome(spec.name, False, code=tools.NOT_CONFIGURED)
        try:
            async with asyncio.timeout(spec.timeout_ms / 1000):
                return await self._run(spec, request, arguments)
        except TimeoutError:
            return Outcome(spec.name, False, code=tools.TIMEOUT)
        except Exception as error:  # the border of a replica request
            raise as_ours(error, "tools", request.call_id) from error

    async def close(self) -> None:
        """Let go of Postgres. Idempotent."""
        if self._database is not None:
            await self._database.close()
            self._database = None

    async def _run(self, spec: ToolSpec, request: ToolRequest, arguments: dict[str, Any]) -> Outcome:
        async def effect(run: Run) -> Outcome:
            if spec.kind == tools.SQL:
                return await _query(spec, run, arguments)
            if spec.kind == tools.MESSAGE:
                left = {name: self._policy.for_model(str(text)) for name, text in arguments.items()}
                return await _message(spec, run, request.call_id, left)
            if spec.kind == tools.HTTP:
                return await self._post(spec, request, arguments)
            # The call carries these out; asked for here, they only say that they may be.
            return Outcome(spec.name, True)

        ledger = ToolRunRepository(await self._connected())
        masked = mask_values(self._policy, arguments)
        return await ledger.once(request, masked, effect, mask=self._kept, repeatable=spec.read_only)

    def _kept(self, outcome: Outcome) -> Outcome:
        """An outcome as it may be stored."""
        value, say = mask_values(self._policy, outcome.value), self._policy.redact(outcome.say)
        return replace(outcome, value=value, say=say)

    async def _post(self, spec: ToolSpec, request: ToolRequest, arguments: Mapping[str, Any]) -> Outcome:
        """POST to the tool's URL. The other side keeps the key: only it can tell a repetition from a new request.

        Raises:
            EngineFailedError: it is out of reach, failed, or answered something that is no JSON object.
        """
        headers = {"Idempotency-Key": request.idempotency_key}
        if request.traceparent:
            headers["traceparent"] = request.traceparent
        body = {"tool": spec.name, "call_id": request.call_id, "arguments": dict(arguments)}
        try:
            # The tool's own timeout stands round all of it.
            async with httpx.AsyncClient(transport=self._transport, timeout=None, trust_env=False) as client:
                answer = await client.post(spec.options["url"], json=body, headers=headers)
        except httpx.HTTPError as error:
            raise EngineFailedError(f"{spec.name}: its URL is out of reach ({type(error).__name__})") from error
        if answer.status_code >= 500:
            raise EngineFailedError(f"{spec.name}: its URL answered {answer.status_code}")
        if answer.status_code >= 400:
            return Outcome(spec.name, False, {"status": answer.status_code}, code=tools.REFUSED)
        value = _object(spec.name, answer.content)
        return Outcome(spec.name, True, value, str(value.get("say", "")) or _filled(spec.options.get("say", ""), value))

    async def _connected(self) -> Database:
        async with self._connecting:
            if self._database is None:
                self._database = await Database.connect(self._dsn, self._pool_size, timeout_s=_CONNECT_TIMEOUT_S)
            return self._database


async def _query(spec: ToolSpec, run: Run, arguments: Mapping[str, Any]) -> Outcome:
    order = [name for name in str(spec.options.get("arguments", "")).split(",") if name]
    rows = await run.read(spec.options["query"], tuple(arguments.get(name) for name in order))
    if not rows:
        return Outcome(spec.name, False, say=spec.options.get("not_found", ""), code=tools.NOT_FOUND)
    return Outcome(spec.name, True, rows[0], _filled(spec.options.get("say", ""), rows[0]))


async def _message(spec: ToolSpec, run: Run, call_id: str, arguments: Mapping[str, Any]) -> Outcome:
    number = await run.leave_message(
        call_id, arguments.get("name", ""), arguments.get("phone", ""), arguments.get("text", "")
    )
    return Outcome(spec.name, True, {"message": number}, spec.options.get("say", ""))


def _refused_arguments(spec: ToolSpec, error: BadArgumentsError) -> Outcome:
    target = next((parameter for parameter in spec.parameters if parameter.name == "target"), None)
    if spec.kind == tools.TRANSFER and target is not None:
        return Outcome(
            spec.name, False, {"known": ", ".join(target.choices)}, tools.CANNOT_TRANSFER, tools.UNKNOWN_TARGET
        )
    return tools.bad_arguments(spec, error)


def _filled(text: str, value: Mapping[str, Any]) -> str:
    """The text with values in place of ``{names}``; an empty or missing one leaves nothing behind."""
    for name, item in value.items():
        text = text.replace(f"{{{name}}}", "" if item is None else str(item))
    return " ".join(text.split())


def _object(name: str, content: bytes) -> dict[str, Any]:
    """The flat part of a JSON object: texts, numbers, booleans."""
    value: Any = None
    if len(content) <= _LARGEST_ANSWER_BYTES:
        try:
            value = json.loads(content or b"{}")
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise EngineFailedError(f"{name}: its URL answered something that is no small JSON object")
    return {str(key): item for key, item in value.items() if item is None or isinstance(item, str | int | float)}
