"""`prbench results`: look after folders of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import GROUP, AsJson

app = typer.Typer(help="Look after folders of results.", **GROUP)


@app.callback()
def group() -> None:
    """Look after folders of results."""


@app.command(epilog="Example: prbench results verify runs --json")
def verify(
    runs: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("runs"), as_json: AsJson = False
) -> None:
    """Compare every file with the sha256 that was kept of it; exits with 1 where one is damaged."""
    from prbench.base.console import progress
    from prbench.commands import output
    from prbench.results import verify as check

    with progress() as display:
        task = display.add_task("checking", total=None)
        found = check.verify(runs, lambda: display.advance(task))
    output.show_record(found, as_json)
    if found["damaged"]:
        raise typer.Exit(1)
