"""PAL: pluralistic alignment, users as ideal points mixed from prototypes that all users share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch.nn.functional import gelu, normalize, relu

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items
from prbench.hyperparameters import Count, NonNegative, Positive, Steps
from prbench.method import ParameterCount
from prbench.training.networks import InputScale, Network, layers, linear_layer, unstacked
from prbench.training.prototypes import Prototypes
from prbench.training.steady import softplus

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["gelu", "relu"]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Drop = Callable[["Tensor"], "Tensor"]

NO_CONTEXT = "the embeddings do not hold the prompt apart from the response"
LARGEST_SCALE = 100.0


class PAL(Prototypes):
    """PAL, variant A: ideal points (Chen et al. 2024, arXiv 2406.08469).

    score = −‖f(e) − f(Pᵀ·softmax(w_u))‖ with f of three linear layers, ReLU between them, and K prototypes P in the
    space of the embeddings, each drawn Gaussian at length 1. A choice costs max(0, 1 − margin).

    residual: adds the embedding to f's output, as published; only where f is as wide as the embeddings.
    weight_rate: step size of the prototypes and the users' logits.
    The others: see `Prototypes`.
    """

    def __init__(
        self,
        *,
        prototypes: Count = 2,
        width: Steps = 512,
        residual: bool = False,
        epochs: Count = 6,
        pairs_per_update: Count = 32,
        rate: Positive = 1e-4,
        decay: NonNegative = 0.01,
        weight_rate: Positive = 5e-3,
        adapt_rate: Positive = 5e-3,
        adapt_epochs: Steps = 20,
        adapt_batch: Count = 4,
        input_scale: InputScale = "rms",
    ) -> None:
        self.prototypes = prototypes
        self.width = width
        self.residual = residual
        self.epochs = epochs
        self.pairs_per_update = pairs_per_update
        self.rate = rate
        self.decay = decay
        self.weight_rate = weight_rate
        self.adapt_rate = adapt_rate
        self.adapt_epochs = adapt_epochs
        self.adapt_batch = adapt_batch
        self.input_scale = input_scale

    def unsupported(self, data: Comparisons) -> str | None:
        """The residual needs f to be as wide as the embeddings."""
        return too_narrow(self.width, data.items.dim) if self.residual else None

    def start(self, dim: int, context_dim: int | None, rng: Rng) -> Network:
        """f with torch's default weights, and the prototypes."""
        rng = rng.child("network")
        drawn = torch.randn(self.prototypes, dim, generator=rng.child("prototypes").torch())
        return {**_three_layers("f", dim, self.width or dim, rng), "prototypes": normalize(drawn, dim=-1)}

    def project(self, network: Mapping[str, Tensor], x: Tensor, scale: Tensor | None = None) -> Tensor:
        """f(x) [S, ..., width] of x [S, ..., d], which was multiplied by `scale` [S]."""
        out = _through(network, "f", x, relu)
        if not self.residual:
            return out
        return out + (x if scale is None else x / scale.view(-1, *[1] * (x.dim() - 1)))

    def training_margins(
        self, network: Network, pairs: Tensor, context: Tensor | None, mixed: Tensor, scale: Tensor
    ) -> Tensor:
        """See `Prototypes.training_margins`; items and ideal points pass f together."""
        out = self.project(network, torch.cat([pairs, (mixed @ network["prototypes"])[:, :, None]], 2), scale)
        distance: Tensor = torch.linalg.vector_norm(out[:, :, :2] - out[:, :, 2:], dim=-1)
        return distance[..., 1] - distance[..., 0]

    def loss(self, margin: Tensor) -> Tensor:
        """Hinge with margin 1."""
        return (1 - margin).relu()

    def item_features(self, items: Items) -> Tensor:
        """f(e), [m, width]."""
        network = unstacked(self.network)
        self.require_dim(items, network["f.0.weight"].shape[-1])
        return self.project(network, items.embedding.to(network["prototypes"].dtype)[None])[0]

    def user_vectors(self, network: Mapping[str, Tensor], mixed: Tensor) -> Tensor:
        """The ideal points, [u, width]."""
        return self.project(network, (mixed @ network["prototypes"][0])[None])[0]

    def rate_items(self, network: Mapping[str, Tensor], features: Tensor, user: Tensor) -> Tensor:
        """Minus the distance to the ideal point."""
        distance: Tensor = torch.linalg.vector_norm(features - user, dim=-1)
        return -distance

    def fold(self, tensors: Network, scale: Tensor) -> None:
        """The first layer takes raw embeddings, and the prototypes become such."""
        tensors["f.0.weight"] *= scale
        tensors["prototypes"] /= scale

    def parameters_for(self, dim: int) -> ParameterCount:
        """f and K prototypes (2,631,168 for K = 2 and width 512 at d = 4096), and K logits per user."""
        return ParameterCount(_size(dim, self.width or dim) + self.prototypes * dim, self.prototypes)


class PALB(Prototypes):
    """PAL, variant B: ideal points that depend on the prompt (Chen et al. 2024, arXiv 2406.08469).

    score = exp(s) · cos(f(e), Σ_k softmax(w_u)_k g_k(p)), with p the embedding of the prompt alone, f and the K
    networks g_k of three linear layers, GELU between them, and a learned scale exp(s) of at most 100, which starts at
    1/0.07. A choice costs −log σ(margin).

    scale_rate: step size of s.
    weight_rate: step size of the users' logits.
    activation: between the layers.
    dropout: share of each hidden layer's numbers that are 0 in an update, the others growing by 1/(1 − dropout).
    residual: adds the embedding to f's output, and the prompt to that of g_k where prompts are as wide.
    bound: weight of what is added to an update's loss: by how much the lengths of its choices' ideal points
        Σ_k softmax(w_u)_k g_k(p) exceed `longest`, summed over choices.
    longest: see above.
    decoupled: see `Prototypes`.
    The others: see `Prototypes`.
    """

    later_parameters = ("activation", "dropout", "residual", "bound", "longest", "decoupled")

    def __init__(
        self,
        *,
        prototypes: Count = 2,
        width: Steps = 512,
        epochs: Count = 4,
        pairs_per_update: Count = 32,
        rate: Positive = 1e-4,
        decay: NonNegative = 0.01,
        weight_rate: Positive = 5e-3,
        scale_rate: Positive = 0.1,
        adapt_rate: Positive = 5e-3,
        adapt_epochs: Steps = 20,
        adapt_batch: Count = 4,
        input_scale: InputScale = "rms",
        activation: Activation = "gelu",
        dropout: Below1 = 0.0,
        residual: bool = False,
        bound: NonNegative = 0.0,
        longest: Positive = 4.0,
        decoupled: bool = False,
    ) -> None:
        self.prototypes = prototypes
        self.width = width
        self.epochs = epochs
        self.pairs_per_update = pairs_per_update
        self.rate = rate
        self.decay = decay
        self.weight_rate = weight_rate
        self.scale_rate = scale_rate
        self.adapt_rate = adapt_rate
        self.adapt_epochs = adapt_epochs
        self.adapt_batch = adapt_batch
        self.input_scale = input_scale
        self.activation = activation
        self.dropout = dropout
        self.residual = residual
        self.bound = bound
        self.longest = longest
        self.decoupled = decoupled

    def unsupported(self, data: Comparisons) -> str | None:
        """Prompts must have embeddings of their own, and the residual needs f to be as wide as the embeddings."""
        if data.items.context is None:
            return NO_CONTEXT
        return too_narrow(self.width, data.items.dim) if self.residual else None

    def pace(self, name: str) -> float:
        """The step size of the tensor `name` of the network."""
        return self.scale_rate if name == "logit_scale" else super().pace(name)

    def start(self, dim: int, context_dim: int | None, rng: Rng) -> Network:
        """f and g_k with torch's default weights, and s."""
        if context_dim is None:
            raise InputError(NO_CONTEXT)
        rng, width = rng.child("network"), self.width or dim
        network = _three_layers("f", dim, width, rng)
        for k in range(self.prototypes):
            network |= _three_layers(f"g{k}", context_dim, width, rng)
        network["logit_scale"] = torch.tensor(math.log(1 / 0.07))
        return network

    def through(
        self,
        network: Mapping[str, Tensor],
        name: str,
        x: Tensor,
        scale: Tensor | None = None,
        drop: Drop | None = None,
    ) -> Tensor:
        """The network `name` on x [S, ..., n], which was multiplied by `scale` [S]; `drop` acts on hidden layers."""
        act = relu if self.activation == "relu" else gelu
        out = _through(network, name, x, (lambda hidden: act(drop(hidden))) if drop else act)
        if not self.residual or x.shape[-1] != out.shape[-1]:
            return out
        return out + (x if scale is None else x / scale.view(-1, *[1] * (x.dim() - 1)))

    def aims(
        self, network: Mapping[str, Tensor], context: Tensor, scale: Tensor | None = None, drop: Drop | None = None
    ) -> Tensor:
        """g_k(p) [S, ..., K, width] of prompts [S, ..., c]."""
        return torch.stack([self.through(network, f"g{k}", context, scale, drop) for k in range(self.prototypes)], -2)

    def training_margins(
        self, network: Network, pairs: Tensor, context: Tensor | None, mixed: Tensor, scale: Tensor
    ) -> Tensor:
        """See `Prototypes.training_margins`; without dropout."""
        return self._margins(network, pairs, context, mixed, scale, None)[0]

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
        """See `Prototypes.training_terms`."""
        drop = dropping(self.dropout, draws) if self.dropout else None
        margin, ideal = self._margins(network, pairs, context, mixed, scale, drop)
        if not self.bound:
            return margin, margin.new_zeros(len(margin))
        beyond = (torch.linalg.vector_norm(ideal, dim=-1) - self.longest).relu()
        return margin, self.bound * (beyond * mask).sum(-1)

    def _margins(
        self,
        network: Network,
        pairs: Tensor,
        context: Tensor | None,
        mixed: Tensor,
        scale: Tensor,
        drop: Drop | None,
    ) -> tuple[Tensor, Tensor]:
        """The margins [S, R], and the ideal points [S, R, width] at their own length."""
        assert context is not None
        ideal = (mixed[..., None] * self.aims(network, context, scale, drop)).sum(-2)
        aim = normalize(ideal, dim=-1)
        cosine = (normalize(self.through(network, "f", pairs, scale, drop), dim=-1) * aim[:, :, None]).sum(-1)
        return (cosine[..., 0] - cosine[..., 1]) * _sharpness(network)[:, None], ideal

    def loss(self, margin: Tensor) -> Tensor:
        """Cross-entropy of two options."""
        return softplus(-margin)

    def item_features(self, items: Items) -> Tensor:
        """f(e) at length 1 and the g_k(p), side by side: [m, (1 + K)·width]."""
        network = unstacked(self.network)
        self.require_dim(items, network["f.0.weight"].shape[-1])
        if items.context is None:
            raise InputError(NO_CONTEXT, hint="use the encoder the method was fitted with")
        dtype = network["f.0.weight"].dtype
        item = normalize(self.through(network, "f", items.embedding.to(dtype)[None]), dim=-1)
        return torch.cat([item, self.aims(network, items.context.to(dtype)[None]).flatten(-2)], -1)[0]

    def user_vectors(self, network: Mapping[str, Tensor], mixed: Tensor) -> Tensor:
        """The weights themselves, [u, K]."""
        return mixed

    def rate_items(self, network: Mapping[str, Tensor], features: Tensor, user: Tensor) -> Tensor:
        """Scaled cosine of the item and the user's aim for its prompt."""
        parts = features.view(*features.shape[:-1], 1 + self.prototypes, -1)
        aim = normalize((user[..., None] * parts[..., 1:, :]).sum(-2), dim=-1)
        cosine: Tensor = (parts[..., 0, :] * aim).sum(-1)
        return cosine * _sharpness(network)[0]

    def fold(self, tensors: Network, scale: Tensor) -> None:
        """The first layers take raw embeddings."""
        for name in ("f", *(f"g{k}" for k in range(self.prototypes))):
            tensors[f"{name}.0.weight"] *= scale

    def parameters_for(self, dim: int) -> ParameterCount:
        """For prompt embeddings as wide as the others: K + 1 networks and s (7,868,929 for K = 2 and width 512 at
        d = 4096), and K logits per user.
        """
        return ParameterCount((1 + self.prototypes) * _size(dim, self.width or dim) + 1, self.prototypes)


def _three_layers(name: str, inputs: int, width: int, rng: Rng) -> Network:
    first = linear_layer(f"{name}.0", inputs, width, rng)
    return first | linear_layer(f"{name}.1", width, width, rng) | linear_layer(f"{name}.2", width, width, rng)


def _through(network: Mapping[str, Tensor], name: str, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    return layers(network, [f"{name}.{i}" for i in range(3)], x, activation)


def too_narrow(width: int, dim: int) -> str | None:
    """Why a residual around layers of `width` (0: as wide as embeddings) is not possible, or None where it is."""
    return None if width in (0, dim) else f"the residual needs embeddings of width {width}, these have {dim}"


def dropping(share: float, draws: Sequence[torch.Generator]) -> Drop:
    """Sets a share of the numbers of x [S, ...] to 0, split s's drawn from `draws[s]`; the others grow to make up."""

    def drop(x: Tensor) -> Tensor:
        kept = torch.stack([torch.rand(x.shape[1:], generator=draw) >= share for draw in draws])
        return x * kept.to(x) / (1 - share)

    return drop


def _sharpness(network: Mapping[str, Tensor]) -> Tensor:
    """exp(s), at most 100, [S]."""
    return network["logit_scale"].exp().clamp_max(LARGEST_SCALE)


def _size(inputs: int, width: int) -> int:
    """Weights and biases of three layers."""
    return (inputs + 1) * width + 2 * (width + 1) * width
