"""``voice-agent flow``: check and show scripted dialogs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import err, out

WHOLE_LINES = 10_000

if TYPE_CHECKING:
    from rich.tree import Tree

    from voice_agent.flow.definition import Flow


def check(
    files: Annotated[list[str], typer.Argument(help="Flow files, or names of flows that ship with the program.")],
) -> None:
    """Read flows; tell every mistake with its file and line. Status 1 when there is one."""
    from rich.text import Text

    from configs.flows import found, read_flow
    from voice_agent.errors import ConfigError

    failed = False
    for file in files:
        try:
            flow = read_flow(found(Path(file)))
        except ConfigError as error:
            failed = True
            err().print(Text(error.message, style="red"))
        else:
            out().print(f"{file}: {flow.name}, {len(flow.states)} states", markup=False)
    if failed:
        raise typer.Exit(1)


def show(
    file: Annotated[str, typer.Argument(help="A flow file, or the name of one that ships with the program.")],
    dot: Annotated[bool, typer.Option("--dot", help="Print the graph as DOT text instead.")] = False,
    png: Annotated[Path | None, typer.Option("--png", help="Also draw the graph into this file.")] = None,
) -> None:
    """Show a flow as a tree of states; or draw it."""
    from cluster import flow_graph
    from configs.flows import found, read_flow

    flow = read_flow(found(Path(file)))
    if png is not None:
        flow_graph.draw(flow, png)
        err().print(f"drawn: {png}", markup=False)
    if dot:
        typer.echo(flow_graph.dot(flow), nl=False)
    else:
        # Without a terminal a line is as long as it is.
        out(None if out().is_terminal else WHOLE_LINES).print(_tree(flow))


def _tree(flow: Flow) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    from voice_agent.flow.definition import edges, options, what

    tree = Tree(Text.assemble((flow.name, "bold"), f"  {flow.about}"))
    if flow.anywhere:
        anywhere = tree.add(Text("anywhere", style="bold"))
        for edge in options(flow.anywhere, "anywhere"):
            anywhere.add(Text(f"{edge.label} → {edge.target}"))
    seen: set[str] = set()

    def add(branch: Tree, name: str, label: str) -> None:
        state = flow.states[name]
        again = name in seen
        seen.add(name)
        head = Text.assemble((f"{label} → " if label else "", "dim"), (name, "bold cyan"), f"  {what(state)}")
        node = branch.add(head.append(" (see above)", style="dim") if again else head)
        if again:
            return
        if state.say:
            node.add(Text(state.say, style="italic"))
        for edge in edges(state):
            add(node, edge.target, edge.label)

    add(tree, flow.start, "")
    for name in flow.states:
        if name not in seen:
            add(tree, name, "")
    return tree
