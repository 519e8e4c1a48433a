"""Embedding a data set: what the store does not have yet is encoded, the rest is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.console import progress, stderr
from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.comparisons import Items, PreferenceData
from prbench.embedding.job import EmbeddingJob, open_job
from prbench.embedding.store import SHARD_ROWS, EmbeddingStore
from prbench.encoders import OWN
from prbench.encoders.base import (
    Encoded,
    Encoder,
    EncodingWork,
    Part,
    TextError,
    resolved_device,
)
from prbench.encoders.team import Team
from prbench.registry.schema import EncoderEntry

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True, eq=False)
class EmbeddingPlan:
    """What embedding a data set takes: distinct texts, how many are still to be encoded, and the store's folder.

    `folder` is None for data that come with embeddings: nothing is to be encoded then. `settings` are the encoder's
    dtype, pooling, engine and attention, where it has them.
    """

    data: str
    encoder: str
    texts: int
    missing: int
    fingerprint: str
    folder: Path | None
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values."""
        values = asdict(self)
        settings = values.pop("settings")
        return {**values, "folder": str(self.folder or ""), **settings}


def embed(
    data: PreferenceData,
    encoder_entry: EncoderEntry,
    *,
    family: str | None = None,
    device: str = "cpu",
    batch: int | None = None,
    token_budget: int = 0,
    team: Team | None = None,
) -> Items:
    """The items of `data` [m], in the data's order, in the stored precision.

    Texts that the store PRBENCH_HOME/embeddings/<family>/<encoder>/ lacks are encoded with progress and stored in
    shards: `token_budget` tokens at a time by an encoder that packs texts (0: its own choice), `batch` texts at a
    time by another. `family` is the data set's family (default: the data's name); settings of one family share a
    store. Data that come with embeddings have the encoder "own" and are returned as they are. A `team` of processes,
    all of which call this, shares the texts; each process uses its own device.

    Raises InputError for another encoder on such data and for "own" on texts; when the model, the device or a
    shard cannot be used; and, with the item's row, for a text that cannot be encoded or comes out NaN, infinite
    or of the wrong width.
    """
    if (items := _own(data, encoder_entry)) is not None:
        return items
    team = team or Team(resolved_device(device))
    job = open_job(data, encoder_entry, family, team.device, token_budget)
    missing = job.missing()
    # Wait: every process must compute the same list of missing texts before one stores any.
    team.wait()
    if missing:
        _encode(job, team, batch)
    return _items(job)


def plan_embedding(
    data: PreferenceData, encoder_entry: EncoderEntry, *, family: str | None = None, device: str = "cpu"
) -> EmbeddingPlan:
    """What `embed` would do, without loading weights or writing. Raises InputError as `embed` does."""
    name = encoder_entry.name
    if (items := _own(data, encoder_entry)) is not None:
        return EmbeddingPlan(data.name, name, len(items), 0, _own_fingerprint(data), None, {})
    job = open_job(data, encoder_entry, family, device)
    return EmbeddingPlan(
        data=data.name,
        encoder=name,
        texts=len(set(job.keys)),
        missing=len(job.missing()),
        fingerprint=job.fingerprint,
        folder=job.store.folder,
        settings=job.settings,
    )


def embedding_fingerprint(
    data: PreferenceData, encoder_entry: EncoderEntry, *, family: str | None = None, device: str = "cpu"
) -> str:
    """16 hex digits that change with the encoder's fingerprint and with any text of `data`."""
    if _own(data, encoder_entry) is not None:
        return _own_fingerprint(data)
    return open_job(data, encoder_entry, family, device).fingerprint


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


@dataclass(eq=False)
class Section:
    """Some distinct texts of a data set, by their `rows`, that are packed together; those `missing` are read.

    `work` is how: it follows from the rows, whatever is missing.
    """

    rows: list[int]
    missing: set[int]
    work: EncodingWork


def sections_of(job: EmbeddingJob, batch: int | None = None) -> list[Section]:
    """The texts that are to be read, in the packing that reading them at one go had begun or would begin.

    What was stored before this data set was first embedded here is no part of that; where some of it is lost it is
    packed by itself. Raises InputError as `EmbeddingJob.plan`.
    """
    missing = set(job.missing())
    before = job.store.stored_before(job.fingerprint)
    first = job.first_rows()
    sections = []
    for earlier in (False, True):
        rows = [row for row in first if (job.keys[row] in before) is earlier]
        if lacking := missing.intersection(rows):
            work = job.plan(rows, batch)
            if len(lacking) < len(rows):
                work = work.only([place for place, row in enumerate(rows) if row in lacking])
            sections.append(Section(rows, lacking, work))
    return sections


def _encode(job: EmbeddingJob, team: Team, batch: int | None) -> None:
    """Encode the texts that are missing, this process its share of them, and store them."""
    encoder = job.require_encoder()
    # Before the weights are loaded: whatever is wrong with a text shows now.
    missing = job.missing()
    sections = sections_of(job, batch)
    encoder.prepare(team.device)
    with _writer(job, team) as store:
        if team.size == 1 and job.missing() != missing:
            # Another process has stored some in the meantime.
            missing = job.missing()
            sections = sections_of(job, batch)
        if team.leads:
            store.note_stored_before(job.fingerprint, job.keys)
            for section in sections:
                _announce(job, section)
        if team.size > 1:
            sections = [replace(s, work=s.work.share(team.index, team.size)) for s in sections]
        pending = Pending(store, encoder)
        with progress(sections[0].work.unit if sections else "texts") as display:
            total = sum(section.work.total for section in sections)
            bar = _Bar(display, display.add_task(f"embedding {job.data.name} with {job.called}", total=total))
            try:
                for section in sections:
                    section.work.listener = bar.within
                    for part in checked_parts(job, section, team.device):
                        rows = [section.rows[row] for row in part.rows]
                        new = [place for place, row in enumerate(rows) if row in section.missing]
                        pending.add([job.keys[rows[place]] for place in new], those(part.encoded, new))
                        bar.advance(part.done)
            except KeyboardInterrupt:
                pending.flush()
                raise
            pending.flush()
        team.wait()
        if team.leads:
            store.note_data(job.data.name, job.data.fingerprint)
        team.wait()
    job.store.reload()
    if pending.cut:
        stderr().print(f"{pending.cut} of {len(missing)} contexts were cut on the left so that the response fits")


@contextlib.contextmanager
def _writer(job: EmbeddingJob, team: Team) -> Iterator[EmbeddingStore]:
    """The store, held by the process that leads `team`; the others wait until it has it."""
    with contextlib.ExitStack() as stack:
        if team.leads:
            stack.enter_context(job.store.writer(wait=True))
        team.wait()
        if not team.leads:
            stack.enter_context(job.store.writer(follows=True))
        yield job.store


def _announce(job: EmbeddingJob, section: Section) -> None:
    work = section.work
    if work.unit != "tokens" or work.lengths is None:
        return
    places = [place for place, row in enumerate(section.rows) if row in section.missing]
    stderr().print(
        f"{job.data.name}: {len(places):,} texts of {int(work.lengths[places].sum()):,} tokens, packed into"
        f" {work.total:,} ({', '.join(map(str, job.settings.values()))})",
        soft_wrap=True,
    )
    if work.different is not None and work.different < len(section.rows):
        stderr().print(
            f"warning: {len(section.rows):,} distinct texts make {work.different:,} different token sequences: the"
            " others have the embedding of another text",
            soft_wrap=True,
        )


def those(encoded: Encoded, places: list[int]) -> Encoded:
    """Some of the texts; the count of contexts cut is that of all."""
    if len(places) == len(encoded.embedding):
        return encoded
    reward = None if encoded.reward is None else encoded.reward[places]
    return Encoded(encoded.embedding[places], reward, encoded.contexts_cut)


def checked_parts(job: EmbeddingJob, section: Section, device: str) -> Iterator[Part]:
    """What the encoder makes of each text, checked. Raises InputError with the row of the item that is wrong."""
    assert job.encoder is not None
    try:
        for part in section.work.run(device):
            rows, encoded = part.rows, part.encoded
            if len(encoded.embedding) != len(rows) or encoded.embedding.shape[1:] != (job.encoder.dim,):
                shape, wanted = list(encoded.embedding.shape), [len(rows), job.encoder.dim]
                raise job.cannot_encode(section.rows[rows[0]], f"the embeddings have the shape {shape}, not {wanted}")
            if (fault := job.store.fault(encoded.embedding, encoded.reward)) is not None:
                raise job.cannot_encode(section.rows[rows[fault[0]]], fault[1])
            yield part
    except TextError as error:
        raise job.cannot_encode(section.rows[error.row], error.why) from error


class _Bar:
    """One bar over several works, which also moves within a step of theirs."""

    def __init__(self, display: Progress, task: TaskID) -> None:
        self._display, self._task = display, task
        self._done = 0.0

    def within(self, further: float) -> None:
        """So much of the step in progress is done."""
        self._display.update(self._task, completed=self._done + further)

    def advance(self, done: float) -> None:
        """A step is done, which was so much."""
        self._done += done
        self.within(0)


class Pending:
    """Rows on their way to a shard; `cut` counts the contexts cut of all rows so far."""

    def __init__(self, store: EmbeddingStore, encoder: Encoder) -> None:
        self.store = store
        self.encoder = encoder
        self.keys: list[bytes] = []
        self.encoded: list[Encoded] = []
        self.cut = 0

    def add(self, keys: list[bytes], encoded: Encoded) -> None:
        """Take rows up; a shard that is full is stored."""
        self.cut += encoded.contexts_cut
        cut, start = encoded.contexts_cut, 0
        while start < len(keys):
            stop = start + SHARD_ROWS - len(self.keys)
            reward = None if encoded.reward is None else encoded.reward[start:stop]
            self.keys += keys[start:stop]
            self.encoded.append(Encoded(encoded.embedding[start:stop], reward, cut))
            # A part that two shards share is counted with the first.
            cut, start = 0, stop
            if len(self.keys) == SHARD_ROWS:
                self.flush()

    def flush(self) -> None:
        """Store what is here as a shard."""
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


def _items(job: EmbeddingJob) -> Items:
    import torch

    embedding, reward = job.store.gather(job.keys)
    responses = job.data.responses
    width = None if job.encoder is None else job.encoder.context_dim
    return Items(
        embedding=embedding,
        reward=reward,
        head=job.store.head,
        length=torch.tensor([len(response) for response in responses], dtype=torch.int64),
        identity=torch.arange(len(responses)),
        context=None if width is None else embedding[:, :width],
    )
