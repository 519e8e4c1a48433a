"""Labels that are wrong where a choice is hard."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from counting_method import Counts, opened, split

from prbench.running.probes import mistakes
from prbench.running.probes.mistakes import RATES, flip_chances


def test_flips_have_the_stated_mean_fall_with_the_margin_and_never_pass_one_half() -> None:
    margin = np.array([0.0, 0.5, -0.5, 2.0, 6.0, -800.0])
    for rate in (0.05, 0.1, 0.3):
        chance = flip_chances(margin, rate)
        assert chance.mean() == pytest.approx(rate)
        assert chance.max() <= 0.5
        assert chance[1] == chance[2] > chance[3] > chance[4]
    # Without a cap: a·½ and a·σ(−2) with mean 0.1.
    a = 0.2 / (0.5 + 1 / (1 + np.exp(2)))
    assert flip_chances(np.array([0.0, 2.0]), 0.1) == pytest.approx([a / 2, a / (1 + np.exp(2))])
    assert flip_chances(margin, 0).tolist() == [0] * 6
    with pytest.raises(ValueError, match="one half"):
        flip_chances(margin, 0.5)


def test_what_is_flipped_at_one_rate_is_flipped_at_every_higher_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for user in range(20):
        for _ in range(20):
            a, b = sorted(draw.permutation(4)[:2].tolist())
            rows.append((user, a, b))
    setting, _ = opened(rows)
    place = np.tile(np.arange(20), 20)
    where = split(np.flatnonzero(place < 12).tolist(), np.flatnonzero(place >= 12).tolist(), list(range(20)))
    seen: list[np.ndarray] = []

    class Watching(Counts):
        def adapt_unseen(self, support, *, users=None, rng):  # type: ignore[no-untyped-def]
            if len(support):
                seen.append(support.chosen > support.rejected)
            return super().adapt_unseen(support, users=users, rng=rng)

    monkeypatch.setattr(mistakes, "fit_of_bt", lambda folder, split: Counts())
    made = mistakes.mistakes(Watching(), setting, where, Path())
    assert len(seen) == len(RATES)
    # All true labels are the lower item: what is turned is a flip.
    for fewer, more in itertools.pairwise(seen):
        assert (more | ~fewer).all()
    shares = [float(turned.mean()) for turned in seen]
    assert shares == pytest.approx(RATES, abs=0.06)
    gains = [float((made["margin"][made["rate"] == np.float32(rate)] > 0).mean()) for rate in RATES]
    assert gains[0] > gains[-1]
