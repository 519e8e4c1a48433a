"""Side effects on a quality that all users share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from counting_method import Counts, opened, split

from prbench.comparisons import Truth
from prbench.running.probes import taxes
from prbench.running.skipping import NotApplicableError


def test_pairs_are_all_those_of_a_prompt_that_differ_in_quality() -> None:
    prompt, quality = np.array([0, 0, 0, 1, 1]), np.array([1.0, -1.0, 1.0, -1.0, -1.0])
    assert taxes.quality_pairs(prompt, quality).tolist() == [[0, 1], [2, 1]]


def test_a_user_who_likes_the_worse_pays_and_one_who_likes_the_better_does_not() -> None:
    # Items 0 and 2 are of higher quality than 1 and 3; prompts are (0, 1) and (2, 3). User 0 chooses 1 and 3.
    rows = [(0, 1, 0), (0, 3, 2), (0, 1, 0), (1, 0, 1), (1, 2, 3), (1, 0, 1)]
    setting, _ = opened(rows)
    setting.entry.name = "planted"  # type: ignore[misc]
    where = split([0, 1, 3, 4], [2, 5], [0, 1])
    with pytest.raises(NotApplicableError, match="planted knows no quality"):
        taxes.taxes(Counts(), setting, where)
    none = np.zeros(2)
    truth = Truth(
        ceiling=none,
        floor=none,
        utility_margin=np.zeros(6),
        cluster=np.zeros(2, dtype=np.int64),
        prompt=np.array([0, 0, 1, 1]),
        quality=np.array([1.0, -1.0, 1.0, -1.0]),
    )
    setting.data = replace(setting.data, truth=truth)
    made = taxes.taxes(Counts(), setting, where)
    assert made["user"].tolist() == [0, 0, 1, 1]
    assert made["prompt"].tolist() == [0, 1, 0, 1]
    assert made["cold"].tolist() == [0.5] * 4
    assert made["adapted"].tolist() == [0, 0, 1, 1]
    # A tossed label is one of the two.
    assert set(made["tossed"].tolist()) <= {0.0, 1.0}

    class Ready(Counts):
        """Scores by quality whoever asks: no user can tax it."""

        def score_features(self, states, position, features):  # type: ignore[no-untyped-def]
            return features @ torch.tensor([1.0, -1.0, 1.0, -1.0])

    made = taxes.taxes(Ready(), setting, where)
    assert all((made[name] == 1).all() for name in ("cold", "adapted", "tossed"))
