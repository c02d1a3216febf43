"""``voice-agent``: the command line."""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.core import TyperGroup

from cluster.processes import ONE_THREAD
from voice_agent.errors import VoiceAgentError


class _Commands(TyperGroup):
    """Turns our errors into a sentence and exit status 1; anything else is a fault and keeps its trace."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        # Read when a numerical library is loaded, which is after this: commands import what they need.
        for name, value in ONE_THREAD.items():
            os.environ.setdefault(name, value)
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
kb = typer.Typer(no_args_is_help=True, help="The knowledge base: ingest, ask, list, remove, evaluate.")
config = typer.Typer(no_args_is_help=True, help="The configuration and where each value came from.")
calls = typer.Typer(no_args_is_help=True, help="Calls that were taken: list, show, purge.")
app.add_typer(kb, name="kb")
app.add_typer(config, name="config")
tools = typer.Typer(no_args_is_help=True, help="Tools the agent may use.")
app.add_typer(calls, name="calls")
app.add_typer(tools, name="tools")
flow = typer.Typer(no_args_is_help=True, help="Scripted dialogs: check, show, draw.")
app.add_typer(flow, name="flow")
policy = typer.Typer(no_args_is_help=True, help="Rules on what is heard, said and kept.")
app.add_typer(policy, name="policy")
load = typer.Typer(no_args_is_help=True, help="Many emulated calls at once, with a report and a verdict.")
app.add_typer(load, name="load")


def _register_life() -> None:
    from cluster.commands.deploy import deploy
    from cluster.commands.up import up

    app.command("up")(up)
    app.command("deploy")(deploy)


def _register() -> None:
    from cluster.commands.call import call as place_call
    from cluster.commands.calls import list_calls, purge
    from cluster.commands.calls import show as show_call
    from cluster.commands.config import show as show_config
    from cluster.commands.demo import demo
    from cluster.commands.doctor import doctor
    from cluster.commands.eval import evaluate
    from cluster.commands.flow import check as check_flow
    from cluster.commands.flow import show as show_flow
    from cluster.commands.kb import ask, ingest, list_documents, remove
    from cluster.commands.kb import evaluate as evaluate_kb
    from cluster.commands.load import run as run_load
    from cluster.commands.load import smoke, soak
    from cluster.commands.policy import check as check_policy
    from cluster.commands.policy import show as show_policy
    from cluster.commands.status import status
    from cluster.commands.tools import list_tools

    app.command("demo")(demo)
    app.command("call")(place_call)
    app.command("doctor")(doctor)
    app.command("status")(status)
    app.command("eval")(evaluate)
    load.command("smoke")(smoke)
    load.command("soak")(soak)
    load.command("run")(run_load)
    kb.command("ingest")(ingest)
    kb.command("ask")(ask)
    kb.command("evaluate")(evaluate_kb)
    kb.command("remove")(remove)
    kb.command("list")(list_documents)
    config.command("show")(show_config)
    calls.command("list")(list_calls)
    calls.command("show")(show_call)
    calls.command("purge")(purge)
    tools.command("list")(list_tools)
    flow.command("check")(check_flow)
    flow.command("show")(show_flow)
    policy.command("check")(check_policy)
    policy.command("show")(show_policy)


_register_life()
_register()

if __name__ == "__main__":
    app()
