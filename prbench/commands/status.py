"""`prbench status`: what runs, what waits and what is done in a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import AsJson


def status(
    runs: Annotated[Path, typer.Option(help="Folder of results, or of tuned parameters.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show which jobs are queued, running, done or failed, with their logs; nothing is changed."""
    from prbench.commands import output
    from prbench.running import status as found

    state = found.status(runs)
    output.show_json(state.as_dict()) if as_json else output.show(state.table())
