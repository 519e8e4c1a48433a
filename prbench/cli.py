"""The command line: parses, calls, prints. Whatever is heavy is imported inside the command that needs it.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 some of it failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prbench import __version__
from prbench.base.errors import InputError
from prbench.commands import bench, data, embedding, probe, runs, tune, user
from prbench.commands.options import GROUP, AsJson, Kinds

if TYPE_CHECKING:
    from collections.abc import Sequence


app = typer.Typer(
    name="prbench",
    help="The benchmark suite for personalised reward models.",
    epilog="Example: prbench run --methods bt,mrm --dataset simulated && prbench report leaderboard",
    pretty_exceptions_enable=False,
    **GROUP,
)
app.add_typer(data.app, name="data")
app.add_typer(user.app, name="user")
app.add_typer(bench.app, name="bench")
app.command(epilog="Example: prbench embed --dataset convarg --encoder minilm")(embedding.embed)
app.command(epilog="Example: prbench tune --methods bt,lore,mrm --dataset convarg --trials 20")(tune.tune)
app.command(epilog="Example: prbench run --methods reference,bt,lore,mrm --dataset convarg --splits 20")(runs.run)
app.command(epilog="Example: prbench probe --noise 0.1,0.2,0.4 --support")(probe.probe)
app.command(epilog="Example: prbench report leaderboard --runs runs --out out")(runs.report)


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
        # stdout was closed (`| head`): exit as other tools do; 1 would mean failed cells.
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
    if "" in first or "--registry=" in first:
        raise InputError("--registry names no folder", hint="--registry DIR, with entries in DIR/methods")
    return first + rest


def _refuse(message: str, hint: str | None) -> int:
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
    return 2


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
    from prbench.commands import entries as entries_module
    from prbench.commands import output

    rows = entries_module.rows(kind.value)
    output.show_rows(rows if as_json else [entries_module.brief(row) for row in rows], as_json)


@app.command(epilog="Example: prbench show mrm")
def show(
    name: Annotated[str, typer.Argument(help="Name of an entry.")],
    kind: Annotated[Kinds | None, typer.Option(help="Which kind, where two share a name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show an entry with all that it inherits, and its file; a method also with its defaults and parameter counts."""
    from prbench.commands import entries as entries_module
    from prbench.commands import output

    output.show_record(entries_module.full(name, kind.value if kind else None), as_json)


@app.command(epilog="Example: prbench check mrm")
def check(
    methods: Annotated[str, typer.Argument(help="Methods: names, patterns such as 'mrm*', or all.")],
) -> None:
    """Check methods against the contract that every method keeps, on a toy population."""
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


@app.command(epilog="Example: prbench doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Say what this installation has: versions, GPU, folders, space, entries. Exits with 1 on a problem."""
    from prbench.commands import doctor as examination
    from prbench.commands import output

    found = examination.examine()
    output.show_record(found, as_json)
    if found["problems"]:
        raise typer.Exit(1)
