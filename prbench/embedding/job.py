"""What embedding a data set rests on: its texts, its encoder, and the store that holds what was encoded before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.files import home
from prbench.comparisons import PreferenceData
from prbench.embedding.store import EmbeddingStore
from prbench.encoders import build_encoder
from prbench.encoders.base import (
    Encoder,
    EncodingWork,
    ModelUnavailableError,
    Text,
    TextError,
    keys_of,
)
from prbench.encoders.folder_names import plain_names
from prbench.registry.schema import EncoderEntry


def store_folder(family: str, encoder: str) -> Path:
    """Where the embeddings of a data family by the encoder entry of that name are kept."""
    return home() / "embeddings" / family / encoder


SETTINGS = ("dtype", "pooling", "form", "system", "template_loss", "engine", "attention")


@dataclass(eq=False)
class EmbeddingJob:
    """A data set, its encoder, and the store of its embeddings."""

    data: PreferenceData
    entry: EncoderEntry
    # None where the model is not here, but its embeddings are.
    encoder: Encoder | None
    unavailable: ModelUnavailableError | None
    store: EmbeddingStore
    keys: list[bytes]

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all keys."""
        return hashlib.sha256(b"".join(self.keys)).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """How the embeddings are made, as the store's manifest says."""
        return {name: self.store.encoder[name] for name in SETTINGS if name in self.store.encoder}

    def require_encoder(self) -> Encoder:
        """The encoder. Raises InputError where the model is not here."""
        if self.encoder is None:
            raise self.unavailable or RuntimeError("no encoder")
        return self.encoder

    def plan(self, rows: Sequence[int], batch: int | None = None) -> EncodingWork:
        """What encoding the texts of `rows` takes. Raises InputError, with the item's row, for one that cannot be."""
        encoder = self.require_encoder()
        try:
            return encoder.plan([self.text(row) for row in rows], at_once=batch)
        except TextError as error:
            raise self.cannot_encode(rows[error.row], error.why) from error

    def first_rows(self) -> list[int]:
        """The first row of each distinct text, ascending."""
        first: dict[bytes, int] = {}
        for row, key in enumerate(self.keys):
            first.setdefault(key, row)
        return list(first.values())

    def missing(self) -> list[int]:
        """The first row of each distinct text that is not stored, ascending."""
        return [row for row in self.first_rows() if self.keys[row] not in self.store.known]

    def text(self, row: int) -> Text:
        """The context and response of an item."""
        return self.data.contexts[self.data.item_context[row]], self.data.responses[row]

    def cannot_encode(self, row: int, why: str) -> InputError:
        """The error for the item of a row."""
        return InputError(
            f"item {row} of {self.data.name} cannot be encoded by {self.called}: {why}",
            hint="take an encoder that reads it, or import the data without it",
        )

    @property
    def called(self) -> str:
        """What the encoder is called in messages: of a folder its own name."""
        return plain_names({self.entry.name: self.entry.title})[self.entry.name]


def open_job(
    data: PreferenceData, entry: EncoderEntry, family: str | None, device: str, token_budget: int = 0
) -> EmbeddingJob:
    """The encoder of an entry and its store for `data`, without its weights. Raises InputError as `embed` does."""
    folder = store_folder(family or data.name, entry.name)
    encoder, unavailable = None, None
    try:
        encoder = build_encoder(entry, device=device)
        if token_budget and not encoder.packs:
            raise InputError(f"{entry.name} does not pack tokens", hint="leave --token-budget out")
        encoder.token_budget = token_budget
    except ModelUnavailableError as error:
        unavailable = error
        store = _store_without_model(folder, entry, error)
    else:
        existing = EmbeddingStore.open_or_none(folder)
        if existing is not None:
            encoder.adopt(existing.encoder)
        store = EmbeddingStore.open_for(folder, encoder.fingerprint())
    job = EmbeddingJob(data, entry, encoder, unavailable, store, [])
    try:
        job.keys = keys_of(store.encoder, map(job.text, range(len(data.responses))))
    except TextError as error:
        raise job.cannot_encode(error.row, error.why) from error
    return job


def _store_without_model(folder: Path, entry: EncoderEntry, error: ModelUnavailableError) -> EmbeddingStore:
    """The store that this entry's model made elsewhere, where the model itself cannot be had."""
    store = EmbeddingStore.open_or_none(folder)
    if store is None:
        raise error
    recorded = store.encoder
    for option, value in entry.options.items():
        same = recorded.get(option) == value
        if option == "model":
            # A folder goes by its own name, wherever it is.
            same = recorded.get("id") in (value, Path(str(value)).name)
        if not same and option not in ("revision", "end", "form", "copy") and value != "auto":
            raise error
    stderr().print(
        f"{recorded.get('id')} is not here; using the embeddings of revision {recorded.get('revision')} in {folder}"
    )
    return store
