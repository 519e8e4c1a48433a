"""An encoder without a model: numbers from the hash of a text, and faults on demand."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prbench.comparisons import Context, Message, PreferenceData
from prbench.encoders.base import Encoded, Encoder, Text
from prbench.registry.schema import EncoderEntry

ENCODED: list[Text] = []


class Planted(Encoder):
    """Texts containing "nan", "inf" or "interrupt" bring these; `wait` are seconds per call."""

    id = "planted"
    texts_at_once = 7

    def __init__(
        self,
        *,
        revision: str = "1",
        dim: int = 5,
        made_dim: int = 0,
        has_reward: bool = True,
        dtype: str = "float32",
        wait: float = 0,
    ) -> None:
        self.revision = revision
        self.dim = dim
        self.made_dim = made_dim or dim
        self.has_reward = has_reward
        self.dtype = dtype
        self.wait = wait

    def fingerprint(self) -> dict[str, Any]:
        return {"id": self.id, "revision": self.revision, "dtype": self.dtype}

    def head(self) -> torch.Tensor | None:
        return torch.arange(self.dim) / 3 if self.has_reward else None

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        rows = []
        for text in texts:
            if "interrupt" in text[1]:
                raise KeyboardInterrupt
            ENCODED.append(text)
            row = torch.tensor(list(hashlib.sha256(repr(text).encode()).digest()[: self.made_dim])) / 255
            if "nan" in text[1]:
                row[1] = torch.nan
            rows.append(row)
        time.sleep(self.wait)
        embedding = torch.stack(rows).to(getattr(torch, self.dtype))
        reward = embedding.float().sum(1) if self.has_reward else None
        if reward is not None:
            reward[["inf" in text[1] for text in texts]] = torch.inf
        return Encoded(embedding, reward, contexts_cut=sum("long" in text[1] for text in texts))


class Neighbours(Planted):
    """The last digits of a text's numbers depend on what it is read with."""

    texts_at_once = 5

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        encoded = super().encode(texts, device=device)
        shift = 1e-6 * torch.tensor([len(response) for _, response in texts]).float().mean()
        return Encoded(encoded.embedding + shift, encoded.reward)


def entry(**options: Any) -> EncoderEntry:
    """An entry called "planted"."""
    return EncoderEntry(
        name="planted",
        title="planted",
        target="planted_encoder:Planted",
        licence="",
        homepage="",
        summary="",
        options=options,
    )


def texts_data(responses: Sequence[str], contexts: Sequence[Context] = (), name: str = "toy") -> PreferenceData:
    """One user who prefers each response to the one after it; contexts in turn."""
    contexts = tuple(contexts) or ((Message("user", "Which one?"),),)
    n = len(responses)
    pairs = np.arange(n - 1, dtype=np.int64)
    return PreferenceData(
        name=name,
        contexts=tuple(contexts),
        item_context=np.arange(n, dtype=np.int64) % len(contexts),
        responses=tuple(responses),
        user=np.zeros(n - 1, dtype=np.int64),
        chosen=pairs,
        rejected=pairs + 1,
        group=pairs,
        user_keys=("worker-a",),
    )
