"""Texts that begin with a description of the user, for methods that read embeddings.

`--encoder ENCODER+METHOD --judge MODEL`: on each split a method that writes personas describes the seen users from
their training choices and the unseen ones from their support, never from test choices; each user's items are then
embedded after that description. An item is one user's, so that every split has items of its own and is run by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.markup import escape

from prbench import registry
from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.comparisons import Comparisons, Context, IntArray, Items, Message, PreferenceData
from prbench.embedding.stage import embed
from prbench.encoders import build_encoder, encoder_entry_for
from prbench.judging.method import TEXT, unpacked
from prbench.judging.prompts import VERSION
from prbench.judging.reader import Reader
from prbench.method import UserStates
from prbench.methods.synthesizeme import SynthesizeMe
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.splits import Split
from prbench.registry import methods as methods_module
from prbench.registry import set_options
from prbench.registry.schema import EncoderEntry, MethodEntry
from prbench.running.encoder_parts import JOINED, EncoderParts
from prbench.running.open_dataset import OpenDataset, adapt_rng, open_datasets

if TYPE_CHECKING:
    from prbench.running.request import RunRequest


def open_described(request: RunRequest, parts: EncoderParts, device: str, judge: Reader | None) -> list[OpenDataset]:
    """The request's data sets, one for each split, with the encoder that reads descriptions first; no call is made.

    Says on stderr how many texts are to be described and embedded. Raises InputError as `open_datasets` and for an
    encoder that embeds context and reply apart, without a judge model, and for shots.
    """
    if judge is None:
        raise InputError(
            f"--encoder {request.encoder}: writing descriptions needs a judge model",
            hint="add --judge, see `prbench list judges`",
        )
    if any(k != ALL_SHOTS for k in request.shots):
        raise InputError(
            f"--encoder {request.encoder}: a description rests on all of a user's support", hint="leave out --shots"
        )
    base = encoder_entry_for(parts.encoder)
    if build_encoder(base, device=device).context_dim is not None:
        raise InputError(
            f"--encoder {request.encoder}: {base.name} embeds the context apart from the reply, and a description "
            "then cancels out in methods that are linear in the embedding",
            hint="take an encoder that reads both as one text, such as minilm-joint",
        )
    entry = registry.get("methods", parts.method)
    changed = set_options.parse_sets(request.overrides).get(parts.method, {})
    settings: list[OpenDataset] = []
    for plain in open_datasets(
        request.datasets,
        encoder=parts.encoder,
        splits=request.splits,
        seed=request.seed,
        device=device,
        split_files=request.split_files,
        limit=request.limit,
    ):
        writer = methods_module.make_method(entry, plain.entry, changed)
        assert isinstance(writer, SynthesizeMe)
        if reason := writer.unsupported(plain.data.comparisons(_read_by(judge, plain.data))):
            raise InputError(f"--encoder {request.encoder} on {plain.entry.name}: {reason}")
        made = [DescribedDataset.of(plain, split, judge, entry, writer) for split in plain.splits]
        counts = ", ".join(f"{each.texts:,}" for each in made)
        said = f"{plain.entry.name}: texts to embed after a description, by split: {counts}"
        stderr().print(escape(said), soft_wrap=True)
        settings += made
    return settings


def _read_by(judge: Reader, data: PreferenceData) -> Items:
    """The items for methods that read texts."""
    text = data.text
    return Items(torch.empty(data.n_items, 0), text=None if text is None else replace(text, reader=judge))


@dataclass(eq=False)
class DescribedDataset(OpenDataset):
    """One split of a data set, whose items are those of a user and come after that user's description."""

    plain: EncoderEntry | None = None
    judge: Reader | None = None
    writer: SynthesizeMe | None = None
    told: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, plain: OpenDataset, split: Split, judge: Reader, entry: MethodEntry, writer: SynthesizeMe
    ) -> DescribedDataset:
        """A split of an open data set."""
        assert isinstance(plain.encoder, EncoderEntry)
        told = {
            "target": entry.target,
            "params": writer.key_parameters,
            "judge": judge.identity,
            "models": writer.further_models(judge),
            "prompts": VERSION,
        }
        encoder = plain.encoder.model_copy(
            update={
                "name": JOINED.join((plain.encoder.name, entry.name, judge.entry.name)),
                "title": f"{plain.encoder.title}, after {entry.title} by {judge.entry.title}",
            }
        )
        return cls(
            plain.entry,
            encoder,
            plain.data,
            digest([plain.embedding_fingerprint, told]),
            None,
            [split],
            plain.device,
            plain=plain.encoder,
            judge=judge,
            writer=writer,
            told=told,
        )

    @cached_property
    def sides(self) -> tuple[IntArray, IntArray, IntArray]:
        """The user [k] and item [k] of each text of this split, and where the sides of its rows [n, 2] are: −1 for
        rows of no part of it.
        """
        data, [split] = self.data, self.splits
        rows = np.concatenate([split.seen_train, split.seen_test, split.unseen_support, split.unseen_test])
        user = np.repeat(data.user[rows], 2)
        item = np.stack([data.chosen[rows], data.rejected[rows]], axis=1).ravel()
        pairs, place = np.unique(np.stack([user, item]), axis=1, return_inverse=True)
        where = np.full((len(data), 2), -1, dtype=np.int64)
        where[rows] = place.reshape(-1, 2)
        return pairs[0], pairs[1], where

    @property
    def texts(self) -> int:
        """How many texts are embedded after a description."""
        return len(self.sides[0])

    def descriptions(self, judge: Reader) -> dict[int, str]:
        """Each user's description by the judge model; it sees training and support choices alone."""
        assert self.writer is not None
        [split] = self.splits
        known = self.data.comparisons(_read_by(judge, self.data)).take(
            np.sort(np.concatenate([split.seen_train, split.unseen_support]))
        )
        users = np.unique(np.concatenate([split.seen, split.unseen]))
        states: UserStates = self.writer.states_of(known, users, adapt_rng(self, split).child("description"))
        found = unpacked(states.tensors[TEXT])
        return {int(user): str(state.get("persona", "")) for user, state in zip(users, found, strict=True)}

    def comparisons(self) -> Comparisons:
        """The rows over the users' own items, with those without a description after them; made at the first call."""
        if self._comparisons is None:
            assert self.plain is not None
            assert self.judge is not None
            user, item, where = self.sides
            told = self.descriptions(self.judge)
            own = _described_data(self.data, user, item, told)
            assert isinstance(self.encoder, EncoderEntry)
            parts = [
                embed(own, self.encoder, family=self.entry.family, device=self.device),
                embed(self.data, self.plain, family=self.entry.family, device=self.device),
            ]
            embedding = torch.cat([part.embedding for part in parts])
            rewards = [part.reward for part in parts if part.reward is not None]
            lengths = [part.length for part in parts if part.length is not None]
            items = Items(
                embedding=embedding if embedding.dtype == torch.float64 else embedding.float(),
                reward=torch.cat(rewards) if len(rewards) == 2 else None,
                head=parts[0].head,
                length=torch.cat(lengths) if len(lengths) == 2 else None,
                identity=torch.arange(len(embedding)),
            )
            # Rows outside the split stay without a description: nothing reads them.
            bare = len(user) + np.stack([self.data.chosen, self.data.rejected], axis=1)
            sides = np.where(where < 0, bare, where)
            rows = self.data.comparisons(_read_by(self.judge, self.data))
            self._comparisons = replace(rows, items=items, chosen=sides[:, 0].copy(), rejected=sides[:, 1].copy())
        return self._comparisons

    def undescribed(self, rows: Comparisons) -> Comparisons:
        """The same rows over items without a description: what is known before any choice of the user is."""
        start = self.texts
        chosen, rejected = self.data.chosen[rows.row] + start, self.data.rejected[rows.row] + start
        return replace(rows, chosen=chosen, rejected=rejected)

    def texts_to_embed(self) -> int:
        """Not known before the descriptions are, which are written where the run is started. Raises InputError."""
        raise InputError(
            f"{self.entry.name}: texts after descriptions are embedded where the run is started",
            hint="leave out --executor",
        )

    def encoder_fingerprint(self) -> dict[str, Any] | None:
        """The encoder's own, and what wrote the descriptions."""
        assert self.plain is not None
        return {**build_encoder(self.plain, device=self.device).fingerprint(), "described": self.told}


def _described_data(data: PreferenceData, user: IntArray, item: IntArray, told: dict[int, str]) -> PreferenceData:
    """Data whose items are `item` [k] for `user` [k], in contexts that begin with the user's description."""
    contexts: dict[Context, int] = {}
    places = []
    for owner, number in zip(user.tolist(), item.tolist(), strict=True):
        context = data.contexts[int(data.item_context[number])]
        if said := told.get(owner, ""):
            context = (Message("system", said), *context)
        places.append(contexts.setdefault(context, len(contexts)))
    nothing = np.empty(0, dtype=np.int64)
    return PreferenceData(
        name=data.name,
        contexts=tuple(contexts),
        item_context=np.array(places, dtype=np.int64),
        responses=tuple(data.responses[number] for number in item.tolist()),
        user=nothing,
        chosen=nothing,
        rejected=nothing,
        group=nothing,
        user_keys=(),
    )


def described_jobs(settings: Sequence[OpenDataset]) -> list[DescribedDataset]:
    """The settings whose texts come after descriptions, each once."""
    found = {id(setting): setting for setting in settings if isinstance(setting, DescribedDataset)}
    return list(found.values())
