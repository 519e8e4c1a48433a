"""PersRM-R1, untrained and reconstructed: what marks replies that a person likes, and which of two has more of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items
from prbench.hyperparameters import Count
from prbench.judging.backend import Pair, Request
from prbench.judging.method import TEXT, PairwiseMethod, packed, pair_at, plain, restored_pair, stored_pair
from prbench.judging.prompts import marked_verdict
from prbench.judging.reader import reader_of
from prbench.method import UserStates


class PersRM(PairwiseMethod):
    """The judge sees `exemplars` replies that the user chose, drawn once, with their contexts; it reasons what marks
    them in at most `reasoning` tokens and judges the pair by that. Without any choice it is the plain judge.

    After PersRM-R1 (arXiv 2508.14076), whose judge prompt, layout of exemplars and output format are not published:
    this is a reconstruction, of the untrained judge alone.
    """

    needs_writing: ClassVar[bool] = True

    def __init__(self, *, exemplars: Annotated[int, Field(ge=1, le=16)] = 3, reasoning: Count = 512) -> None:
        self.exemplars = exemplars
        self.reasoning = reasoning

    def states_of(self, support: Comparisons, users: IntArray, rng: Rng) -> UserStates:
        """Each user's exemplars with their texts."""
        found: list[dict[str, Any]] = []
        for user in users.tolist():
            rows = [row for row, owner in enumerate(support.user.tolist()) if owner == user]
            rows.sort(key=lambda row: rng.child("exemplar", int(support.row[row])).seed)
            pairs = [stored_pair(pair_at(support, row)) for row in rows[: self.exemplars]]
            found.append({"choices": pairs} if pairs else {})
        return UserStates(users, {TEXT: packed(found)})

    def requests(self, state: Mapping[str, Any], pairs: Sequence[Pair], items: Items) -> list[Request]:
        """The pairs after the exemplars, with as many of these as the model's context holds."""
        reader = reader_of(items)
        known = [restored_pair(value) for value in state.get("choices", ())]
        liked = [(pair.context, pair.first) for pair in known]
        if not liked:
            return plain(pairs)
        made = []
        for pair in pairs:
            kept = list(liked)
            asked = marked_verdict(pair, kept, self.reasoning)
            while len(kept) > 1 and not reader.fits(asked):
                kept = kept[1:]
                asked = marked_verdict(pair, kept, self.reasoning)
            reader.tally.shortened += len(kept) < len(liked)
            made.append(asked)
        return made
