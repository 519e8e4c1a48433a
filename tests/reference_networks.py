"""GPO's and NP's networks built from torch's own modules, and what their tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons
from prbench.contract import population
from prbench.method import Method
from prbench.methods.gpo import GPO
from prbench.methods.neural_process import NP
from prbench.training.networks import NetworkMethod

DIM = 3
RNG = Rng("gpo-np")
SMALL_GPO: dict[str, Any] = {"width": 8, "depth": 2, "epochs": 2}
SMALL_NP: dict[str, Any] = {"width": 16, "epochs": 2}
NETWORKS: list[Any] = [(GPO, SMALL_GPO), (NP, SMALL_NP)]


class ReferenceGPO(nn.Module):
    """The published network, from torch's modules, one user at a time."""

    def __init__(self, dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedder = nn.Sequential(
            nn.Linear(dim + 1, width),
            *(layer for _ in range(3) for layer in (nn.ReLU(), nn.Linear(width, width))),
        )
        one = nn.TransformerEncoderLayer(width, 4, width, dropout=0.0, batch_first=True, norm_first=False)
        self.encoder = nn.TransformerEncoder(one, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, context: torch.Tensor, chosen: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """m and s [n, 2] of targets [n, d] given context items [t, d] with labels `chosen` [t]."""
        label = torch.cat([chosen, torch.zeros(len(target))])[:, None].to(target)
        tokens = self.embedder(torch.cat([torch.cat([context, target]), label], 1))
        mask = torch.full((len(tokens), len(tokens)), -torch.inf, dtype=tokens.dtype)
        mask[:, : len(context)] = 0
        out: torch.Tensor = self.head(self.encoder(tokens[None], mask=mask)[0, len(context) :])
        return out

    def load(self, network: dict[str, torch.Tensor]) -> ReferenceGPO:
        own = {
            "embedder.0.weight": torch.cat([network["input.0.weight"], network["label"][:, None]], 1),
            "embedder.0.bias": network["input.0.bias"],
        }
        for kind in ("weight", "bias"):
            own |= {f"embedder.{2 * i}.{kind}": network[f"input.{i}.{kind}"] for i in (1, 2, 3)}
            own |= {f"head.{2 * i}.{kind}": network[f"head.{i}.{kind}"] for i in (0, 1)}
            for i in range(len(self.encoder.layers)):
                theirs = f"encoder.layers.{i}"
                own[f"{theirs}.self_attn.in_proj_{kind}"] = network[f"{i}.attention.in.{kind}"]
                own[f"{theirs}.self_attn.out_proj.{kind}"] = network[f"{i}.attention.out.{kind}"]
                own[f"{theirs}.linear1.{kind}"] = network[f"{i}.feed.0.{kind}"]
                own[f"{theirs}.linear2.{kind}"] = network[f"{i}.feed.1.{kind}"]
                own[f"{theirs}.norm1.{kind}"] = network[f"{i}.attention-norm.{kind}"]
                own[f"{theirs}.norm2.{kind}"] = network[f"{i}.feed-norm.{kind}"]
        self.to(network["null"].dtype).load_state_dict(own)
        return self


class ReferenceNP(nn.Module):
    """The published network, from torch's modules, for users with equally many choices."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.target = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))
        self.context = nn.Linear(2 * dim, width)
        self.attention = nn.MultiheadAttention(width, 8, 0.1, batch_first=True)
        self.outer = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.decoder = nn.Sequential(
            nn.Linear(2 * width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1, bias=False)
        )

    def encode(self, pairs: torch.Tensor) -> torch.Tensor:
        """z [B, width] of users with choices [B, n, 2, d]."""
        x = self.context(pairs.flatten(2))
        # Also of no choices, as published: the attention then has a gradient of zeros, not none.
        x = self.attention(x, x, x)[0]
        z: torch.Tensor = self.outer(x.sum(1))
        return z

    def forward(self, items: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Scores [n] of items [n, d] for vectors [n, width]."""
        out: torch.Tensor = self.decoder(torch.cat([self.target(items), z], 1))
        return out[:, 0]

    def load(self, network: dict[str, torch.Tensor]) -> ReferenceNP:
        own = {"decoder.0.weight": torch.cat([network["item.weight"], network["latent.weight"]], 1)}
        own["decoder.3.weight"] = network["decoder.1.weight"]
        for kind in ("weight", "bias"):
            own |= {f"target.{2 * i}.{kind}": network[f"target.{i}.{kind}"] for i in (0, 1)}
            own |= {f"outer.{2 * i}.{kind}": network[f"context.{i + 1}.{kind}"] for i in (0, 1)}
            own[f"context.{kind}"] = network[f"context.0.{kind}"]
            own[f"attention.in_proj_{kind}"] = network[f"attention.in.{kind}"]
            own[f"attention.out_proj.{kind}"] = network[f"attention.out.{kind}"]
            own[f"decoder.1.{kind}"] = network[f"norm.{kind}"]
        missing, unexpected = self.to(network["norm.weight"].dtype).load_state_dict(own, strict=False)
        assert (missing, unexpected) == (["decoder.1.running_mean", "decoder.1.running_var"], [])
        return self


def random_network(method: NetworkMethod, seed: int = 0, dim: int = DIM) -> dict[str, torch.Tensor]:
    """Every weight, bias and norm away from its default."""
    draw = Rng("planted", seed).torch()
    made = method.initial(dim, Rng("net", seed))
    return {
        name: (tensor.double() + 0.2 * torch.randn(tensor.shape, generator=draw, dtype=torch.float64))
        for name, tensor in made.items()
    }


def choices(data: Comparisons, user: int) -> torch.Tensor:
    """e(chosen), e(rejected) of a user's comparisons, [n, 2, d]."""
    mine = data.of(user)
    return data.items.embedding[torch.from_numpy(np.stack([mine.chosen, mine.rejected], 1))]


def scores(method: Method, states: Any, data: Comparisons, users: np.ndarray[Any, Any]) -> torch.Tensor:
    """Scores of every item for each of the users, [users, items]."""
    m = len(data.items)
    each = np.repeat(users, m)
    return method.score(states, each, data.items.take(np.tile(np.arange(m), len(users)))).view(len(users), m)


def small(users: int = 4, seed: int = 3, **changes: Any) -> Comparisons:
    return population(users=users, dim=DIM, groups=(2, 4), pairs=(1, 2), seed=RNG.child(seed).seed, **changes)
