"""LoRe and Bradley–Terry: full-batch training of shared base functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import psutil
import torch
from torch.nn.functional import softplus

from prbench.comparisons import Comparisons, IntArray
from prbench.method import ParameterCount, UserStates, Watch
from prbench.methods.linear import LinearBases, fit_weights, mix, mix_backward
from prbench.seeds import Rng
from prbench.training import DifferenceTable, Gather, Snapshot, StackedAdam, seen_states

if TYPE_CHECKING:
    from torch import Tensor

# Bytes of embedding differences handled between two passes: they stay in cache for the second one. Measured on
# 2 cores of Sapphire Rapids: 19 GB/s at 32 rows x 20 splits x 4,096 fp32, 14 GB/s at 8 times as much.
CPU_CHUNK_BYTES = 10 * 2**20
GPU_CHUNK_BYTES = 2**30


class LoRe(LinearBases):
    """LoRe: low-rank reward modelling (Bose et al. 2025, arXiv 2504.14439).

    Score = e·V·softmax(w_u) / 100 with K base functions V and a simplex weight per user. Minimises, jointly over V
    and all seen users' w, the sum over users of the mean over the user's choices of
    −log σ(score(chosen) − score(rejected)), by full-batch Adam. An unseen user's w is fitted with V frozen.

    bases: K.
    rate, steps: step size and number of the joint full-batch Adam steps.
    adapt_rate, adapt_steps: the same for an unseen user's weights, from logits drawn from N(0, 1).
    divisor: what logits are divided by.

    Zero shots: uniform weights (the published code divides zero by zero there).
    """

    def __init__(
        self,
        *,
        bases: int = 5,
        rate: float = 0.5,
        steps: int = 1000,
        adapt_rate: float = 0.1,
        adapt_steps: int = 500,
        divisor: float = 100.0,
    ) -> None:
        self.bases = bases
        self.rate = rate
        self.steps = steps
        self.adapt_rate = adapt_rate
        self.adapt_steps = adapt_steps
        self.divisor = divisor
        self.scale = 1 / divisor

    adaptation_is_random = True

    @property
    def budget(self) -> int:
        """The number of full-batch steps."""
        return self.steps

    @property
    def _personal(self) -> bool:
        return True

    @classmethod
    def train_splits(
        cls,
        methods: Sequence[Self],
        trains: Sequence[Comparisons],
        rngs: Sequence[Rng],
        *,
        wanted: Sequence[Collection[int]],
        device: str,
        watch: Watch | None = None,
    ) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one full-batch step."""
        recipe = methods[0]
        batch = FullBatch(trains, scale=recipe.scale, device=device)
        bases, weights = batch.start(rngs, recipe.bases, personal=recipe._personal)
        adam = StackedAdam([bases, weights] if recipe._personal else [bases])
        last = max(max(units) for units in wanted)
        for step in range(1, last + 1):
            _, base_gradient, weight_gradient = batch.gradients(bases, weights)
            adam.step([base_gradient, weight_gradient][: len(adam.parameters)], recipe.rate)
            for split, units in enumerate(wanted):
                if step in units:
                    users = len(trains[split].users)
                    tensors = {"bases": bases[split].clone(), "weight": weights[split, :users].clone()}
                    yield Snapshot(split, step, tensors)
            if watch:
                watch(1 / last)

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """The seen users keep the weights of the joint training."""
        self._bases = tensors["bases"].cpu()
        self._seen = seen_states(train.users, {"weight": tensors["weight"]})
        return self

    def cold_weights(self, users: IntArray) -> Tensor:
        """Logits 0: uniform weights."""
        return torch.zeros(len(users), self.bases, dtype=self.bases_matrix.dtype)

    def start_weights(self, users: IntArray, rng: Rng) -> Tensor:
        """Logits from N(0, 1), drawn for each user from a stream of the user's own."""
        drawn = [torch.randn(self.bases, generator=rng.child("user", int(u)).torch()) for u in users]
        return torch.stack(drawn).to(self.bases_matrix.dtype)

    def adapt_weights(self, projected: Tensor, owner: Tensor, weights: Tensor) -> Tensor:
        """Full-batch Adam on the user's logits."""
        return fit_weights(
            projected,
            owner,
            weights,
            link="softmax",
            steps=self.adapt_steps,
            rate=self.adapt_rate,
            inner="adam",
            reduction="mean",
        )


class BT(LoRe):
    """Bradley–Terry: one linear reward for all users (Bradley and Terry 1952; LoRe's K = 1).

    Score = e·v / 100. Minimises the sum over users of the mean over the user's choices of
    −log σ(score(chosen) − score(rejected)), by full-batch Adam. Nobody adapts.
    """

    adaptation_is_random = False

    def __init__(self, *, rate: float = 0.5, steps: int = 1000, divisor: float = 100.0) -> None:
        super().__init__(bases=1, rate=rate, steps=steps, divisor=divisor)

    @property
    def _personal(self) -> bool:
        return False

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """Take v."""
        self._bases = tensors["bases"].cpu()
        self._seen = UserStates(train.users)
        return self

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Every user is the same."""
        _ = self.bases_matrix
        return UserStates(support.users if users is None else np.unique(users))

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """e·v / 100."""
        return features[:, 0]

    def parameter_count(self) -> ParameterCount:
        """d, whatever the number of users."""
        return ParameterCount(self.bases_matrix.numel(), 0)


class FullBatch:
    """All training rows of all splits, in chunks, for gradients over everything at once.

    The loss of split s is Σ_u (1/n_u) Σ_{i of u} softplus(−m_i), m = scale · Δe·Vᵀ·softmax(w_u). A row's
    gradient needs that row only, so the forward and the backward product of a chunk follow one another while the
    chunk is in cache. Where the splits' own rows fit in a quarter of the free memory they are laid out once,
    else each chunk is gathered from the shared table at each step.
    """

    def __init__(self, trains: Sequence[Comparisons], *, scale: float, device: str) -> None:
        self.scale = scale
        table = DifferenceTable.of(trains, device=device)
        self.matrix = table.matrix
        splits, rows = len(trains), max(len(train) for train in trains)
        self.users_of = [len(train.users) for train in trains]
        self.users = max(self.users_of)
        where = np.zeros((splits, rows), dtype=np.int64)
        owner = np.zeros((splits, rows), dtype=np.int64)
        share = np.zeros((splits, rows))
        for s, train in enumerate(trains):
            n = len(train)
            where[s, :n] = table.positions(train)
            owner[s, :n] = np.searchsorted(train.users, train.user)
            share[s, :n] = 1 / np.bincount(owner[s, :n])[owner[s, :n]]
        matrix = self.matrix
        self.where = torch.from_numpy(where).to(device)
        self.owner = torch.from_numpy(owner).to(device)
        self.share = torch.from_numpy(share).to(device, matrix.dtype)
        row_bytes = matrix.shape[1] * matrix.element_size()
        budget = GPU_CHUNK_BYTES if matrix.is_cuda else CPU_CHUNK_BYTES
        self.chunk = max(8, budget // (row_bytes * splits))
        self.bytes_per_step = 2 * row_bytes * int((share > 0).sum())
        free = torch.cuda.mem_get_info()[0] if matrix.is_cuda else psutil.virtual_memory().available
        self.gather = Gather(matrix)
        self.rows: list[Tensor] | None = None
        if splits * rows * row_bytes < free / 4:
            self.rows = [Gather(matrix)(self.where[:, part]) for part in self._chunks()]

    def start(self, rngs: Sequence[Rng], bases: int, *, personal: bool) -> tuple[Tensor, Tensor]:
        """V [S, K, d] and logits [S, users, K], both from N(0, 1); logits are zero without personal weights."""
        d, like = self.matrix.shape[1], self.matrix
        v = torch.stack([torch.randn(bases, d, generator=rng.child("bases").torch()) for rng in rngs])
        w = torch.zeros(len(rngs), self.users, bases)
        if personal:
            for own, rng, users in zip(w, rngs, self.users_of, strict=True):
                own[:users] = torch.randn(users, bases, generator=rng.child("weights").torch())
        return v.to(like.device, like.dtype), w.to(like.device, like.dtype)

    def gradients(self, bases: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss [S] and its gradients with respect to V [S, K, d] and the logits [S, users, K]."""
        splits, k, _ = bases.shape
        mixed = mix(weights, "softmax")
        by_row = mixed.gather(1, self.owner[:, :, None].expand(-1, -1, k)).transpose(1, 2).contiguous()
        base_gradient = torch.zeros_like(bases)
        pulls = torch.empty_like(by_row)
        loss = bases.new_zeros(splits)
        for number, part in enumerate(self._chunks()):
            rows = self.rows[number] if self.rows is not None else self.gather(self.where[:, part])
            projected = torch.bmm(bases, rows.transpose(1, 2))
            mixing = by_row[:, :, part]
            margin = (projected * mixing).sum(1).mul_(self.scale)
            share = self.share[:, part]
            loss += (softplus(-margin) * share).sum(1)
            pull = torch.sigmoid(-margin).mul_(share).mul_(-self.scale)[:, None]
            torch.mul(projected, pull, out=pulls[:, :, part])
            base_gradient.baddbmm_(mixing * pull, rows)
        weight_gradient = torch.zeros_like(weights).scatter_add_(
            1, self.owner[:, :, None].expand(-1, -1, k), pulls.transpose(1, 2)
        )
        return loss, base_gradient, mix_backward(weight_gradient, mixed, "softmax")

    def _chunks(self) -> Iterator[slice]:
        total = self.where.shape[1]
        return (slice(i, min(i + self.chunk, total)) for i in range(0, total, self.chunk))
