"""`prbench probe`: evaluate finished fits under further conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import AsJson, Device, OnDevice, shares


def probe(
    runs: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs"),
    noise: Annotated[str, typer.Option(help="Shares of support labels to flip, as in 0.1,0.2,0.4.")] = "",
    transfer: Annotated[
        str, typer.Option(help="Data sets to test on: names, patterns or all; those that a cell's encoder has.")
    ] = "",
    support: Annotated[bool, typer.Option("--support", help="Score the support choices themselves.")] = False,
    methods: Annotated[str, typer.Option(help="Only these methods: names, patterns or all.")] = "",
    dataset: Annotated[str, typer.Option(help="Only fits on these data sets: names, patterns or all.")] = "",
    device: OnDevice = Device.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Adapt finished fits again with flipped labels, on their own support, or on another data set. Fits nothing."""
    from prbench import listing, registry
    from prbench.errors import InputError

    if not (noise or transfer or support):
        raise InputError("nothing to probe", hint="give --noise 0.1,0.2,0.4, --transfer all or --support")
    chosen = {
        "noise": shares(noise, "--noise"),
        "support": support,
        "transfer": registry.select("datasets", transfer) if transfer else [],
        "methods": registry.select("methods", methods) if methods else None,
        "datasets_": registry.select("datasets", dataset) if dataset else None,
    }
    from prbench import probes

    todo = probes.tasks(runs, **chosen)  # type: ignore[arg-type]
    if dry_run:
        counts = {"missing": sum(not task.done for task in todo)}
    else:
        made, failed = probes.execute(todo, device=device.value)
        counts = {"made": made, "failed": failed}
    listing.show_record({"runs": str(runs), "probes": len(todo), **counts}, as_json)
    if counts.get("failed"):
        raise typer.Exit(1)
