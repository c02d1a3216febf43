"""Tools as YAML declares them; every mistake is told with file, line and what is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from configs.settings import Settings
from configs.yaml_nodes import Document, Keys, named, read_document
from voice_agent import tools
from voice_agent.errors import ConfigError
from voice_agent.tools import Parameter, ToolSpec

HERE: Final = Path(__file__).parent.parent
"""Where a path is looked for that is not found from the working directory: what ships with the program."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")
_PLACEHOLDER: Final = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
_SPOKEN: Final = re.compile(r"\{([^{}]*)\}")
_COMMON: Final = ("kind", "description", "timeout_ms", "parameters")
_OF_PARAMETER: Final = ("type", "description", "required", "choices", "max_chars")
_FLAGS: Final = ("read_only",)
_LONGEST_TIMEOUT_MS: Final = 30_000
_MESSAGE_FIELDS: Final = ("name", "phone", "text")

OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    tools.END_CALL: (),
    tools.TRANSFER: (),
    tools.SEND_DTMF: (),
    tools.SQL: ("query", "say", "not_found"),
    tools.MESSAGE: ("say",),
    tools.HTTP: ("url", "say", "read_only"),
}
"""Keys of each kind beside the common ones."""


def load_tools(settings: Settings) -> tuple[ToolSpec, ...]:
    """Every tool of the settings: those of the files in order, then those written in the settings themselves.

    A later one replaces an earlier one of the same name.

    Raises:
        ConfigError: a file is missing, or a declaration is wrong.
    """
    specs: dict[str, ToolSpec] = {}
    for path in settings.tools.files:
        document = read_document(found(path))
        for spec in _specs(document, settings):
            specs[spec.name] = spec
    if settings.tools.inline:
        document = Document(Path("tools.inline"), {"tools": settings.tools.inline}, {})
        specs |= {spec.name: spec for spec in _specs(document, settings)}
    return tuple(specs.values())


def found(path: Path) -> Path:
    """The file that is meant: what ships with the program is found from any folder."""
    if path.exists() or path.is_absolute():
        return path
    shipped = HERE / path
    return shipped if shipped.exists() else path


class _Reader:
    """One declaration, and how to complain about it."""

    def __init__(self, document: Document, keys: Keys, value: Any) -> None:
        self.document = document
        self.keys = keys
        if not isinstance(value, dict):
            self.wrong("a mapping is wanted")
        self.value: dict[str, Any] = value

    def wrong(self, wanted: str, *keys: str) -> NoReturn:
        where = (*self.keys, *keys)
        raise ConfigError(f"{self.document.at(where)}: {named(where)}: {wanted}")

    def refuse_unknown(self, allowed: tuple[str, ...]) -> None:
        for key in self.value:
            if key not in allowed:
                self.wrong(f"there is no such key; there are {', '.join(allowed)}", key)

    def text(self, key: str, default: str = "") -> str:
        value = self.value.get(key, default)
        if not isinstance(value, str):
            self.wrong("text is wanted; put it in quotes", key)
        return " ".join(value.split())

    def flag(self, key: str, default: bool) -> bool:
        value = self.value.get(key, default)
        if not isinstance(value, bool):
            self.wrong("true or false is wanted", key)
        return value

    def whole(self, key: str, default: int, most: int) -> int:
        value = self.value.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            self.wrong(f"a whole number from 1 to {most} is wanted", key)
        return value


def _specs(document: Document, settings: Settings) -> list[ToolSpec]:
    whole = _Reader(document, (), document.value)
    whole.refuse_unknown(("tools",))
    listed = _Reader(document, ("tools",), whole.value.get("tools"))
    return [_spec(_Reader(document, ("tools", name), value), name, settings) for name, value in listed.value.items()]


def _spec(reader: _Reader, name: str, settings: Settings) -> ToolSpec:
    if not _NAME.fullmatch(name):
        reader.wrong("a name of small letters, digits and _ is wanted, which begins with a letter")
    kind = reader.text("kind")
    if kind not in tools.KINDS:
        reader.wrong(f"one of {', '.join(tools.KINDS)} is wanted", "kind")
    if kind in tools.IN_CALL and name != kind:
        reader.wrong(f"the call knows this tool as {kind}; call it so", "kind")
    reader.refuse_unknown((*_COMMON, *OPTIONS[kind]))
    parameters = _BUILT_IN[kind](settings) if kind in _BUILT_IN else _parameters(reader)
    if kind in _BUILT_IN and "parameters" in reader.value:
        reader.wrong(f"a tool of kind {kind} has parameters of its own", "parameters")
    options = {key: reader.text(key) for key in OPTIONS[kind] if key in reader.value and key not in _FLAGS}
    spec = ToolSpec(
        name=name,
        kind=cast(tools.Kind, kind),
        description=reader.text("description"),
        parameters=parameters,
        timeout_ms=reader.whole("timeout_ms", 3_000, _LONGEST_TIMEOUT_MS),
        read_only=reader.flag("read_only", False) if kind == tools.HTTP else kind == tools.SQL,
        options=options,
    )
    _CHECKS.get(kind, _no_more)(reader, spec)
    return spec if kind != tools.SQL else _numbered(spec)


def _parameters(reader: _Reader) -> tuple[Parameter, ...]:
    if "parameters" not in reader.value:
        return ()
    listed = _Reader(reader.document, (*reader.keys, "parameters"), reader.value["parameters"])
    return tuple(
        _parameter(_Reader(reader.document, (*listed.keys, name), {} if value is None else value), name)
        for name, value in listed.value.items()
    )


def _parameter(reader: _Reader, name: str) -> Parameter:
    if not _NAME.fullmatch(name):
        reader.wrong("a name of small letters, digits and _ is wanted, which begins with a letter")
    reader.refuse_unknown(_OF_PARAMETER)
    type_name = reader.text("type", "string")
    if type_name not in tools.TYPES:
        reader.wrong(f"one of {', '.join(tools.TYPES)} is wanted", "type")
    choices = reader.value.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        reader.wrong("a list of texts is wanted", "choices")
    return Parameter(
        name=name,
        type=cast(tools.Type, type_name),
        description=reader.text("description"),
        required=reader.flag("required", True),
        choices=tuple(choices),
        max_chars=reader.whole("max_chars", tools.LONGEST_TEXT, tools.LONGEST_TEXT),
    )


def _keys_parameter(_settings: Settings) -> tuple[Parameter, ...]:
    return (Parameter("digits", "string", "Keys to press: 0-9, *, #", max_chars=2 * tools.MOST_KEYS),)


def _target_parameter(settings: Settings) -> tuple[Parameter, ...]:
    return (Parameter("target", "string", "Who to connect to", choices=tuple(settings.tools.transfer_targets)),)


_BUILT_IN: Final[Mapping[str, Callable[[Settings], tuple[Parameter, ...]]]] = {
    tools.END_CALL: lambda _settings: (),
    tools.TRANSFER: _target_parameter,
    tools.SEND_DTMF: _keys_parameter,
}


def _no_more(_reader: _Reader, _spec: ToolSpec) -> None:
    return None


def _check_sql(reader: _Reader, spec: ToolSpec) -> None:
    query = spec.options.get("query", "")
    if not re.match(r"(select|with)\b", query, re.IGNORECASE) or ";" in query:
        reader.wrong("one SELECT is wanted, without a semicolon", "query")
    known = {parameter.name for parameter in spec.parameters}
    for placeholder in _PLACEHOLDER.findall(query):
        if placeholder not in known:
            reader.wrong(
                f":{placeholder} is none of its parameters: {', '.join(sorted(known)) or 'it has none'}", "query"
            )
    for text in ("say", "not_found"):
        if any(not _NAME.fullmatch(name) for name in _SPOKEN.findall(spec.options.get(text, ""))):
            reader.wrong("in braces the name of a column is wanted", text)


def _check_message(reader: _Reader, spec: ToolSpec) -> None:
    names = [parameter.name for parameter in spec.parameters]
    wrong = [name for name in names if name not in _MESSAGE_FIELDS]
    if wrong or "text" not in names:
        reader.wrong(f"text is wanted, and beside it only {', '.join(_MESSAGE_FIELDS[:2])}", "parameters")


def _check_http(reader: _Reader, spec: ToolSpec) -> None:
    url = spec.options.get("url", "")
    if url and not url.startswith(("http://", "https://")):
        reader.wrong("an http(s) URL is wanted", "url")


_CHECKS: Final = {tools.SQL: _check_sql, tools.MESSAGE: _check_message, tools.HTTP: _check_http}


def _numbered(spec: ToolSpec) -> ToolSpec:
    """The query with Postgres's own placeholders; ``arguments`` lists the parameters in their order, all as text."""
    order: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in order:
            order.append(match[1])
        return f"${order.index(match[1]) + 1}"

    query = _PLACEHOLDER.sub(number, spec.options["query"])
    return ToolSpec(
        name=spec.name,
        kind=spec.kind,
        description=spec.description,
        parameters=spec.parameters,
        timeout_ms=spec.timeout_ms,
        read_only=spec.read_only,
        options={**spec.options, "query": query, "arguments": ",".join(order)},
    )
