"""Takes YAML apart by hand and goes on after an error: all that is wrong is told at once, each thing with its line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from configs.yaml_nodes import Document, Keys, named
from voice_agent.errors import ConfigError
from voice_agent.flow.templates import as_text

_T = TypeVar("_T")


class NodeReader:
    """Values of a document by their keys. A wrong one is noted in ``wrong``, and something harmless is given."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.wrong: list[tuple[int, str]] = []

    def refuse(self, keys: Keys, wanted: str) -> None:
        """Note that the value at ``keys`` is wrong."""
        place = self.document.at(keys)
        value = self.value(keys)
        what = named(keys)
        if isinstance(value, str | int | float) or value is None:
            what += f" = {value!r}" if keys in self.document.lines else ""
        line = int(place.rpartition(":")[2])
        self.wrong.append((line, f"{place}: {what or 'the file'}: {wanted}"))

    def raise_if_wrong(self) -> None:
        """Tell all that is wrong, in the order of the file.

        Raises:
            ConfigError: something is.
        """
        if self.wrong:
            raise ConfigError("\n".join(text for _, text in sorted(self.wrong, key=lambda item: item[0])))

    def value(self, keys: Keys) -> Any:
        """The value at ``keys``; None where there is none."""
        value = self.document.value
        for key in keys:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value

    def mapping(self, keys: Keys, allowed: Sequence[str], intro: str) -> bool:
        """Is there a mapping with these keys only? ``intro`` begins the list of what is allowed."""
        value = self.value(keys)
        if not isinstance(value, dict):
            self.refuse(keys, f"{intro}{', '.join(allowed)} is wanted")
            return False
        for name in value:
            if name not in allowed:
                close = difflib.get_close_matches(name, allowed, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                self.refuse((*keys, name), f"there is no such key; {intro}{', '.join(allowed)}{hint}")
        return True

    def text(self, keys: Keys, *, required: bool = True) -> str:
        """Text, stripped; empty when it is not required and not there."""
        value = self.value(keys)
        if value is None and not required and keys not in self.document.lines:
            return ""
        if not isinstance(value, str) or not value.strip():
            quotes = "; put it in quotes" if isinstance(value, int | float) else ""
            self.refuse(keys, f"text is wanted{quotes}")
            return ""
        return value.strip()

    def scalar(self, keys: Keys) -> str:
        """Text, a number or a truth value, as text."""
        value = self.value(keys)
        if value is None or isinstance(value, dict | list):
            self.refuse(keys, "text, a number, true or false is wanted")
            return ""
        return as_text(value)

    def whole(self, keys: Keys, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        if keys not in self.document.lines:
            return default
        value = self.value(keys)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(keys, f"a whole number from {least} to {most} is wanted")
            return default
        return value

    def number(self, keys: Keys) -> float | None:
        """A number; None where there is none."""
        if keys not in self.document.lines:
            return None
        value = self.value(keys)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(keys, "a number is wanted")
            return None
        return float(value)

    def flag(self, keys: Keys, default: bool) -> bool:
        """True or false."""
        if keys not in self.document.lines:
            return default
        value = self.value(keys)
        if not isinstance(value, bool):
            self.refuse(keys, "true or false is wanted")
            return default
        return value

    def list(self, keys: Keys, item: Callable[[Keys], _T | None], *, least: int) -> tuple[_T, ...]:
        """A list with at least so many items, each read by ``item``."""
        value = self.value(keys)
        if value is None and least == 0 and keys not in self.document.lines:
            return ()
        if not isinstance(value, list) or len(value) < least:
            self.refuse(keys, f"a list of at least {least} is wanted" if least else "a list is wanted")
            return ()
        found = [item((*keys, place)) for place in range(len(value))]
        return tuple(entry for entry in found if entry is not None)
