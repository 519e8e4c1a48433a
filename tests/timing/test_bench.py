"""The loops that the engine is timed against do the engine's work, and the benchmark reports what it measured."""

from __future__ import annotations

import json
import math
from itertools import islice

import numpy as np
import pytest
import torch

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.contract import population
from prbench.methods.gpo import GPO
from prbench.methods.lore import BT, LoRe
from prbench.methods.maml import MAML
from prbench.methods.mrm import MRM
from prbench.methods.neural_process import NP
from prbench.methods.pal import PAL
from prbench.registry import methods
from prbench.timing import fit
from prbench.training.factorisation import Factorisation
from prbench.training.gradient import GradientMethod, SplitBatch

RNG = Rng("bench")
FIELDS = {
    "method", "shape", "splits", "updates_per_second", "seconds", "ratio_to_loop", "peak_memory_mb", "bandwidth_share",
    "product_share",
}  # fmt: skip


@pytest.mark.parametrize("method", [MRM(epochs=6, rate=0.05, input_scale=0.5), LoRe(bases=3, steps=12), BT(steps=12)])
def test_the_plain_loop_does_the_same_work_as_the_engine(method: MRM | LoRe) -> None:
    data = population(users=9, groups=(2, 6), seed=11)
    rng = Rng("bench")
    updates = 6 * method.plan(data, rng).updates if isinstance(method, MRM) else 12
    (snapshot,) = method.train_splits(SplitBatch([data], [rng], [{method.budget}]))
    steps = method.plain_loop(data, rng)
    assert steps is not None
    *_, last = islice(steps, updates)
    for name, tensor in last.items():
        torch.testing.assert_close(snapshot.tensors[name], tensor, atol=1e-8, rtol=0, msg=name)


def test_bytes_of_an_update_by_hand() -> None:
    data = population(users=5, dim=6, groups=(2, 2), pairs=(2, 2), seed=1, dtype=torch.float32)
    assert len(data) == 20
    rngs = [Rng("one"), Rng("other")]
    # Two splits of 20 rows x 6 numbers x 4 bytes, forward and backward: 1,920 bytes; an epoch of 5 users is 3 updates.
    assert LoRe().bytes_per_update([data, data], rngs) == 1920
    assert MRM().bytes_per_update([data, data], rngs) == 640
    assert MAML().bytes_per_update([data, data], rngs) == 1280
    # GPO reads each of the 20 choices once an epoch, 2 users at a time, and has a network in each split besides.
    gpo = GPO(width=4, depth=1)
    values = 4 * 6 + 4 + 4 + 3 * 20 + (60 + 20 + 8 + 20 + 20 + 8) + 20 + 10 + 4
    assert gpo.expected_size(6) == values
    assert gpo.bytes_per_update([data, data], rngs) == pytest.approx(1280 + 10 * 2 * values * 4)
    # PAL reads 8 choices in two of an epoch's three updates and 4 in the last; f has three layers and there are 2 prototypes.
    pal = PAL(prototypes=2, width=4, pairs_per_update=8)
    pairs, values = 20 / 3, 7 * 4 + 5 * 4 + 5 * 4 + 2 * 6
    assert pal.choices_per_update(data, rngs[0]) == pairs
    assert pal.bytes_per_update([data, data], rngs) == pytest.approx(2 * 2 * pairs * 2 * 6 * 4 + 10 * 2 * values * 4)


def test_products_of_an_update_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "ROUND_SECONDS", 0.0)
    data = population(users=5, dim=6, groups=(2, 2), pairs=(2, 2), seed=1, dtype=torch.float32)
    rngs = [Rng("one"), Rng("other")]

    def counted(method: GradientMethod) -> float:
        return fit.products_per_update(method, [data, data], rngs)

    # 20 rows, padded to 64, x 6 numbers x K directions, forth and back, a product and a sum each, in two splits.
    assert counted(BT(steps=20)) == 2 * 64 * 6 * 2 * 2
    assert counted(LoRe(steps=20, bases=5)) == 5 * counted(BT(steps=20))
    # PAL's f (6 -> 4 -> 4 -> 4) meets chosen, rejected and ideal point of 20 choices, forth, and back to weights and
    # inputs; the ideal points are 20 mixtures of 2 prototypes.
    vectors, mixtures = 60 * (24 + 16 + 16) * 3, 20 * 2 * 6 * 3
    pal = PAL(prototypes=2, width=4, pairs_per_update=20, epochs=30)
    assert counted(pal) == 2 * 2 * (vectors + mixtures)


def test_attentions_and_products_in_place_are_counted() -> None:
    query, key = torch.randn(1, 2, 3, 4, requires_grad=True), torch.randn(1, 2, 5, 4)
    with fit.counting() as counter:
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, key)
        # 2 heads x 3 questions x 5 keys x 4 numbers, once for the weights and once for the values.
        assert counter.get_total_flops() == 2 * 2 * (2 * 3 * 5 * 4)
        mixed.sum().backward()
        # The weights again, and the gradients of values, weights, query and key.
        assert counter.get_total_flops() == 2 * 7 * (2 * 3 * 5 * 4)
        torch.zeros(2, 3, 7).baddbmm_(torch.ones(2, 3, 5), torch.ones(2, 5, 7))
        assert counter.get_total_flops() == 2 * 7 * (2 * 3 * 5 * 4) + 2 * 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    "method", [GPO(epochs=3, width=8, depth=1), NP(epochs=3, width=8), MRM(epochs=3), BT(steps=7)]
)
def test_updates_of_the_whole_recipe_are_counted(method: GradientMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "ROUND_SECONDS", 0.0)
    data = population(users=9, groups=(2, 6), seed=11, dtype=torch.float32)
    timed = fit.engine(method, [data], [Rng("bench")], "cpu")
    users = {GPO: 2, NP: 8, MRM: 2}.get(type(method))
    assert timed.updates == (7 if users is None else 3 * math.ceil(9 / users))


def test_copying_takes_time() -> None:
    assert 1e8 < fit.copy_bandwidth("cpu") < 1e13


def test_the_command_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(fit, "COPIED", 2**20)
    monkeypatch.setattr(fit, "MULTIPLIED", 64)
    args = ["bench", "fit", "--method", "mrm", "--shape", "simulated", "--splits", "2", "--device", "cpu", "--json"]
    assert cli.main(args) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= FIELDS
    assert (found["method"], found["shape"], found["splits"]) == ("mrm", "simulated", 2)
    assert found["updates_per_second"] == pytest.approx(1 / found["seconds"])
    assert found["ratio_to_loop"] == pytest.approx(found["loop_seconds"] / found["seconds"])
    assert found["updates"] == 200 * 15
    assert found["loop"] == "one user at a time"
    assert np.isfinite([value for value in found.values() if isinstance(value, float)]).all()


def test_what_an_update_moves_is_known_for_every_gradient_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = population(users=5, dim=6, groups=(2, 2), pairs=(2, 2), seed=1, dtype=torch.float32)
    for entry in registry.load_all("methods"):
        method = methods.make_method(entry, registry.get("datasets", "simulated"), {})
        if isinstance(method, GradientMethod):
            moved = method.bytes_per_update([data], [RNG])
            assert moved is not None
            assert moved >= 2 * 2 * 6 * 4, entry.name
    monkeypatch.setattr(fit, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(fit, "COPIED", 2**20)
    monkeypatch.setattr(fit, "MULTIPLIED", 64)
    monkeypatch.setattr(Factorisation, "bytes_per_update", lambda *_: None)
    assert cli.main(["bench", "fit", "--method", "rfm", "--shape", "simulated", "--splits", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bandwidth_share"] is None


@pytest.mark.parametrize(
    ("method", "shape", "why"),
    [("bt-ridge", "simulated", "not trained by gradient steps"), ("mrm", "convarg", "comes without embeddings")],
)
def test_what_cannot_be_timed_says_why(method: str, shape: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        fit.fit(method, shape, 1, device="cpu")
