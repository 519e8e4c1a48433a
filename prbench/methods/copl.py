"""CoPL's graph stage: users and items as vectors that exchange messages along choices."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn.functional import leaky_relu, linear, logsigmoid, normalize

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, FloatArray, IntArray, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Share
from prbench.method import ParameterCount, UserStates, require_fitted
from prbench.training.choice_graph import Edges, make_edges, passed
from prbench.training.gradient import GradientMethod, Snapshot, SplitBatch
from prbench.training.item_memory import identity_of, lack_of_recurrence, rows_of
from prbench.training.linear_bases import dot_with_users
from prbench.training.networks import Network, linear_layer
from prbench.training.optimiser import StackedAdam
from prbench.training.prototypes import shuffled_batches
from prbench.training.reweighting import hypothesis_logits

if TYPE_CHECKING:
    from torch import Tensor

Unknown = Literal["zero", "text"]


class CoPL(GradientMethod):
    """CoPL's graph stage (Choi et al. 2025, arXiv 2503.01658): collaborative filtering on chosen and rejected items.

    Users and items of the seen users' choices are nodes with a free vector each. A layer makes of every node's x,
    with C and R the sums of its neighbours' vectors along its chosen and its rejected edges, each divided by
    √(degree · degree),

        leaky_relu(C + A(C ∘ x) − R − B(R ∘ x) + W x),

    with A, B and W shared by users and items and ∘ elementwise. The score is the product of the last layer's vectors.
    Minimises the mean of −log σ over a batch of choices plus `decay` times the squared lengths of its vectors, by
    AdamW; in training a share of the edges is left out. An unseen user is the mean of the seen users who have chosen
    one of the items that this user has chosen, at length 1, weighted by the softmax of −(mean loss of the user's
    choices) / `temperature`: generalised Bayes over neighbours, without a gradient.

    width: of the vectors.
    layers: how many times messages are passed.
    epochs: passes over the seen users' choices.
    choices_per_batch: choices per update; each update passes messages over the whole graph.
    rate: step size.
    decay: see above.
    dropout: the share of the edges.
    temperature: see above.
    unknown: the vector of an item that no choice was trained on is "zero", or a ridge fit of the others' to their
        embeddings ("text").
    ridge: of that fit, as a share of the mean variance of a coordinate.

    Zero shots, and users without a neighbour: the mean of the seen users' vectors.
    """

    linear_user_part = True

    def __init__(
        self,
        *,
        width: Count = 64,
        layers: Count = 3,
        epochs: Count = 100,
        choices_per_batch: Count = 1024,
        rate: Positive = 1e-3,
        decay: NonNegative = 1e-6,
        dropout: Share = 0.1,
        temperature: Positive = 0.07,
        unknown: Unknown = "zero",
        ridge: Positive = 1.0,
    ) -> None:
        self.width = width
        self.layers = layers
        self.epochs = epochs
        self.choices_per_batch = choices_per_batch
        self.rate = rate
        self.decay = decay
        self.dropout = dropout
        self.temperature = temperature
        self.unknown = unknown
        self.ridge = ridge

    _tensors: dict[str, Tensor] | None = None
    _seen: UserStates | None = None

    @property
    def budget(self) -> int:
        """The number of epochs."""
        return self.epochs

    def bytes_per_update(self, trains: Sequence[Comparisons], rngs: Sequence[Rng]) -> float:
        """The vectors and layers with their gradients and Adam's two moments; no embedding is read.

        As in `NetworkMethod`, that is ten times their bytes.
        """
        nodes = [
            len(train.users) + len(np.unique(np.concatenate([train.chosen, train.rejected]))) for train in trains
        ]
        layers = self.layers * 3 * (self.width + 1) * self.width
        return 10.0 * 4 * sum(count * self.width + layers for count in nodes)

    def unsupported(self, data: Comparisons) -> str | None:
        """Items must recur."""
        return lack_of_recurrence(data)

    def start(self, users: int, items: int, rng: Rng) -> Network:
        """Xavier-uniform vectors, and torch's default layers."""
        rng = rng.child("network")
        network: Network = {}
        for name, count in (("users", users), ("items", items)):
            drawn = torch.rand(count, self.width, generator=rng.child(name).torch())
            network[name] = (2 * drawn - 1) * math.sqrt(6 / (count + self.width))
        for layer in range(self.layers):
            for name in ("chosen", "rejected", "self"):
                network |= linear_layer(f"{layer}.{name}", self.width, self.width, rng)
        return network

    def train_splits(self, work: SplitBatch) -> Iterator[Snapshot]:
        """See `GradientMethod.train_splits`; splits share nothing. A unit is one pass over the choices."""
        for split, (train, rng, wanted) in enumerate(zip(work.trains, work.rngs, work.wanted, strict=True)):
            for unit, tensors in self._train(train, rng, wanted, work):
                yield Snapshot(split, unit, tensors)

    def _train(
        self, train: Comparisons, rng: Rng, wanted: Collection[int], work: SplitBatch
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        identity = identity_of(train.items).numpy()
        sides = np.stack([identity[train.chosen], identity[train.rejected]])
        # Only items that were compared are nodes.
        nodes, place = np.unique(sides, return_inverse=True)
        chosen, rejected = place.reshape(sides.shape)
        owner = np.searchsorted(train.users, train.user)
        shape = (len(train.users), len(nodes))
        edges = [make_edges(owner, side, shape, work.device) for side in (chosen, rejected)]
        network = {name: tensor.to(work.device) for name, tensor in self.start(*shape, rng).items()}
        adam = StackedAdam([tensor[None] for tensor in network.values()], decay=0.01)
        draw = rng.child("edges").torch()
        size, last = self.choices_per_batch, max(wanted)
        per_epoch = -(-len(train) // size)
        for step, batch in enumerate(shuffled_batches(len(train), size, rng.child("order"), last), start=1):
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in network.items()}
            with torch.enable_grad():
                users, items = self.propagate(leaves, edges, draw)
                mine, good, bad = users[owner[batch]], items[chosen[batch]], items[rejected[batch]]
                loss = -logsigmoid((mine * (good - bad)).sum(1)).mean()
                loss = loss + self.decay * sum(part.square().sum() for part in (mine, good, bad))
            adam.step([g[None] for g in torch.autograd.grad(loss, list(leaves.values()))], self.rate)
            if step % per_epoch == 0 and step // per_epoch in wanted:
                yield step // per_epoch, self._kept(network, edges, train, nodes, owner, chosen)
            work.tell(1 / (last * per_epoch * len(work.trains)))

    def propagate(
        self, network: Mapping[str, Tensor], edges: Sequence[Edges], draw: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The last layer's vectors of users [u, width] and items [m, width]; edges are left out where `draw` is."""
        users, items = network["users"], network["items"]
        for layer in range(self.layers):
            sums = []
            for kind in edges:
                # Users and items each receive along edges of their own choice.
                to_users, to_items = (kind.thinned(self.dropout, draw) if draw else kind for _ in range(2))
                sums.append((passed(to_users, items, to_users=True), passed(to_items, users, to_users=False)))
            (u_chosen, i_chosen), (u_rejected, i_rejected) = sums
            users, items = (
                self._node(network, layer, x, c, r)
                for x, c, r in ((users, u_chosen, u_rejected), (items, i_chosen, i_rejected))
            )
        return users, items

    def _node(self, network: Mapping[str, Tensor], layer: int, x: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
        def through(name: str, value: Tensor) -> Tensor:
            return linear(value, network[f"{layer}.{name}.weight"], network[f"{layer}.{name}.bias"])

        for_it, against = chosen + through("chosen", chosen * x), rejected + through("rejected", rejected * x)
        out: Tensor = leaky_relu(for_it - against + through("self", x), 0.2)
        return out

    def _kept(
        self,
        network: Network,
        edges: Sequence[Edges],
        train: Comparisons,
        nodes: IntArray,
        owner: IntArray,
        chosen: IntArray,
    ) -> dict[str, Tensor]:
        """What later scores need: both sides' vectors, who chose what, and a map from embeddings where asked for."""
        with torch.no_grad():
            users, items = (part.cpu() for part in self.propagate(network, edges))
        table = items.new_zeros(int(nodes[-1]) + 1, self.width)
        table[nodes] = items
        # A user's row and an item's number for every chosen edge, each once.
        pairs = np.unique(np.stack([owner, nodes[chosen]]), axis=1)
        kept = {"users": normalize(users, dim=-1), "items": table, "chosen": torch.from_numpy(pairs)}
        if self.unknown == "text":
            kept["text"] = self._text_map(train, nodes, items)
            known = torch.zeros(len(table), dtype=torch.bool)
            known[nodes] = True
            kept["known"] = known
        return kept

    def _text_map(self, train: Comparisons, nodes: IntArray, vectors: Tensor) -> Tensor:
        """The ridge fit [dim, width] of the items' vectors to their embeddings."""
        identity = identity_of(train.items).numpy()
        used = np.unique(np.concatenate([train.chosen, train.rejected]))
        first = used[np.unique(identity[used], return_index=True)[1]]
        x, y = train.items.embedding[torch.from_numpy(first)].double(), vectors.double()
        square = x.T @ x
        square.diagonal().add_(self.ridge * float(square.diagonal().mean()) or 1.0)
        fitted: Tensor = torch.linalg.solve(square, x.T @ y).to(vectors.dtype)
        return fitted

    def accept(self, tensors: Mapping[str, Tensor], train: Comparisons, rng: Rng) -> Self:
        """The seen users have vectors of their own."""
        self._tensors = dict(tensors)
        self._seen = UserStates(train.users, {"vector": tensors["users"]})
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        nobody = UserStates(np.empty(0, dtype=np.int64), {"vector": self._known("users")[:0]})
        return nobody if self._seen is None else self._seen

    def _known(self, name: str) -> Tensor:
        return require_fitted(None if self._tensors is None else self._tensors[name], self)

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """Weigh each user's neighbours; see `Method.adapt_unseen`. No number is drawn."""
        others = self._known("users")
        users = support.users if users is None else np.unique(users)
        vectors = others.mean(0).expand(len(users), -1).clone()
        if len(support):
            owner = torch.from_numpy(np.searchsorted(users, support.user))
            features = self.item_features(support.items)
            moved = features[support.chosen] - features[support.rejected]
            logits = hypothesis_logits(moved, owner, len(users), others, temperature=self.temperature, total="mean")
            near = torch.from_numpy(self.neighbours(support, users))
            mixture = logits.masked_fill(~near, -torch.inf).softmax(-1) @ others
            with_neighbours = near.any(1)
            vectors[with_neighbours] = mixture[with_neighbours]
        return UserStates(users, {"vector": vectors})

    def neighbours(self, support: Comparisons, users: IntArray) -> Any:
        """Which seen users have chosen an item that each of `users` has chosen too, [users, seen users]."""
        row, item = self._known("chosen").numpy()
        identity = identity_of(support.items).numpy()[support.chosen]
        size = int(max(item.max(), identity.max())) + 1
        theirs = csr_array((np.ones(len(row)), (item, row)), shape=(size, len(self._known("users"))))
        position = np.searchsorted(users, support.user)
        mine = csr_array((np.ones(len(identity)), (position, identity)), shape=(len(users), size))
        shared: FloatArray = (mine @ theirs).toarray()
        return shared > 0

    def item_features(self, items: Items) -> Tensor:
        """The items' vectors, [m, width]; for items never compared zeros, or what their text maps to."""
        vectors = rows_of(self._known("items"), items)
        if self.unknown == "zero":
            return vectors
        across = self._known("text")
        if items.dim != len(across):
            raise InputError(
                f"the items have {items.dim} dimensions, this CoPL was fitted on {len(across)}",
                hint="use the encoder the method was fitted with",
            )
        known = rows_of(self._known("known"), items)
        return torch.where(known[:, None], vectors, items.embedding.to(across.dtype) @ across)

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """The product of the user's and the item's vector."""
        return dot_with_users(features, states.tensors["vector"], position)

    def parameter_count(self) -> ParameterCount:
        """What later scores need: a vector for every item up to the last one compared and for every seen user, two
        numbers for every chosen edge, and the map from texts; a vector per user."""
        return ParameterCount(sum(tensor.numel() for tensor in self.learned().values()), self.width)

    def learned(self) -> dict[str, Tensor]:
        """`users` [u, width], `items` [m, width], `chosen` [2, edges]; with texts `text` and `known`."""
        self._known("users")
        assert self._tensors is not None
        return self._tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._tensors, self._seen = dict(tensors), None
        return self
