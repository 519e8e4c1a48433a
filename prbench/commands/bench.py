"""`prbench bench`: speed and memory."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import GROUP, LIST, AsJson, AtPrecision, Device, OnDevice, Precision

app = typer.Typer(help="Measure speed and memory.", **GROUP)


@app.command(epilog="Example: prbench bench fit --method mrm --shape sim-prism --splits 20 --json")
def fit(
    method: Annotated[str, typer.Option(help="The method to time.")] = "mrm",
    shape: Annotated[str, typer.Option(help="A simulated data set.")] = "sim-prism",
    splits: Annotated[int, typer.Option(min=1, help="How many splits train together.")] = 20,
    full: Annotated[bool, typer.Option("--full", help="Also train the whole recipe once, and time that.")] = False,
    device: OnDevice = Device.auto,
    precision: AtPrecision = Precision.highest,
    as_json: AsJson = False,
) -> None:
    """Time fitting and adapting against a plain loop of the same recipe, side by side."""
    from prbench.commands import output
    from prbench.timing import fit

    output.show_record(
        fit.fit(method, shape, splits, device=device.value, full=full, precision=precision.value), as_json
    )


class Config(StrEnum):
    """Shapes of the randomly initialised model."""

    tiny = "tiny"
    small = "small"
    llama_8b = "8b"


@app.command(epilog="Example: prbench bench embed --json")
def embed(
    config: Annotated[
        Config, typer.Option(help="The model, with random weights: tiny, small (for a CPU) or 8b (Llama 3.1 8B).")
    ] = Config.small,
    rounds: Annotated[int, typer.Option(min=1, help="How often both ways are timed, in turns.")] = 3,
    token_budget: Annotated[int, typer.Option(min=0, help="Tokens of one forward pass; 0: 4096.")] = 0,
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Count and time embedding in tries against reading both sides of every comparison alone."""
    from prbench.commands import output
    from prbench.timing import embed

    records = embed.embed(config.value, device=device.value, rounds=rounds, token_budget=token_budget)
    if as_json:
        output.show_json(records)
        return
    for record in records:
        output.show_record(record, as_json)


class GpuSize(StrEnum):
    """How large everything is that a GPU is measured with."""

    real = "real"
    tiny = "tiny"


@app.command(epilog="Example: prbench bench gpu --out gpu")
def gpu(
    out: Annotated[Path, typer.Option(help="Folder of gpu.json and index.html.")] = Path("gpu"),
    device: OnDevice = Device.auto,
    size: Annotated[
        GpuSize | None, typer.Option(help="Default: real on a GPU, tiny on a CPU, which must be named by --device.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for everything; what it leaves out is named.")] = 9,
    methods: Annotated[str, typer.Option(metavar=LIST, help="Only these methods; default: all but judges.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check and time prbench on a GPU: engines, fits, memory, and whether every method decides as on the CPU."""
    from prbench.commands import output
    from prbench.timing.gpu import run

    names = [name.strip() for name in methods.split(",") if name.strip()] or None
    found = run.measure(out, device=device.value, size=size.value if size else "", minutes=minutes, methods=names)
    if as_json:
        output.show_json(found)
        return
    typer.echo(str(out / run.PAGE))
