"""A report's tables and figures in an experiment tracker: MLflow, or Weights & Biases.

Both are optional: `pip install 'prbench[mlflow]'` or `'prbench[wandb]'`. Where a run goes is said as their own
programs do (MLFLOW_TRACKING_URI, WANDB_MODE and so on).
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import prbench
from prbench.base.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Tracker = Literal["mlflow", "wandb"]
TRACKERS: tuple[Tracker, ...] = ("mlflow", "wandb")
FIGURES = {".png"}
TABLES = {".csv"}
ROW = ("dataset", "encoder", "method", "selection")
NUMBERS = ("seen", "unseen", "overall", "worst10", "flip_rate", "difference")


def log(report: str, paths: Sequence[Path], tracker: Tracker, *, project: str = "prbench") -> str:
    """Log the files of a report as one run, and return its id there.

    CSV files become tables, PNG files images, all files artifacts; of leaderboard.csv the accuracies become metrics
    `<data set>/<encoder>/<method>/<column>`. Raises InputError where the tracker is not installed.
    """
    require(tracker)
    return _mlflow(report, paths, project) if tracker == "mlflow" else _wandb(report, paths, project)


def require(tracker: Tracker) -> None:
    """Raise InputError where a tracker is not installed: asked before a report is made."""
    if tracker not in sys.modules and importlib.util.find_spec(tracker) is None:
        raise InputError(f"{tracker} is not installed", hint=f"pip install 'prbench[{tracker}]'")


def _mlflow(report: str, paths: Sequence[Path], project: str) -> str:
    import mlflow

    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=report) as run:
        mlflow.set_tags({"prbench": prbench.__version__, "report": report})
        for path in paths:
            mlflow.log_artifact(str(path), "figures" if path.suffix in FIGURES else "")
            if path.suffix in TABLES:
                mlflow.log_table(_plain(_table(path)), f"tables/{path.stem}.json")
        mlflow.log_metrics(_numbers(paths))
        return str(run.info.run_id)


def _wandb(report: str, paths: Sequence[Path], project: str) -> str:
    import wandb

    run = wandb.init(project=project, name=report, job_type="report", config={"prbench": prbench.__version__})
    files = wandb.Artifact(f"report-{report}", type="report")
    for path in paths:
        files.add_file(str(path))
    tables = {f"tables/{p.stem}": wandb.Table(dataframe=_plain(_table(p))) for p in paths if p.suffix in TABLES}
    run.log(tables | {f"figures/{p.stem}": wandb.Image(str(p)) for p in paths if p.suffix in FIGURES})
    run.log_artifact(files)
    run.summary.update(_numbers(paths))
    run.finish()
    return str(run.id)


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(path)


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Text columns as text throughout: an empty field would make a column of two types."""
    texts = [name for name in table.columns if table[name].dtype == object]
    return table.assign(**{name: table[name].fillna("").astype(str) for name in texts})


def _numbers(paths: Sequence[Path]) -> dict[str, float]:
    """The leaderboard's numbers under names that both trackers take."""
    named: dict[str, float] = {}
    for path in paths:
        if path.name != "leaderboard.csv":
            continue
        for record in _table(path).to_dict("records"):
            name = "/".join(re.sub(r"[^\w.-]+", "_", str(record[key])) for key in ROW if key in record)
            numbers = {key: float(record.get(key, math.nan)) for key in NUMBERS}
            named |= {f"{name}/{key}": number for key, number in numbers.items() if not math.isnan(number)}
    return named
