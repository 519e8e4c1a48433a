"""Threads that train different splits: no bit depends on their number, and none outlives the training."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prbench import registry
from prbench.base.seeds import Rng
from prbench.contract import Toy
from prbench.registry import methods
from prbench.training import gradient
from prbench.training.side_by_side import Snapshot, SplitBatch, side_by_side

SMALL: dict[str, dict[str, Any]] = {
    "bt": {"steps": 5},
    "lore": {"steps": 5},
    "rfm": {"steps": 5},
    "pref": {"steps": 5},
    "mrm": {"epochs": 2},
    "mrm-steps-5": {"epochs": 1},
    "maml": {"epochs": 1},
    "mrm-no-basis": {"epochs": 1},
    "pal": {"epochs": 1},
    "np": {"epochs": 1},
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("two_threads")
def test_a_split_has_the_same_bits_alone_and_on_a_thread_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy()

    def fitted(*problems: Any) -> dict[str, torch.Tensor]:
        made = [methods.make_method(registry.get("methods", name), None, SMALL[name]) for _ in problems]
        type(made[0]).fit_splits(made, problems)
        return dict(made[problems.index(mine)].learned())

    mine, other, third = toy.problem(), toy.part(users=4), toy.part(groups=3)
    alone = fitted(mine)
    # Otherwise a toy's updates are too small to be divided among threads.
    monkeypatch.setattr(gradient, "PARALLEL_BYTES", 1)
    started: list[object] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self), start(self))[1])
    for problems in ((other, mine), (third, other, mine)):
        beside = fitted(*problems)
        assert all(torch.equal(alone[key], beside[key]) for key in alone)
    assert len(started) == 8  # two fits, each to choose by validation and once more, on two threads


def _batch(watch: Any = None) -> SplitBatch:
    train = Toy().train
    return SplitBatch([train] * 4, [Rng(i) for i in range(4)], [{1}] * 4, watch=watch)


@pytest.mark.usefixtures("two_threads")
def test_every_share_and_snapshot_arrives_at_the_caller() -> None:
    seen: list[float] = []
    callers: set[int] = set()

    def train(work: SplitBatch) -> Iterator[Snapshot]:
        assert torch.get_num_threads() == 1
        for split in range(len(work.trains)):
            work.tell(1 / len(work.trains))
            yield Snapshot(split, 1, {"seed": torch.tensor(work.rngs[split].axes[0])})

    def watch(share: float) -> None:
        callers.add(threading.get_ident())
        seen.append(share)

    found = list(side_by_side(train, _batch(watch), [[[0, 2]], [[1], [3]]]))
    assert sorted((s.split, int(s.tensors["seed"])) for s in found) == [(i, i) for i in range(4)]
    assert sum(seen) == pytest.approx(1)
    assert callers == {threading.get_ident()}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("end", ["a thread fails", "the caller stops", "the watch raises"])
@pytest.mark.usefixtures("two_threads")
def test_no_thread_outlives_the_training(end: str) -> None:
    before = threading.active_count()

    def train(work: SplitBatch) -> Iterator[Snapshot]:
        unit = 0
        while True:
            unit += 1
            if end == "a thread fails" and unit == 50 and work.rngs[0].axes == (1,):
                raise FloatingPointError("no more")
            work.tell(1e-6)
            yield Snapshot(0, unit, {})

    def watch(_: float) -> None:
        if end == "the watch raises":
            raise KeyboardInterrupt

    snapshots = side_by_side(train, _batch(watch), [[[0]], [[1]]])
    if end == "the caller stops":
        next(snapshots)
        snapshots.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises((FloatingPointError, KeyboardInterrupt)):
            list(snapshots)
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2
