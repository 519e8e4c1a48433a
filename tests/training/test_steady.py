"""Operations whose rounding does not depend on what stands beside or behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prbench.training import steady
from prbench.training.optimiser import StackedAdam


@pytest.mark.parametrize(("ours", "reference"), [(steady.sigmoid, torch.sigmoid), (steady.softplus, None)])
def test_values_and_slopes_are_those_of_torch(ours: object, reference: object) -> None:
    reference = reference or torch.nn.functional.softplus
    x = torch.linspace(-100, 100, 2001, dtype=torch.float64)
    given, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(ours(given), reference(wanted))  # type: ignore[operator]
    ours(given).sum().backward()  # type: ignore[operator]
    reference(wanted).sum().backward()  # type: ignore[operator]
    torch.testing.assert_close(given.grad, wanted.grad)


@pytest.mark.parametrize("function", [steady.sigmoid, steady.softplus])
def test_a_number_has_the_same_bits_wherever_it_stands(function: object) -> None:
    """That is what these functions are for: each operation in them rounds one number by itself."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    whole = function(x)  # type: ignore[operator]
    for n in range(1, 120):
        assert torch.equal(function(x[:n].clone()), whole[:n])  # type: ignore[operator]


@pytest.mark.parametrize("rows", [64, 192, 448])
def test_padding_leaves_products_and_sums_as_they_are(rows: int) -> None:
    """That is what these products are for: each is computed in pieces of one shape, whatever lies beside them."""
    draw = torch.Generator().manual_seed(1)
    for vectors, dim in ((1, 64), (2, 384), (5, 768), (32, 64)):
        v, x = torch.randn(2, vectors, dim, generator=draw), torch.randn(2, 1024, dim, generator=draw)
        weights = torch.zeros(2, vectors, 1024)
        weights[:, :, :rows] = torch.randn(2, vectors, rows, generator=draw)
        alone = x[:1, :rows].clone()
        assert torch.equal(steady.project(v, x)[:1, :, :rows], steady.project(v[:1], alone))
        beside = steady.pull_back(weights, x)
        assert torch.equal(beside[:1], steady.pull_back(weights[:1, :, :rows].clone(), alone))
        torch.testing.assert_close(beside, weights @ x, atol=1e-3, rtol=1e-3)


def test_rows_stay_in_the_block_of_their_number() -> None:
    keys = np.array([0, 5, 127, 128, 300, 301, 1000])
    assert [keys[block].tolist() for block in steady.key_blocks(keys)] == [[0, 5, 127], [128], [300, 301], [1000]]
    assert steady.key_blocks(np.arange(3)) == [slice(0, 3)]


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_adam_moves_a_split_alike_beside_others(decay: float) -> None:
    """Every operation of a step is on one element, by instructions that round alike wherever the element stands."""
    draw = torch.Generator().manual_seed(2)
    start = [torch.randn(7, 5, 3, generator=draw), torch.randn(7, 64, generator=draw)]
    gradients = [[torch.randn(part.shape, generator=draw) for part in start] for _ in range(30)]

    def trained(splits: int) -> list[torch.Tensor]:
        parameters = [part[:splits].clone() for part in start]
        adam = StackedAdam(parameters, decay=decay)
        for step in gradients:
            adam.step([part[:splits].clone() for part in step], 0.5)
        return [part[0] for part in parameters]

    alone = trained(1)
    for splits in (2, 3, 7):
        assert all(map(torch.equal, alone, trained(splits)))
