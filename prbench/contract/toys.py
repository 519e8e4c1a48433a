"""Made-up people with planted preferences: what a method is checked on, and what tests train it on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items, ItemText, as_context
from prbench.judging.planted import PlantedJudge
from prbench.judging.reader import Reader
from prbench.method import FitProblem, Method
from prbench.protocol.metrics import decisions
from prbench.registry.schema import JudgeEntry

POISON = "nan"
PLANTED = JudgeEntry(
    name="planted",
    title="a scripted judge",
    target="prbench.judging.planted:PlantedJudge",
    licence="",
    homepage="",
    summary="numbers in replies",
)


def population(
    *,
    users: int = 8,
    dim: int = 6,
    groups: tuple[int, int] = (1, 6),
    pairs: tuple[int, int] = (1, 3),
    seed: int = 0,
    personal: float = 1.0,
    noise: float = 1.0,
    recurring: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Comparisons:
    """Users with true rewards e·(shared + personal · own), with ragged numbers of groups and of pairs in each.

    `groups` and `pairs` are ranges, ends included; choices follow Bradley–Terry with logits divided by `noise`.
    The items' reward is the shared part of the users' rewards; the longer of two items has the higher one. Contexts
    differ by group and say nothing of it. Every comparison has two new items, or two of `recurring` many.
    """
    draw = np.random.default_rng(seed)
    shared, personal_part = draw.normal(size=dim), draw.normal(size=(users, dim)) * personal
    rows: list[tuple[int, int]] = []
    for user in range(users):
        for number in range(int(draw.integers(groups[0], groups[1] + 1))):
            rows += [(user, number)] * int(draw.integers(pairs[0], pairs[1] + 1))
    columns = np.array(rows, dtype=np.int64)
    owner, group = columns[:, 0].copy(), columns[:, 1].copy()
    identity = np.arange(2 * len(rows))
    if recurring:
        first_item = draw.integers(recurring, size=len(rows))
        identity = np.stack(
            [first_item, (first_item + draw.integers(1, recurring, size=len(rows))) % recurring], 1
        ).ravel()
    embedding = draw.normal(size=(recurring or len(identity), dim))[identity]
    first, second = np.arange(0, 2 * len(rows), 2), np.arange(1, 2 * len(rows), 2)
    margin = ((embedding[first] - embedding[second]) * (shared + personal_part[owner])).sum(1) / noise
    wins = draw.random(len(rows)) < 1 / (1 + np.exp(-margin))
    reward = embedding @ shared
    return Comparisons(
        items=Items(
            embedding=torch.from_numpy(embedding).to(dtype),
            reward=torch.from_numpy(reward).float(),
            length=torch.from_numpy(np.rint(200 * np.exp(reward / np.linalg.norm(shared))).astype(np.int64)),
            identity=torch.from_numpy(identity),
            context=torch.from_numpy(_contexts(owner, group, dim, seed)).to(dtype),
        ),
        user=owner,
        chosen=np.where(wins, first, second),
        rejected=np.where(wins, second, first),
        group=group,
        row=np.arange(len(rows), dtype=np.int64),
    )


def _contexts(owner: IntArray, group: IntArray, dim: int, seed: int) -> FloatArray:
    """Embeddings [2n, dim] of the contexts of n comparisons, the same within a group."""
    _, place = np.unique(np.stack([owner, group]), axis=1, return_inverse=True)
    drawn = np.random.default_rng([seed, 1]).normal(size=(len(owner), dim))
    return np.repeat(drawn[place.ravel()], 2, axis=0)


class Toy:
    """The toy population: 6 seen and 6 unseen users with strong shared and some personal preferences.

    With `texts` the items are texts that hold the embeddings' numbers, and a scripted judge reads them.
    """

    def __init__(self, *, recurring: int = 0, texts: bool = False) -> None:
        self.recurring, self.texts = recurring, texts
        self.data = population(
            users=12,
            dim=8,
            groups=(6, 9),
            pairs=(1, 3),
            seed=7,
            personal=0.3,
            noise=0.2,
            recurring=recurring,
            dtype=torch.float32,
        )
        if texts:
            self.data = _over(self.data, _as_texts(self.data.items, Reader(PLANTED, PlantedJudge())))
        seen = self.data.user < 6
        test = self.data.group >= 4
        self.train = self.data.take(seen & ~test & (self.data.group != 3))
        self.validation = self.data.take(seen & ~test & (self.data.group == 3))
        self.seen_test = self.data.take(seen & test)
        self.support = self.data.take(~seen & ~test)
        self.test = self.data.take(~seen & test)
        self.rng = Rng("contract")

    def problem(self, data: Comparisons | None = None) -> FitProblem:
        """The fitting problem, over `data`'s items where given."""
        items = (data or self.data).items
        return FitProblem(_over(self.train, items), _over(self.validation, items), self.rng)

    def part(self, *, users: int = 6, groups: int = 9) -> FitProblem:
        """Another split: the choices of the first `users` seen users in their first `groups` groups."""
        keep = (self.train.user < users) & (self.train.group < groups)
        validation = self.validation.take(self.validation.user < users)
        return FitProblem(self.train.take(keep), validation, self.rng.child("part", users, groups))

    def fit(self, method: Method, data: Comparisons | None = None) -> Method:
        """The method, fitted."""
        problem = self.problem(data)
        return method.fit_seen(problem.train, problem.validation, rng=problem.rng)

    def poisoned(self) -> Comparisons:
        """The data with every test item's embedding, context and reward NaN, its length and identity absurd."""
        items = self.data.items
        parts = [t for part in (self.seen_test, self.test) for t in (part.chosen, part.rejected)]
        test = torch.from_numpy(np.concatenate(parts))
        absurd = {
            "embedding": torch.nan,
            "reward": torch.nan,
            "context": torch.nan,
            "length": 10**9,
            "identity": 10**6,
        }
        columns = {name: column.clone() for name in absurd if (column := getattr(items, name)) is not None}
        for name, column in columns.items():
            column[test] = absurd[name]
        text = items.text
        if text is not None:
            of = text.response_of.copy()
            of[test.numpy()] = len(text.responses)
            text = replace(text, responses=(*text.responses, POISON), response_of=of)
        return _over(self.data, replace(items, **columns, text=text))


def _as_texts(items: Items, reader: Reader) -> Items:
    """Items whose responses are their embedding's numbers and, last, their reward."""
    if items.reward is None:
        raise ValueError("the toy items have no reward")
    values = torch.cat([items.embedding, items.reward[:, None]], dim=1).tolist()
    # The sign at the end is for what is trained on texts: the scripted judge reads the numbers alone.
    responses = tuple(" ".join(f"{value:.6f}" for value in row) + (" +" if row[-1] > 0 else " -") for row in values)
    where = np.arange(len(responses), dtype=np.int64)
    text = ItemText((as_context("Which numbers?"),), responses, np.zeros_like(where), where, reader)
    return Items(torch.empty(len(responses), 0), length=items.length, identity=items.identity, text=text)


def planted_accuracy(method: Method, *, recurring: int = 0) -> float:
    """Fit `method` on planted preferences and return its accuracy on unseen users' test comparisons.

    Six seen and six unseen users like nearly the same and hardly ever err. Unlike in `Toy`, recipes have enough
    choices, run to their end, and are judged by several hundred comparisons: whether a method learns decides, not the
    luck of few choices. With `recurring`, comparisons are between that many items.
    """
    rng = Rng("contract", "planted")
    data = population(
        users=12, dim=8, groups=(76, 79), pairs=(1, 3), seed=rng.seed, personal=0.1, noise=0.2, recurring=recurring,
        dtype=torch.float32,
    )  # fmt: skip
    seen, test = data.user < 6, data.group >= 16
    train = data.take(seen & ~test)
    method.fit_seen(train, train.take(np.empty(0, dtype=np.int64)), rng=rng)
    margins = method.margins(method.adapt_unseen(data.take(~seen & ~test), rng=rng), data.take(~seen & test))
    return float(decisions(margins.numpy()).mean())


def _over(comparisons: Comparisons, items: Items) -> Comparisons:
    return replace(comparisons, items=items)
