"""What PAL's two variants share: users as mixtures of K prototypes, trained by Adam on batches of choices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray
from prbench.method import ParameterCount, UserStates
from prbench.training.gradient import Snapshot, SplitBatch, seen_states
from prbench.training.networks import InputScale, Network, NetworkMethod, input_scales, stacked, unstacked
from prbench.training.optimiser import StackedAdam
from prbench.training.tables import Gather, PairTable

if TYPE_CHECKING:
    from torch import Tensor


BETAS = (0.9, 0.999)
EPS = 1e-8


class Update(NamedTuple):
    """One update of S splits with R choices each: rows of the table of choices, their users' positions among the
    split's users, and 1 where there is a choice, all [S, R]."""

    row: Tensor
    owner: Tensor
    there: Tensor


class Prototypes(NetworkMethod):
    """Users with softmax weights of K prototypes.

    Minimises the mean of the choices' losses over batches of choices of all users, by Adam. A user's logits, from
    N(0, 1), have Adam moments of their own, which advance in updates with the user's choices only (as where each user
    is a parameter that has no gradient otherwise). An unseen user's logits are fitted to the support in the same way
    with all else frozen, in batches of the user's own choices. Zero shots: equal weights.

    prototypes: K.
    width: of every layer; 0 for that of the embeddings.
    epochs: passes over the seen users' choices.
    pairs_per_update: choices per update.
    rate: step size of the networks.
    decay: their L2 penalty, added to the gradient; with `decoupled`, AdamW's weight decay.
    weight_rate: step size of everything else that is trained with the users' logits.
    adapt_rate: step size for an unseen user's logits.
    adapt_epochs: passes over the user's choices.
    adapt_batch: choices per step.
    input_scale: see `input_scales`. It becomes part of the first layers' weights.
    """

    prototypes: int
    width: int
    pairs_per_update: int
    weight_rate: float
    adapt_rate: float
    adapt_epochs: int
    adapt_batch: int
    input_scale: InputScale
    decoupled: bool = False

    adaptation_is_random = True

    _seen: UserStates | None = None

    @abstractmethod
    def start(self, dim: int, context_dim: int | None, rng: Rng) -> Network:
        """One split's network for embeddings of `dim` and prompt embeddings of `context_dim` dimensions."""

    @abstractmethod
    def training_margins(
        self, network: Network, pairs: Tensor, context: Tensor | None, mixed: Tensor, scale: Tensor
    ) -> Tensor:
        """score(chosen) − score(rejected) [S, R] of `pairs` [S, R, 2, d] that were multiplied by `scale` [S].

        `context` [S, R, c] are the prompts, `mixed` [S, R, K] the weights of the choices' users.
        """

    def training_terms(
        self,
        network: Network,
        pairs: Tensor,
        context: Tensor | None,
        mixed: Tensor,
        scale: Tensor,
        mask: Tensor,
        draws: Sequence[torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """The margins [S, R], and what a split's loss has besides its choices' mean [S]: nothing by default.

        `mask` [S, R] is 1 where there is a choice. A method with noise of its own draws split s's from `draws[s]`.
        For the others see `training_margins`.
        """
        margin = self.training_margins(network, pairs, context, mixed, scale)
        return margin, margin.new_zeros(len(margin))

    @abstractmethod
    def loss(self, margin: Tensor) -> Tensor:
        """What a choice with this margin costs."""

    @abstractmethod
    def user_vectors(self, network: Mapping[str, Tensor], mixed: Tensor) -> Tensor:
        """What `rate_items` needs of users with weights `mixed` [u, K]: [u, ...]."""

    @abstractmethod
    def rate_items(self, network: Mapping[str, Tensor], features: Tensor, user: Tensor) -> Tensor:
        """Scores [...] of item features [..., k] for users' vectors [..., v]."""

    @abstractmethod
    def fold(self, tensors: Network, scale: Tensor) -> None:
        """Make the input's scale part of trained `tensors`, in place."""

    def pace(self, name: str) -> float:
        """The step size of the tensor `name` of the network."""
        return self.rate if "." in name else self.weight_rate

    def blocks(self, work: SplitBatch) -> list[list[int]]:
        """All splits: an update has `pairs_per_update` choices of each, so that nothing is padded to another."""
        return [list(range(len(work.trains)))]

    def divides_splits(self, train: Comparisons) -> bool:
        """Threads take different splits: products with the few prototypes are narrow whatever the network."""
        return True

    def choices_per_update(self, train: Comparisons, rng: Rng) -> float:
        """See `NetworkMethod.choices_per_update`."""
        return len(train) / -(-len(train) // self.pairs_per_update)

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; a unit is one epoch."""
        table = PairTable.of(work.trains, device=work.device)
        scales = input_scales(self.input_scale, table, work.trains)
        prompts = table.prompts(work.trains)
        context_dim = None if prompts is None else prompts[0].shape[1]
        networks = stacked([self.start(table.items.shape[1], context_dim, rng) for rng in work.rngs], table.items)
        weights = self._start_weights(work).to(table.items)
        by_pace: dict[tuple[float, float], list[str]] = {}
        for name in networks:
            by_pace.setdefault((self.pace(name), self.decay if "." in name else 0.0), []).append(name)
        adams = [
            (
                rate,
                names,
                StackedAdam(
                    [networks[name] for name in names],
                    penalty=0.0 if self.decoupled else penalty,
                    decay=penalty if self.decoupled else 0.0,
                ),
            )
            for (rate, penalty), names in by_pace.items()
        ]
        lazy = LazyAdam(weights)
        draws = [rng.child("noise").torch() for rng in work.rngs]
        gather = Gather(table.items)
        updates = np.array([-(-len(train) // self.pairs_per_update) for train in work.trains])
        steps = int((updates * [max(units) for units in work.wanted]).max())
        for step, update in enumerate(self._updates(work, table, steps), start=1):
            pairs = gather(torch.stack([table.chosen[update.row], table.rejected[update.row]], -1))
            context = None if prompts is None else prompts[0][prompts[1][update.row]] * scales[:, None, None]
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in networks.items()}
            logits = weights.detach().requires_grad_()
            with torch.enable_grad():
                mixed = logits.softmax(-1)[torch.arange(len(logits))[:, None], update.owner]
                margin, besides = self.training_terms(
                    leaves, pairs * scales[:, None, None, None], context, mixed, scales, update.there, draws
                )
                losses = (self.loss(margin) * update.there).sum(-1) / update.there.sum(-1).clamp_min(1) + besides
                by_logits, *by_network = torch.autograd.grad(losses.sum(), [logits, *leaves.values()])
            gradients = dict(zip(leaves, by_network, strict=True))
            for rate, names, adam in adams:
                adam.step([gradients[name] for name in names], rate)
            present = torch.zeros_like(weights[..., 0]).scatter_add_(1, update.owner, update.there)
            lazy.step(by_logits, present > 0, self.weight_rate)
            for split in np.flatnonzero(step % updates == 0).tolist():
                epoch = step // int(updates[split])
                if epoch in work.wanted[split]:
                    tensors = {name: value[split].clone() for name, value in networks.items()}
                    self.fold(tensors, scales[split])
                    tensors["weight"] = weights[split, : len(work.trains[split].users)].clone()
                    yield Snapshot(split, epoch, tensors)
            work.tell(1 / steps)

    def _start_weights(self, work: SplitBatch) -> Tensor:
        """Logits [S, u, K] from N(0, 1), zero for the users that a split has fewer than others."""
        users = [len(train.users) for train in work.trains]
        weights = torch.zeros(len(users), max(users), self.prototypes)
        for s, rng in enumerate(work.rngs):
            weights[s, : users[s]] = torch.randn(users[s], self.prototypes, generator=rng.child("weights").torch())
        return weights

    def _updates(self, work: SplitBatch, table: PairTable, steps: int) -> Iterator[Update]:
        """The updates of all splits side by side, each split's choices shuffled in every epoch."""
        size = self.pairs_per_update
        positions = [table.positions(train) for train in work.trains]
        owners = [np.searchsorted(train.users, train.user) for train in work.trains]
        streams = [
            shuffled_batches(len(split_owners), size, rng, max(w))
            for split_owners, rng, w in zip(owners, work.rngs, work.wanted, strict=True)
        ]
        nothing: IntArray = np.empty(0, dtype=np.int64)
        for _ in range(steps):
            row, owner, mask = (np.zeros((len(streams), size), dtype=np.int64) for _ in range(3))
            for s, stream in enumerate(streams):
                batch = next(stream, nothing)
                row[s, : len(batch)], owner[s, : len(batch)] = positions[s][batch], owners[s][batch]
                mask[s, : len(batch)] = 1
            row_batch, owner_batch, mask_batch = (
                torch.from_numpy(part).to(work.device) for part in (row, owner, mask)
            )
            yield Update(row_batch, owner_batch, mask_batch.to(table.items.dtype))

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """The seen users keep the logits of the joint training."""
        self._network = {name: tensor.cpu() for name, tensor in tensors.items() if name != "weight"}
        self._seen = seen_states(train.users, {"weight": tensors["weight"]})
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        nobody = UserStates(np.empty(0, dtype=np.int64), {"weight": self._logits(0)})
        return nobody if self._seen is None else self._seen

    def _logits(self, users: int) -> Tensor:
        return next(iter(self.network.values())).new_zeros(users, self.prototypes)

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Fit each user's logits to the user's own support; see `Method.adapt_unseen`."""
        users = support.users if users is None else np.unique(users)
        weights = self._logits(len(users))
        if len(support):
            # By row: the batches must not depend on the order that the choices come in.
            support = support.take(np.lexsort((support.row, support.user)))
            support_users, count = np.unique(support.user, return_counts=True)
            streams = [rng.child("user", int(user)) for user in support_users]
            start = torch.stack([torch.randn(self.prototypes, generator=stream.torch()) for stream in streams])
            weights[np.searchsorted(users, support_users)] = self._fit_weights(
                support, count, start.to(weights), streams
            )
        return UserStates(users, {"weight": weights})

    def _fit_weights(self, support: Comparisons, count: IntArray, weights: Tensor, streams: Sequence[Rng]) -> Tensor:
        """Logits [u, K] after `adapt_epochs` passes in batches of the users' own choices, from `weights`.

        The choices of each user are side by side in `support`, `count` [u] of them.
        """
        network = unstacked(self.network)
        ready = self.features_of(support)
        first = np.cumsum(count) - count
        orders = [stream.child("order").numpy() for stream in streams]
        lazy = LazyAdam(weights)
        size = self.adapt_batch
        for _ in range(self.adapt_epochs):
            shuffled = [start + draw.permutation(n) for start, n, draw in zip(first, count, orders, strict=True)]
            for at in range(0, int(count.max()), size):
                active = np.flatnonzero(count > at)
                row, mask = _side_by_side([shuffled[user][at : at + size] for user in active.tolist()])
                logits = weights[active].requires_grad_()
                with torch.enable_grad():
                    user = self.user_vectors(network, logits.softmax(-1))[:, None]
                    chosen, rejected = (
                        self.rate_items(network, ready.features[where[row]], user)
                        for where in (ready.chosen, ready.rejected)
                    )
                    losses = (self.loss(chosen - rejected) * mask).sum(-1) / mask.sum(-1)
                    (gradient,) = torch.autograd.grad(losses.sum(), logits)
                lazy.step_some(active, gradient, self.adapt_rate)
        return weights

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The scores for the users' mixtures."""
        network = unstacked(self.network)
        user = self.user_vectors(network, states.tensors["weight"].to(features.dtype).softmax(-1))
        return self.rate_items(network, features, user[position])

    def parameter_count(self) -> ParameterCount:
        """Networks and prototypes shared, K logits per user."""
        return ParameterCount(sum(tensor.numel() for tensor in self.network.values()), self.prototypes)


class LazyAdam:
    """Adam on users' parameters, [..., u, K], in which a user whose turn it is not stays as it was.

    Each user has a step count of its own, as if it were a parameter without a gradient in all other updates.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter = parameter
        self.mean = torch.zeros_like(parameter)
        self.square = torch.zeros_like(parameter)
        self.steps = torch.zeros_like(parameter[..., :1])

    def step(self, gradient: Tensor, turn: Tensor, rate: float) -> None:
        """One update in place of the users whose `turn` [..., u] it is."""
        where = turn.nonzero(as_tuple=True)
        self.step_some(where, gradient[where], rate)

    def step_some(self, where: Any, gradient: Tensor, rate: float) -> None:
        """One update in place of the users at the index `where`, with their gradients [n, K]."""
        steps = self.steps[where] + 1
        mean = torch.lerp(self.mean[where], gradient, 1 - BETAS[0])
        square = torch.lerp(self.square[where], gradient.square(), 1 - BETAS[1])
        self.steps[where], self.mean[where], self.square[where] = steps, mean, square
        size = (square / (1 - BETAS[1] ** steps)).sqrt() + EPS
        self.parameter[where] -= rate * (mean / (1 - BETAS[0] ** steps)) / size


def shuffled_batches(choices: int, size: int, rng: Rng, epochs: int) -> Iterator[IntArray]:
    """Positions of up to `size` of the choices at a time, in another order in each epoch."""
    for number in range(epochs):
        order = rng.child("epoch", number).numpy().permutation(choices)
        yield from (order[at : at + size] for at in range(0, choices, size))


def _side_by_side(parts: Sequence[IntArray]) -> tuple[Tensor, Tensor]:
    """Row numbers of u users as [u, n], 0 where padded, and 1 where there is one."""
    width = max(len(part) for part in parts)
    row = np.zeros((len(parts), width), dtype=np.int64)
    for i, part in enumerate(parts):
        row[i, : len(part)] = part
    mask = np.arange(width) < np.array([[len(part)] for part in parts])
    return torch.from_numpy(row), torch.from_numpy(mask)
