"""What the processes of a stack will read and load, tried while a mistake can still be told to whoever made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from configs import flows, policies, tool_files
from configs.runtime import GATEWAY_NUMBER
from configs.settings import Settings
from engines import chosen
from voice_agent.errors import ConfigError


def check(settings: Settings) -> None:
    """Read the files of tools, rules and the flow; look up the engines.

    Raises:
        ConfigError: one line for each thing that is wrong, in all of them.
    """
    tries: tuple[Callable[[], object], ...] = (
        lambda: chosen.check_names(settings),
        lambda: _check_gateways(settings),
        lambda: tool_files.load_tools(settings),
        lambda: policies.of(settings, probe=True),
        lambda: flows.of(settings, probe=True),
    )
    problems: list[str] = []
    for one in tries:
        try:
            one()
        except ConfigError as error:
            problems += error.message.splitlines()
    if problems:
        # A flow reads the tools as well, and says the same of them.
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def with_whole_paths(settings: Settings) -> Settings:
    """The same settings for processes that have another working folder."""
    tools, rules, dialog = settings.tools, settings.policy, settings.dialog
    flow = str(flows.found(Path(dialog.flow)).absolute()) if dialog.flow else ""
    return settings.model_copy(
        update={
            "tools": tools.model_copy(update={"files": [tool_files.found(path).absolute() for path in tools.files]}),
            "policy": rules.model_copy(update={"files": [policies.found(path).absolute() for path in rules.files]}),
            "dialog": dialog.model_copy(update={"flow": flow}),
        }
    )


def _check_gateways(settings: Settings) -> None:
    url = settings.server.public_media_url
    if settings.media.gateways > 1 and url and GATEWAY_NUMBER not in url:
        raise ConfigError(
            f"server.public_media_url: with media.gateways={settings.media.gateways} each gateway needs an address of"
            f" its own; put {GATEWAY_NUMBER} in it, e.g. wss://media{GATEWAY_NUMBER}.example.com/twilio/media"
        )
