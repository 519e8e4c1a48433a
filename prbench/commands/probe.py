"""`prbench probe`: evaluate finished fits under further conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.execution import Address, Executor, ExecutorName, JobResources, SlurmOptions, execution
from prbench.commands.options import LIST, AsJson, Device, OnDevice, Threads, Workers, shares


def probe(
    runs: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs"),
    noise: Annotated[
        str | None, typer.Option(metavar=LIST, help="Shares of support labels to flip, as in 0.1,0.2,0.4.")
    ] = None,
    transfer: Annotated[
        str | None,
        typer.Option(
            metavar=LIST, help="Data sets to test on: names, patterns or all; those that a cell's encoder has."
        ),
    ] = None,
    support: Annotated[bool, typer.Option("--support", help="Score the support choices themselves.")] = False,
    rounding: Annotated[
        bool,
        typer.Option("--rounding", help="Fit two splits again on embeddings that differ in the last place."),
    ] = False,
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar=LIST,
            help="Kinds of tables: strangers, exchange, agreement, units, best-of-n, updates, asking, "
            "mistakes, one-sided, groups, halves, inference, taxes, policy.",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Language model of the kind policy: a judge model that is read here, a folder or a hub id.",
            show_default="smollm2-135m",
        ),
    ] = None,
    injection: Annotated[
        bool, typer.Option("--injection", help="Put an instruction to the judge model into the rejected replies.")
    ] = False,
    methods: Annotated[str | None, typer.Option(help="Only these methods: names, patterns or all.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only fits on these data sets: names, patterns or all.")] = None,
    device: OnDevice = Device.auto,
    workers: Workers = 1,
    threads: Threads = None,
    executor: ExecutorName = Executor.local,
    address: Address = None,
    slurm: SlurmOptions = None,
    resources: JobResources = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try finished fits on mistaken labels, strangers' choices, another data set, hostile replies and more.

    Nothing is fitted, except with --rounding.
    """
    from prbench import registry
    from prbench.base.errors import InputError
    from prbench.commands import output

    if noise is None and transfer is None and kinds is None and not support and not injection and not rounding:
        raise InputError(
            "nothing to probe",
            hint="give --noise 0.1,0.2,0.4, --transfer all, --support, --rounding, --injection or --kinds strangers",
        )
    where = execution(executor, workers, threads, address, slurm, resources, device.value)
    flips = [] if noise is None else shares(noise, "--noise")
    if noise is not None and not flips:
        raise InputError("--noise names no share", hint="for example --noise 0.1,0.2,0.4")
    tables = list(dict.fromkeys(part.strip() for part in (kinds or "").split(",") if part.strip()))
    if kinds is not None and not tables:
        raise InputError("--kinds names nothing", hint="for example --kinds strangers,exchange")
    if policy is not None and "policy" not in tables:
        raise InputError("--policy is for the kind policy alone", hint="add --kinds policy")
    targets = [] if transfer is None else registry.select("datasets", transfer)
    names = None if methods is None else registry.select("methods", methods)
    places = None if dataset is None else registry.select("datasets", dataset)
    from prbench.results import probes
    from prbench.running import probe

    if methods is not None:
        probes.require_finished(runs, "methods", methods, "--methods")
    if dataset is not None:
        probes.require_finished(runs, "datasets", dataset, "--dataset")
    todo = probe.tasks(
        runs,
        noise=flips,
        support=support,
        rounding=rounding,
        transfer=targets,
        kinds=tables,
        injection=injection,
        **({} if policy is None else {"policy": policy}),
        methods=names,
        datasets_=places,
    )
    if dry_run:
        counts = {"missing": sum(not task.done for task in todo)}
    else:
        from prbench.training.compute import compute_threads

        with compute_threads(threads, workers):
            n_made, failed = probe.execute(todo, device=where.device_here, execution=where)
        counts = {"made": n_made, "failed": failed}
    injections = {"injection": probes.injected(runs)} if injection and not dry_run else {}
    output.show_record({"runs": str(runs), "probes": len(todo), **counts, **injections}, as_json)
    if counts.get("failed"):
        raise typer.Exit(1)
