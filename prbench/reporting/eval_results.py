"""Results as a model repository of the Hugging Face hub holds them: `prbench report eval-results`.

    out/<method>-<reader>/.eval_results/<data set>.yaml     one entry for each group of users

Each folder is what to add to one model's repository. The form is that of `huggingface_hub.EvalResultEntry`
(https://huggingface.co/docs/hub/eval-results). The hub takes up data sets only that are on it, and makes a
leaderboard of those that are registered as benchmarks there; prbench's are not yet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import prbench
from prbench import registry
from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.files import write_text
from prbench.registry import marks
from prbench.reporting.exporting import ExportedRow, exported
from prbench.reporting.page import _slug

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

    from prbench.results import Results

HUB = re.compile(r"(?:https://huggingface\.co/datasets/|hf://datasets/)([\w.-]+/[\w.-]+)")


@marks.report
def eval_results(
    results: Results, out: Path, *, dataset_ids: Mapping[str, str] | None = None, methods: str = ""
) -> list[Path]:
    """Write `.eval_results` files for each row that has all of its splits; returns their paths.

    `dataset_ids` names the hub's data set of data sets whose entry does not say it; those without are left out, with
    a line on stderr. Raises InputError where nothing is left.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    paths, lacking = [], set()
    for export in exported(results, methods):
        dataset = export.board.dataset
        place = (dataset_ids or {}).get(dataset) or hub_id(dataset)
        if not place:
            lacking.add(dataset)
            continue
        names = [export.row.method, *([] if export.row.published else [export.row.selection]), export.reader]
        path = out / _slug("-".join(names)) / ".eval_results" / f"{_slug(dataset)}.yaml"
        plain = eval_result_entries_to_yaml(_entries(export, place))
        write_text(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        paths.append(path)
    for dataset in sorted(lacking):
        stderr().print(f"{dataset} is left out: its entry names no data set of the hub", markup=False, soft_wrap=True)
    if not paths:
        raise InputError(
            "the hub has none of these data sets",
            hint='name them in a report entry of your own: extends = "eval-results", [options.dataset_ids]',
        )
    return paths


def hub_id(dataset: str) -> str:
    """OWNER/NAME of a data set on the hub, "" where its entry does not say."""
    if dataset not in registry.names("datasets"):
        return ""
    entry = registry.get("datasets", dataset)
    for text in (entry.homepage, entry.download.base if entry.download else ""):
        if match := HUB.match(text):
            return match[1].partition("@")[0]
    return ""


def _entries(export: ExportedRow, place: str) -> list[EvalResultEntry]:
    from huggingface_hub import EvalResultEntry

    record, row = export.record, export.row
    version = record.versions.get("prbench", prbench.__version__)
    notes = (
        f"prbench {version}; {record.method}, texts read by {export.reader}, chosen on {row.selection}; user accuracy"
        f" in %, mean over {len(row.splits)} random splits"
    )
    return [
        EvalResultEntry(
            dataset_id=place,
            task_id=f"{export.board.dataset}-{number.population}",
            value=round(100 * number.mean, 2),
            date=export.finished or None,
            notes=f"{notes}; data fingerprint {record.data_fingerprint}",
        )
        for number in export.numbers
        if number.metric == "accuracy"
    ]
