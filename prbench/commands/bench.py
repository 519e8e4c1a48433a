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


@app.command(epilog="Example: prbench bench scale --workers 1,2 --json")
def scale(
    workers: Annotated[
        str, typer.Option(metavar=LIST, help="Numbers of workers; default: 1, 2 and, with four cores, 4.")
    ] = "",
    methods: Annotated[str, typer.Option(metavar=LIST, help="Methods of the grid that workers share.")] = "",
    splits: Annotated[int, typer.Option(min=1, help="Splits of the grid.")] = 1,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.PARAM=VALUE", help="Set a parameter of the grid.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each number of workers has its turn.")] = 1,
    machines: Annotated[str, typer.Option(metavar=LIST, help="Machines that the paper's grid is put on.")] = "1,8,64",
    projected: Annotated[
        str, typer.Option(metavar=LIST, help="Methods of the projected grid; default: all of the paper's.")
    ] = "",
    shape: Annotated[str, typer.Option(help="Time all of the paper's data sets on this simulated one.")] = "",
    projected_splits: Annotated[int, typer.Option(min=1, help="Splits of the projected grid.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long updates of each method are timed.")] = 1.0,
    device: OnDevice = Device.auto,
    projection: Annotated[bool, typer.Option(help="Project the paper's grid.")] = True,
    as_json: AsJson = False,
) -> None:
    """Time one grid with several numbers of workers, and project the paper's whole grid on several machines."""
    from prbench.base.console import stderr
    from prbench.commands import output
    from prbench.encoders.base import require_device, resolved_device
    from prbench.timing import scale

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    def told(line: str) -> None:
        stderr().print(line, markup=False, soft_wrap=True)

    where = resolved_device(device.value)
    require_device(where)
    on = counts(machines, "--machines")
    grid = scale.grid(
        counts(workers, "--workers") if workers else None,
        methods=names(methods) or scale.GRID,
        splits=splits,
        settings=setting or (),
        rounds=rounds,
        told=told,
    )
    found = None
    if projection:
        found = scale.projection(
            on,
            shapes=dict.fromkeys(scale.PAPER, shape) if shape else None,
            methods=names(projected) or None,
            splits=projected_splits,
            seconds=seconds,
            device=where,
            told=told,
        )
    if as_json:
        output.show_json(
            {
                "grid": {**grid._asdict(), "rows": [row._asdict() for row in grid.rows]},
                "projection": found
                and {
                    "device": where,
                    "splits": projected_splits,
                    "shapes": shape or scale.PAPER,
                    "rows": [row._asdict() for row in found.rows],
                    "jobs": [job._asdict() for job in found.jobs],
                    "opening": found.opening,
                    "left_out": found.left_out,
                },
            }
        )
        return
    title = (
        f"{len(grid.methods)} methods on {grid.data}, {grid.splits} splits, one thread a worker, {grid.cores} cores"
    )
    output.show(output.rows_table([row._asdict() for row in grid.rows], title=title))
    typer.echo("All of them gave the same scores to the bit." if grid.same_scores else "Their scores differ.")
    if found is not None:
        title = (
            f"the paper's grid, {len(found.jobs)} jobs of {projected_splits} splits, projected on machines like this"
        )
        output.show(output.rows_table([row._asdict() for row in found.rows], title=title))
        for line in found.left_out:
            typer.echo(f"left out: {line}")


@app.command(epilog="Example: prbench bench growth --choices 10000,100000")
def growth(
    choices: Annotated[str, typer.Option(metavar=LIST, help="Numbers of choices.")] = "10000,100000,1000000",
    items: Annotated[int, typer.Option(min=8, help="Distinct texts that recur.")] = 100_000,
    encoder: Annotated[
        str, typer.Option(help="A real encoder whose rate is measured; none to leave it out.")
    ] = "minilm",
    texts: Annotated[int, typer.Option(min=1, help="How many texts the real encoder is measured on.")] = 5000,
    folder: Annotated[
        Path | None, typer.Option(file_okay=False, exists=True, help="Where files go; default: the system's folder.")
    ] = None,
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Time and memory of import, embedding and runs as choices grow, on simulated texts with a planted encoder."""
    from prbench.base.console import stderr
    from prbench.commands import output
    from prbench.timing import growth

    def told(stage: growth.Stage) -> None:
        line = f"{stage.stage}, {stage.choices:,} choices: {stage.seconds:.1f} s, {stage.peak / 2**20:,.0f} MiB"
        stderr().print(line, markup=False, soft_wrap=True)

    sizes = counts(choices, "--choices")
    rate = None
    if encoder != "none":
        rate = growth.encoder_rate(encoder, texts, distinct=items, device=device.value)
    stages = growth.growth(sizes, items=items, folder=folder, told=told)
    slopes = growth.slopes(stages)
    if as_json:
        output.show_json(
            {
                "items": items,
                "fitted": growth.FITTED,
                "stages": [stage._asdict() for stage in stages],
                "slopes": [slope._asdict() for slope in slopes],
                "encoder": rate and rate._asdict(),
            }
        )
        return
    rows = [
        {
            "stage": stage.stage,
            "choices": stage.choices,
            "seconds": stage.seconds,
            "peak MiB": stage.peak / 2**20,
            "µs a choice": 1e6 * stage.seconds / stage.choices,
        }
        for stage in stages
    ]
    output.show(output.rows_table(rows, title=f"{items:,} distinct texts; run has {', '.join(growth.FITTED)}"))
    if slopes:
        output.show(output.rows_table([slope._asdict() for slope in slopes], title="growth; exponent 1 is linear"))
    if rate is not None:
        output.show_record(rate._asdict(), as_json=False)


def counts(text: str, option: str) -> list[int]:
    """Numbers of 1 and more: `1,2,4`. Raises InputError for anything else."""
    from prbench.base.errors import InputError

    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InputError(f"{option} {text}: expected numbers of 1 and more", hint=f"for example {option} 1,2,4")
    return list(dict.fromkeys(found))
