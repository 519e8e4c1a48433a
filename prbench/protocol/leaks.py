"""How much of a person is in a fitted state: whether choices were adapted on, whose state it is, and what of."""

from __future__ import annotations

from typing import Any

import numpy as np

from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, IntArray

FOLDS = 5
PERMUTATIONS = 999
NEWTON_STEPS = 50


def auc(inside: FloatArray, outside: FloatArray) -> float:
    """The chance that a value of `inside` is above one of `outside`, ties one half; NaN where either is empty."""
    if not len(inside) or not len(outside):
        return float("nan")
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, side="left")
    not_above = np.searchsorted(ordered, inside, side="right")
    return float(((below + not_above) / 2).mean() / len(outside))


def distances(left: FloatArray, right: FloatArray) -> FloatArray:
    """1 − correlation of every row of `left` with every row of `right`, [u, m], [v, m] -> [u, v]; 1 for constant
    rows."""

    def standard(rows: FloatArray) -> FloatArray:
        centred = rows - rows.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12))

    return np.asarray(1 - standard(left) @ standard(right).T)


def own_ranks(distance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """From distances [u, u]: the rank of each one's own partner, 1 the closest, and the chance to be picked first.

    Equal distances share their ranks, and the first place.
    """
    partner = np.diagonal(distance)[:, None]
    closer, equal = (distance < partner - 1e-9).sum(1), (np.abs(distance - partner) <= 1e-9).sum(1)
    return closer + (equal + 1) / 2, np.where(closer == 0, 1 / equal, 0.0)


def class_auc(views: FloatArray, label: IntArray, rng: Rng, permutations: int = PERMUTATIONS) -> tuple[float, float]:
    """How well users' classes are read off their states, and the chance to read them as well where nothing is there.

    `views` [users, m] are the states, `label` [users] the classes, each of five and more users. The first value is
    the mean over classes of the AUC of one against the rest, one half where the states tell nothing. Scores come from
    five stratified folds drawn from `rng`: in each, the other folds standardise the columns and fit a logistic
    regression for each class with an L2 strength of 1. The second is the share of permutations of the labels within
    folds, and of the labels as they are, with as large a value.
    """
    classes, number = np.unique(label, return_inverse=True)
    fold = _stratified(number, rng.child("folds"))
    draw = rng.child("labels").numpy()
    labels = np.tile(number, (1 + permutations, 1))
    for inside in (np.flatnonzero(fold == f) for f in range(FOLDS)):
        labels[1:, inside] = draw.permuted(labels[1:, inside], axis=1)
    scores = np.empty((len(classes), *labels.shape))
    for f in range(FOLDS):
        train, test = fold != f, fold == f
        mean, spread = views[train].mean(0), views[train].std(0)
        scaled = (views - mean) / np.where(spread > 1e-12, spread, 1.0)
        # The penalty does not change with a rotation, and outside the span of the users nothing is learned.
        span = np.linalg.svd(scaled[train], full_matrices=False)[2].T
        for c in range(len(classes)):
            is_class = (labels[:, train] == c).astype(np.float64)
            scores[c][:, test] = logistic_scores(scaled[train] @ span, is_class, scaled[test] @ span)
    values = np.mean([_aucs(scores[c], labels == c) for c in range(len(classes))], axis=0)
    return float(values[0]), float((values >= values[0] - 1e-9).mean())


def logistic_scores(train: FloatArray, is_class: FloatArray, test: FloatArray) -> FloatArray:
    """The log odds of `test` [t, r] by many logistic regressions on the same rows `train` [n, r]: [k, t].

    `is_class` [k, n] are the labels of each, 0 or 1. The least of Σ log-loss + ‖w‖²/2, the intercept free, by
    Newton's method: one regression of scikit-learn's at a time would take a hundred times as long.
    """
    rows = np.hstack([train, np.ones((len(train), 1))])
    ridge = np.eye(rows.shape[1])
    ridge[-1, -1] = 1e-9
    weight = np.zeros((len(is_class), rows.shape[1]))
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(weight @ rows.T, -500, 500)))
        gradient = (chance - is_class) @ rows + weight @ ridge
        curved = (rows.T[None] * (chance * (1 - chance))[:, None]) @ rows + ridge
        step = np.linalg.solve(curved, gradient[..., None])[..., 0]
        weight -= step
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(weight @ np.hstack([test, np.ones((len(test), 1))]).T)


def _stratified(label: IntArray, rng: Rng) -> IntArray:
    """The fold 0, 1, ... of each user: a class is dealt out over the folds, going on where the last one stopped."""
    order = rng.numpy().permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(label), dtype=np.int64)
    fold[order] = np.arange(len(label)) % FOLDS
    return fold


def _aucs(scores: FloatArray, inside: np.ndarray[Any, np.dtype[np.bool_]]) -> FloatArray:
    """`auc` of each row of scores [k, n], the values `inside` [k, n] against the others."""
    from scipy.stats import rankdata

    rank = rankdata(scores, axis=1)
    many = inside.sum(1)
    return np.asarray(((rank * inside).sum(1) - many * (many + 1) / 2) / (many * (inside.shape[1] - many)))
