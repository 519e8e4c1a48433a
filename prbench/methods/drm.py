"""Heads that nobody trained: principal directions of choices, and random ones as their control."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch.nn.functional import normalize

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Items, concatenate
from prbench.hyperparameters import Count, Positive
from prbench.method import ParameterCount
from prbench.training.reweighting import Total, WeightedHeads, posterior_logits, second_moments

if TYPE_CHECKING:
    from torch import Tensor


class Untrained(WeightedHeads):
    """Unit heads, weighed for each user on scores that are standardised over the user's support.

    A head's score of an item is divided by its sample standard deviation over the 2n items of the user's n choices (1
    where that is 0); the weight of head k is softmax(−L_k / T), with L_k the total of −log σ of its standardised
    margins. The score is the weighted sum of standardised scores.

    Zero shots: nothing is known of any head, and everything is a tie.
    """

    @abstractmethod
    def make_heads(self, train: Comparisons, rng: Rng, device: str) -> Tensor:
        """Unit vectors [K, d]."""

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """Make the heads; nothing is chosen, so `validation` is training data."""
        everything = concatenate([train, validation])
        dtype = torch.float64 if everything.items.embedding.dtype == torch.float64 else torch.float32
        return self.take_heads(self.make_heads(everything, rng, device).to(dtype), everything, rng)

    def cold_weights(self, users: int) -> Tensor:
        """Zeros: everything is a tie."""
        return self.heads_matrix.new_zeros(users, self.width)

    def weigh(self, chosen: Tensor, rejected: Tensor, owner: Tensor, users: int) -> Tensor:
        """softmax(−L_k / T), divided by the scores' standard deviations so that raw scores can be weighed."""
        both, whose = torch.cat([chosen, rejected]), torch.cat([owner, owner])
        count = torch.bincount(whose, minlength=users).to(both)[:, None]
        empty = both.new_zeros(users, both.shape[1])
        mean = empty.index_add(0, whose, both) / count
        spread = (empty.index_add(0, whose, (both - mean[whose]).square()) / (count - 1)).sqrt()
        spread = torch.where(spread > 0, spread, 1.0)
        logits = posterior_logits(
            (chosen - rejected) / spread[owner], owner, users, temperature=self.temperature, total=self.total
        )
        return logits.softmax(-1) / spread


class DRM(Untrained):
    """Decomposed reward models (Luo et al. 2025, arXiv 2502.13131), on frozen embeddings.

    The heads are the principal directions of e(chosen) − e(rejected) over the seen users' choices, the first
    `components` of them, each with its negative. How a user weighs them: see `Untrained`. Nothing is trained, and no
    number is drawn.

    components: principal directions; the embeddings' dimensions where they have fewer.
    centred: whether the mean difference is taken off first, as published. It is the direction in which users agree.
    original_head: adds the encoder's own reward as one more head; only where it has one.
    temperature: T of `Untrained`.
    total: the sum over a user's choices (as the published code) or their mean (as its paper).

    Zero shots: everything is a tie; with `original_head`, that head decides.
    """

    random_start = False

    def __init__(
        self,
        *,
        components: Count = 50,
        centred: bool = True,
        original_head: bool = False,
        temperature: Positive = 1.0,
        total: Total = "sum",
    ) -> None:
        self.components = components
        self.centred = centred
        self.original_head = original_head
        self.temperature = temperature
        self.total = total

    def unsupported(self, data: Comparisons) -> str | None:
        """The encoder's own head must be there where it is asked for."""
        return "the encoder has no reward head" if self.original_head and data.items.reward is None else None

    def make_heads(self, train: Comparisons, rng: Rng, device: str) -> Tensor:
        """The leading eigenvectors of the differences' second moments, and their negatives."""
        _, vectors = torch.linalg.eigh(second_moments(train, device, centred=self.centred))
        leading = vectors.flip(1)[:, : self.components].T
        return torch.cat([leading, -leading])

    @property
    def width(self) -> int:
        """The heads, and the encoder's own where it takes part."""
        return len(self.heads_matrix) + int(self.original_head)

    def cold_weights(self, users: int) -> Tensor:
        """Zeros, but for the encoder's own head."""
        weights = super().cold_weights(users)
        if self.original_head:
            weights[:, -1] = 1.0
        return weights

    def item_features(self, items: Items) -> Tensor:
        """e·Hᵀ and, where it takes part, the encoder's own reward: [m, K]."""
        scores = super().item_features(items)
        if not self.original_head:
            return scores
        assert items.reward is not None, "`unsupported` says so before the fit"
        return torch.cat([scores, items.reward.to(scores)[:, None]], 1)

    def count_heads(self, dim: int) -> int:
        """2·min(components, d)."""
        return 2 * min(self.components, dim)

    def parameters_for(self, dim: int) -> ParameterCount:
        """2·min(components, d) heads of d, and a weight for each per user, one more with `original_head`."""
        heads = self.count_heads(dim)
        return ParameterCount(heads * dim, heads + int(self.original_head))


class RandomHeads(Untrained):
    """Random unit heads under DRM's rule (Luo et al. 2025, arXiv 2502.13131): the control of `DRM`.

    What it reaches is due to weighing alone, since its heads know nothing.

    heads: their number, each a Gaussian vector brought to length 1.
    temperature, total: see `DRM`.
    """

    def __init__(self, *, heads: Count = 100, temperature: Positive = 1.0, total: Total = "sum") -> None:
        self.heads = heads
        self.temperature = temperature
        self.total = total

    def make_heads(self, train: Comparisons, rng: Rng, device: str) -> Tensor:
        """Gaussian vectors at length 1."""
        drawn = torch.randn(self.heads, train.items.dim, generator=rng.child("heads").torch(), dtype=torch.float64)
        return normalize(drawn, dim=-1)

    def count_heads(self, dim: int) -> int:
        """`heads`."""
        return self.heads
