"""`prbench splits`: splits as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import GROUP

app = typer.Typer(help="Write splits as files, for other programs and other people.", **GROUP)


@app.callback()
def group() -> None:
    """Write splits as files, for other programs and other people."""


@app.command(epilog="Example: prbench splits export --dataset convarg --splits 20 --out splits")
def export(
    dataset: Annotated[str, typer.Option(help="One data set.")],
    out: Annotated[Path, typer.Option(help="New folder for the files.")] = Path("splits"),
    splits: Annotated[
        int | None, typer.Option(min=1, help="Number of splits.", show_default="the data set's own")
    ] = None,
    seed: Annotated[int, typer.Option(help="Split i is drawn with seed + i.")] = 42,
    with_ids: Annotated[
        bool, typer.Option("--with-ids", help="Also write the source's ids of the users, in the clear.")
    ] = False,
) -> None:
    """Write each split as a JSON file that names comparisons by their keys; `run --split-files` reads it."""
    from prbench import data, registry
    from prbench.base.files import require_writable
    from prbench.running.open_dataset import reported_splits
    from prbench.sharing import split_files

    entry = registry.get("datasets", dataset)
    require_writable(out)
    loaded = data.load(entry)
    drawn = reported_splits(loaded, entry, splits or entry.protocol.splits, seed)
    for path in split_files.export(loaded, entry.protocol, drawn, out, with_ids=with_ids):
        typer.echo(str(path))
