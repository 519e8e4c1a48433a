"""Simulated users with known rewards: the embedded data set.

Items are embeddings whose variance falls off as a power law over the directions of a random orthogonal basis,
as that of real encoders does; responses to one prompt share a context part. A user's reward is linear in the
embedding and the sum of four parts with stated shares of its variance: one shared by all users, a low-rank one
(per-user weights of a few bases), one per cluster of users, and one of the user's own. Choices follow Bradley
and Terry with a stated temperature.

Because the truth is known, so are the ceiling and the floor of every table on these data. The ceiling of a user
is the expected accuracy of that user's true reward, the mean of sigmoid(|margin|) over the user's comparisons.
The floor is the expected accuracy of the best rule that does not know the user: for each pair it prefers the
response that more of the population prefers, in expectation over users and noise. No reward shared by all users
does better in expectation over who is asked; a reward learned from few choices does worse.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, IntArray, Items, PreferenceData, Truth
from prbench.hyperparameters import Count, Share
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import require_size
from prbench.loaders.simulated_items import Float32, ItemSpace, lengths
from prbench.loaders.simulated_users import Population, Tastes

PAIRS_AT_ONCE = 8192


class Pairs(NamedTuple):
    """Comparisons: the user, the chosen and the rejected item and the group of each, [n]."""

    user: IntArray
    chosen: IntArray
    rejected: IntArray
    group: IntArray


class Prompts(NamedTuple):
    """Per prompt, the number of its responses, its group and, in dialogues, its user."""

    size: IntArray
    group: IntArray
    user: IntArray


class Candidates(NamedTuple):
    """New items that nobody judged, and what their utilities are made of."""

    items: Items
    truth: Truth


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Simulated:
    """Options of simulated data. The same options give the same data under any name.

    Layout. With `posts` > 0, `responses` answers to each post are shared by all users, and each user judges
    `pairs_per_post` distinct pairs on each of `comparisons` / `pairs_per_post` posts; a group is a post. With
    `dialogues` > 0, each user has that many dialogues of one or more turns (1 + Poisson, mean `turns`), with
    `responses` answers in the first turn and two in later ones; the user picks one, which is compared with each
    other answer of its turn; a group is a dialogue. Exactly one of `posts` and `dialogues` is above 0.

    Items. `dim` is d. The variance along direction j falls as j ** -`spectrum`; `context_share` of it is common
    to the responses of a prompt. The mean square of a coordinate is 1, of which 0.3 is a constant offset.

    Rewards. `shared` + `low_rank` + `clustered` + `idiosyncratic` = 1 are shares of the variance of a reward
    among the responses of a prompt, on average over users. The personal parts have mean zero over users, so the
    shared part is the population's mean reward. `bases` are weighted by Dirichlet(0.5) or Gaussian `weights`;
    users fall into `clusters` of equal size. About `reward_directions` leading directions of the spectrum carry
    the rewards: direction j holds a part proportional to 1 / (1 + (j / reward_directions) ** 2).

    Noise. A response is preferred with probability sigmoid(difference of rewards / `temperature`); differences
    have variance 2. Temperatures 0.3, 0.5, 0.8, 1.2 give ceilings of about 0.89, 0.83, 0.76, 0.69.

    Drift. With `drift_angle` > 0, in degrees, each user's weights turn by that angle towards a direction of the
    user's own after `drift_after` choices, and comparisons carry times: one unit a choice. The truth follows each
    choice; the utilities of candidates are those after the change. Only with `posts`.

    `reference_correlation` is that of the encoder's own reward with the shared one, among the responses of a
    prompt.
    """

    cached: ClassVar[bool] = False

    users: Annotated[int, Field(ge=2)] = 60
    dim: Annotated[int, Field(ge=8)] = 64
    posts: Annotated[int, Field(ge=0)] = 0
    dialogues: Annotated[int, Field(ge=0)] = 0
    responses: Annotated[int, Field(ge=2)] = 4
    comparisons: Count = 120
    pairs_per_post: Count = 2
    turns: Annotated[float, Field(ge=1, le=100)] = 3.67
    spectrum: Annotated[float, Field(ge=0, le=4)] = 1.0
    context_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    shared: Share = 0.5
    low_rank: Share = 0.35
    clustered: Share = 0.1
    idiosyncratic: Share = 0.05
    bases: Count = 2
    weights: Literal["dirichlet", "gaussian"] = "dirichlet"
    clusters: Count = 4
    reward_directions: Count = 4
    temperature: Annotated[float, Field(gt=0)] = 0.5
    reference_correlation: Share = 0.7
    drift_angle: Annotated[float, Field(ge=0, le=180)] = 0.0
    drift_after: Annotated[int, Field(ge=0)] = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.drift_angle and not (self.posts and 0 < self.drift_after < self.comparisons):
            raise InputError(
                f"simulated data: drift_after is {self.drift_after} with drift_angle {self.drift_angle:g}",
                hint="tastes change after one choice at least and before the last, and only in data with posts",
            )
        shares = self.shared + self.low_rank + self.clustered + self.idiosyncratic
        if abs(shares - 1) > 1e-6:
            raise InputError(
                f"simulated data: the options shared, low_rank, clustered and idiosyncratic sum to {shares:g}, not 1"
            )
        if (self.posts > 0) == (self.dialogues > 0):
            raise InputError(
                f"simulated data: posts is {self.posts} and dialogues is {self.dialogues}",
                hint="set exactly one of the two above 0",
            )
        if self.posts:
            most = self.responses * (self.responses - 1) // 2
            if self.pairs_per_post > most:
                raise InputError(
                    f"simulated data: pairs_per_post is {self.pairs_per_post}, but {self.responses} responses make "
                    f"{most} pairs"
                )
            if self.comparisons % self.pairs_per_post:
                raise InputError(
                    f"simulated data: comparisons is {self.comparisons}, not a multiple of pairs_per_post "
                    f"({self.pairs_per_post})"
                )
            if self.comparisons // self.pairs_per_post > self.posts:
                raise InputError(
                    f"simulated data: {self.comparisons} comparisons of {self.pairs_per_post} per post need "
                    f"{self.comparisons // self.pairs_per_post} posts, posts is {self.posts}"
                )
        if self.low_rank and self.weights == "dirichlet" and self.bases < 2:
            raise InputError(
                "simulated data: dirichlet weights need at least 2 bases", hint='or weights = "gaussian"'
            )
        if self.clustered and not 2 <= self.clusters <= self.users:
            raise InputError(f"simulated data: clusters is {self.clusters}, must be from 2 to users ({self.users})")
        prompts = self.posts or self.users * self.dialogues * self.turns
        require_size(
            "simulated data",
            {
                "users x dim": self.users * self.dim,
                "users x comparisons": self.users * self.comparisons if self.posts else 0,
                "replies x dim": prompts * self.responses * self.dim,
                "dim x clusters and bases": self.dim * (self.clusters + self.bases),
                "pairs of replies": (self.posts or 1) * self.responses**2,
            },
        )

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The simulated data set under `name`; needs no raw files."""
        import torch

        rng = Rng("simulated", self.seed)
        population, later = self._populations(rng.child("population"))
        prompts = self._prompts(rng.child("prompts"))
        space = self._space(rng.child("items"))
        embedding, latent = space.items(rng.child("items"), prompts.size, len(population.shared))
        head = space.head(population.encoder)
        if self.posts:
            pairs = self._judged(rng, latent, population, later)
        else:
            pairs = self._picked(rng.child("choices"), latent, population, prompts)
        margin = self._margins(latent, population, later, pairs)
        items = Items(
            embedding=torch.from_numpy(embedding),
            reward=torch.from_numpy(embedding @ head),
            head=torch.from_numpy(head),
            length=torch.from_numpy(lengths(rng.child("lengths"), latent @ population.shared)),
        )
        return PreferenceData(
            name=name,
            contexts=(),
            item_context=np.empty(0, dtype=np.int64),
            responses=(),
            user=pairs.user,
            chosen=pairs.chosen,
            rejected=pairs.rejected,
            group=pairs.group,
            user_keys=tuple(f"sim-{user}" for user in range(self.users)),
            counts={
                "users": self.users,
                "comparisons": len(margin),
                "prompts": len(prompts.size),
                "items": len(embedding),
            },
            time=self._place(pairs).astype(np.float64) if self.drift_angle else None,
            embedded=items,
            truth=replace(
                self._truth(latent, population, later, pairs, margin),
                latent=latent.astype(np.float64),
                weights=np.asarray(later.users, dtype=np.float64) / self.temperature,
                prompt=np.repeat(np.arange(len(prompts.size)), prompts.size),
            ),
        )

    def candidates(self, prompts: int, replies: int, *, other_directions: bool = False) -> Candidates:
        """New candidates of new prompts in the space of the data: nobody has judged them.

        With `other_directions` the leading directions have one another's variances in reverse, so that what varied
        least in the data varies most.
        """
        import torch

        rng = Rng("simulated", self.seed)
        _, population = self._populations(rng.child("population"))
        name = "candidates in other directions" if other_directions else "candidates"
        space = self._space(rng.child("items"))
        embedding, latent = space.items(
            rng.child(name), np.full(prompts, replies), len(population.shared), other_directions=other_directions
        )
        head = space.head(population.encoder)
        items = Items(
            embedding=torch.from_numpy(embedding),
            reward=torch.from_numpy(embedding @ head),
            head=torch.from_numpy(head),
            length=torch.from_numpy(lengths(rng.child(name, "lengths"), latent @ population.shared)),
            identity=torch.arange(len(embedding)),
        )
        truth = Truth(
            ceiling=np.empty(0),
            floor=np.empty(0),
            utility_margin=np.empty(0),
            cluster=population.cluster,
            latent=latent.astype(np.float64),
            weights=np.asarray(population.users, dtype=np.float64) / self.temperature,
            prompt=np.repeat(np.arange(prompts), replies),
        )
        return Candidates(items, truth)

    def _space(self, rng: Rng) -> ItemSpace:
        return ItemSpace(rng, dim=self.dim, spectrum=self.spectrum, context_share=self.context_share)

    def _populations(self, rng: Rng) -> tuple[Population, Population]:
        """The users before and after the change of tastes; the same ones where there is no drift."""
        tastes = Tastes(**{field.name: getattr(self, field.name) for field in fields(Tastes)})
        population = tastes.population(rng)
        later = tastes.turned(rng, population, self.drift_angle) if self.drift_angle else population
        return population, later

    def _place(self, pairs: Pairs) -> IntArray:
        """The place of each comparison in its user's order, [n]; each user's are together, in order."""
        return np.asarray(np.arange(len(pairs.user)) % self.comparisons, dtype=np.int64)

    def _phases(self, pairs: Pairs, population: Population, later: Population) -> list[tuple[IntArray, Population]]:
        """The rows of the comparisons before and after the change, each with the users as they are then."""
        rows = np.arange(len(pairs.user))
        if not self.drift_angle:
            return [(rows, population)]
        after = self._place(pairs) >= self.drift_after
        return [(rows[~after], population), (rows[after], later)]

    def _prompts(self, rng: Rng) -> Prompts:
        if self.posts:
            number = np.arange(self.posts)
            return Prompts(np.full(self.posts, self.responses), number, np.full(self.posts, -1))
        turns = 1 + rng.numpy().poisson(self.turns - 1, self.users * self.dialogues)
        dialogue = np.repeat(np.arange(len(turns)), turns)
        size = np.full(len(dialogue), 2)
        size[np.cumsum(turns) - turns] = self.responses
        return Prompts(size, dialogue, dialogue // self.dialogues)

    def _judged(self, rng: Rng, latent: Float32, population: Population, later: Population) -> Pairs:
        """Layout `posts`: every user's choices in random pairs of random posts."""
        first, second = np.triu_indices(self.responses, 1)
        count = self.comparisons // self.pairs_per_post
        post = np.empty((self.users, count), dtype=np.int64)
        pair = np.empty((self.users, count, self.pairs_per_post), dtype=np.int64)
        for user in range(self.users):
            generator = rng.child("pairs", user).numpy()
            post[user] = generator.choice(self.posts, count, replace=False)
            pair[user] = generator.random((count, len(first))).argsort(axis=1)[:, : self.pairs_per_post]
        group = np.repeat(post.ravel(), self.pairs_per_post)
        base = group * self.responses
        users = np.repeat(np.arange(self.users), self.comparisons)
        pairs = Pairs(users, base + first[pair.ravel()], base + second[pair.ravel()], group)
        margin = self._margins(latent, population, later, pairs)
        kept = rng.child("choices").numpy().random(len(margin)) < _sigmoid(margin)
        return pairs._replace(
            chosen=np.where(kept, pairs.chosen, pairs.rejected), rejected=np.where(kept, pairs.rejected, pairs.chosen)
        )

    def _picked(self, rng: Rng, latent: Float32, population: Population, prompts: Prompts) -> Pairs:
        """Layout `dialogues`: the pick of each turn against each other answer.

        Rewards plus Gumbel noise make a pick follow the softmax of the rewards, and so each pair Bradley-Terry.
        """
        prompt = np.repeat(np.arange(len(prompts.size)), prompts.size)
        reward = np.einsum("mr,mr->m", latent, population.users[prompts.user[prompt]]).astype(np.float64)
        noisy = reward / self.temperature + rng.numpy().gumbel(size=len(reward))
        best = np.lexsort((noisy, prompt))[np.cumsum(prompts.size) - 1]
        other = np.flatnonzero(best[prompt] != np.arange(len(prompt)))
        where = prompt[other]
        return Pairs(prompts.user[where], best[where], other, prompts.group[where])

    def _margins(self, latent: Float32, population: Population, later: Population, pairs: Pairs) -> FloatArray:
        """True reward of chosen minus that of rejected, in units of the temperature, [n]."""
        margin = np.empty(len(pairs.user))
        for rows, users in self._phases(pairs, population, later):
            for at in range(0, len(rows), PAIRS_AT_ONCE):
                part = rows[at : at + PAIRS_AT_ONCE]
                difference = latent[pairs.chosen[part]] - latent[pairs.rejected[part]]
                margin[part] = np.einsum("nr,nr->n", difference, users.users[pairs.user[part]])
        return margin / self.temperature

    def _truth(
        self, latent: Float32, population: Population, later: Population, pairs: Pairs, margin: FloatArray
    ) -> Truth:
        agreement = np.empty(len(margin))
        for rows, users in self._phases(pairs, population, later):
            for at in range(0, len(rows), PAIRS_AT_ONCE):
                part = rows[at : at + PAIRS_AT_ONCE]
                difference = latent[pairs.chosen[part]] - latent[pairs.rejected[part]]
                everyone = _sigmoid(difference @ users.users.T / self.temperature).mean(axis=1)
                agreement[part] = _sigmoid(np.where(everyone >= 0.5, margin[part], -margin[part]))
        count = np.bincount(pairs.user, minlength=self.users)
        return Truth(
            ceiling=np.bincount(pairs.user, _sigmoid(np.abs(margin)), self.users) / count,
            floor=np.bincount(pairs.user, agreement, self.users) / count,
            utility_margin=margin,
            cluster=population.cluster,
        )


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    from scipy.special import expit

    value: NDArray[Any] = expit(x)
    return value
