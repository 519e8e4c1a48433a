"""MRM: meta-learned starting weights over linear base functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Self

import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.hyperparameters import Count, NonNegative, OpenShare, Positive, Share, Steps
from prbench.method import ParameterCount, require_fitted
from prbench.methods.plain_loops import mrm_loop
from prbench.training.episodes import Episodes, EpisodicMethod, Reduction
from prbench.training.gradient import Snapshot, SplitBatch
from prbench.training.linear_bases import Inner, LinearBases, Link, fit_weights, mix, mix_backward
from prbench.training.steady import project, pull_back, sigmoid, softplus
from prbench.training.tables import DifferenceTable, Gather

if TYPE_CHECKING:
    from torch import Tensor

ADAM_EPS = 1e-8


class MRM(LinearBases, EpisodicMethod):
    """Meta reward modelling (Cai et al. 2026, arXiv 2601.18731).

    Score = s·e·Vᵀ·softmax(w_u) with K linear base functions V and user weights w_u that start from a shared w0. An
    episode takes one or more gradient steps on w0 over a user's support choices (Eq. 8) and judges the result on
    the user's query choices (Eq. 9); V and w0 minimise Σ_u σ((L_u − τ)/γ)·L_u, the robust objective over the
    users of an update, with τ the (1 − ρ) quantile of their query losses L_u (Eq. 10). Gradients flow through the
    inner step, the weights and τ. An unseen user takes the same steps on all of the support.

    The defaults are the published code's: fresh Adam in the inner step, softmax weights, mean losses.

    bases: K.
    input_scale: s.
    inner: the inner optimiser, "adam" or "sgd".
    inner_rate: its step size.
    inner_steps: its number of steps.
    robust: whether the objective is the robust one; else it is the plain sum over users.
    rho: ρ, so that the threshold τ is the (1 − ρ) quantile of an update's losses.
    gamma: γ, the width of the step at τ. 0 is the limit of small ones: users count fully above τ, not at all below
        it, and half at τ.
    link: "softmax" or "identity" (the paper's Eq. 5 has free weights).
    second_order: whether the outer gradient sees the inner step's dependence on V and w0.
    reduction: "mean" or "sum" over a user's choices (the paper's Eq. 7 sums).
    The others: see `EpisodicMethod`.
    """

    def __init__(
        self,
        *,
        bases: Count = 2,
        input_scale: Positive = 0.01,
        epochs: Count = 200,
        rate: Positive = 1e-3,
        inner: Inner = "adam",
        inner_rate: Positive = 1e-3,
        inner_steps: Steps = 1,
        users_per_update: Count = 2,
        query_share: OpenShare = 0.9,
        robust: bool = True,
        rho: Share = 0.5,
        gamma: NonNegative = 0.5,
        reduction: Reduction = "mean",
        link: Link = "softmax",
        second_order: bool = True,
        clip: Positive = 1.0,
        warmup: Share = 0.05,
    ) -> None:
        self.bases = bases
        self.input_scale = input_scale
        self.epochs = epochs
        self.rate = rate
        self.inner = inner
        self.inner_rate = inner_rate
        self.inner_steps = inner_steps
        self.users_per_update = users_per_update
        self.query_share = query_share
        self.robust = robust
        self.rho = rho
        self.gamma = gamma
        self.reduction = reduction
        self.link = link
        self.second_order = second_order
        self.clip = clip
        self.warmup = warmup
        self.scale = input_scale

    _start: Tensor | None = None

    def initial(self, dim: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """V [K, dim] from U(±1/√dim), a torch linear layer's default, and w0 [K] from N(0, 1)."""
        bound = dim**-0.5
        v = torch.rand(self.bases, dim, generator=rng.child("bases").torch()).mul_(2 * bound).sub_(bound)
        return v, torch.randn(self.bases, generator=rng.child("start").torch())

    def plain_loop(self, train: Comparisons, rng: Rng) -> Iterator[dict[str, Tensor]]:
        """See `GradientMethod.plain_loop`."""
        return mrm_loop(self, train, rng)

    def blocks(self, work: SplitBatch) -> list[list[int]]:
        """All together with one inner step; with more, whose products go through autograd, one by one on a CPU."""
        return super().blocks(work) if self.inner_steps == 1 else self.one_by_one(work)

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch."""
        table = DifferenceTable.of(work.trains, device=work.device)
        initial = [self.initial(table.matrix.shape[1], rng) for rng in work.rngs]
        bases, start = (torch.stack(part).to(table.matrix) for part in zip(*initial, strict=True))
        gather, by_bases = Gather(table.matrix), torch.empty_like(bases)

        def gradients(episodes: Episodes) -> list[Tensor]:
            rows = gather(episodes.where)
            projected = torch.bmm(bases, rows.transpose(1, 2)).mul_(self.input_scale)
            _, by_projection, by_start = self.outer_gradient(projected, start, episodes)
            pull_back(by_projection.mul_(self.input_scale), rows, out=by_bases)
            return [by_bases, by_start]

        parameters = {"bases": bases, "start": start}
        yield from self.train_on_episodes(work, table, parameters, gradients)

    def outer_gradient(self, projected: Tensor, start: Tensor, episodes: Episodes) -> tuple[Tensor, Tensor, Tensor]:
        """The objective [S] of one update and its gradients.

        `projected` [S, K, R] are s·V·Δeᵀ, `start` [S, K] is w0. Returns the objective and its gradients with respect
        to `projected` and `start`. One inner step has its derivative written out; more go through autograd.
        """
        if self.inner_steps == 1:
            return self._one_step_gradient(projected, start, episodes)
        with torch.enable_grad():
            projected, start = projected.detach().requires_grad_(), start.detach().requires_grad_()
            objective = self.outer_objective(projected, start, episodes)
            by_projection, by_start = torch.autograd.grad(objective.sum(), (projected, start))
        return objective.detach(), by_projection, by_start

    def outer_objective(self, projected: Tensor, start: Tensor, episodes: Episodes) -> Tensor:
        """The objective [S] of one update, differentiable in `projected` [S, K, R] and `start` [S, K]."""
        rows = projected.transpose(1, 2)  # [S, R, K]
        weights = start[:, None].expand(-1, episodes.slots.shape[1], -1)
        adam = StackedAdamStep(self.inner_rate) if self.inner == "adam" else None
        for _ in range(self.inner_steps):
            mixed = mix(weights, self.link)
            margin = project(mixed, rows)
            pull = -sigmoid(-margin) * episodes.support
            gradient = mix_backward(pull_back(pull, rows), mixed, self.link)
            if not self.second_order:
                gradient = gradient.detach()
            weights = weights - (self.inner_rate * gradient if adam is None else adam.update(gradient))
        margin = project(mix(weights, self.link), rows)
        losses = (softplus(-margin) * episodes.query).sum(-1)
        fixed = losses.detach()
        objective, share = robust_objective(
            fixed, episodes.present, robust=self.robust, rho=self.rho, gamma=self.gamma
        )
        # Worth the objective, with its slope in the losses.
        return objective + ((losses - fixed) * share).sum(-1)

    def _one_step_gradient(self, z: Tensor, start: Tensor, episodes: Episodes) -> tuple[Tensor, Tensor, Tensor]:
        """As `outer_gradient`, with the derivative through one inner step written out.

        S splits, B users of an update, K base functions, R choices of an update: `z` [S, K, R] and `start` [S, K].
        tests/methods/test_mrm_derivative.py holds it against autograd through `outer_objective`.
        """
        zt = z.transpose(1, 2)  # [S, R, K]
        mixed = mix(start, self.link)[:, None]  # [S, 1, K], softmax or identity of w0
        # Inner step: the gradient of the support loss at w0, per user.
        pull = sigmoid(-torch.bmm(mixed, z))  # [S, 1, R], how wrong w0 is on each choice
        pulled = episodes.support * pull  # [S, B, R], 0 outside a user's support
        by_mixed = pull_back(pulled, zt).neg_()  # [S, B, K]
        by_weight = mix_backward(by_mixed, mixed, self.link)  # [S, B, K], the inner gradient
        if self.inner == "adam":
            # A fresh Adam's first step is g/(|g| + eps), whose slope is eps/(|g| + eps)².
            size = by_weight.abs().add_(ADAM_EPS)  # [S, B, K]
            weights = start[:, None] - self.inner_rate * by_weight / size
            slope = (self.inner_rate * ADAM_EPS) / size.square()  # [S, B, K], −∂weights/∂inner gradient
        else:
            weights = start[:, None] - self.inner_rate * by_weight
            slope = torch.full_like(by_weight, self.inner_rate)
        # Query loss of the adapted weights, and the users' shares in the objective.
        adapted = mix(weights, self.link)  # [S, B, K]
        margin = torch.bmm(adapted, z)  # [S, B, R]
        losses = (softplus(-margin) * episodes.query).sum(-1)  # [S, B]
        objective, share = robust_objective(  # [S] and ∂objective/∂losses [S, B]
            losses, episodes.present, robust=self.robust, rho=self.rho, gamma=self.gamma
        )
        outer_pull = sigmoid(-margin).mul_(episodes.query).mul_(share[:, :, None]).neg_()  # [S, B, R], by margin
        by_z = torch.bmm(adapted.transpose(1, 2), outer_pull)  # [S, K, R]
        by_weights = mix_backward(pull_back(outer_pull, zt), adapted, self.link)  # [S, B, K]
        by_start = by_weights.sum(1)  # [S, K]
        if not self.second_order:
            return objective, by_z, by_start
        # Through the inner step: the gradient of u·(inner gradient) with u = −slope·∂objective/∂weights.
        u = by_weights.mul_(slope).neg_()  # [S, B, K]
        q = mix_backward(u, mixed, self.link)  # [S, B, K], u in the space of the mixed weights
        along = torch.bmm(q, z)  # [S, B, R], how the margins at w0 move along q
        bend = pulled * (1 - pull) * along  # [S, B, R], the second derivative of softplus times it
        by_z = by_z - torch.bmm(q.transpose(1, 2), pulled) + mixed.transpose(1, 2) * bend.sum(1, keepdim=True)
        through = pull_back(bend, zt)  # [S, B, K]
        if self.link == "softmax":
            # The softmax's own second derivative.
            through = through + u * by_mixed - by_mixed * (u * mixed).sum(-1, keepdim=True)
            through = through - u * (by_mixed * mixed).sum(-1, keepdim=True)
        return objective, by_z, by_start + mix_backward(through, mixed, self.link).sum(1)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take V and w0; the seen users adapt as unseen ones do, on all their training choices."""
        self._bases = tensors["bases"].cpu()
        self._start = tensors["start"].cpu()
        self._seen = self.adapt_unseen(train, rng=rng)
        return self

    def cold_weights(self, users: IntArray) -> Tensor:
        """w0 for everyone."""
        return require_fitted(self._start, self).expand(len(users), -1)

    def adapt_weights(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """The inner steps, over all of the user's choices."""
        return fit_weights(
            projected,
            owner,
            weights,
            link=self.link,
            steps=self.inner_steps,
            rate=self.inner_rate,
            inner=self.inner,
            reduction=self.reduction,
        )

    def parameter_count(self) -> ParameterCount:
        """K·d + K trained (V and w0), and K stored per user."""
        return ParameterCount(self.bases_matrix.numel() + self.bases, self.bases)

    def parameters_for(self, dim: int) -> ParameterCount:
        """K·d + K trained, K stored per user."""
        return ParameterCount(self.bases * (dim + 1), self.bases)

    def learned(self) -> dict[str, Tensor]:
        """`bases`: V [K, d] and `start`: w0 [K]."""
        return {**super().learned(), "start": require_fitted(self._start, self)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """Take back what `learned` gave, or the state dict of a checkpoint that the MRM authors released.

        In the latter `layers.0.weight` [K, d] is V and `shared_weight` [K] is w0.
        """
        if "layers.0.weight" in tensors:
            tensors = {
                "bases": tensors["layers.0.weight"].float(),
                "start": tensors["shared_weight"].float().flatten(),
            }
        self._start = tensors["start"]
        return super().restore(tensors)


class StackedAdamStep:
    """Fresh Adam whose updates can be differentiated through."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.steps = 0
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def update(self, gradient: Tensor) -> Tensor:
        """What to subtract from the parameters."""
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient.square()
        first = self.first / (1 - 0.9**self.steps)
        second = self.second / (1 - 0.999**self.steps)
        # The root's slope is infinite at 0, where a user without support has its gradient.
        tiny = torch.finfo(gradient.dtype).tiny
        return self.rate * first / (second.clamp_min(tiny).sqrt() + ADAM_EPS)


def robust_objective(
    losses: Tensor, present: Tensor, *, robust: bool, rho: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """Σ_u σ((L_u − τ)/γ)·L_u over the users present in an update (Eq. 10), or the plain sum if not `robust`.

    `losses` [S, B] are the users' query losses, `present` [S, B] tells users from padding. Returns the objective
    [S] and its gradient [S, B] with respect to the losses, through the weights and τ. `gamma` = 0 is the limit of
    small ones: weights of 1 above τ, 0 below it and 1/2 at τ.
    """
    if not robust:
        return losses.sum(-1), present.to(losses.dtype)
    threshold, by_loss = _quantile(losses, 1 - rho, present)
    excess = losses - threshold[:, None]
    if gamma > 0:
        weight = sigmoid(excess / gamma) * present
        tilt = losses * weight * (1 - weight) / gamma
    else:
        # At the threshold σ is 1/2 whatever γ is.
        weight = torch.heaviside(excess, excess.new_tensor(0.5)) * present
        tilt = torch.zeros_like(losses)
    return (weight * losses).sum(-1), weight + tilt - by_loss * tilt.sum(-1, keepdim=True)


def _quantile(values: Tensor, q: float, present: Tensor) -> tuple[Tensor, Tensor]:
    """The linearly interpolated q-quantile [S] of the present values [S, B], and its gradient [S, B]."""
    # Absent values come last in the order and weigh nothing; they must be finite for that.
    ordered, index = values.masked_fill(~present, torch.finfo(values.dtype).max).sort(-1)
    by_rank = _quantile_weights(values.shape[1], q, values.device, values.dtype)[present.sum(-1)]
    return (ordered * by_rank).sum(-1), torch.empty_like(values).scatter_(-1, index, by_rank)


@cache
def _quantile_weights(most: int, q: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What each of `most` ranks weighs in the q-quantile of 0, 1, ... `most` values, [most + 1, most]."""
    weights = torch.zeros(most + 1, most, dtype=torch.float64)
    for count in range(1, most + 1):
        place = q * (count - 1)
        low = int(place)
        weights[count, low] += 1 - (place - low)
        if low + 1 < count:
            weights[count, low + 1] += place - low
    return weights.to(device, dtype)
