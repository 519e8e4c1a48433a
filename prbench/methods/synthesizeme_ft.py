"""SynthesizeMe, fine-tuned (Ryan et al. 2025, arXiv 2506.05598): a reward model that reads a person's description."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Context, IntArray, Items
from prbench.hyperparameters import Count, Natural, NonNegative, Positive, Share
from prbench.judging.adapted import Kind, OwnWeights
from prbench.judging.method import NO_TEXTS, TEXT, packed, pair_at, unpacked
from prbench.judging.reader import Reader, reader_of
from prbench.judging.reward_texts import distinct, reward_tokens
from prbench.method import ComparedFeatures, UserStates
from prbench.methods.synthesizeme import SynthesizeMe
from prbench.training.adapter_training import Pass, Recipe, RewardStage, train
from prbench.training.text_method import TrainedTextMethod, nothing_to_train_on

if TYPE_CHECKING:
    from torch import Tensor


class SynthesizeMeFT(TrainedTextMethod):
    """A reward model on the judge model's weights: LoRA and a head, trained by Bradley-Terry on the seen users'
    choices, each reply after the description of the user who compared it. An unseen user gets a description and
    nothing else.

    Descriptions are those of `SynthesizeMe` without its second search: `support`, `random`, `labelled`, `enough`,
    `reasoning` and `persona_tokens` are its parameters. `writer` names the judge model that finds and writes them, by
    default the one that is trained, as it was before. `passes` over the choices, `batch` of them an update, at the
    learning rate `rate`; LoRA of `rank` and `alpha` on all linear layers.
    """

    kind: ClassVar[Kind] = "reward"
    second_models: ClassVar[tuple[str, ...]] = ("writer",)

    def __init__(
        self,
        *,
        writer: str = "",
        support: Count = 17,
        random: Natural = 10,
        labelled: Count = 4,
        enough: Share = 0.8,
        reasoning: Count = 512,
        persona_tokens: Count = 512,
        rank: Count = 16,
        alpha: Positive = 32.0,
        rate: Positive = 1e-4,
        weight_decay: NonNegative = 0.0,
        passes: Count = 3,
        batch: Count = 8,
    ) -> None:
        self.writer = writer
        self.support = support
        self.random = random
        self.labelled = labelled
        self.enough = enough
        self.reasoning = reasoning
        self.persona_tokens = persona_tokens
        self.rank = rank
        self.alpha = alpha
        self.rate = rate
        self.weight_decay = weight_decay
        self.passes = passes
        self.batch = batch

    @property
    def budget(self) -> int:
        """See `TrainedTextMethod.budget`."""
        return self.passes

    def states_of(self, support: Comparisons, users: IntArray, rng: Rng) -> UserStates:
        """Each user's description."""
        reader, text = reader_of(support.items), support.items.text
        assert text is not None
        writing = replace(support.items, text=replace(text, reader=reader.second(self.writer)))
        pipeline = SynthesizeMe(
            support=self.support,
            random=self.random,
            labelled=self.labelled,
            enough=self.enough,
            reasoning=self.reasoning,
            persona_tokens=self.persona_tokens,
            examples=False,
        )
        found = pipeline.states_of(replace(support, items=writing), users, rng)
        personas = [str(state.get("persona", "")) for state in unpacked(found.tensors[TEXT])]
        return UserStates(users, {TEXT: packed([{"persona": said} if said else {} for said in personas])})

    def passes_of(
        self, train_on: Comparisons, states: UserStates, count: int, rng: Rng, checkpoints: Path | None
    ) -> Iterator[Pass]:
        """See `TrainedTextMethod.passes_of`."""
        reader = reader_of(train_on.items)
        model = self.begun_model(reader, rng)
        personas = [str(state.get("persona", "")) for state in unpacked(states.tensors[TEXT])]
        owner = states.positions(train_on.user).tolist()
        rows = []
        for row in range(len(train_on)):
            pair = pair_at(train_on, row)
            if pair.first == pair.second:
                continue
            sides = [(personas[owner[row]], pair.context, reply) for reply in (pair.first, pair.second)]
            chosen, rejected = _tokens(model.own, sides, reader)
            rows.append({"chosen_ids": list(chosen), "rejected_ids": list(rejected)})
        if not rows:
            raise nothing_to_train_on()
        recipe = Recipe(count, self.batch, self.rate, self.weight_decay)
        yield from train(RewardStage(), model, rows, recipe, rng.child("training"), checkpoints)

    def score(self, states: UserStates, user: IntArray, items: Items) -> Tensor:
        """The reward of each item for its user, [n]; equal texts for equal descriptions have one reward."""
        reader, text = reader_of(items), items.text
        if text is None:
            raise InputError(NO_TEXTS)
        self._require_fitted()
        if reader.dry:
            return torch.zeros(len(items), dtype=torch.float64)
        owner = states.positions(user).tolist()
        known = unpacked(states.tensors[TEXT])
        asked = [
            (str(known[owner[i]].get("persona", "")), text.context(i), text.response(i)) for i in range(len(items))
        ]
        began = time.perf_counter()
        model = self.model(reader)
        different, places = distinct(asked)
        tokens = _tokens(model.own, different, reader)
        rewards = model.rewards(tokens)
        reader.tally.asked += len(tokens)
        reader.tally.tokens_in += sum(map(len, tokens))
        reader.tally.seconds += time.perf_counter() - began
        return rewards[torch.tensor(places, dtype=torch.int64)]

    def features_of(self, comparisons: Comparisons) -> ComparedFeatures:
        """Nothing is computed ahead: what a reply is worth depends on whom it is for."""
        none = torch.zeros(0, dtype=torch.int64)
        return ComparedFeatures(torch.zeros(0, 0), none, none)

    def margins(
        self, states: UserStates, comparisons: Comparisons, features: ComparedFeatures | None = None
    ) -> Tensor:
        """reward(chosen) − reward(rejected), [n]."""
        sides = comparisons.items.take(np.concatenate([comparisons.chosen, comparisons.rejected]))
        scores = self.score(states, np.tile(comparisons.user, 2), sides)
        return scores[: len(comparisons)] - scores[len(comparisons) :]

    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """Not possible: it reads texts. Raises InputError."""
        raise InputError(f"{type(self).__name__} has no features: it reads a reply for a person", hint="use score")


def _tokens(own: OwnWeights, texts: Sequence[tuple[str, Context, str]], reader: Reader) -> list[tuple[int, ...]]:
    """The tokens of each text; counts those whose context was shortened."""
    found = []
    for persona, context, reply in texts:
        ids, shortened = reward_tokens(own, persona, context, reply)
        reader.tally.shortened += shortened
        found.append(ids)
    return found
