"""`prbench results`: look after folders of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import GROUP, AsJson

STORE = "Folder of the store, or hf://datasets/OWNER/NAME."

app = typer.Typer(help="Check, pack, merge, submit and fetch folders of results.", **GROUP)


@app.callback()
def group() -> None:
    """Check, pack, merge, submit and fetch folders of results."""


@app.command(epilog="Example: prbench results verify runs --json")
def verify(
    runs: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("runs"),
    rerun: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also fit N results again, drawn at random, and compare margins.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare every file with the sha256 that was kept of it; exits with 1 where one is damaged or not repeated.

    A sha256 finds damage and careless edits. --rerun also finds edits whose sha256 was renewed, on a machine of the
    type that made the results: there every margin is the same to the bit.
    """
    from prbench.base.console import progress
    from prbench.commands import output
    from prbench.results import verify as check
    from prbench.sharing import pack as packing

    if (runs / packing.MANIFEST).is_file():
        packing.check_pack(runs)

    with progress() as display:
        task = display.add_task("checking", total=None)
        outcome = check.verify(runs, lambda: display.advance(task))
    if rerun:
        from prbench.running.rerun import rerun as repeat

        outcome["rerun"] = repeat(runs, rerun)
    output.show_record(outcome, as_json)
    if outcome["damaged"] or (rerun and outcome["rerun"]["differs"]):
        raise typer.Exit(1)


@app.command(epilog="Example: prbench results pack runs --out results.tar.zst")
def pack(
    runs: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("runs"),
    out: Annotated[
        Path, typer.Option(help="New archive, ending in .tar.zst, or new folder, as for a data set repository.")
    ] = Path("results.tar.zst"),
    with_models: Annotated[bool, typer.Option("--with-models", help="Pack the fitted models too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack results for other people: records and margins, without texts, ids of people and machine paths."""
    from prbench.commands import output
    from prbench.sharing import pack as packing

    packed = packing.pack(runs, out, with_models=with_models)
    output.show_record(
        {"out": str(packed.path), "finished": packed.done, "not finished": packed.undone, "models": packed.models},
        as_json,
    )


@app.command(epilog="Example: prbench results unpack results.tar.zst --out theirs")
def unpack(
    archive: Annotated[Path, typer.Argument(help="Archive that `prbench results pack` wrote.")],
    out: Annotated[Path, typer.Option(help="New folder for the results.")],
) -> None:
    """Unpack an archive of results and check all of it; packed results are read by `prbench report`."""
    from prbench.base.errors import InputError
    from prbench.sharing import pack as packing

    if not archive.is_file():
        raise InputError(f"there is no archive {archive}", hint="a folder of results needs no unpacking")
    typer.echo(f"{packing.unpack(archive, out)} results in {out}")


@app.command(epilog="Example: prbench results merge runs theirs.tar.zst --out all")
def merge(
    sources: Annotated[list[Path], typer.Argument(help="Folders of results, packs or archives.")],
    out: Annotated[Path, typer.Option(help="New folder for the merged results.")],
    prefer: Annotated[
        Path | None, typer.Option(help="The source to use where copies of a row differ.", metavar="FOLDER")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge several people's results; exits with 1 where two copies of a row differ and neither is used."""
    from prbench.commands import output
    from prbench.sharing import merge as merging

    merged = merging.merge(sources, out, prefer=prefer)
    for sentence in merging.sentences(merged):
        typer.echo(sentence, err=True)
    if as_json:
        output.show_json({"out": str(out), **merged.model_dump()})
    else:
        counts = {"cells": merged.cells, "in several sources": merged.twice, "identical": merged.identical}
        counts |= {"rows that differ": len(merged.differs), "kept apart": len(merged.apart)}
        output.show_record({"out": str(out), **counts}, as_json=False)
    if any(not row.used for row in merged.differs):
        raise typer.Exit(1)


@app.command(epilog="Example: prbench results submit runs --store /shared/results --send")
def submit(
    runs: Annotated[Path, typer.Argument(help="Folder of results, pack or archive.")],
    store: Annotated[str, typer.Option(help=STORE)],
    send: Annotated[bool, typer.Option("--send", help="Send them; without it they are only checked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check results for a public store and, with --send, add them there; on the hub this opens a pull request."""
    from prbench.commands import output
    from prbench.sharing import store as stores

    submission = stores.submit(runs, stores.open_store(store), send=send)
    record = {
        "submission": submission.name,
        "results": submission.cells,
        "rows": submission.rows,
        "bytes": submission.bytes,
    }
    output.show_record({**record, "sent to": submission.place or "nowhere: add --send"}, as_json)


@app.command(epilog="Example: prbench results fetch --store /shared/results --out all")
def fetch(
    store: Annotated[str, typer.Option(help=STORE)],
    out: Annotated[Path, typer.Option(help="New folder for the merged results.")],
    prefer: Annotated[str, typer.Option(help="The submission to use where copies of a row differ.")] = "",
    as_json: AsJson = False,
) -> None:
    """Merge all results of a public store into one folder; exits with 1 where something was left out or differs."""
    from prbench.commands import output
    from prbench.sharing import merge as merging
    from prbench.sharing import store as stores

    fetched = stores.fetch(stores.open_store(store), out, prefer=prefer)
    merged = fetched.merge
    for sentence in (*fetched.left_out, *merging.sentences(merged)):
        typer.echo(sentence, err=True)
    counts = {"submissions": len(merged.sources), "cells": merged.cells, "left out": len(fetched.left_out)}
    output.show_record({"out": str(out), **counts, "rows that differ": len(merged.differs)}, as_json)
    if fetched.left_out or any(not row.used for row in merged.differs):
        raise typer.Exit(1)


@app.command(
    "import-margins", epilog="Example: prbench results import-margins ours.csv --name ours --dataset convarg"
)
def import_margins(
    file: Annotated[
        Path, typer.Argument(help="Table of split, comparison, margin_before, margin_after: .csv, .jsonl, .parquet.")
    ],
    name: Annotated[str, typer.Option(help="Name of the row.")],
    dataset: Annotated[str, typer.Option(help="The data set whose test choices these are.")],
    runs: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Split i was drawn with seed + i.")] = 42,
) -> None:
    """Take in the margins of a method that cannot be rerun; reports show them apart, without ranks and tests."""
    from prbench import data, registry
    from prbench.sharing import margins

    entry = registry.get("datasets", dataset)
    typer.echo(str(margins.import_margins(file, data.load(entry), entry.protocol, name, runs, seed=seed)))
