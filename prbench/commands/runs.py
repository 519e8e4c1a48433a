"""`prbench run` and `prbench report`: make results, and read them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import AsJson, AtPrecision, Datasets, Device, OnDevice, Precision, numbers


def run(
    methods: Annotated[str, typer.Option(help="Methods: names, patterns such as 'mrm*', or all; comma-separated.")],
    dataset: Datasets,
    encoder: Annotated[str | None, typer.Option(help="Encoder instead of the data set's own.")] = None,
    splits: Annotated[int | None, typer.Option(min=1, help="Number of splits instead of the data set's own.")] = None,
    seed: Annotated[int, typer.Option(help="Split i is drawn with seed + i.")] = 42,
    shots: Annotated[str, typer.Option(help="Support comparisons per unseen user, as in 0,5,10,all.")] = "all",
    selection: Annotated[
        str | None,
        typer.Option(
            help="How parameters and epochs are chosen: published (a method's own parameters and rule, the default), "
            "tuned, validation, last, test-oracle; comma-separated."
        ),
    ] = None,
    tuned: Annotated[Path, typer.Option(help="Folder of tuned parameters, see `prbench tune`.")] = Path("tuned"),
    device: OnDevice = Device.auto,
    precision: AtPrecision = Precision.highest,
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
    counts = numbers(shots, "--shots")
    from prbench import runner

    def make_plan() -> runner.Plan:
        return runner.plan(
            *chosen,
            encoder=encoder,
            splits=splits,
            seed=seed,
            shots=counts,
            selection=selection,
            device=device.value,
            overrides=setting or [],
            out=out,
            tuned=tuned,
            precision=precision.value,
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
