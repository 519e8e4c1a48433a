"""Results in the format of Every Eval Ever (schema 0.3.0): `prbench report every-eval-ever`.

    out/data/prbench/<developer>/<method>-<reader>/<uuid>.json     one file for each row, with all of its data sets

Its validator, `python -m every_eval_ever validate`, is what the tests hold the files against. Source: the package
every-eval-ever 0.3.0 (MIT), every_eval_ever/schemas/eval.schema.json.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.files import digest, write_json
from prbench.registry import marks
from prbench.reporting.exporting import ExportedRow, Number, exported
from prbench.reporting.page import _slug
from prbench.results.record import DoneRecord

if TYPE_CHECKING:
    from prbench.results import Results

SCHEMA = "0.3.0"
METRICS: Mapping[str, str] = {
    "accuracy": "mean over users of the share of held-out choices decided as the user did; a tie is half right",
    "worst10": "the same over the tenth of users with the lowest accuracy",
}


@marks.report
def every_eval_ever(
    results: Results,
    out: Path,
    *,
    developer: str = "prbench",
    organisation: str = "not said",
    relationship: Literal["first_party", "third_party", "collaborative", "other"] = "third_party",
    methods: str = "",
) -> list[Path]:
    """Write a file of Every Eval Ever for each row that has all of its splits; returns their paths.

    `developer` is the name below which models stand there, `organisation` who ran the evaluation, `relationship` how
    they stand to the models; an entry of your own (`extends = "every-eval-ever"`) sets them. Margins of single
    choices are not part of it. Raises InputError where no row can be exported.
    """
    if not developer.strip() or developer == "unknown" or "/" in developer:
        raise InputError(f"developer is {developer!r}", hint="give a name without slashes in the report's [options]")
    source = {
        "source_name": "prbench",
        "source_type": "evaluation_run",
        "source_organization_name": organisation,
        "evaluator_relationship": relationship,
    }
    rows: dict[tuple[str, str, str], list[ExportedRow]] = {}
    for export in exported(results, methods):
        rows.setdefault((export.row.method, export.row.selection, export.reader), []).append(export)
    paths = []
    for (_, selection, reader), parts in sorted(rows.items()):
        model = _slug("-".join([parts[0].row.method, *([] if parts[0].row.published else [selection]), reader]))
        keys = sorted(record.key for part in parts for record in part.records)
        name = uuid.UUID(hex=digest(keys, length=32), version=4)
        path = out / "data" / "prbench" / developer / model / f"{name}.json"
        write_json(path, _log(parts, f"{developer}/{model}", source))
        paths.append(path)
    return paths


def _log(parts: Sequence[ExportedRow], model: str, source: Mapping[str, str]) -> dict[str, Any]:
    first, now = parts[0], f"{time.time():.0f}"
    finished = max(part.finished for part in parts)
    versions = sorted({record.versions.get("prbench", "") for part in parts for record in part.records} - {""})
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"prbench/{model}/{now}",
        "retrieved_timestamp": now,
        **({"evaluation_timestamp": finished} if finished else {}),
        "source_metadata": dict(source),
        "eval_library": {"name": "prbench", "version": ", ".join(versions) or "unknown"},
        "model_info": {
            "name": f"{first.row.title} on {first.reader}",
            "id": model,
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "method": first.row.method,
                "paper": first.record.entry.paper,
                "texts_read_by": first.reader,
                "chosen_on": first.row.selection,
            },
        },
        "evaluation_results": [_result(part, number) for part in parts for number in part.numbers],
    }


def _result(part: ExportedRow, number: Number) -> dict[str, Any]:
    record, dataset = part.record, part.board.dataset
    sizes = {"seen": record.counts.seen_users, "unseen": record.counts.unseen_users}
    uncertainty: dict[str, Any] = {"num_samples": len(part.row.splits)}
    if not math.isnan(number.std):
        uncertainty["standard_deviation"] = number.std
    if not math.isnan(number.low):
        uncertainty["confidence_interval"] = {
            "lower": number.low,
            "upper": number.high,
            "confidence_level": 0.95,
            "method": "corrected resampled t-test over random splits",
        }
    return {
        "evaluation_result_id": f"{dataset}/{number.population}/{number.metric}",
        "evaluation_name": f"{dataset}, {number.population} users",
        "source_data": _source(record),
        "metric_config": {
            "evaluation_description": METRICS[number.metric],
            "metric_id": f"prbench.user_{number.metric}",
            "metric_name": "User accuracy" if number.metric == "accuracy" else "Accuracy of the worst 10% of users",
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": {
            "score": number.mean,
            "details": {
                "splits": str(len(part.row.splits)),
                "random_starts": str(part.row.starts),
                "users": str(sizes.get(number.population, sum(sizes.values()))),
                "protocol": record.protocol.name,
            },
            "uncertainty": uncertainty,
        },
    }


def _source(record: DoneRecord) -> dict[str, Any]:
    dataset, details = record.dataset, {"data_fingerprint": record.data_fingerprint}
    home = registry.get("datasets", dataset).homepage if dataset in registry.names("datasets") else ""
    if home.startswith("https://"):
        return {"dataset_name": dataset, "source_type": "url", "url": [home], "additional_details": details}
    return {"dataset_name": dataset, "source_type": "other", "additional_details": details}
