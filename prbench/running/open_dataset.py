"""A data set opened with an encoder: comparisons, splits and embeddings of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.markup import escape

from prbench import data as datasets
from prbench import registry
from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items, PreferenceData
from prbench.embedding.stage import embed, plan_embedding
from prbench.embedding.store import EmbeddingStore
from prbench.encoders import OWN, encoder_entry_for
from prbench.judging import judge_entry_for, open_reader, recorded_entry
from prbench.judging.prompts import VERSION
from prbench.judging.reader import Budget, Reader
from prbench.method import Method
from prbench.protocol import splits
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.properties import properties
from prbench.protocol.repeats import repeats_note
from prbench.protocol.samples import sampled
from prbench.protocol.selection import fit_rng
from prbench.protocol.splits import Split
from prbench.registry.schema import DatasetEntry, EncoderEntry, JudgeEntry, ProtocolEntry, TestSample
from prbench.running import prerequisites
from prbench.running.judged import CallNotes
from prbench.sharing import split_files as split_files_module
from prbench.training.text_method import TrainedTextMethod

if TYPE_CHECKING:
    from rich.progress import Progress

    from prbench.results.claims import Claims
    from prbench.results.record import PlannedRecord


@dataclass(eq=False)
class OpenDataset:
    """A data set with what reads its texts, an encoder or a judge model, and the splits to run on it.

    `unsampled` are the splits before a sample was taken of them, where one was.
    """

    entry: DatasetEntry
    encoder: EncoderEntry | JudgeEntry
    data: PreferenceData
    embedding_fingerprint: str
    store: Path | None
    splits: list[Split]
    device: str
    reader: Reader | None = None
    unsampled: list[Split] | None = None
    _comparisons: Comparisons | None = None

    @cached_property
    def properties(self) -> dict[str, Any]:
        """What the data are like: see `prbench.protocol.properties`."""
        return properties(self.data)

    def fitting_splits(self, method: type[Method]) -> list[Split]:
        """The splits to fit on: a method that trains for all users learns of those outside a sample too."""
        whole = self.unsampled is not None and issubclass(method, TrainedTextMethod)
        return self.unsampled if whole and self.unsampled is not None else self.splits

    def undescribed(self, rows: Comparisons) -> Comparisons:
        """The rows as they are before anything is known of their users: the same ones, unless texts tell of users."""
        return rows

    @property
    def embedded(self) -> bool:
        """Whether the comparisons are in memory, with embeddings."""
        return self._comparisons is not None

    def comparisons(self) -> Comparisons:
        """The comparisons with their embeddings, made at the first call."""
        if self._comparisons is None and self.reader is not None:
            self._comparisons = self.data.comparisons(self._read(self.reader))
        if self._comparisons is None:
            assert isinstance(self.encoder, EncoderEntry)
            items = embed(self.data, self.encoder, family=self.entry.family, device=self.device)
            rows = torch.arange(len(items)) if items.identity is None else items.identity
            floats = items.embedding if items.embedding.dtype == torch.float64 else items.embedding.float()
            items = replace(items, embedding=floats, identity=rows, text=self.data.text)
            self._comparisons = self.data.comparisons(items)
        return self._comparisons

    def encoder_fingerprint(self) -> dict[str, Any] | None:
        """What made the embeddings, as their store says, or the judge model's identity; None for data that come with
        embeddings.
        """
        if self.reader is not None:
            return self.reader.identity
        return None if self.store is None else EmbeddingStore.open(self.store).encoder

    def _read(self, reader: Reader) -> Items:
        """The items for methods that read texts: no embeddings, and the judge model beside the texts."""
        text, rows = self.data.text, torch.arange(self.data.n_items)
        if text is None:
            return Items(torch.empty(self.data.n_items, 0), identity=rows)
        length = torch.tensor([len(reply) for reply in text.responses], dtype=torch.int64)
        return Items(torch.empty(len(length), 0), length=length, identity=rows, text=replace(text, reader=reader))

    def texts_to_embed(self) -> int:
        """How many distinct texts have no embedding in the store yet."""
        if self.embedded or self.reader is not None or not isinstance(self.encoder, EncoderEntry):
            return 0
        plan = plan_embedding(self.data, self.encoder, family=self.entry.family, device=self.device)
        return plan.missing

    def forget(self) -> None:
        """Let the embeddings go."""
        self._comparisons = None


class InMemory:
    """The one data set whose embeddings are in memory while a display shows how far the work is."""

    def __init__(self, display: Progress, claims: Claims | None = None) -> None:
        self._display = display
        self._claims = claims
        self._setting: OpenDataset | None = None

    def take(self, setting: OpenDataset) -> Comparisons:
        """The comparisons of a data set, embedded if they are not; those of the one before are let go."""
        if self._setting is not None and self._setting is not setting:
            self._setting.forget()
        self._setting = setting
        if not setting.embedded:
            # The embedding stage has a progress bar of its own.
            self._display.stop()
            # Programs that share the results share the embeddings: one makes them, the others wait for it.
            with self._claims.alone("embedding") if self._claims else contextlib.nullcontext():
                setting.comparisons()
            self._display.start()
        return setting.comparisons()


def support_of(setting: OpenDataset, split: Split, k: int) -> IntArray:
    """The unseen users' support rows at `k` shots, `ALL_SHOTS` for all there are."""
    return split.unseen_support if k == ALL_SHOTS else splits.shots(setting.data, split, k)


def adapt_rng(setting: OpenDataset, split: Split, restart: int = 0) -> Rng:
    """The stream that adaptation on a split draws from, after a fit from one of its random starts."""
    return fit_rng(setting.data, split, restart).child("adapt")


def open_dataset(
    name: str,
    encoder: str | None,
    device: str,
    draw: Callable[[PreferenceData, DatasetEntry], list[Split]],
    *,
    protocol: ProtocolEntry | None = None,
    limit: int | None = None,
) -> OpenDataset:
    """A data set with its encoder and the splits that `draw` gives; nothing is embedded yet.

    `protocol` takes the place of the entry's. With a `limit` of comparisons for each user the data set has another
    name, which every row of its results shows.
    """
    entry = registry.get("datasets", name)
    entry = entry.model_copy(update={"protocol": protocol}) if protocol else entry
    data = datasets.load(entry)
    if limit:
        data = data.limited(limit)
        entry = entry.model_copy(update={"name": data.name})
    chosen = encoder_entry_for(OWN if data.embedded is not None and encoder is None else encoder or entry.encoder)
    embedding = plan_embedding(data, chosen, family=entry.family, device=device)
    return OpenDataset(entry, chosen, data, embedding.fingerprint, embedding.folder, draw(data, entry), device)


def open_judged(
    name: str,
    judge: Reader,
    sample: TestSample | None,
    device: str,
    drawing: Drawing,
    data: PreferenceData | None = None,
) -> OpenDataset:
    """A data set with a judge model and its splits, cut down to a sample where there is one.

    `sample` replaces the entry's. The judge model stands where an encoder would in a result's key and folder. `data`
    spares loading it again.
    """
    entry = registry.get("datasets", name)
    protocol = drawing.protocol or entry.protocol
    if sample is not None:
        protocol = protocol.model_copy(update={"test_sample": None if sample == TestSample() else sample})
    entry = entry.model_copy(update={"protocol": protocol})
    data = data or datasets.load(entry)
    whole = drawn = drawing.draw(data, entry)
    if protocol.test_sample is not None:
        drawn = [sampled(data, split, protocol.test_sample) for split in drawn]
    fingerprint = digest({"judge": judge.identity, "prompts": VERSION})
    return OpenDataset(entry, judge.entry, data, fingerprint, None, drawn, device, judge, whole)


def open_judge(name: str, device: str, budget: Budget | None = None) -> Reader:
    """The judge model called `name`. Raises InputError as `prbench.judging.judge_entry_for`."""
    reader = open_reader(judge_entry_for(name), device=device, budget=budget)
    if reader.backend.reads_prompts and not reader.backend.instant:
        reader.watch = CallNotes(reader.entry.name, reader.entry.currency)
    return reader


def open_recorded(
    record: PlannedRecord, where: Path, device: str, drawing: Drawing, *, name: str | None = None
) -> OpenDataset:
    """The data set of a judge model's cell, or the one called `name`, read by the judge model that the cell names.

    Raises InputError where that judge model is not the same here.
    """
    sample = record.protocol.test_sample or TestSample()
    reader = open_reader(recorded_entry(record.encoder_entry, where), device=device)
    return open_judged(name or record.dataset, reader, sample, device, drawing)


def open_datasets(
    names: Sequence[str],
    *,
    encoder: str | None,
    splits: int | None,
    seed: int,
    device: str,
    split_files: Path | None = None,
    limit: int | None = None,
) -> list[OpenDataset]:
    """The data sets with the splits that results are reported on, drawn or read from files.

    Raises InputError as `plan`, where split files are to serve several data sets, and, naming everything at once,
    where files or models are missing and out of reach.
    """
    prerequisites.require([prerequisites.prerequisites(name, encoder) for name in names])
    drawn = drawing(names, splits, seed, split_files)
    return [open_dataset(name, encoder, device, drawn.draw, protocol=drawn.protocol, limit=limit) for name in names]


class Drawing(NamedTuple):
    """What gives the splits that results are reported on, and the protocol that takes the place of the entry's."""

    draw: Callable[[PreferenceData, DatasetEntry], list[Split]]
    protocol: ProtocolEntry | None = None


def drawing(names: Sequence[str], count: int | None, seed: int, split_files: Path | None = None) -> Drawing:
    """Splits read from files where these are given, else `count` drawn ones, or as many as the entry says.

    Raises InputError where split files are to serve several data sets.
    """
    if split_files is not None:
        if len(names) > 1:
            raise InputError(
                f"--split-files {split_files}: split files are of one data set, and {len(names)} are named",
                hint="run each data set with its own split files",
            )
        files = split_files_module.read_folder(split_files)
        return Drawing(lambda data, _: files.splits(data), files.protocol)

    def reported(data: PreferenceData, entry: DatasetEntry) -> list[Split]:
        return reported_splits(data, entry, count or entry.protocol.splits, seed)

    return Drawing(reported)


def reported_splits(data: PreferenceData, entry: DatasetEntry, count: int, seed: int) -> list[Split]:
    """The first `count` splits of the protocol; says on stderr what repeats. Raises InputError for too many."""
    if count > splits.TUNING_FROM:
        raise InputError(
            f"{entry.name}: {count:,} splits reach into those from number {splits.TUNING_FROM:,} on, which are for "
            "tuning and never reported",
            hint=f"--splits {splits.TUNING_FROM} is the most",
        )
    drawn = splits.draw_splits(data, entry.protocol, count, seed=seed)
    for said in (repeats_note(data), splits.repeated_draws(entry.name, drawn, count)):
        if said:
            stderr().print(escape(said), soft_wrap=True)
    return drawn
