"""The command line: parses, calls, prints. Whatever is heavy is imported inside the command that needs it.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 some of it failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import errno
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prbench import __version__
from prbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


OPTIONS: dict[str, Any] = {"rich_markup_mode": "rich", "no_args_is_help": True}
app = typer.Typer(
    name="prbench",
    help="The benchmark suite for personalised reward models.",
    epilog="Example: prbench run --methods bt,mrm --dataset simulated && prbench report leaderboard",
    pretty_exceptions_enable=False,
    **OPTIONS,
)
data_app = typer.Typer(help="Download, check and import data.", **OPTIONS)
user_app = typer.Typer(help="One user's own comparisons in, scores of new texts out.", **OPTIONS)
bench_app = typer.Typer(help="Measure speed and memory.", **OPTIONS)
app.add_typer(data_app, name="data")
app.add_typer(user_app, name="user")
app.add_typer(bench_app, name="bench")


class Kinds(StrEnum):
    """The kinds of entries."""

    methods = "methods"
    datasets = "datasets"
    encoders = "encoders"
    reports = "reports"


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Selection(StrEnum):
    """Rules for choosing epochs and strengths."""

    validation = "validation"
    last = "last"
    test_oracle = "test-oracle"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OnDevice = Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU where there is one.")]
Datasets = Annotated[str, typer.Option(help="Data sets: names, patterns such as 'sim*', or all; comma-separated.")]
NewName = Annotated[str, typer.Option("--name", help="Name of the new data set.")]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; bad input becomes one line on stderr."""
    try:
        words = _global_options_first(sys.argv[1:] if args is None else args)
        code = app(args=words, prog_name="prbench", standalone_mode=False)
    except InputError as error:
        return _refuse(str(error.args[0]), error.hint)
    except typer.TyperException as error:
        message = " ".join(error.format_message().replace("Value error, ", "").split())
        if not message:
            # A command group without a command: its help has been shown.
            return 2
        context = getattr(error, "ctx", None)
        help_command = f"{context.command_path if context else 'prbench'} --help"
        return _refuse(message, f"see `{help_command}`")
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as closed:
        if not isinstance(closed.__context__, BrokenPipeError):
            raise
        # Whoever read stdout has gone, as in `| head`. What other tools return then is no code for failed cells.
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(f"the disk is full: {error.filename or 'a file'} was not written", "free some space")
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}", "see `prbench doctor` for the folders in use")
    if code == 130:
        typer.echo("interrupted; what was finished is kept, run the same command to go on", err=True)
    return int(code or 0)


def _global_options_first(args: Sequence[str]) -> list[str]:
    """`--registry DIR` may stand anywhere on the command line."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--registry":
            folder = next(words, None)
            if folder is None:
                raise InputError("--registry needs a folder", hint="--registry DIR, with entries in DIR/methods")
            first += [word, folder]
        elif word.startswith("--registry="):
            first.append(word)
        else:
            rest.append(word)
    return first + rest


def _refuse(message: str, hint: str | None) -> int:
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
    return 2


def _numbers(text: str, option: str) -> list[int]:
    """Numbers of support comparisons: `0,5,all`; -1 stands for all."""
    try:
        shots = [-1 if part.strip() == "all" else int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers", hint=f"for example {option} 0,5,10") from error
    if not shots:
        raise InputError(f"{option} {text}: expected numbers", hint=f"for example {option} 0,5,10")
    if any(n < -1 for n in shots):
        raise InputError(f"{option} {text}: a number of comparisons cannot be negative")
    return list(dict.fromkeys(shots))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prbench {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    registry: Annotated[
        list[Path] | None, typer.Option(help="Also find entries in DIR/methods, DIR/datasets, ...", metavar="DIR")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """The benchmark suite for personalised reward models."""
    if registry:
        from prbench import registry as entries

        entries.use(registry)


@app.command("list", epilog="Example: prbench list methods --json")
def list_entries(kind: Annotated[Kinds, typer.Argument(help="What to list.")], as_json: AsJson = False) -> None:
    """List the methods, data sets, encoders or reports there are."""
    from prbench import listing

    rows = listing.rows(kind.value)
    listing.show_rows(rows if as_json else [listing.brief(row) for row in rows], as_json)


@app.command(epilog="Example: prbench show mrm")
def show(
    name: Annotated[str, typer.Argument(help="Name of an entry.")],
    kind: Annotated[Kinds | None, typer.Option(help="Which kind, where two share a name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show an entry with all that it inherits, and the file it comes from."""
    from prbench import listing

    listing.show_record(listing.full(name, kind.value if kind else None), as_json)


@app.command(epilog="Example: prbench check mrm")
def check(
    methods: Annotated[str, typer.Argument(help="Methods: names, patterns such as 'mrm*', or all.")],
) -> None:
    """Check methods against the contract that every method keeps, on a toy population."""
    from prbench import listing, registry

    chosen = registry.names("methods") if methods == "all" else registry.select("methods", methods)
    from prbench import contract

    failed = []
    for name in chosen:
        report = contract.check(registry.get("methods", name))
        listing.show(report.table())
        if not report.passed:
            failed.append(name)
    if failed:
        typer.echo(f"{len(failed)} of {len(chosen)} failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


@app.command(epilog="Example: prbench doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Say what this installation has: versions, GPU, folders, space, entries. Exits with 1 on a problem."""
    from prbench import doctor as examination
    from prbench import listing

    found = examination.examine()
    listing.show_record(found, as_json)
    if found["problems"]:
        raise typer.Exit(1)


@app.command(epilog="Example: prbench embed --dataset convarg --encoder minilm")
def embed(
    dataset: Datasets,
    encoder: Annotated[str, typer.Option(help="Encoder: a name, a Hugging Face id or a folder.")] = "",
    device: OnDevice = Device.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be encoded.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encode the texts of data sets, each distinct text once; what is stored already is kept."""
    from prbench import data, embedding, encoders, listing, registry
    from prbench.encoders.base import require_device, resolved_device

    require_device(resolved_device(device.value))
    for name in registry.select("datasets", dataset):
        entry = registry.get("datasets", name)
        record = encoders.encoder_entry_for(encoder or entry.encoder)
        loaded = data.load(entry)
        if not dry_run:
            embedding.embed(loaded, record, family=entry.family, device=device.value)
        plan = embedding.plan_embedding(loaded, record, family=entry.family, device=device.value)
        listing.show_record(plan.as_dict(), as_json)


@app.command(epilog="Example: prbench run --methods reference,bt,lore,mrm --dataset convarg --splits 20")
def run(
    methods: Annotated[str, typer.Option(help="Methods: names, patterns such as 'mrm*', or all; comma-separated.")],
    dataset: Datasets,
    encoder: Annotated[str | None, typer.Option(help="Encoder instead of the data set's own.")] = None,
    splits: Annotated[int | None, typer.Option(min=1, help="Number of splits instead of the data set's own.")] = None,
    seed: Annotated[int, typer.Option(help="Split i is drawn with seed + i.")] = 42,
    shots: Annotated[str, typer.Option(help="Support comparisons per unseen user, as in 0,5,10,all.")] = "all",
    selection: Annotated[
        Selection | None, typer.Option(help="How epochs and strengths are chosen, instead of the method's own rule.")
    ] = None,
    device: OnDevice = Device.auto,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.PARAM=VALUE", help="Set a parameter; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit on seen users, adapt to unseen ones, score held-out comparisons. Finished cells are not run again."""
    from prbench import listing, registry

    chosen = registry.select("methods", methods), registry.select("datasets", dataset)
    counts = _numbers(shots, "--shots")
    from prbench import runner

    def make_plan() -> runner.Plan:
        return runner.plan(
            *chosen,
            encoder=encoder,
            splits=splits,
            seed=seed,
            shots=counts,
            selection=selection.value if selection else None,
            device=device.value,
            overrides=setting or [],
            out=out,
        )

    plan = make_plan()
    if dry_run:
        listing.show_json(plan.as_dict()) if as_json else listing.show(plan.table())
        return
    outcome = runner.execute(plan)
    if as_json:
        listing.show_json({"failed": outcome.failed, **make_plan().as_dict()})
    else:
        listing.show(outcome.table())
    if outcome.failed:
        raise typer.Exit(1)


@app.command(epilog="Example: prbench report leaderboard --runs runs --out out")
def report(
    name: Annotated[str, typer.Argument(help="Name of a report, see `prbench list reports`.")],
    runs: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out"),
) -> None:
    """Make a report from results, and print which files were written."""
    from prbench import registry, results
    from prbench.files import require_writable

    entry = registry.get("reports", name)
    require_writable(out)
    make = registry.load_target("reports", entry)
    _print_paths(make(results.load(runs), out, **entry.options))


def _print_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        typer.echo(str(path))


@data_app.command(epilog="Example: prbench data get convarg")
def get(dataset: Annotated[str, typer.Argument(help="Data sets: names, patterns or all.")]) -> None:
    """Download and read data sets, and compare them with the counts that their entries expect."""
    from prbench import data, listing, registry

    for name in registry.select("datasets", dataset):
        entry = registry.get("datasets", name)
        listing.show_record(data.describe(data.load(entry), entry), as_json=False)


@data_app.command(epilog="Example: prbench data info convarg --json")
def info(dataset: Annotated[str, typer.Argument(help="One data set.")], as_json: AsJson = False) -> None:
    """Describe a data set: users, comparisons, items, per-user counts, what was dropped, licence."""
    from prbench import data, listing, registry

    entry = registry.get("datasets", dataset)
    listing.show_record(data.describe(data.load(entry), entry), as_json)


@data_app.command(epilog="Example: prbench data verify")
def verify(
    stores: Annotated[list[Path] | None, typer.Argument(help="Folders of embedding stores; default: all.")] = None,
) -> None:
    """Read every embedding store and compare it with its checksums; a flipped bit is found."""
    from prbench import store

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


@data_app.command("import", epilog="Example: prbench data import my.jsonl --name mine")
def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .jsonl, .csv or .parquet file.")],
    name: NewName,
) -> None:
    """Import comparisons with the columns user_id, prompt, chosen and rejected (conversation_id, timestamp)."""
    from prbench.loaders import table

    _imported(table.import_table(file, name))


@data_app.command(
    "import-embeddings", epilog="Example: prbench data import-embeddings --pt v.pt --meta v.json --name v"
)
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


@user_app.command(epilog="Example: prbench user adapt --run runs --method mrm --pairs my.jsonl --out me.safetensors")
def adapt(
    run: Annotated[Path, typer.Option(exists=True, help="Folder of results, or a released checkpoint.")],
    method: Annotated[str, typer.Option(help="The fitted method.")],
    pairs: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Lines with prompt, chosen and rejected.")],
    out: Annotated[Path, typer.Option(help="File for the user's state.")] = Path("user.safetensors"),
    dataset: Annotated[str | None, typer.Option(help="Which data set's run, where there are several.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Which encoder's run, where there are several.")] = None,
    split: Annotated[int, typer.Option(min=0, help="Which split's fitted method.")] = 0,
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Adapt a fitted method to one user, from that user's own comparisons; the state is a few bytes."""
    from prbench import listing, user

    done = user.adapt(run, method, pairs, out, dataset=dataset, encoder=encoder, split=split, device=device.value)
    listing.show_record(done, as_json)


@user_app.command(epilog="Example: prbench user score --state me.safetensors --texts new.jsonl --json")
def score(
    state: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A user's state.")],
    texts: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Lines with prompt and response.")],
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Score texts for one user. Scores of one user compare with each other only."""
    from prbench import listing, user

    listing.show_rows(user.score(state, texts, device=device.value), as_json)


@user_app.command(epilog="Example: prbench user rank --state me.safetensors --texts candidates.jsonl")
def rank(
    state: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A user's state.")],
    texts: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Lines with prompt and responses.")],
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Rank the responses to each prompt for one user, best first (best of n)."""
    from prbench import listing, user

    listing.show_rows(user.rank(state, texts, device=device.value), as_json)


@bench_app.command(epilog="Example: prbench bench fit --method mrm --shape sim-prism --splits 20 --json")
def fit(
    method: Annotated[str, typer.Option(help="The method to time.")] = "mrm",
    shape: Annotated[str, typer.Option(help="A simulated data set.")] = "sim-prism",
    splits: Annotated[int, typer.Option(min=1, help="How many splits train together.")] = 20,
    full: Annotated[bool, typer.Option("--full", help="Also train the whole recipe once, and time that.")] = False,
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Time fitting and adapting against a plain loop of the same recipe, side by side."""
    from prbench import bench, listing

    listing.show_record(bench.fit(method, shape, splits, device=device.value, full=full), as_json)
