"""``voice-agent kb``: through the API of a running stack, else directly on the data folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.commands.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    ProfileOption,
    SetOption,
    err,
    out,
    print_json,
    print_table,
    resolved,
)


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: Markdown, text, HTML, PDF.")],
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring documents in. What has not changed is skipped; what cannot be read is reported, the rest is ingested."""
    from rich.progress import Progress

    from cluster import knowledge
    from voice_agent.errors import DocumentError

    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DocumentError(f"there is no {', '.join(missing)}")
    settings = resolved(profile, config, overrides, data_dir).settings
    with Progress(console=err(), transient=True) as progress:
        task = progress.add_task("ingesting", total=None)

        def show(done: int, total: int, source: str) -> None:
            progress.update(task, completed=done, total=total, description=source)

        report = knowledge.ingest(settings, [path.absolute() for path in paths], show)
    if as_json:
        print_json(report)
    else:
        for name in ("added", "changed", "unchanged", "removed", "ignored"):
            for source in report[name]:
                out().print(f"{name:<10} {source}", markup=False)
        for source, reason in report["failed"].items():
            err().print(f"failed     {source}: {reason}", style="red", markup=False)
        out().print(f"knowledge base {report['kb_version']}", markup=False)
    if report["failed"]:
        raise typer.Exit(1)


def ask(
    question: Annotated[str, typer.Argument(help="What a caller would ask.")],
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the knowledge base: the answer a caller would get, and the passages it came from."""
    from cluster import knowledge

    answer = knowledge.ask(resolved(profile, config, overrides, data_dir).settings, question)
    if as_json:
        print_json(answer)
        return
    out().print(answer["answer"], style="bold", markup=False)
    for passage in answer["passages"]:
        where = f"{passage['source']} > {passage['heading']}"
        out().print(
            f"  {passage['score']:.3f}  dense {passage['dense']:.2f}  lexical {passage['lexical']:.2f}  {where}\n"
            f"         {passage['sentence']}",
            markup=False,
            style="dim",
        )


def list_documents(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the documents in the knowledge base."""
    from cluster import knowledge

    documents = knowledge.documents(resolved(profile, config, overrides, data_dir).settings)
    if as_json:
        print_json(documents)
        return
    if not documents:
        out().print("No documents; `voice-agent kb ingest PATH` brings some in.")
        return
    columns = ("source", "title", "version", "chunks", "size_bytes", "ingested_at")
    cells = [[str(entry[column]) for column in columns] for entry in documents]
    print_table(("source", "title", "version", "chunks", "bytes", "ingested"), cells)


def evaluate(
    questions: Annotated[Path | None, typer.Argument(help="A file of questions; default: the sample's.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, max=50, help="Passages looked at.")] = 4,
    spoken: Annotated[
        list[str] | None,
        typer.Option("--spoken", help="Also ask aloud, in this voice, over a telephone line; may be given often."),
    ] = None,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval over `kb.sources`: recall, mean reciprocal rank, and whether foreign questions are kept out."""
    import kb
    from cluster import knowledge, spoken_questions

    path = questions or Path(kb.__path__[0]) / "sample" / "questions.yaml"
    settings = resolved(profile, config, overrides).settings
    found = {"written": knowledge.evaluate(settings, path, top_k)}
    for voice in spoken or ():
        found |= spoken_questions.evaluate(settings, path, top_k, voice)
    if as_json:
        print_json(found if spoken else found["written"])
        return
    print_table(("measure", *found), [(name, *cells) for name, *cells in _measures(found, top_k)])
    for question, sentence in found["written"]["wrong"]:
        out().print(f"wrong: {question} -> {sentence}", markup=False)


def _measures(found: Mapping[str, Mapping[str, Any]], top_k: int) -> Iterator[tuple[str, ...]]:
    """A row a measure, a cell for each way of asking."""
    least = next(iter(found.values()))["min_dense"]
    for name, key, form in (
        ("questions", "questions", "d"),
        ("foreign questions", "foreign", "d"),
        ("word error rate", "word_error_rate", ".3f"),
        (f"recall@{top_k}", "recall", ".3f"),
        (f"document recall@{top_k}", "document_recall", ".3f"),
        ("MRR", "mrr", ".3f"),
        ("right first sentence", "top1", ".3f"),
        (f"gate at {least:g}", "gate_accuracy", ".3f"),
        ("lowest right cosine", "lowest_dense", ".3f"),
        ("highest foreign cosine", "highest_foreign_dense", ".3f"),
    ):
        if any(key in one for one in found.values()):
            yield name, *(format(one[key], form) if key in one else "" for one in found.values())


def remove(
    source: Annotated[str, typer.Argument(help="As `voice-agent kb list` shows it.")],
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take a document out."""
    from cluster import knowledge

    report = knowledge.remove(resolved(profile, config, overrides, data_dir).settings, source)
    out().print(f"removed {source}; knowledge base {report['kb_version']}", markup=False)
