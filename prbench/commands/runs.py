"""`prbench run` and `prbench report`: make results, and read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prbench.commands.completion import names_of
from prbench.commands.config import config_of, read_config
from prbench.commands.execution import Address, Executor, ExecutorName, JobResources, SlurmOptions, execution
from prbench.commands.options import (
    DATASETS,
    LIST,
    METHODS,
    AsJson,
    AtPrecision,
    Device,
    OnDevice,
    Precision,
    Restarts,
    Threads,
    Tracker,
    Workers,
    numbers,
    sample,
)

if TYPE_CHECKING:
    from prbench.base.errors import InputError
    from prbench.running.execution import Execution
    from prbench.running.outline import Outline
    from prbench.running.plan import Plan
    from prbench.running.request import RunRequest


def run(
    context: typer.Context,
    dataset: Annotated[str | None, typer.Option(**DATASETS)] = None,
    methods: Annotated[str | None, typer.Option(**METHODS)] = None,
    report: Annotated[
        str | None, typer.Option(help="Instead of methods: everything that this report needs, probes included.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Another encoder than the data set's own: name, folder, hub id, NAME=FOLDER.",
            autocompletion=names_of("encoders"),
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Judge model, for methods that read texts: a name, a folder or a hub id.",
            autocompletion=names_of("judges"),
        ),
    ] = None,
    test_sample: Annotated[
        str | None,
        typer.Option(
            metavar="SHARES", help="Test methods that read texts on a part alone, as in users=0.25 or choices=0.25."
        ),
    ] = None,
    max_calls: Annotated[int, typer.Option(min=0, help="End after this many calls to the judge; 0 for no end.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=0, help="End after this many tokens to and from the judge.")] = 0,
    max_cost: Annotated[float, typer.Option(min=0, help="End at this cost by the judge model's prices.")] = 0.0,
    splits: Annotated[int | None, typer.Option(min=1, help="Number of splits instead of the data set's own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Split i is drawn with seed + i.", show_default="42")] = None,
    split_files: Annotated[
        Path | None, typer.Option(help="Folder of split files, see `prbench splits export`: run exactly these.")
    ] = None,
    restarts: Restarts = 1,
    limit: Annotated[
        int | None,
        typer.Option(
            min=2, help="A trial on at most so many choices of each user; the data set is then NAME\\[limit=N]."
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option(metavar=LIST, help="Choices of an unseen user to adapt to, as in 0,5,10,all.")
    ] = "all",
    selection: Annotated[
        str | None,
        typer.Option(
            metavar=LIST,
            help="How parameters and epochs are chosen: published (a method's own parameters and rule, the default), "
            "tuned, validation, last, test-oracle; comma-separated.",
        ),
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(help="Folder of tuned parameters, see `prbench tune`.", show_default="tuned")
    ] = None,
    device: OnDevice = Device.auto,
    precision: AtPrecision = Precision.highest,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="METHOD.PARAM=VALUE", help="Set a parameter; repeatable.")
    ] = None,
    workers: Workers = 1,
    threads: Threads = None,
    executor: ExecutorName = Executor.local,
    address: Address = None,
    slurm: SlurmOptions = None,
    resources: JobResources = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs"),
    refit: Annotated[
        bool, typer.Option("--refit", help="Fit results again that were packed without models.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of options; those of the command line count first.", callback=read_config, is_eager=True
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Only print the options as a file for --config.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit methods on seen users, adapt to unseen ones, score held-out choices. What is finished is not run again."""
    from prbench import registry
    from prbench.base.errors import InputError

    if print_config:
        typer.echo(config_of(context), nl=False)
        return
    if methods is not None and report is not None:
        raise InputError("give one of --methods and --report, not both", hint="--report says itself what to run")
    if split_files is not None:
        drawing = {"--splits": splits is not None, "--seed": seed is not None, "--limit": limit is not None}
        _require_left_out(f"--split-files {split_files} says which splits to run", drawing)
        if dataset is None:
            from prbench.sharing.split_files import read_folder

            dataset = read_folder(split_files).dataset
    seed = 42 if seed is None else seed
    if dataset is None or (methods is None and report is None):
        raise _nothing_to_run(needs_dataset=dataset is None, needs_methods=methods is report)
    where = execution(executor, workers, threads, address, slurm, resources, device.value)
    if (workers > 1 or where.elsewhere) and (max_calls or max_tokens or max_cost):
        hint = "leave out --workers and --executor, or --max-calls and the like"
        raise InputError("several workers share no budget", hint=hint)
    if report is not None:
        decided = {"--shots": shots != "all", "--selection": selection is not None, "--set": bool(setting)}
        decided |= {"--limit": limit is not None, "--refit": refit, "--tuned": tuned is not None}
        decided |= {"--precision": precision is not Precision.highest}
        _require_left_out(f"--report {report} says itself what to run", decided)
        names = registry.select("datasets", dataset)
        from prbench.running.request import CallBudget
        from prbench.training.compute import compute_threads

        with compute_threads(threads, workers):
            share = sample(test_sample, "--test-sample") if test_sample else None
            _run_report(
                report,
                names,
                dry_run,
                as_json,
                where,
                encoder=encoder,
                judge=judge,
                test_sample=share,
                budget=CallBudget(calls=max_calls, tokens=max_tokens, cost=max_cost),
                splits=splits,
                restarts=restarts,
                seed=seed,
                device=where.device_here,
                out=out,
                split_files=split_files,
            )
        return
    assert methods is not None
    if tuned is not None and "tuned" not in [part.strip() for part in (selection or "").split(",")]:
        raise InputError(
            f"--tuned {tuned}: nothing is to run tuned", hint="add --selection tuned, or leave --tuned out"
        )
    method_names, dataset_names = registry.select("methods", methods), registry.select("datasets", dataset)
    shot_counts = numbers(shots, "--shots")
    from prbench.running.request import CallBudget, RunRequest
    from prbench.training.compute import compute_threads

    request = RunRequest(
        methods=tuple(method_names),
        datasets=tuple(dataset_names),
        encoder=encoder,
        judge=judge,
        test_sample=sample(test_sample, "--test-sample") if test_sample else None,
        budget=CallBudget(calls=max_calls, tokens=max_tokens, cost=max_cost),
        splits=splits,
        split_files=split_files,
        restarts=restarts,
        limit=limit,
        seed=seed,
        shots=tuple(shot_counts),
        selection=selection,
        device=where.device_here,
        overrides=tuple(setting or ()),
        out=out,
        tuned=tuned or Path("tuned"),
        precision=precision.value,
        refit=refit,
    )
    with compute_threads(threads, workers):
        _run_methods(request, dry_run, as_json, where)


def _require_left_out(rule: str, options: Mapping[str, bool]) -> None:
    """Raise InputError, which begins with the `rule`, where one of the options was given."""
    from prbench.base.errors import InputError

    if named := [option for option, given in options.items() if given]:
        raise InputError(f"{rule}: leave out {', '.join(named)}")


def _nothing_to_run(*, needs_dataset: bool, needs_methods: bool) -> InputError:
    """The error for a run without a data set, or without methods and report, with the names to choose from."""
    from prbench import registry
    from prbench.base.errors import InputError
    from prbench.base.screen_text import listed

    missing, names = [], []
    if needs_dataset:
        missing.append("--dataset")
        names.append(f"data sets: {listed(registry.names('datasets'))}")
    if needs_methods:
        missing.append("--methods or --report")
        names.append(f"methods: {listed(registry.names('methods'))}, or quick or all")
        names.append(f"reports: {listed(_planned_reports())}")
    return InputError(f"give {' and '.join(missing)}", hint="; ".join(names))


def _run_methods(request: RunRequest, dry_run: bool, as_json: bool, where: Execution) -> None:
    from prbench.commands import output
    from prbench.running import prerequisites, run
    from prbench.running.outline import Outline, planned_fits
    from prbench.running.plan import plan as make_plan

    if dry_run:
        if request.judge is not None:
            from prbench.judging import judge_entry_for

            judge_entry_for(request.judge)
        here, absent = prerequisites.divided(request.datasets, request.encoder)
        plan = make_plan(request.model_copy(update={"datasets": tuple(here)})) if here else None
        outlines = [Outline(each, planned_fits(request, each.entry)) for each in absent]
        _show_plan(plan, as_json, outlines, request)
        return
    plan = make_plan(request)
    _say_packed(plan)
    outcome = run.execute(plan, execution=where)
    if as_json:
        output.show_json({"failed": outcome.failed, **make_plan(request).as_dict()})
    else:
        output.show(outcome.table())
    if outcome.failed:
        raise typer.Exit(1)


def _say_packed(plan: Plan) -> None:
    """One line on stderr where finished cells came without their models."""
    from prbench.base.console import stderr
    from prbench.results import cells
    from prbench.results.record import CellState

    done = [cell.folder for job in plan.jobs for cell in job.cells if cell.state == CellState.done]
    if packed := sum(cells.is_packed(folder) for folder in done):
        remark = (
            f"{packed} of {len(done)} finished results were packed without their models: done for reports; --refit"
        )
        stderr().print(f"{remark} makes them again", soft_wrap=True)


def _show_plan(plan: Plan | None, as_json: bool, outlines: Sequence[Outline], request: RunRequest) -> None:
    """The plan of what is here, what its judge model would be asked, and the outlines of what is not here."""
    from prbench.commands import output

    calls = []
    if plan and request.judge is not None:
        from prbench.running import estimate

        calls = estimate.estimates(plan)
    if as_json:
        cells = plan.as_dict() if plan else {"out": str(request.out), "cells": []}
        output.show_json(cells | ({"judging": calls} if calls else {}) | outlined(outlines))
        return
    if plan:
        output.show(plan.table())
    if calls:
        output.show(estimate.table(calls))
    show_outlines(outlines)


def outlined(outlines: Sequence[Outline]) -> dict[str, Any]:
    """Outlines and what is missing as plain values; nothing where there are none."""
    from prbench.running.outline import missing

    return {"outlines": [each.as_dict() for each in outlines], "missing": missing(outlines)} if outlines else {}


def show_outlines(outlines: Sequence[Outline]) -> None:
    """Print what is known of data sets that cannot be opened here, and all that is missing."""
    from prbench.base.console import stderr
    from prbench.commands import output
    from prbench.running.outline import missing

    for each in outlines:
        output.show_record(each.as_dict(), as_json=False)
    if outlines:
        typer.echo("\nMissing here:")
        for file in missing(outlines):
            typer.echo(f"  {file['missing']}, {file['size']}, {file['sha256']}")
            typer.echo(f"    from {file['address']}\n    to   {file['place']}")
        stderr().print("nothing was downloaded; without --dry-run all that can be is", soft_wrap=True)


def _planned_reports() -> list[str]:
    """The reports that say what to run."""
    from prbench import registry

    return [entry.name for entry in registry.load_all("reports") if entry.options.get("pieces")]


def _run_report(
    report: str,
    datasets: list[str],
    dry_run: bool,
    as_json: bool,
    where: Execution,
    *,
    out: Path,
    **options: Any,
) -> None:
    from prbench.commands import output
    from prbench.running import prerequisites
    from prbench.running import report as report_runs
    from prbench.running.outline import Outline

    outlines: list[Outline] = []
    if dry_run:
        datasets, absent = prerequisites.divided(datasets, options["encoder"])
        outlines = [Outline(each, report_runs.planned_fits(report, each.entry, options["splits"])) for each in absent]
        if not datasets:
            output.show_json({"out": str(out)} | outlined(outlines)) if as_json else show_outlines(outlines)
            return
    plan = report_runs.plan(report, datasets, out=out, **options)
    failed = None if dry_run else report_runs.execute(plan, execution=where)
    if as_json:
        output.show_json(({} if failed is None else {"failed": failed}) | plan.as_dict() | outlined(outlines))
    else:
        output.show(plan.table(f"{'Plan' if dry_run else 'Results'} of the report {report}, in {out}"))
        show_outlines(outlines)
    if failed:
        raise typer.Exit(1)


def report(
    name: Annotated[
        str,
        typer.Argument(help="leaderboard, or another of `prbench list reports`.", autocompletion=names_of("reports")),
    ] = "",
    runs: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out"),
    methods: Annotated[
        str | None,
        typer.Option(
            metavar=LIST, help="Report only these rows: names and patterns such as 'mrm*', comma-separated."
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Compare each row with this method.")] = None,
    also: Annotated[
        str | None,
        typer.Option(metavar=LIST, help="paper: add these methods to its tables and figures that compare methods."),
    ] = None,
    log: Annotated[
        Tracker | None, typer.Option(help="Also log the report's tables and figures as a run of this tracker.")
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="Only explain the columns of the CSV files and the tests' formulas.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a report from results, and print which files were written."""
    import inspect

    from prbench import registry, results
    from prbench.base.errors import InputError

    if columns:
        from prbench.commands import output
        from prbench.reporting import dictionary

        output.show_rows(dictionary.rows(), as_json)
        return
    if not name:
        raise InputError("give the name of a report", hint=f"one of {', '.join(registry.names('reports'))}")
    from prbench.base.files import require_writable
    from prbench.registry import arguments, targets

    entry = registry.get("reports", name)
    require_writable(out)
    make = targets.load_target("reports", entry)
    file = str(registry.source("reports", name))
    given = {
        key: value
        for key, value in (("methods", methods), ("baseline", baseline), ("also", also))
        if value is not None
    }
    options = arguments.options(make, entry.options, positional=2, where=file)
    for key in given:
        if key not in inspect.signature(make).parameters:
            raise InputError(f"--{key}: the report {name} does not take it", hint="leave the option out")
    options |= given
    if log:
        from prbench.reporting import tracking

        tracking.require(log.value)
    paths = make(results.load(runs), out, **options)
    _print_paths(paths)
    if log:
        typer.echo(f"logged as run {tracking.log(name, paths, log.value)} of {log.value}", err=True)


def _print_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        typer.echo(str(path))
