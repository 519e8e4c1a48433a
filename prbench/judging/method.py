"""Base classes of methods that read texts: users' states that hold text, and margins from comparing two replies."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.files import canonical_json
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items, as_context, concatenate
from prbench.judging.backend import Pair, Request
from prbench.judging.prompts import Example, verdict
from prbench.judging.reader import Reader, reader_of
from prbench.judging.verdicts import Judged, margin
from prbench.method import ComparedFeatures, Method, ParameterCount, UserStates

if TYPE_CHECKING:
    from torch import Tensor

TEXT = "text"
NO_TEXTS = "the data have embeddings and no texts"
NO_READER = "it reads texts: add --judge NAME (see `prbench list judges`)"


def packed(values: Sequence[Mapping[str, Any]]) -> Tensor:
    """One JSON object a user as uint8 [u, L]: UTF-8, filled up with zeros."""
    rows = [canonical_json(dict(value)).encode() for value in values]
    table = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.uint8)
    for row, content in zip(table, rows, strict=True):
        row[: len(content)] = np.frombuffer(content, dtype=np.uint8)
    return torch.from_numpy(table)


def unpacked(tensor: Tensor) -> list[dict[str, Any]]:
    """What `packed` packed. Raises InputError for anything else: a state may come from a file."""
    found = []
    for row in tensor.cpu().numpy():
        try:
            value = json.loads(row.tobytes().rstrip(b"\0").decode())
        except (ValueError, RecursionError) as error:
            raise InputError(f"a user's state is not text that prbench wrote: {error}", hint="adapt again") from error
        if not isinstance(value, dict):
            raise InputError("a user's state is not text that prbench wrote", hint="adapt again")
        found.append(value)
    return found


def pair_at(data: Comparisons, row: int) -> Pair:
    """The pair of a comparison, the chosen reply first."""
    text = data.items.text
    if text is None:
        raise InputError(NO_TEXTS)
    chosen, rejected = int(data.chosen[row]), int(data.rejected[row])
    return Pair(text.context(chosen), text.response(chosen), text.response(rejected))


def stored_pair(pair: Pair) -> dict[str, Any]:
    """A pair as plain values."""
    return {"context": [dict(m._asdict()) for m in pair.context], "chosen": pair.first, "rejected": pair.second}


def restored_pair(value: Mapping[str, Any]) -> Pair:
    """What `stored_pair` made plain, the chosen reply first. Raises InputError for anything else."""
    try:
        sides = str(value["chosen"]), str(value["rejected"])
        return Pair(as_context(value["context"]), *sides)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("a user's state lacks the texts of a choice", hint="adapt again") from error


def shown(pair: Pair, first: bool, reason: str = "") -> Example:
    """A choice as an example: the chosen reply comes first or second."""
    return Example(pair if first else Pair(pair.context, pair.second, pair.first), first, reason)


class TextMethod(Method):
    """A method that reads texts through the judge model of its items. Nothing that it learns is numbers."""

    reads_text: ClassVar[bool] = True
    # Whether it asks for texts of several tokens.
    needs_writing: ClassVar[bool] = False
    # Whether a user's choices reach the judge model.
    personal: ClassVar[bool] = True
    # Hyper-parameters that name a further judge model, "" for the one that judges; such a model writes texts.
    second_models: ClassVar[tuple[str, ...]] = ()

    _seen: UserStates | None = None
    _restored = False

    def unsupported(self, data: Comparisons) -> str | None:
        """Texts are needed, and a judge model that can do what the method asks for."""
        if data.items.text is None:
            return NO_TEXTS
        if data.items.text.reader is None:
            return NO_READER
        reader = reader_of(data.items)
        if self.personal and not reader.backend.reads_prompts:
            return f"{reader.entry.name} holds verdicts that do not depend on the user: only judge can use them"
        writers = [reader.second(str(getattr(self, parameter))) for parameter in self.second_models]
        for each in [reader, *writers] if self.needs_writing else writers:
            if not each.backend.writes:
                return f"{each.entry.name} writes no texts"
        return None

    def further_models(self, reader: Reader) -> dict[str, Any]:
        """What identifies the further judge models that hyper-parameters name, by parameter.

        Raises InputError for one that is not known.
        """
        named = {parameter: str(getattr(self, parameter)) for parameter in self.second_models}
        return {parameter: reader.second(name).identity for parameter, name in named.items() if name}

    @abstractmethod
    def states_of(self, support: Comparisons, users: IntArray, rng: Rng) -> UserStates:
        """The states of `users` from their choices in `support`; each depends on that user's rows alone."""

    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """The seen users' states, from all of their choices: nothing is chosen on validation choices."""
        train = concatenate([train, validation])
        self._seen = self.states_of(train, train.users, rng.child("adapt"))
        return self

    def seen_users(self) -> UserStates:
        """See `Method.seen_users`."""
        self._require_fitted()
        return self._seen if self._seen is not None else UserStates(np.empty(0, dtype=np.int64))

    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """See `Method.adapt_unseen`."""
        self._require_fitted()
        return self.states_of(support, support.users if users is None else np.unique(users), rng)

    def _require_fitted(self) -> None:
        if self._seen is None and not self._restored:
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit_seen first")

    def parameter_count(self) -> ParameterCount:
        """No numbers are fitted; a user's state is text, counted in bytes of the longest one."""
        self._require_fitted()
        tensors = self._seen.tensors if self._seen is not None else {}
        return ParameterCount(0, sum(int(tensor.shape[1]) for tensor in tensors.values()))

    def learned(self) -> dict[str, Tensor]:
        """Nothing."""
        self._require_fitted()
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Method.restore`."""
        self._restored = True
        return self

    def item_features(self, items: Items) -> Tensor:
        """None: what is read is text."""
        return torch.zeros(len(items), 0)


class PairwiseMethod(TextMethod):
    """A method whose margins come from comparing two replies, in both orders."""

    pairwise: ClassVar[bool] = True

    @abstractmethod
    def requests(self, state: Mapping[str, Any], pairs: Sequence[Pair], items: Items) -> list[Request]:
        """The question about each pair, in the order in which the pair is given, for one user."""

    def judge(self, states: UserStates, comparisons: Comparisons) -> Judged:
        """The verdicts on every comparison in both orders. Two replies that are the same text are not asked about."""
        reader = reader_of(comparisons.items)
        owner = states.positions(comparisons.user).tolist()
        known = unpacked(states.tensors[TEXT]) if TEXT in states.tensors else [{} for _ in range(len(states))]
        pairs = [pair_at(comparisons, row) for row in range(len(comparisons))]
        different = [i for i, pair in enumerate(pairs) if pair.first != pair.second]
        requests: list[Request] = []
        places: list[tuple[int, int]] = []
        by_user: dict[int, list[int]] = {}
        for i in different:
            by_user.setdefault(owner[i], []).append(i)
        for user, rows in by_user.items():
            turned = [Pair(pairs[i].context, pairs[i].second, pairs[i].first) for i in rows]
            both = [*(pairs[i] for i in rows), *turned]
            requests += self.requests(known[user], both, comparisons.items)
            places += [(i, 0) for i in rows] + [(i, 1) for i in rows]
        margins = np.zeros((2, len(pairs)))
        for (i, side), answer in zip(places, reader.ask(requests), strict=True):
            margins[side, i] = margin(answer)
        return Judged(*margins)

    def features_of(self, comparisons: Comparisons) -> ComparedFeatures:
        """Nothing is computed ahead."""
        none = torch.zeros(0, dtype=torch.int64)
        return ComparedFeatures(torch.zeros(0, 0), none, none)

    def margins(
        self, states: UserStates, comparisons: Comparisons, features: ComparedFeatures | None = None
    ) -> Tensor:
        """How far the chosen reply is preferred, [n]: the mean over both orders."""
        return torch.from_numpy(self.judge(states, comparisons).margin.astype(np.float64))

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """Not possible: replies are compared with one another. Raises InputError."""
        raise InputError(f"{type(self).__name__} compares replies and scores none alone", hint="rank them instead")

    def score(self, states: UserStates, user: IntArray, items: Items) -> Tensor:
        """Scores [n] of n items for n users: the mean margin against the other candidates of the same context.

        Candidates of one context and user are compared within this call; equal texts have one score. Raises
        InputError for a context with a single candidate.
        """
        text = items.text
        if text is None:
            raise InputError(NO_TEXTS)
        groups: dict[tuple[int, Any], list[int]] = {}
        for i, owner in enumerate(user.tolist()):
            groups.setdefault((owner, text.context(i)), []).append(i)
        left, right = [], []
        for members in groups.values():
            if len({text.response(i) for i in members}) < 2:
                raise InputError(
                    f"{type(self).__name__} compares replies, and a context has a single candidate",
                    hint="give two or more replies to each context",
                )
            for i, one in enumerate(members):
                left += [one] * (len(members) - i - 1)
                right += members[i + 1 :]
        chosen, rejected = np.array(left, dtype=np.int64), np.array(right, dtype=np.int64)
        none = np.zeros(len(chosen), dtype=np.int64)
        asked = Comparisons(items, user[chosen], chosen, rejected, none, np.arange(len(chosen), dtype=np.int64))
        margin = self.judge(states, asked).margin
        total, count = np.zeros(len(items)), np.zeros(len(items))
        for i, one, other in zip(range(len(chosen)), left, right, strict=True):
            if text.response(one) == text.response(other):
                continue
            total[one] += margin[i]
            total[other] -= margin[i]
            count[[one, other]] += 1
        return torch.from_numpy(total / count)


def plain(pairs: Sequence[Pair]) -> list[Request]:
    """The plain judge's questions: the cold start of methods that only prompt."""
    return [verdict(pair) for pair in pairs]
