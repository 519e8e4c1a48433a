"""Small networks, one per split, trained together.

A network is a dictionary of tensors. In training each has a leading split dimension [S, ...], and a layer of all
splits is one batched product. Gradients come from autograd: these networks have no algebra worth writing out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.hyperparameters import Positive
from prbench.method import require_fitted
from prbench.training.compute import PARALLEL_BYTES
from prbench.training.gradient import GradientMethod, Snapshot, SplitBatch
from prbench.training.optimiser import StackedAdam, clip_per_split, warmup_cosine
from prbench.training.tables import PairTable

if TYPE_CHECKING:
    from torch import Tensor


Network = dict[str, "Tensor"]
Batch = TypeVar("Batch")
InputScale = Positive | Literal["rms"]


def linear_layer(name: str, inputs: int, outputs: int, rng: Rng, *, bias: bool = True) -> Network:
    """Weight [outputs, inputs] and bias [outputs] from U(±1/√inputs), a torch linear layer's default.

    Drawn from a stream named after the layer, so that adding a layer leaves the others as they are.
    """
    draw = rng.child(name).torch()
    bound = inputs**-0.5
    layer = {f"{name}.weight": (2 * torch.rand(outputs, inputs, generator=draw) - 1) * bound}
    if bias:
        layer[f"{name}.bias"] = (2 * torch.rand(outputs, generator=draw) - 1) * bound
    return layer


def stacked(networks: Sequence[Mapping[str, Tensor]], like: Tensor) -> Network:
    """Networks of S splits as one, [S, ...], with the type and device of `like`."""
    return {name: torch.stack([network[name] for network in networks]).to(like) for name in networks[0]}


def unstacked(network: Mapping[str, Tensor]) -> Network:
    """One split's network as a stack of one."""
    return {name: tensor[None] for name, tensor in network.items()}


def linear(network: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The layer `name` of S splits applied to x [S, ..., inputs]: [S, ..., outputs]."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    out: Tensor = _Linear.apply(flat, network[f"{name}.weight"], network.get(f"{name}.bias"))  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """x·Wᵀ + b of S splits, with gradients laid out as the weights are.

    Autograd's own gradient of W comes out transposed in memory: clipping and Adam then take four times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        across = weight.transpose(1, 2)
        return torch.bmm(x, across) if bias is None else torch.baddbmm(bias[:, None], x, across)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (by_out,) = gradients
        x, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad
        return (
            torch.bmm(by_out, weight) if wants[0] else None,
            torch.bmm(by_out.transpose(1, 2), x) if wants[1] else None,
            by_out.sum(1) if wants[2] else None,
        )


def layers(
    network: Mapping[str, Tensor], names: Sequence[str], x: Tensor, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """The layers `names` one after another, with `activation` between them and none after the last."""
    for i, name in enumerate(names):
        x = linear(network, name, activation(x) if i else x)
    return x


def input_scales(scale: InputScale, table: PairTable, trains: Sequence[Comparisons]) -> Tensor:
    """What each split's embeddings are multiplied by [S].

    `scale` is that number, or "rms": one over the root mean square of a coordinate over the split's own training
    items, which makes embeddings of any encoder about as large as the inputs that default weights are made for.
    """
    if scale != "rms":
        return table.items.new_full((len(trains),), scale)
    square = table.items.square().mean(1)
    means = []
    for train in trains:
        where = table.positions(train)
        used = np.unique(torch.cat([table.chosen[where], table.rejected[where]]).cpu().numpy())
        means.append(square[torch.from_numpy(used).to(square.device)].mean())
    return torch.stack(means).rsqrt()


class NetworkMethod(GradientMethod):
    """A method whose shared part is a network.

    Subclasses call `train_networks` and take the hyper-parameters below in their constructor, under these names.

    epochs: passes over the seen users' choices.
    rate: Adam's step size.
    decay: decoupled weight decay (AdamW's).
    clip: largest norm of a split's gradient; 0 for no limit.
    warmup: share of the updates over which the step size rises, before a cosine to zero.

    Recipes without a schedule set `annealed` to False, those with another epsilon of Adam's `adam_eps`.
    """

    epochs: int
    rate: float
    decay: float
    clip: float = 0.0
    warmup: float = 0.0
    annealed: ClassVar[bool] = True
    adam_eps: ClassVar[float] = 1e-8

    _network: Network | None = None

    @property
    def budget(self) -> int:
        """The number of epochs."""
        return self.epochs

    @property
    def network(self) -> Network:
        """The fitted network. Raises RuntimeError before the fit."""
        if self._network is None:
            require_fitted(None, self)
        assert self._network is not None
        return self._network

    def train_networks(
        self,
        work: SplitBatch,
        networks: Network,
        per_epoch: Sequence[int],
        batches: Iterable[Batch],
        losses: Callable[[Network, Batch], Tensor],
    ) -> Iterator[Snapshot]:
        """AdamW on `networks` [S, ...] by the gradients of `losses` [S]; a unit is an epoch.

        Split s has `per_epoch[s]` updates in an epoch; `batches` has every update of all splits. A split whose last
        wanted epoch has passed gets batches without users: its loss must then be 0.
        """
        updates = np.array(per_epoch)
        trained = [max(units) for units in work.wanted]
        steps = int((updates * trained).max())
        rates = np.full((steps, len(updates)), self.rate)
        if self.annealed:
            rates *= warmup_cosine(np.arange(steps)[:, None], updates * self.epochs, warmup=self.warmup)
        values = list(networks.values())
        separate = self.annealed and len(set(updates.tolist())) > 1
        adam = StackedAdam(values, separate=separate, decay=self.decay, eps=self.adam_eps)
        for step, batch in enumerate(batches, start=1):
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in networks.items()}
            with torch.enable_grad():
                total = losses(leaves, batch).sum()
            gradients = list(torch.autograd.grad(total, list(leaves.values())))
            if self.clip > 0:
                clip_per_split(gradients, self.clip)
            adam.step(gradients, rates[step - 1])
            for split in np.flatnonzero(step % updates == 0).tolist():
                epoch = step // int(updates[split])
                if epoch in work.wanted[split]:
                    yield Snapshot(split, epoch, {name: value[split].clone() for name, value in networks.items()})
            work.tell(1 / steps)

    def blocks(self, work: SplitBatch) -> list[list[int]]:
        """One by one on a CPU: side by side, splits are padded to the widest, and kernels change with the shape."""
        return self.one_by_one(work)

    def bytes_per_update(self, trains: Sequence[Comparisons], rngs: Sequence[Rng]) -> float:
        """Both embeddings of an average update's choices, forward and backward, and the networks' own numbers.

        Parameters are read forward and backward, their gradients written and read, and they and Adam's two moments
        read and written: ten times their bytes.
        """
        items = trains[0].items
        choices = sum(self.choices_per_update(train, rng) for train, rng in zip(trains, rngs, strict=True))
        trained = self.parameters_for(items.dim)
        assert trained is not None
        size = items.embedding.element_size()
        return 2.0 * choices * 2 * items.dim * size + 10.0 * len(trains) * trained.shared * size

    def divides_splits(self, train: Comparisons) -> bool:
        """Threads share the operations of a large network, of which each split then has its turn."""
        trained = self.parameters_for(train.items.dim)
        return trained is None or trained.shared * train.items.embedding.element_size() < PARALLEL_BYTES

    @abstractmethod
    def choices_per_update(self, train: Comparisons, rng: Rng) -> float:
        """How many choices an update of a split reads, on average."""

    def require_dim(self, items: Items, dim: int) -> None:
        """Raise InputError when `items` are not of the dimension this method was fitted on."""
        if items.dim != dim:
            raise InputError(
                f"the items have {items.dim} dimensions, this {type(self).__name__} was fitted on {dim}",
                hint="use the encoder the method was fitted with",
            )

    def learned(self) -> dict[str, Tensor]:
        """The network's tensors by name."""
        return dict(self.network)

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._network = dict(tensors)
        return self
