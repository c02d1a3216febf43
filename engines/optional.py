"""Libraries of the optional extras, imported when an engine is made and not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from voice_agent.errors import EngineUnavailableError


def need(module: str, library: str, extra: str) -> Any:
    """The module ``module`` of ``library``, which the extra ``extra`` of this package installs.

    Raises:
        EngineUnavailableError: it cannot be imported; the message says what to install.
    """
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # OSError: a C library inside it is missing
        raise EngineUnavailableError(
            f"{library} cannot be imported ({error}): `pip install 'voice-agent-platform[{extra}]'`"
        ) from error
