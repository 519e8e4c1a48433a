"""`prbench tune`: the same number of trials for every method, on splits that are never reported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.execution import Address, Executor, ExecutorName, JobResources, SlurmOptions, execution
from prbench.commands.options import AsJson, Datasets, Device, Methods, OnDevice, Threads, Workers


def tune(
    methods: Methods,
    dataset: Datasets,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try for every method, the published one included.")],
    encoder: Annotated[str | None, typer.Option(help="Another encoder than the data set's own.")] = None,
    splits: Annotated[int, typer.Option(min=1, help="Number of tuning splits; none of them is ever reported.")] = 3,
    seed: Annotated[int, typer.Option(help="Tuning split i is drawn with seed + 1000 + i.")] = 42,
    device: OnDevice = Device.auto,
    workers: Workers = 1,
    threads: Threads = None,
    executor: ExecutorName = Executor.local,
    address: Address = None,
    slurm: SlurmOptions = None,
    resources: JobResources = None,
    out: Annotated[Path, typer.Option(help="Folder of the tuned parameters.")] = Path("tuned"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the trials made and those still to make.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tune methods on each data set, with equal budgets; `prbench run --selection tuned` uses what is found."""
    from prbench import registry
    from prbench.commands import output

    where = execution(executor, workers, threads, address, slurm, resources, device.value)
    chosen = registry.select("methods", methods), registry.select("datasets", dataset)
    from prbench.commands.runs import outlined, show_outlines
    from prbench.running import prerequisites, tune
    from prbench.running.outline import Outline

    outlines = []
    if dry_run:
        here, absent = prerequisites.divided(chosen[1], encoder)
        outlines = [Outline(each, dict.fromkeys(chosen[0], trials * splits)) for each in absent]
        chosen = chosen[0], here
        if not here:
            output.show_json({"out": str(out)} | outlined(outlines)) if as_json else show_outlines(outlines)
            return
    else:
        prerequisites.require([prerequisites.prerequisites(name, encoder) for name in chosen[1]])
    plan = tune.plan(
        *chosen, trials=trials, splits_=splits, encoder=encoder, seed=seed, device=where.device_here, out=out
    )
    if not dry_run:
        from prbench.training.compute import compute_threads

        with compute_threads(threads, workers):
            tune.execute(plan, execution=where)
    if as_json:
        output.show_json(plan.as_dict() | outlined(outlines))
    else:
        output.show(plan.table())
        show_outlines(outlines)
    if plan.failed and not dry_run:
        raise typer.Exit(1)
