"""Rules that choose which pair to ask a user about next, from pairs whose labels they never see.

`inverse-hessian` takes the pair of the largest v = xᵀH⁻¹x, H = λI + Σ p(1 − p)xxᵀ over the pairs asked, with the
feature difference x of a pair and the probability p that the method gives to one of its sides now; `d-optimal` that
of the largest gain in log det H, log(1 + p(1 − p)·v). The two differ by the factor p(1 − p) only.
"""

from __future__ import annotations

import numpy as np

from prbench.comparisons import FloatArray, IntArray

RULES = ("random", "margin", "inverse-hessian", "d-optimal")
PENALTY = 1.0
"""λ, for features scaled to a mean square of 1 over the pairs of all users."""


def next_question(rule: str, gram: FloatArray, margin: FloatArray, order: IntArray, asked: IntArray) -> int:
    """The place of the next pair among a user's n.

    gram: products of the pairs' feature differences [n, n]; margin: of their two sides as the method sees them now
    [n], its sign without meaning; order: the pairs in an order drawn by hash [n], which decides ties and is the
    random rule; asked: places of the pairs asked so far.
    """
    left = order[~np.isin(order, asked)]
    if rule == "random":
        return int(left[0])
    if rule == "margin":
        return int(left[np.argmin(np.abs(margin[left]))])
    certainty = _variance_of_choice(margin)
    value = inverse_norms(gram, certainty, asked)
    if rule == "d-optimal":
        value = np.log1p(certainty * value)
    return int(left[np.argmax(value[left])])


def inverse_norms(gram: FloatArray, weight: FloatArray, asked: IntArray) -> FloatArray:
    """xᵀH⁻¹x of every pair, [n], H = λI + Σ weight·xxᵀ over the asked ones; by the matrix inversion lemma."""
    norm = np.diagonal(gram)
    if not len(asked):
        return np.asarray(norm / PENALTY)
    across = gram[asked]
    inner = gram[np.ix_(asked, asked)] + np.diag(PENALTY / weight[asked])
    return np.asarray((norm - (across * np.linalg.solve(inner, across)).sum(0)) / PENALTY)


def _variance_of_choice(margin: FloatArray) -> FloatArray:
    """p(1 − p) for p = σ(margin), never 0: a pair that is certain to the last digit still has a weight."""
    size = np.exp(-np.abs(margin))
    return np.asarray(np.maximum(size / (1 + size) ** 2, 1e-12))
