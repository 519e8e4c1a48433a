"""A mixture of whole rewards over users: the classical answer to a few kinds of users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import one_hot, softplus

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray
from prbench.hyperparameters import Count, Positive
from prbench.method import ParameterCount, require_fitted
from prbench.training.convex import ConvexMethod, Strengths
from prbench.training.differences import Differences
from prbench.training.reweighting import WeightedHeads, posterior_logits

if TYPE_CHECKING:
    from torch import Tensor

# L-BFGS steps of one maximisation: the next one goes on from where it ends.
STEPS = 10
# Rounds end when they gain less than this share of the objective.
GAIN = 1e-5


class Mixture(NamedTuple):
    """R starts of K heads side by side: heads [R, K, d], shares of users [R, K], responsibilities [R, users, K], and
    each start's objective [R]."""

    heads: Tensor
    shares: Tensor
    responsible: Tensor
    objective: Tensor


class EMK(WeightedHeads, ConvexMethod):
    """A mixture of K Bradley–Terry rewards over users (Dempster, Laird and Rubin 1977; MaxMin-RLHF's clusters,
    Chakraborty et al. 2024, arXiv 2402.08925).

    A user is of kind k with probability π_k and then chooses by head h_k. Minimises
    −Σ_u log Σ_k π_k Π_i σ(Δe_ui·h_k) + ½ λ σ² Σ_k ‖h_k‖² over π and h, σ² the mean squared length of Δe, by
    expectation maximisation: the posterior of each user's kind (E), then π and each head, on all choices weighted by
    that posterior (M; ten L-BFGS steps from where the last round ended, so that no round raises the objective). The
    best of `starts` starts is kept; each begins with every user dealt to a kind at random. With `hard`, a user
    belongs wholly to the kind that explains the user's choices best, and π takes no part in that. K = 1 is ridge
    Bradley–Terry.

    A user's weights are the posterior of the user's kind, one-hot where `hard`; the score is the posterior mean of
    the kinds' rewards. K and λ are those with the best accuracy on the seen users' held-out choices.

    kinds: the K to choose from.
    strengths: the λ to choose from, with every K.
    kind: K where nothing is selected.
    strength: λ where nothing is selected.
    starts: see above.
    rounds: the most rounds of a start.
    hard: see above.

    Zero shots: π.
    """

    random_start = True
    temperature = 1.0

    def __init__(
        self,
        *,
        kinds: Sequence[Count] = (1, 2, 3, 5),
        strengths: Sequence[Positive] = (30.0, 10.0, 3.0),
        kind: Count = 2,
        strength: Positive = 10.0,
        starts: Count = 3,
        rounds: Count = 40,
        hard: bool = False,
    ) -> None:
        self.kinds = kinds
        self.strengths = strengths
        self.kind = kind
        self.strength = strength
        self.starts = starts
        self.rounds = rounds
        self.hard = hard

    _shares: Tensor | None = None

    def grid(self) -> list[Strengths]:
        """Few kinds and strong penalties first."""
        return [(float(k), s) for k in sorted(self.kinds) for s in sorted(self.strengths, reverse=True)]

    def default(self) -> Strengths:
        """`kind` and `strength`."""
        return (float(self.kind), self.strength)

    def solutions(self, train: Comparisons, grid: Sequence[Strengths], device: str) -> Iterator[dict[str, Tensor]]:
        """`heads`: h [K, d], and `shares`: π [K]."""
        rows = Differences(train, device)
        owner = np.searchsorted(train.users, train.user)
        for kinds, strength in grid:
            *_, last = self.improve(rows, owner, len(train.users), int(kinds), strength)
            best = int(last.objective.argmin())
            yield {"heads": last.heads[best] / rows.length, "shares": last.shares[best]}

    def improve(
        self, rows: Differences, owner: IntArray, users: int, kinds: int, strength: float
    ) -> Iterator[Mixture]:
        """All starts after each round, until none of them gains anything.

        `owner` [n] are the positions of the users of the choices in `rows`.
        """
        starts = self.starts if kinds > 1 else 1
        where = torch.from_numpy(owner).to(rows.like.device)
        draw = self.stream.child("kinds", kinds).torch()
        dealt = torch.randint(kinds, (starts, users), generator=draw).to(rows.like.device)
        responsible = one_hot(dealt, kinds).to(rows.like.dtype)
        heads = rows.like.new_zeros(starts, kinds, rows.shape[1])
        before = float("inf")
        for _ in range(self.rounds):
            heads = self._maximised(rows, where, responsible, heads, strength)
            shares = responsible.mean(1)
            loss = -posterior_logits(rows.times(heads.flatten(0, 1)), where, users).view(users, starts, kinds)
            loss = loss.transpose(0, 1)
            penalty = 0.5 * strength * heads.square().sum((1, 2))
            if self.hard:
                least, kind = loss.min(-1)
                responsible, objective = one_hot(kind, kinds).to(rows.like.dtype), least.sum(1) + penalty
            else:
                # A kind that lost its last user keeps a share that is not quite 0.
                joint = shares.clamp_min(torch.finfo(rows.like.dtype).tiny).log()[:, None] - loss
                responsible, objective = joint.softmax(-1), penalty - joint.logsumexp(-1).sum(1)
            yield Mixture(heads, responsible.mean(1) if self.hard else shares, responsible, objective)
            total = float(objective.sum())
            if before - total <= GAIN * abs(total):
                return
            before = total

    def _maximised(
        self, rows: Differences, owner: Tensor, responsible: Tensor, heads: Tensor, strength: float
    ) -> Tensor:
        """The heads after L-BFGS on all choices, weighted by their users' responsibilities; all starts together."""
        weight = responsible[:, owner].transpose(0, 1).flatten(1)
        shape = heads.shape

        def objective(flat: FloatArray) -> tuple[float, FloatArray]:
            margin = rows.times(torch.from_numpy(flat).to(rows.like).view(-1, shape[-1]))
            loss = float((softplus(-margin) * weight).sum()) + 0.5 * strength * float(flat @ flat)
            pull = torch.sigmoid(-margin).mul_(weight)
            return loss, -rows.pull_back(pull).double().cpu().numpy().ravel() + strength * flat

        start = heads.double().cpu().numpy().ravel()
        solution = minimize(objective, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-6, "maxiter": STEPS}).x
        return torch.from_numpy(solution).to(rows.like).view(shape)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons) -> Self:
        """See `ConvexMethod.accept`."""
        self._shares = tensors["shares"].cpu()
        return self.take_heads(tensors["heads"], train, Rng("no number is drawn"))

    def cold_weights(self, users: int) -> Tensor:
        """π, for every user."""
        return require_fitted(self._shares, self).expand(users, -1).clone()

    def weigh(self, chosen: Tensor, rejected: Tensor, owner: Tensor, users: int) -> Tensor:
        """The posterior of each user's kind; with `hard`, the likeliest kind alone, whatever its share of users."""
        if not self.hard:
            return super().weigh(chosen, rejected, owner, users)
        best = posterior_logits(chosen - rejected, owner, users).argmax(-1)
        return one_hot(best, self.width).to(chosen.dtype)

    def count_heads(self, dim: int) -> int | None:
        """K, which validation chooses."""
        return None

    def parameters_for(self, dim: int) -> ParameterCount | None:
        """K·d and K shares, K per user, where there is one K to choose."""
        if {*self.kinds} != {self.kind}:
            return None
        return ParameterCount(self.kind * dim + self.kind, self.kind)

    def learned(self) -> dict[str, Tensor]:
        """`heads`: h [K, d], and `shares`: π [K]."""
        return {**super().learned(), "shares": require_fitted(self._shares, self)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._shares = tensors["shares"]
        return super().restore(tensors)
