"""What a cell records of its making."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prbench.comparisons import PreferenceData
from prbench.protocol.repeats import OPPOSITE, REPEATS
from prbench.protocol.sentences import SINGLE
from prbench.protocol.splits import Split

if TYPE_CHECKING:
    from prbench.running.open_dataset import OpenDataset


def split_counts(data: PreferenceData, split: Split) -> dict[str, int]:
    """The numbers of users and choices of each part of the split, of what was dropped, and of what occurs twice.

    The last are one person's repeats in the whole data set, and the test items and pairs that are in training too.
    """
    return {
        "seen_users": len(split.seen),
        "unseen_users": len(split.unseen),
        "seen_train": len(split.seen_train),
        "seen_test": len(split.seen_test),
        "unseen_support": len(split.unseen_support),
        "unseen_test": len(split.unseen_test),
        **{f"dropped_{name}": count for name, count in split.dropped.items()},
        "repeats": data.counts.get(REPEATS, 0),
        "opposite_repeats": data.counts.get(OPPOSITE, 0),
        SINGLE: int((np.bincount(data.user) == 1).sum()),
        **split.shared,
    }


def judged(setting: OpenDataset) -> dict[str, Any]:
    """What only records of methods that read texts hold: that they do, and whether the judge may know the data."""
    if setting.reader is None:
        return {}
    released, public = setting.reader.entry.released, setting.entry.public
    # A year alone leaves open which came first: the model may then have seen the data.
    known = min(len(released), len(public))
    return {
        "reader": "judge",
        "data_public": public,
        "known_before": bool(known) and public[:known] <= released[:known],
    }


def split_truth(data: PreferenceData, split: Split) -> dict[str, dict[str, float]] | None:
    """Mean ceiling and floor of the split's users, where they are simulated."""
    if data.truth is None:
        return None
    populations = {"seen": split.seen, "unseen": split.unseen, "overall": np.concatenate([split.seen, split.unseen])}
    bounds = {"ceiling": data.truth.ceiling, "floor": data.truth.floor}
    return {
        population: {name: float(values[users].mean()) for name, values in bounds.items()}
        for population, users in populations.items()
    }


def device_name(device: str) -> str:
    """The GPU's name, or the number of CPU threads."""
    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu, {torch.get_num_threads()} threads"
    )
