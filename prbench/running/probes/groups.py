"""How groups of users fare: attributes meet results here, and only group results leave.

A user's values are means over the splits that tested the user as unseen, so that the table of a cell rests on all
finished splits of its row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.method import Method
from prbench.protocol import metrics
from prbench.protocol.groups import gap, gap_p, group_means, shown_groups
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.splits import Split
from prbench.results import cells, scores
from prbench.results.record import CellState, PlannedRecord
from prbench.running.open_dataset import OpenDataset
from prbench.running.skipping import NotApplicableError


def groups(method: Method, setting: OpenDataset, split: Split, folder: Path) -> dict[str, Any]:
    """The columns of the table: each shown group's users, accuracy and gain, and the attribute's gaps with their p.

    Raises NotApplicableError for data without attributes, and where none has two groups that may be shown.
    """
    attributes = setting.data.attributes
    if not attributes:
        raise NotApplicableError(f"{setting.entry.name} knows no attributes of its users")
    user, accuracy, cold, splits = _users(folder)
    parts: list[dict[str, Any]] = []
    for attribute, values in attributes.items():
        named = np.array(shown_groups([values[int(u)] for u in user]))
        kept = named != ""
        names, number = np.unique(named[kept], return_inverse=True)
        if len(names) < 2:
            continue
        own, gain = accuracy[kept], (accuracy - cold)[kept]
        rng = Rng("groups", setting.data.name, attribute)
        measures = {
            "gap": gap(own, number),
            "gap_p": gap_p(own, number, rng=rng.child("accuracy")),
            "gain_gap": gap(gain, number),
            "gain_gap_p": gap_p(gain, number, rng=rng.child("gain")),
        }
        parts.append(
            {
                "attribute": np.full(len(names), attribute),
                "group": names,
                "users": np.bincount(number),
                "splits": np.full(len(names), splits),
                "accuracy": group_means(own, number).astype(np.float32),
                "gain": group_means(gain, number).astype(np.float32),
                **{name: np.full(len(names), value, dtype=np.float32) for name, value in measures.items()},
            }
        )
    if not parts:
        raise NotApplicableError(f"no attribute of {setting.entry.name} has two groups of ten and more users")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _users(folder: Path) -> tuple[Any, Any, Any, int]:
    """Unseen users [u] of the finished splits of a cell's row, their mean accuracies adapted and cold, and the
    splits."""
    import pandas as pd

    own = cells.read_record(folder)
    frames = []
    for other in sorted(folder.parent.glob("split-*")):
        if cells.status(other)[0] != CellState.done:
            continue
        record = cells.read_record(other)
        if _same_row(record) == _same_row(own):
            frame = scores.read_scores_file(cells.scores_file(other, ALL_SHOTS), cells.AGAIN)
            frame = frame[frame["population"] == "unseen"]
            right, before = metrics.decisions(frame["margin"]), metrics.decisions(frame["cold_margin"])
            table = pd.DataFrame({"user": frame["user"], "accuracy": right, "cold": before})
            frames.append(table.groupby("user").mean().reset_index())
    users = pd.concat(frames).groupby("user").mean().reset_index()
    user, accuracy, cold = (users[name].to_numpy() for name in ("user", "accuracy", "cold"))
    return user, accuracy, cold, len(frames)


def _same_row(record: PlannedRecord) -> tuple[object, ...]:
    return record.selection, record.data_fingerprint, record.params, record.protocol, record.restart
