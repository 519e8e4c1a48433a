"""`prbench data`: download, check and import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.base.errors import InputError
from prbench.commands.options import GROUP, AsJson, NewName

app = typer.Typer(help="Download, check and import data.", **GROUP)


@app.command(epilog="Example: prbench data get convarg")
def get(dataset: Annotated[str, typer.Argument(help="Data sets: names, patterns or all.")]) -> None:
    """Download and read data sets, and compare them with the counts that their entries expect."""
    from prbench import data, registry
    from prbench.commands import output
    from prbench.data import describe

    for name in registry.select("datasets", dataset):
        entry = registry.get("datasets", name)
        output.show_record(describe.describe(data.load(entry), entry), as_json=False)


@app.command(epilog="Example: prbench data info convarg --json")
def info(dataset: Annotated[str, typer.Argument(help="One data set.")], as_json: AsJson = False) -> None:
    """Describe a data set: users, comparisons, items, per-user counts, what was dropped, licence."""
    from prbench import data, registry
    from prbench.commands import output
    from prbench.data import describe

    entry = registry.get("datasets", dataset)
    output.show_record(describe.describe(data.load(entry), entry), as_json)


@app.command(epilog="Example: prbench data verify")
def verify(
    stores: Annotated[list[Path] | None, typer.Argument(help="Folders of embedding stores; default: all.")] = None,
) -> None:
    """Read every embedding store and compare it with its checksums; a flipped bit is found."""
    from prbench.embedding import store

    bad = 0
    folders = stores or store.stores()
    for folder in folders:
        try:
            problems = store.EmbeddingStore.open(folder).verify()
        except InputError as error:
            problems = [str(error)]
        typer.echo(f"{folder}: {'; '.join(problems) or 'ok'}")
        bad += bool(problems)
    if not folders:
        typer.echo("there is no embedding store yet; make one with `prbench embed`", err=True)
    if bad:
        raise typer.Exit(1)


@app.command("import", epilog="Example: prbench data import my.jsonl --name mine")
def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .jsonl, .csv or .parquet file.")],
    name: NewName,
) -> None:
    """Import comparisons with the columns user_id, prompt, chosen and rejected (conversation_id, timestamp)."""
    from prbench.loaders import user_file

    _imported(user_file.import_table(file, name))


@app.command("import-embeddings", epilog="Example: prbench data import-embeddings --pt v.pt --meta v.json --name v")
def import_embeddings(
    pt: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help="Tensor of embeddings, rows by width, as torch.save writes it."
        ),
    ],
    meta: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Who compared which rows.")],
    name: NewName,
) -> None:
    """Import embeddings as the published MRM scripts write them."""
    from prbench.loaders import mrm_files

    _imported(mrm_files.import_embeddings(pt, meta, name))


def _imported(entry_file: Path) -> None:
    typer.echo(str(entry_file))
    typer.echo(f"next: prbench run --methods bt,mrm --dataset {entry_file.stem}", err=True)
