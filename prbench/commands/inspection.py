"""`prbench list`, `show`, `check` and `doctor`: what there is, in brief and in full, and whether it works."""

from __future__ import annotations

from typing import Annotated

import typer

from prbench.commands.completion import names_of
from prbench.commands.options import AsJson, Kinds

ENTRIES = names_of("methods", "datasets", "encoders", "judges", "reports")


def list_entries(kind: Annotated[Kinds, typer.Argument(help="What to list.")], as_json: AsJson = False) -> None:
    """List the methods, data sets, encoders, judge models or reports there are."""
    from prbench.commands import entries, output

    rows = entries.rows(kind.value)
    if as_json:
        output.show_json(rows)
        return
    families = list(dict.fromkeys(row["family"] for row in rows)) if kind is Kinds.methods else []
    if not families:
        output.show(output.rows_table([entries.brief(row) for row in rows], order=("summary", "title")))
    for family in sorted(families, key=entries.family_place):
        members = [entries.brief(row) for row in rows if row["family"] == family]
        shown = [{key: value for key, value in row.items() if key != "family"} for row in members]
        output.show(output.rows_table(shown, title=family.capitalize(), order=("summary", "in_all", "title")))


def show(
    name: Annotated[str, typer.Argument(help="Name of an entry.", autocompletion=ENTRIES)],
    kind: Annotated[Kinds | None, typer.Option(help="Which kind, where two share a name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show an entry with all that it inherits, and its file; a method also with its defaults and parameter counts."""
    from prbench.commands import entries, output

    output.show_record(entries.full(name, kind.value if kind else None), as_json)


def check(
    methods: Annotated[str, typer.Argument(help="Methods: names, patterns such as 'mrm*', or all.")],
) -> None:
    """Check methods against the contract that every method keeps, on made-up users."""
    from prbench import registry
    from prbench.commands import output

    chosen = registry.names("methods") if methods == "all" else registry.select("methods", methods)
    from prbench import contract

    failed = []
    for name in chosen:
        report = contract.check(registry.get("methods", name))
        output.show(report.table())
        if not report.passed:
            failed.append(name)
    if failed:
        typer.echo(f"{len(failed)} of {len(chosen)} failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def doctor(as_json: AsJson = False) -> None:
    """Say what this installation has: versions, GPU, folders, space, entries. Exits with 1 on a problem."""
    from prbench.commands import doctor as examination
    from prbench.commands import output

    record = examination.examine()
    output.show_record(record, as_json)
    if record["problems"]:
        raise typer.Exit(1)
