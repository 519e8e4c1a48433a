"""`prbench.evaluate`: what `prbench run` and `prbench report leaderboard` do, from Python, as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from prbench.results import Results
    from prbench.running.plan import Plan


@dataclass(frozen=True)
class Evaluation:
    """The rows that were asked for, as the report's CSV files hold them (`prbench report --columns`).

    `answer` says for each data set in sentences whether personalising pays, `failed` how many cells have no result;
    `runs` is the folder of the results, for `prbench report` and `prbench.user`.
    """

    leaderboard: pd.DataFrame
    splits: pd.DataFrame
    comparisons: pd.DataFrame
    adapting: pd.DataFrame
    calibration: pd.DataFrame
    answer: dict[str, list[str]]
    failed: int
    runs: Path


def evaluate(
    methods: str | Sequence[str],
    dataset: str | Sequence[str],
    *,
    encoder: str | None = None,
    splits: int | None = None,
    limit: int | None = None,
    seed: int = 42,
    selection: str | None = None,
    baseline: str = "bt",
    device: str = "auto",
    workers: int = 1,
    runs: str | Path = "runs",
    resamples: int = 1_999,
) -> Evaluation:
    """Run methods on data sets, what is in `runs` already excepted, and return the report's tables.

    `methods` and `dataset` are names, patterns or groups as on the command line, one string or a list. The other
    arguments are the options of `prbench run` and `prbench report leaderboard`; intervals over users take `resamples`
    resamples. Only the rows asked for take part in tables and tests. Raises `prbench.errors.InputError` as these do.
    """
    from prbench import registry, results
    from prbench.protocol.metrics import ALL_SHOTS
    from prbench.reporting.board import build
    from prbench.reporting.calibration import calibration_frame, calibration_records
    from prbench.reporting.frames import adapting_frame, comparisons_frame, leaderboard_frame, splits_frame
    from prbench.reporting.options import require_options
    from prbench.reporting.placing import placed
    from prbench.reporting.verdict import sentences
    from prbench.running import run
    from prbench.running.execution import Execution
    from prbench.running.plan import plan
    from prbench.running.request import RunRequest

    names = registry.select("methods", _joined(methods)), registry.select("datasets", _joined(dataset))
    request = RunRequest(
        methods=tuple(names[0]),
        datasets=tuple(names[1]),
        encoder=encoder,
        splits=splits,
        limit=limit,
        seed=seed,
        selection=selection,
        device=device,
        out=Path(runs),
    )
    planned = plan(request)
    outcome = run.execute(planned, execution=Execution(workers=workers))
    asked = placed(_results_of_plan(results.load(Path(runs)), planned))
    require_options(asked, baseline=baseline, alpha=0.05, resamples=resamples)
    boards, users = build(asked, baseline=baseline, shots=ALL_SHOTS, alpha=0.05, resamples=resamples, count_all=True)
    return Evaluation(
        leaderboard=leaderboard_frame(boards),
        splits=splits_frame(users),
        comparisons=comparisons_frame(boards),
        adapting=adapting_frame(boards),
        calibration=calibration_frame(calibration_records(asked.scores)),
        answer={board.dataset: sentences(board) for board in boards},
        failed=outcome.failed,
        runs=Path(runs),
    )


def _joined(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ",".join(names)


def _results_of_plan(stored: Results, planned: Plan) -> Results:
    """The part of a folder's results that a plan made or found."""
    from prbench.protocol import metrics
    from prbench.reporting.paper.evidence import among
    from prbench.results import Results

    keys = {cell.record.key for job in planned.jobs for cell in job.cells}
    cells = [cell for cell in stored.cells if cell.key in keys]
    names = (*metrics.ROW, "split")
    rows = {(*cell.row, str(cell.split)) for cell in cells}
    return Results(stored.scores[among(stored.scores, rows, names)], cells, stored.folder)
