"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prbench.base.errors import InputError
from prbench.commands.completion import names_of

if TYPE_CHECKING:
    from prbench.registry.schema import TestSample

# What options that take a list show in place of their value; given again, they add to it.
LIST = "A,B,..."
GROUP: dict[str, Any] = {"rich_markup_mode": "rich", "no_args_is_help": True}


class Kinds(StrEnum):
    """The kinds of entries."""

    methods = "methods"
    datasets = "datasets"
    encoders = "encoders"
    judges = "judges"
    reports = "reports"


class Tracker(StrEnum):
    """Programs that keep experiments."""

    mlflow = "mlflow"
    wandb = "wandb"


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """How exact products of float32 matrices are inside."""

    highest = "highest"
    high = "high"
    medium = "medium"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OnDevice = Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU where there is one.")]
AtPrecision = Annotated[
    Precision, typer.Option(help="How exactly torch multiplies float32 matrices; less is faster, and another row.")
]
DATASETS_HELP = "Data sets: names, patterns such as 'sim*', or all (without imported ones); comma-separated."
METHODS_HELP = (
    "Methods: names, patterns ('mrm*' is mrm and its variants, 'mrm-*' the variants alone), quick (a few that adapt "
    "in different ways) or all; comma-separated."
)
DATASETS: dict[str, Any] = {
    "metavar": LIST,
    "help": DATASETS_HELP,
    "autocompletion": names_of("datasets", further=("all",), listed=True),
}
METHODS: dict[str, Any] = {
    "metavar": LIST,
    "help": METHODS_HELP,
    "autocompletion": names_of("methods", further=("all", "quick"), listed=True),
}
Datasets = Annotated[str, typer.Option(**DATASETS)]
Methods = Annotated[str, typer.Option(**METHODS)]
Restarts = Annotated[
    int,
    typer.Option(
        min=1,
        help="Random starts of each split, to see what a start is worth; methods that draw nothing are fitted once.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the methods between them.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Compute threads of each process.", show_default="the cores shared by the workers"),
]
NewName = Annotated[str, typer.Option("--name", help="Name of the new data set.")]


def numbers(text: str, option: str) -> list[int]:
    """Numbers of support comparisons: `0,5,all`, with `ALL_SHOTS` for all. Raises InputError for anything else."""
    from prbench.protocol.metrics import ALL_SHOTS

    try:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        counts = [int(part) for part in parts if part != "all"]
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers", hint=f"for example {option} 0,5,10") from error
    if not parts:
        raise InputError(f"{option} {text}: expected numbers", hint=f"for example {option} 0,5,10")
    if any(count < 0 for count in counts):
        raise InputError(f"{option} {text}: a number of comparisons cannot be negative", hint="all takes all")
    return list(dict.fromkeys(ALL_SHOTS if part == "all" else int(part) for part in parts))


def shares(text: str, option: str) -> list[float]:
    """Shares between 0 and 1: `0.1,0.2`. Raises InputError for anything else."""
    try:
        values = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"{option} {text}: expected shares", hint=f"for example {option} 0.1,0.2,0.4") from error
    if any(not 0 < share <= 1 for share in values):
        raise InputError(f"{option} {text}: a share lies above 0 and is at most 1")
    return list(dict.fromkeys(values))


def sample(text: str, option: str) -> TestSample:
    """A sample of test choices: `users=0.25`, `choices=0.5`, or both, comma-separated. Raises InputError else."""
    from pydantic import ValidationError

    from prbench.registry.schema import TestSample

    hint = f"for example {option} users=0.25, or choices=0.25"
    try:
        parts = [part.split("=") for part in text.split(",") if part.strip()]
        values = {key.strip(): float(value) for key, value in parts}
        if not values or len(values) < len(parts):
            raise ValueError
        return TestSample.model_validate(values)
    except (ValidationError, ValueError) as error:
        raise InputError(f"{option} {text}: expected shares of users, of choices, or both", hint=hint) from error
