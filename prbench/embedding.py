"""Embedding a data set: what the store does not have yet is encoded, the rest is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prbench.comparisons import Items, PreferenceData
from prbench.console import progress, stderr
from prbench.encoders import OWN, build_encoder
from prbench.encoders import encoder_entry_for as encoder_entry_for
from prbench.encoders.base import Encoded, Encoder, ModelUnavailableError, Text, TextError, keys_of, resolved_device
from prbench.entries import EncoderEntry
from prbench.errors import InputError
from prbench.files import digest, home
from prbench.store import SHARD_ROWS, EmbeddingStore


@dataclass(frozen=True, eq=False)
class EmbeddingPlan:
    """What embedding a data set takes: distinct texts, how many are still to be encoded, and the store's folder.

    `folder` is None for data that come with embeddings: nothing is to be encoded then.
    """

    data: str
    encoder: str
    texts: int
    missing: int
    fingerprint: str
    folder: Path | None

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {**asdict(self), "folder": str(self.folder or "")}


def embed(
    data: PreferenceData,
    encoder_entry: EncoderEntry,
    *,
    family: str | None = None,
    device: str = "cpu",
    batch: int | None = None,
) -> Items:
    """The items of `data` [m], in the data's order, in the stored precision.

    Texts that the store PRBENCH_HOME/embeddings/<family>/<encoder>/ lacks are encoded, `batch` at a time with
    progress, and stored in shards. `family` is the data set's family (default: the data's name); settings of one
    family share a store. Data that come with embeddings have the encoder "own" and are returned as they are.

    Raises InputError for another encoder on such data and for "own" on texts; when the model, the device or a
    shard cannot be used; and, with the item's row, for a text that cannot be encoded or comes out NaN, infinite
    or of the wrong width.
    """
    if (own := _own(data, encoder_entry)) is not None:
        return own
    job = _open(data, encoder_entry, family, device)
    if job.missing():
        _encode_missing(job, device, batch)
    return _items(job)


def plan_embedding(
    data: PreferenceData, encoder_entry: EncoderEntry, *, family: str | None = None, device: str = "cpu"
) -> EmbeddingPlan:
    """What `embed` would do, without loading weights or writing. Raises InputError as `embed` does."""
    name = encoder_entry.name
    if (own := _own(data, encoder_entry)) is not None:
        return EmbeddingPlan(data.name, name, len(own), 0, _own_fingerprint(data), None)
    job = _open(data, encoder_entry, family, device)
    return EmbeddingPlan(data.name, name, len(set(job.keys)), len(job.missing()), job.fingerprint, job.store.folder)


def embedding_fingerprint(
    data: PreferenceData, encoder_entry: EncoderEntry, *, family: str | None = None, device: str = "cpu"
) -> str:
    """16 hex digits that change with the encoder's fingerprint and with any text of `data`."""
    if _own(data, encoder_entry) is not None:
        return _own_fingerprint(data)
    return _open(data, encoder_entry, family, device).fingerprint


def _own(data: PreferenceData, entry: EncoderEntry) -> Items | None:
    """The embeddings that the data come with, or None for texts."""
    if (data.embedded is not None) == (entry.name == OWN):
        return data.embedded
    if entry.name == OWN:
        raise InputError(f"{data.name} comes without embeddings", hint="choose one of `prbench list encoders`")
    raise InputError(
        f"{data.name} comes with embeddings and cannot be encoded by {entry.name}", hint="leave --encoder out"
    )


def _own_fingerprint(data: PreferenceData) -> str:
    return digest([OWN, data.fingerprint])


def store_folder(family: str, encoder: str) -> Path:
    """Where the embeddings of a data family by the encoder entry of that name are kept."""
    return home() / "embeddings" / family / encoder


@dataclass(eq=False)
class _Job:
    data: PreferenceData
    entry: EncoderEntry
    # None where the model is not here, but its embeddings are.
    encoder: Encoder | None
    unavailable: ModelUnavailableError | None
    store: EmbeddingStore
    keys: list[bytes]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(self.keys)).hexdigest()[:16]

    def missing(self) -> list[int]:
        """The first row of each distinct text that is not stored, ascending."""
        first: dict[bytes, int] = {}
        for row, key in enumerate(self.keys):
            if key not in self.store.known:
                first.setdefault(key, row)
        return list(first.values())

    def text(self, row: int) -> Text:
        return self.data.contexts[self.data.item_context[row]], self.data.responses[row]

    def cannot_encode(self, row: int, why: str) -> InputError:
        return InputError(f"item {row} of {self.data.name} cannot be encoded by {self.entry.name}: {why}")


def _open(data: PreferenceData, entry: EncoderEntry, family: str | None, device: str) -> _Job:
    folder = store_folder(family or data.name, entry.name)
    encoder, unavailable = None, None
    try:
        encoder = build_encoder(entry, device=device)
    except ModelUnavailableError as error:
        unavailable = error
        store = _store_without_model(folder, entry, error)
    else:
        existing = EmbeddingStore.open_or_none(folder)
        if existing is not None:
            encoder.adopt(existing.encoder)
        store = EmbeddingStore.open_for(folder, encoder.fingerprint())
    job = _Job(data, entry, encoder, unavailable, store, [])
    try:
        job.keys = keys_of(store.encoder, [job.text(row) for row in range(len(data.responses))])
    except TextError as error:
        raise job.cannot_encode(error.row, error.why) from error
    return job


def _store_without_model(folder: Path, entry: EncoderEntry, error: ModelUnavailableError) -> EmbeddingStore:
    """The store that this entry's model made elsewhere, where the model itself cannot be had."""
    store = EmbeddingStore.open_or_none(folder)
    if store is None:
        raise error
    made = store.encoder
    for option, value in entry.options.items():
        same = made.get(option) == value
        if option == "model":
            # A folder goes by its own name, wherever it is.
            same = made.get("id") in (value, Path(str(value)).name)
        if not same and option != "revision" and value != "auto":
            raise error
    stderr().print(
        f"{made.get('id')} is not here; using the embeddings of revision {made.get('revision')} in {folder}"
    )
    return store


def _encode_missing(job: _Job, device: str, batch: int | None) -> None:
    if job.encoder is None:
        raise job.unavailable or RuntimeError("no encoder")
    encoder, device = job.encoder, resolved_device(device)
    encoder.prepare(device)
    step = batch or encoder.texts_at_once
    with job.store.writer() as store:
        pending = _Pending(store, encoder)
        missing = job.missing()
        cut = 0
        with progress() as display:
            task = display.add_task(f"embedding {job.data.name} with {job.entry.name}", total=len(missing))
            start = 0
            try:
                while start < len(missing):
                    rows = missing[start : start + min(step, SHARD_ROWS - pending.rows)]
                    encoded = _encode(job, encoder, rows, device)
                    cut += encoded.contexts_cut
                    pending.add([job.keys[row] for row in rows], encoded)
                    start += len(rows)
                    display.advance(task, len(rows))
            except KeyboardInterrupt:
                pending.flush()
                raise
            pending.flush()
        store.note_data(job.data.name, job.data.fingerprint)
    if cut:
        stderr().print(f"{cut} of {len(missing)} contexts were cut on the left so that the response fits")


def _encode(job: _Job, encoder: Encoder, rows: Sequence[int], device: str) -> Encoded:
    try:
        encoded = encoder.encode([job.text(row) for row in rows], device=device)
    except TextError as error:
        raise job.cannot_encode(rows[error.row], error.why) from error
    if len(encoded.embedding) != len(rows) or encoded.embedding.shape[1:] != (encoder.dim,):
        shape = list(encoded.embedding.shape)
        raise job.cannot_encode(rows[0], f"the embeddings have the shape {shape}, not {[len(rows), encoder.dim]}")
    if (problem := job.store.problem(encoded.embedding, encoded.reward)) is not None:
        raise job.cannot_encode(rows[problem[0]], problem[1])
    return encoded


class _Pending:
    """Rows on their way to a shard."""

    def __init__(self, store: EmbeddingStore, encoder: Encoder) -> None:
        self.store = store
        self.encoder = encoder
        self.keys: list[bytes] = []
        self.encoded: list[Encoded] = []

    @property
    def rows(self) -> int:
        return len(self.keys)

    def add(self, keys: list[bytes], encoded: Encoded) -> None:
        self.keys += keys
        self.encoded.append(encoded)
        if self.rows == SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        import torch

        if not self.keys:
            return
        rewards = [part.reward for part in self.encoded if part.reward is not None]
        self.store.append(
            self.keys,
            torch.cat([part.embedding for part in self.encoded]),
            torch.cat(rewards) if rewards else None,
            head=self.encoder.head(),
            contexts_cut=sum(part.contexts_cut for part in self.encoded),
        )
        self.keys, self.encoded = [], []


def _items(job: _Job) -> Items:
    import torch

    embedding, reward = job.store.gather(job.keys)
    responses = job.data.responses
    own = None if job.encoder is None else job.encoder.context_dim
    return Items(
        embedding=embedding,
        reward=reward,
        head=job.store.head,
        length=torch.tensor([len(response) for response in responses], dtype=torch.int64),
        identity=torch.arange(len(responses)),
        context=None if own is None else embedding[:, :own],
    )
