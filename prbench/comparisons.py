"""The data model: items, users' comparisons of them, and the texts they come from.

A *comparison* is one user's choice between two responses in one context. An *item* is a distinct
(context, response). Arrays hold indices: `chosen[i]` and `rejected[i]` are rows of the items, `user[i]` a user
number, `group[i]` the unit (conversation, argument pair, ...) that is never divided between train and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prbench.base import hashing
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.base.texts import canonical_text

if TYPE_CHECKING:
    import torch

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Message(NamedTuple):
    """One chat message."""

    role: str
    content: str


Context = tuple[Message, ...]

# Columns that are compared of every pair before whole embeddings are.
COMPARED_FIRST = 4
ROWS_AT_ONCE = 16_384


def as_context(value: str | Sequence[Mapping[str, str]]) -> Context:
    """A context from a bare string (one user message) or a list of `{"role", "content"}` messages.

    Raises InputError when a message lacks a role or content, or either is not a string.
    """
    if isinstance(value, str):
        return (Message("user", value),)
    messages = []
    for i, message in enumerate(value):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise InputError(f"message {i + 1} needs a 'role' and a 'content', both strings")
        messages.append(Message(role, content))
    return tuple(messages)


@dataclass(frozen=True, eq=False)
class ItemText:
    """The texts of m items: contexts and responses, each held once, and which of them each item has.

    `context_of` and `response_of` [m] are positions in `contexts` and `responses`. `reader` is what answers questions
    about texts where a judge model was chosen (a `prbench.judging.reader.Reader`); None where none was.
    """

    contexts: tuple[Context, ...]
    responses: tuple[str, ...]
    context_of: IntArray
    response_of: IntArray
    reader: object | None = None

    def take(self, index: IntArray) -> ItemText:
        """The texts of the items at `index` [k], in that order; no text is copied."""
        return replace(self, context_of=self.context_of[index], response_of=self.response_of[index])

    def context(self, item: int) -> Context:
        """What an item's response answers."""
        return self.contexts[int(self.context_of[item])]

    def response(self, item: int) -> str:
        """An item's response."""
        return self.responses[int(self.response_of[item])]


@dataclass(frozen=True, eq=False)
class Items:
    """The representation of m items that methods see.

    `embedding` is [m, d]; `reward` [m] is the encoder's own reward where it has one; `head` [d] is the vector
    of its linear reward head; `length` [m] the number of characters of the response; `identity` [m] tells equal
    items apart from different ones across subsets. `context` [m, c] is the embedding of the item's context alone,
    without the response, where the encoder reads it alone. `text` holds the items' texts where the data have any;
    items that only a judge model reads have embeddings of width 0.
    """

    embedding: torch.Tensor
    reward: torch.Tensor | None = None
    head: torch.Tensor | None = None
    length: torch.Tensor | None = None
    identity: torch.Tensor | None = None
    context: torch.Tensor | None = None
    text: ItemText | None = None

    def __len__(self) -> int:
        return int(self.embedding.shape[0])

    @property
    def dim(self) -> int:
        """d, the width of the embedding."""
        return int(self.embedding.shape[1])

    def take(self, index: IntArray) -> Items:
        """The items at `index` [k], in that order."""
        import torch

        where = torch.from_numpy(np.ascontiguousarray(index))

        def pick(column: torch.Tensor | None) -> torch.Tensor | None:
            return None if column is None else column[where]

        return Items(
            embedding=self.embedding[where],
            reward=pick(self.reward),
            head=self.head,
            length=pick(self.length),
            identity=where if self.identity is None else self.identity[where],
            context=pick(self.context),
            text=None if self.text is None else self.text.take(index),
        )


@dataclass(frozen=True, eq=False)
class Comparisons:
    """n comparisons over shared items. All integer columns are int64 [n].

    `row` is the number of the comparison in its data set: stable across splits and subsets. `block`, where the
    data have one, is a unit across users (a debate topic) that a protocol may hold out as a whole. `time`
    orders a user's comparisons where the source tells. `mark` is 0 (train) or 1 (test) where the source has
    its own split.
    """

    items: Items
    user: IntArray
    chosen: IntArray
    rejected: IntArray
    group: IntArray
    row: IntArray
    block: IntArray | None = None
    time: FloatArray | None = None
    mark: IntArray | None = None

    def __len__(self) -> int:
        return int(self.user.shape[0])

    @cached_property
    def users(self) -> IntArray:
        """The distinct users, ascending."""
        return np.unique(self.user)

    def take(self, index: IntArray | NDArray[np.bool_]) -> Comparisons:
        """The comparisons at `index` (positions or a mask), in that order."""
        columns: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[index]
            for name in ("user", "chosen", "rejected", "group", "row", "block", "time", "mark")
        }
        return Comparisons(items=self.items, **columns)

    def of(self, user: int) -> Comparisons:
        """One user's comparisons."""
        return self.take(np.flatnonzero(self.user == user))

    def by_user(self) -> Comparisons:
        """The same comparisons with each user's rows together, users ascending, order within a user kept."""
        return self.take(np.argsort(self.user, kind="stable"))

    @cached_property
    def equal_vectors(self) -> NDArray[np.bool_]:
        """Which comparisons have the same embedding, bit for bit, on both sides: [n].

        Of items without embeddings, it is those with the same response on both sides.
        """
        import torch

        embedding, text = self.items.embedding, self.items.text
        if not self.items.dim and text is not None:
            replies = [[text.response(i) for i in side.tolist()] for side in (self.chosen, self.rejected)]
            return np.array([a == b for a, b in zip(*replies, strict=True)], dtype=bool)
        # Few columns tell nearly all pairs apart, so whole rows are read of few.
        places = np.flatnonzero(self.chosen != self.rejected)
        for columns in (slice(0, COMPARED_FIRST), slice(COMPARED_FIRST, None)):
            pairs = [torch.from_numpy(side[places]) for side in (self.chosen, self.rejected)]
            left, right = (embedding[:, columns].index_select(0, side) for side in pairs)
            places = places[(left == right).all(dim=1).numpy()]
        equal: NDArray[np.bool_] = self.chosen == self.rejected
        equal[places] = True
        return equal

    def differences(self, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        """e(chosen) − e(rejected), [n, d]."""
        import torch

        embedding = self.items.embedding
        found = torch.empty((len(self), self.items.dim), dtype=dtype or embedding.dtype, device=embedding.device)
        # In blocks: with both sides whole there would be three such matrices at a time.
        for part in (slice(i, i + ROWS_AT_ONCE) for i in range(0, len(self), ROWS_AT_ONCE)):
            chosen, rejected = (
                embedding.index_select(0, torch.from_numpy(side[part])) for side in (self.chosen, self.rejected)
            )
            found[part] = chosen.to(found.dtype).sub_(rejected)
        return found


def concatenate(parts: Iterable[Comparisons]) -> Comparisons:
    """Comparisons over the same items, one after another."""
    parts = list(parts)
    if any(part.items is not parts[0].items for part in parts):
        raise ValueError("comparisons over different items cannot be joined")
    columns: dict[str, Any] = {}
    for name in ("user", "chosen", "rejected", "group", "row", "block", "time", "mark"):
        arrays = [getattr(part, name) for part in parts]
        columns[name] = None if any(column is None for column in arrays) else np.concatenate(arrays)
    return Comparisons(items=parts[0].items, **columns)


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of simulated users. Accuracies are expected values over the choice noise, per user [users].

    `ceiling` belongs to the user's own true reward (Bayes-optimal), `floor` to the best single reward shared by
    all users. `utility_margin` [n] is the true reward difference of each
    comparison (chosen minus rejected) before noise. `cluster` [users] is the planted cluster, and `groups` names the
    clusters where they have names. Where it is kept, a user's utility of an item is the product of its `latent`
    coordinates [m, r] with the user's `weights` [users, r], and `prompt` [m] is the prompt that the item answers.
    `quality` [m] is what all users like, where the data have it.
    """

    ceiling: FloatArray
    floor: FloatArray
    utility_margin: FloatArray
    cluster: IntArray
    groups: tuple[str, ...] = ()
    latent: FloatArray | None = None
    weights: FloatArray | None = None
    prompt: IntArray | None = None
    quality: FloatArray | None = None

    def utility(self, user: IntArray, item: IntArray) -> FloatArray:
        """The utilities [n] of `item` [n] to `user` [n]. Raises ValueError where they are not kept."""
        if self.latent is None or self.weights is None:
            raise ValueError("these users' utilities are not kept")
        return np.asarray(np.einsum("nr,nr->n", self.latent[item], self.weights[user]), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class PreferenceData:
    """A data set as a loader returns it: texts (or ready embeddings) and who chose what.

    `user_keys` are the source's own ids of the users, by user number. They may be crowd-platform ids: they are
    used for splits that must match published code, and are never printed and never leave the cache.
    `counts` says what the loader found and dropped, in the order to print it. `attributes` are categories of the
    users, by name and user number; like the keys they never leave the cache, and results hold groups of users alone.
    """

    name: str
    contexts: tuple[Context, ...]
    item_context: IntArray
    responses: tuple[str, ...]
    user: IntArray
    chosen: IntArray
    rejected: IntArray
    group: IntArray
    user_keys: tuple[str, ...] = field(repr=False)
    block: IntArray | None = None
    time: FloatArray | None = None
    mark: IntArray | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    embedded: Items | None = None
    truth: Truth | None = None
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        n, m = len(self.user), self.n_items
        for name in ("chosen", "rejected", "group", "block", "time", "mark"):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise ValueError(f"{name} has {len(column)} rows, user has {n}")
        for name, top in (("chosen", m), ("rejected", m), ("user", len(self.user_keys))):
            column = getattr(self, name)
            if n and (column.min() < 0 or column.max() >= top):
                raise ValueError(f"{name} points outside 0..{top - 1}")
        if n and bool((self.chosen == self.rejected).any()):
            raise ValueError("a comparison has the same item as chosen and rejected")
        for name, values in self.attributes.items():
            if len(values) != self.n_users:
                raise ValueError(f"the attribute {name} has {len(values)} values for {self.n_users} users")

    @property
    def n_items(self) -> int:
        """The number of distinct items."""
        return len(self.embedded) if self.embedded is not None else len(self.responses)

    @property
    def n_users(self) -> int:
        """The number of users."""
        return len(self.user_keys)

    def __len__(self) -> int:
        return int(self.user.shape[0])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever a text, a choice or a user's identity changes."""
        state = hashlib.sha256()
        for piece in hashing.spelled(self.contexts, self.responses):
            state.update(piece)
        for name in ("item_context", "user", "chosen", "rejected", "group", "block", "mark", "time"):
            column = getattr(self, name)
            state.update(name.encode())
            if column is not None:
                hashing.update(state, column)
        state.update(repr(self.user_keys).encode())
        if self.embedded is not None:
            hashing.update(state, self.embedded.embedding.contiguous().numpy())
            if self.embedded.context is not None:
                hashing.update(state, self.embedded.context.contiguous().numpy())
        return state.hexdigest()[:16]

    @cached_property
    def same_item(self) -> IntArray:
        """A number for each item, [m], equal for items that say the same.

        That is the response and the last message of the context, both in the form of `canonical_text`: the same
        question and reply later in another conversation are the same. Of items without texts it is the embeddings.
        """
        numbers: dict[object, int] = {}
        if self.embedded is not None:
            keys: Iterable[object] = hashing.row_digests(_parts(self.embedded))
        else:
            asked = [canonical_text(context[-1].content) if context else "" for context in self.contexts]
            keys = ((asked[c], canonical_text(r)) for c, r in zip(self.item_context, self.responses, strict=True))
        return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, self.n_items)

    @cached_property
    def same_pair(self) -> IntArray:
        """A number for each comparison, [n], equal where the two sides say the same, whichever was chosen."""
        a, b = self.same_item[self.chosen], self.same_item[self.rejected]
        pair = np.minimum(a, b) * (self.n_items + 1) + np.maximum(a, b)
        numbers: IntArray = np.unique(pair, return_inverse=True)[1].reshape(-1).astype(np.int64)
        return numbers

    def regrouped(self, group: IntArray, counts: Mapping[str, int]) -> PreferenceData:
        """The same data with other groups [n] and counts."""
        data = replace(self, group=group, counts=counts)
        # Neither depends on groups, and texts take long to compare.
        data.__dict__.update(same_item=self.same_item, same_pair=self.same_pair)
        return data

    @cached_property
    def text(self) -> ItemText | None:
        """The items' texts, without a reader; None for data that have none."""
        if not self.responses:
            return None
        return ItemText(self.contexts, self.responses, self.item_context, np.arange(self.n_items, dtype=np.int64))

    def comparisons(self, items: Items) -> Comparisons:
        """The comparisons over the given items.

        Raises InputError when the number of items is not this data set's.
        """
        if len(items) != self.n_items:
            raise InputError(
                f"{self.name} has {self.n_items} items, its embeddings have {len(items)}",
                hint=f"run `prbench embed --dataset {self.name}` again",
            )
        return Comparisons(
            items=items,
            user=self.user,
            chosen=self.chosen,
            rejected=self.rejected,
            group=self.group,
            row=np.arange(len(self), dtype=np.int64),
            block=self.block,
            time=self.time,
            mark=self.mark,
        )

    def select_users(self, keep: IntArray) -> PreferenceData:
        """Only the users `keep`, renumbered 0.. in ascending order; items nobody compared are dropped."""
        keep = np.unique(keep)
        return self._selected(np.flatnonzero(np.isin(self.user, keep)), keep)

    def limited(self, most: int) -> PreferenceData:
        """At most `most` comparisons of each user, for a trial run; whole groups drawn at random, the last one cut.

        The result is called NAME[limit=MOST]. What is drawn depends on the data set's name and on the user alone.
        """
        rows: list[IntArray] = []
        counts = np.bincount(self.user, minlength=self.n_users)
        rows_of = np.split(np.argsort(self.user, kind="stable"), np.cumsum(counts)[:-1])
        for user, user_rows in enumerate(rows_of):
            order = Rng("limit", self.name, user).numpy().permutation(np.unique(self.group[user_rows]))
            place = np.argsort(order)[np.searchsorted(np.sort(order), self.group[user_rows])]
            rows.append(user_rows[np.argsort(place, kind="stable")][:most])
        index = np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)
        return replace(self._selected(index, np.unique(self.user[index])), name=f"{self.name}[limit={most}]")

    def _selected(self, index: IntArray, keep: IntArray) -> PreferenceData:
        """The comparisons at `index` [n'], which are of the users `keep`, renumbered 0.. in ascending order."""
        renumbered = np.full(self.n_users, -1, dtype=np.int64)
        renumbered[keep] = np.arange(len(keep))
        used = np.unique(np.concatenate([self.chosen[index], self.rejected[index]]))
        item = np.full(self.n_items, -1, dtype=np.int64)
        item[used] = np.arange(len(used))
        contexts_used = np.unique(self.item_context[used]) if len(self.item_context) else used[:0]
        context = np.full(len(self.contexts), -1, dtype=np.int64)
        context[contexts_used] = np.arange(len(contexts_used))
        rows: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[index]
            for name in ("group", "block", "time", "mark")
        }
        truth = self.truth and Truth(
            self.truth.ceiling[keep],
            self.truth.floor[keep],
            self.truth.utility_margin[index],
            self.truth.cluster[keep],
            self.truth.groups,
            None if self.truth.latent is None else self.truth.latent[used],
            None if self.truth.weights is None else self.truth.weights[keep],
            None if self.truth.prompt is None else self.truth.prompt[used],
            None if self.truth.quality is None else self.truth.quality[used],
        )
        return replace(
            self,
            contexts=tuple(self.contexts[i] for i in contexts_used),
            item_context=context[self.item_context[used]] if len(self.item_context) else self.item_context,
            responses=tuple(self.responses[i] for i in used) if self.responses else (),
            user=renumbered[self.user[index]],
            chosen=item[self.chosen[index]],
            rejected=item[self.rejected[index]],
            user_keys=tuple(self.user_keys[i] for i in keep),
            embedded=None if self.embedded is None else self.embedded.take(used),
            truth=truth,
            attributes={name: tuple(values[i] for i in keep) for name, values in self.attributes.items()},
            **rows,
        )


def _parts(items: Items) -> list[NDArray[np.uint8]]:
    """The bytes of the items' embeddings and, where there are any, of their contexts', [m, bytes] each."""
    import torch

    parts = [part for part in (items.embedding, items.context) if part is not None]
    return [part.detach().cpu().contiguous().view(torch.uint8).numpy() for part in parts]
