"""`prbench data`: download, check and import."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prbench.base.errors import InputError
from prbench.commands.options import GROUP, AsJson, NewName


class Shape(StrEnum):
    """How rows of choices may look."""

    pairs = "pairs"
    label = "label"
    arena = "arena"
    ratings = "ratings"
    ranked = "ranked"


class Empty(StrEnum):
    """What to do with comparisons that have an empty reply."""

    keep = "keep"
    drop = "drop"


class PromptInReplies(StrEnum):
    """What to do where replies begin with their prompt."""

    cut = "cut"
    keep = "keep"


app = typer.Typer(help="Download, check and import data.", **GROUP)


@app.command(epilog="Example: prbench data get convarg")
def get(
    dataset: Annotated[str, typer.Argument(help="Data sets: names, patterns or all.")],
    listing: Annotated[
        bool, typer.Option("--list", help="Only list the files: addresses, sizes, hashes, whether they are here.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Download and read data sets, and compare them with the counts that their entries expect."""
    from prbench import data, registry
    from prbench.commands import output
    from prbench.data import describe

    if listing:
        from prbench.data.downloads import RawFiles
        from prbench.running.prerequisites import in_bytes

        rows = [
            {
                "file": f"{entry.family}/{file.path}",
                "size": in_bytes(file.size),
                "sha256": file.pinned,
                "address": file.address,
                "here": str(file.here) if file.here else "no",
            }
            for entry in (registry.get("datasets", name) for name in registry.select("datasets", dataset))
            for file in (RawFiles(entry).listing() if entry.download else [])
        ]
        if not rows:
            raise InputError(f"{dataset} needs no files", hint="it is simulated: `prbench run` makes it")
        output.show_rows(rows, as_json)
        return
    for name in registry.select("datasets", dataset):
        entry = registry.get("datasets", name)
        output.show_record(describe.describe(data.load(entry), entry), as_json)


@app.command(epilog="Example: prbench data info convarg --json")
def info(
    dataset: Annotated[str, typer.Argument(help="One data set.")],
    encoder: Annotated[str, typer.Option(help="Encoder that is asked instead of the data set's own.")] = "",
    as_json: AsJson = False,
) -> None:
    """Describe a data set: users, choices, texts, repeats, what was dropped, what its encoder makes of it."""
    from prbench import data, registry
    from prbench.commands import output
    from prbench.data import describe

    entry = registry.get("datasets", dataset)
    loaded = data.load(entry)
    from prbench.embedding.facts import stored

    output.show_record({**describe.describe(loaded, entry), "embeddings": stored(loaded, entry, encoder)}, as_json)


@app.command(epilog="Example: prbench data show convarg --comparison 17")
def show(
    dataset: Annotated[str, typer.Argument(help="One data set.")],
    comparison: Annotated[int, typer.Option("--comparison", min=0, help="Number of the comparison, from 0.")],
    as_json: AsJson = False,
) -> None:
    """Print the texts of one comparison: who chose (by number), the conversation, both replies."""
    from prbench import data, registry
    from prbench.commands import output
    from prbench.data import describe

    output.show_record(describe.texts_of(data.load(registry.get("datasets", dataset)), comparison), as_json)


@app.command(epilog="Example: prbench data verify")
def verify(
    stores: Annotated[list[Path] | None, typer.Argument(help="Folders of embedding stores; default: all.")] = None,
) -> None:
    """Compare all stored embeddings with their checksums; a flipped bit is found."""
    from prbench.embedding import store

    bad = 0
    folders = stores or store.stores()
    for folder in folders:
        if not folder.is_dir():
            what = "not a folder" if folder.exists() else "not there"
            raise InputError(f"{folder} is {what}", hint="name folders of embedding stores, or none for all of them")
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


@app.command("import", epilog="Example: prbench data import my.jsonl --name mine --user judge --dry-run")
def import_file(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .json, .csv or .parquet file, or a folder of such files.")],
    name: NewName,
    shape: Annotated[
        Shape | None, typer.Option("--format", help="Shape of the rows; default: by the columns.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Column of the person's id.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Column of the prompt.")] = None,
    chosen: Annotated[str | None, typer.Option(help="Column of the chosen reply.")] = None,
    rejected: Annotated[str | None, typer.Option(help="Column of the rejected reply, or a list of them.")] = None,
    first: Annotated[str | None, typer.Option(help="label, arena: column of the first reply.")] = None,
    second: Annotated[str | None, typer.Option(help="label, arena: column of the second reply.")] = None,
    winner: Annotated[str | None, typer.Option(help="label, arena: column of the winner; ties are left out.")] = None,
    response: Annotated[str | None, typer.Option(help="ratings: column of the reply.")] = None,
    rating: Annotated[str | None, typer.Option(help="ratings: column of its rating; higher is better.")] = None,
    responses: Annotated[str | None, typer.Option(help="ranked: column of the list of replies.")] = None,
    ranking: Annotated[str | None, typer.Option(help="ranked: column of their ranks; 1 is best.")] = None,
    conversation: Annotated[str | None, typer.Option(help="Column of the conversation's id.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the time.")] = None,
    attributes: Annotated[
        Path | None,
        typer.Option(help="A file with a row a person: the id, and columns that are the person's groups."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Text encoding, such as cp1252; default: UTF-8.")] = None,
    drop_bad: Annotated[bool, typer.Option("--drop-bad", help="Leave faulty rows out, and count them.")] = False,
    empty: Annotated[Empty | None, typer.Option(help="What to do with empty replies; default: refuse them.")] = None,
    prompt_in_replies: Annotated[
        PromptInReplies | None, typer.Option(help="Where some replies begin with their prompt: cut it, or keep it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the first rows as understood; import none.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the imported data set of this name.")] = False,
) -> None:
    """Import comparisons of several people: by default the columns user_id, prompt, chosen and rejected."""
    from prbench import data, registry
    from prbench.base.console import stderr
    from prbench.commands import output
    from prbench.loaders import attributes as people
    from prbench.loaders import user_file, user_rows
    from prbench.protocol.repeats import repeats_note

    given = {
        "user": user, "prompt": prompt, "chosen": chosen, "rejected": rejected, "first": first, "second": second,
        "winner": winner, "response": response, "rating": rating, "responses": responses, "ranking": ranking,
        "conversation": conversation, "timestamp": timestamp,
    }  # fmt: skip
    options = user_rows.ImportOptions(
        shape=shape.value if shape else None,
        columns={part: column for part, column in given.items() if column is not None},
        encoding=encoding,
        drop_bad=drop_bad,
        empty=empty.value if empty else None,
        prompt_in_replies=prompt_in_replies.value if prompt_in_replies else None,
    )
    file_rows = user_rows.read_file(file, options)
    for note in file_rows.notes:
        stderr().print(f"{file.name}: {note}", markup=False, soft_wrap=True)
    table = people.AttributeTable()
    if attributes:
        ids = list(dict.fromkeys(str(row.user) for row in file_rows.rows))
        table = people.read_attributes(attributes, ids, column=user, encoding=encoding)
        for sentence in [*table.sentences, f"attributes: {', '.join(table.values) or 'none that may be shown'}"]:
            stderr().print(f"{attributes.name}: {sentence}", markup=False, soft_wrap=True)
    if dry_run:
        output.show_rows(user_file.first_rows(file_rows), as_json=False)
        stderr().print(f"nothing was imported: {len(file_rows.rows):,} comparisons were understood so", markup=False)
        return
    entry_file = user_file.import_table(file, name, replace=replace, file_rows=file_rows, attributes=table.values)
    # The rows are not needed beside what is loaded of them.
    del file_rows
    if about_repeats := repeats_note(data.load(registry.get("datasets", name))):
        stderr().print(about_repeats, markup=False, soft_wrap=True)
    _imported(entry_file)


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
    typer.echo(f"next: prbench run --methods quick --dataset {entry_file.stem}", err=True)
