"""The command line: parses, calls, prints. Whatever is heavy is imported inside the command that needs it.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 some of it failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prbench import __version__
from prbench.base.errors import InputError
from prbench.base.screen_text import message, print_anything
from prbench.commands import (
    bench,
    data,
    embedding,
    encoder,
    inspection,
    policy,
    probe,
    results,
    runs,
    splits,
    status,
    tune,
    user,
    words,
)
from prbench.commands.options import GROUP

if TYPE_CHECKING:
    from collections.abc import Sequence


CLOSED_PIPE = 128 + 13
"""What a shell reports of a program that SIGPIPE ended; Windows has no such signal."""

app = typer.Typer(
    name="prbench",
    help="The benchmark suite for personalised reward models.",
    epilog="Example: prbench run --methods quick --dataset simulated --splits 3 && prbench report leaderboard",
    pretty_exceptions_enable=False,
    **GROUP,
)
app.add_typer(data.app, name="data")
app.add_typer(encoder.app, name="encoder")
app.add_typer(user.app, name="user")
app.add_typer(policy.app, name="policy")
app.add_typer(results.app, name="results")
app.add_typer(splits.app, name="splits")
app.add_typer(bench.app, name="bench")
app.command("list", epilog="Example: prbench list methods --json")(inspection.list_entries)
app.command(epilog="Example: prbench show mrm")(inspection.show)
app.command(epilog="Example: prbench check mrm")(inspection.check)
app.command(epilog="Example: prbench doctor --json")(inspection.doctor)
app.command(epilog="Example: prbench embed --dataset convarg --encoder minilm")(embedding.embed)
app.command(epilog="Example: prbench tune --methods bt,lore,mrm --dataset convarg --trials 20")(tune.tune)
app.command(epilog="Example: prbench run --methods reference,bt,lore,mrm --dataset convarg --splits 20")(runs.run)
app.command(epilog="Example: prbench probe --noise 0.1,0.2,0.4 --support")(probe.probe)
app.command(epilog="Example: prbench status --runs runs --json")(status.status)
app.command(epilog="Example: prbench report leaderboard --runs runs --out out")(runs.report)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; bad input becomes one line on stderr."""
    print_anything()
    try:
        program = typer.main.get_command(app)
        given = words.ready(sys.argv[1:] if args is None else args, program)
        code = program(args=given, prog_name="prbench", standalone_mode=False)
    except InputError as error:
        return _refuse(str(error.args[0]), error.hint)
    except typer.TyperException as error:
        text = " ".join(error.format_message().replace("Value error, ", "").split())
        if not text:
            # A command group without a command: its help has been shown.
            return 2
        context = getattr(error, "ctx", None)
        help_command = f"{context.command_path if context else 'prbench'} --help"
        lists = "lists are separated by commas, as in --methods bt,mrm; " if "extra argument" in text else ""
        return _refuse(text, f"{lists}see `{help_command}`")
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as closed:
        if not isinstance(closed.__context__, BrokenPipeError):
            raise
        # stdout was closed (`| head`): exit as other tools do; 1 would mean failed cells.
        return CLOSED_PIPE
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(f"the disk is full: {error.filename or 'a file'} was not written", "free some space")
        if error.filename is None and error.errno in (errno.EFBIG, errno.EIO, errno.EROFS):
            return _refuse(f"a file was not written: {error.strerror}", "see `prbench doctor` for the folders in use")
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}", "see `prbench doctor` for the folders in use")
    if code == 130:
        typer.echo("interrupted; finished work is kept, run the same command to go on", err=True)
    return int(code or 0)


def _refuse(text: str, hint: str | None) -> int:
    typer.echo(f"error: {message(text)}", err=True)
    if hint:
        typer.echo(f"hint: {message(hint)}", err=True)
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"prbench {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    registry: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of entries of your own: DIR/methods, DIR/datasets, ...; PRBENCH_REGISTRY too names folders.",
            metavar="DIR",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """The benchmark suite for personalised reward models."""
    if registry or os.environ.get("PRBENCH_REGISTRY"):
        from prbench import registry as found

        found.use([*found.named_folders(), *(registry or [])])
