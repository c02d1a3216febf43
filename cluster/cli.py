"""``voice-agent``: the command line."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from voice_agent.errors import VoiceAgentError


class _Commands(TyperGroup):
    """Turns our errors into a sentence and exit status 1; anything else is a fault and keeps its trace."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except VoiceAgentError as error:
            from rich.text import Text

            from cluster.commands.common import err

            err().print(Text(error.message, style="red"))
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Real phone calls answered on your own cluster.",
)
kb = typer.Typer(no_args_is_help=True, help="The knowledge base: ingest, ask, list, remove.")
config = typer.Typer(no_args_is_help=True, help="The configuration and where each value came from.")
calls = typer.Typer(no_args_is_help=True, help="Calls that were taken.")
app.add_typer(kb, name="kb")
app.add_typer(config, name="config")
app.add_typer(calls, name="calls")


def _register() -> None:
    from cluster.commands import call as call_command
    from cluster.commands import calls as calls_commands
    from cluster.commands import config as config_commands
    from cluster.commands import demo as demo_command
    from cluster.commands import doctor as doctor_command
    from cluster.commands import kb as kb_commands
    from cluster.commands import up as up_command

    app.command("up")(up_command.up)
    app.command("demo")(demo_command.demo)
    app.command("call")(call_command.call)
    app.command("doctor")(doctor_command.doctor)
    kb.command("ingest")(kb_commands.ingest)
    kb.command("ask")(kb_commands.ask)
    kb.command("list")(kb_commands.list_documents)
    kb.command("remove")(kb_commands.remove)
    config.command("show")(config_commands.show)
    calls.command("list")(calls_commands.list_calls)
    calls.command("show")(calls_commands.show)


_register()

if __name__ == "__main__":
    app()
