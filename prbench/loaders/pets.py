"""Pets: two kinds of simulated users who agree on four animals but for the order of dog and cat.

The design is that of the toy set of Poddar et al. (VPL), NeurIPS 2024 (arXiv 2408.10075): one prompt, sentences about
a bird, a dog, a cat or a rabbit, and users who look at the animal alone. Both kinds put the bird first and the rabbit
last. The sentences are prbench's own, so that nothing is downloaded.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import IntArray, PreferenceData, Truth, as_context
from prbench.hyperparameters import Count, Share
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import require_size

PROMPT = "Describe one animal that people keep at home."
ANIMALS = ("bird", "dog", "cat", "rabbit")
ORDERS = {"dog before cat": ("bird", "dog", "cat", "rabbit"), "cat before dog": ("bird", "cat", "dog", "rabbit")}
"""What each kind of users likes, best first."""
CONTESTED = ("dog", "cat")
AGREED = (("bird", "dog"), ("bird", "cat"), ("bird", "rabbit"), ("dog", "rabbit"), ("cat", "rabbit"))
"""The five pairs of animals that both kinds order alike, (better, worse)."""

OPENINGS = (
    "Many families keep a {}: {}.",
    "Our neighbours have a {}, and I can tell you that {}.",
    "If you live alone, think of a {}; {}.",
    "A {} changes a home, since {}.",
    "My aunt has always had a {}. She says that {}.",
    "Ask a child about a {} and you will hear that {}.",
    "There is much to be said for a {}, because {}.",
    "Whoever looks after a {} soon learns that {}.",
    "At the shelter they told us about a {} and how {}.",
    "A {} may be right for you, given that {}.",
)
FACTS = {
    "bird": (
        "it sings as soon as it is light", "it needs a roomy cage near a window", "it cracks seeds with its beak",
        "its feathers have to be kept dry and clean", "it repeats sounds that it hears every day",
        "it likes company of its own kind", "it flies a round through the room each evening",
        "it sleeps on one leg", "fresh greens are good for it", "it bathes in a shallow dish",
    ),
    "dog": (
        "it wants a long walk in any weather", "it barks when someone is at the door", "it learns its name soon",
        "it buries bones in the garden", "it pulls on the leash at any smell", "it fetches what you throw",
        "it greets you as if you had been away for years", "it guards the yard at night",
        "it pants on hot afternoons", "it has to be trained with patience",
    ),
    "cat": (
        "it sleeps for most of the day", "it purrs on your lap", "it sharpens its claws on the sofa",
        "it hunts toys that hang from a string", "it walks along narrow shelves", "it washes itself all the time",
        "it comes when it wants to and not before", "it needs a clean litter tray", "it watches the street for hours",
        "it lands on its feet",
    ),
    "rabbit": (
        "it nibbles hay all day long", "it thumps the floor when it is afraid", "it digs wherever the ground is soft",
        "its teeth never stop growing", "it hops through the flat after dark", "it hides in a box with two doors",
        "its long ears turn towards every noise", "it does not like to be lifted", "it must not eat too much carrot",
        "it moults twice a year",
    ),
}  # fmt: skip
SENTENCES = len(OPENINGS) * 10
"""How many there are about each animal."""


class Asked(NamedTuple):
    """n comparisons: the user, the two animals as numbers in `ANIMALS`, better first, and the mark."""

    user: IntArray
    better: IntArray
    worse: IntArray
    mark: IntArray


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pets:
    """Options of the simulated pets. The same options give the same data under any name.

    `users` people, half of either kind, judge `train_pairs` pairs of training sentences (mark 0) and `test_pairs` of
    test ones (mark 1); of the 100 sentences about each animal, `test_share` are test ones, which no training pair
    has. A share `contested` of the pairs, rounded, is a dog's sentence against a cat's; the others are of the five
    kinds on which all agree, in turn. Choices are free of noise: whoever knows a user's kind is always right, and a
    rule that is the same for all is right on all pairs but half of the contested ones. A group is a pair of
    sentences.
    """

    cached: ClassVar[bool] = False

    users: Annotated[int, Field(ge=2)] = 200
    train_pairs: Count = 16
    test_pairs: Count = 40
    contested: Share = 0.5
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.users % len(ORDERS):
            raise InputError(f"pets: users is {self.users}, not as many of either kind")
        if not 0 < round(self.test_share * SENTENCES) < SENTENCES:
            raise InputError(f"pets: a test_share of {self.test_share} leaves no sentence for training or for test")
        require_size("pets", {"users x pairs": self.users * (self.train_pairs + self.test_pairs)})

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The data set called `name`; reads no files."""
        rng = Rng("pets", self.seed)
        sentences = [written(animal) for animal in ANIMALS]
        # Openings and facts of training and of test are the same; their combinations are not.
        order = [rng.child("sentences", animal).numpy().permutation(SENTENCES) for animal in ANIMALS]
        asked = self._asked(rng)
        test = round(self.test_share * SENTENCES)
        draw = rng.child("drawn").numpy()
        parts = [SENTENCES - test, test]
        place = draw.integers(0, np.array(parts)[asked.mark], size=(2, len(asked.user)))
        place += np.where(asked.mark == 1, parts[0], 0)
        numbers = np.stack(order)
        chosen, rejected = (
            side * SENTENCES + numbers[side, place[i]] for i, side in enumerate((asked.better, asked.worse))
        )
        pair = np.stack([np.minimum(chosen, rejected), np.maximum(chosen, rejected)])
        m = len(ANIMALS) * SENTENCES
        return PreferenceData(
            name=name,
            contexts=(as_context(PROMPT),),
            item_context=np.zeros(m, dtype=np.int64),
            responses=tuple(sentence for each in sentences for sentence in each),
            user=asked.user,
            chosen=chosen.astype(np.int64),
            rejected=rejected.astype(np.int64),
            group=np.unique(pair, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64),
            mark=asked.mark,
            user_keys=tuple(f"simulated user {user}" for user in range(self.users)),
            counts={"contested pairs": int(_contested(asked).sum())},
            truth=self._truth(asked),
        )

    def _asked(self, rng: Rng) -> Asked:
        """Which animals each user compares; the better one is the user's choice."""
        kinds = list(ORDERS.values())
        rows: list[tuple[int, int, int, int]] = []
        for user in range(self.users):
            liked = kinds[user % len(kinds)]
            for mark, size in enumerate((self.train_pairs, self.test_pairs)):
                contested = round(self.contested * size)
                # Where the turn begins differs between users, or few pairs would leave some kinds out for everybody.
                start = int(rng.child("turn", user, mark).numpy().integers(len(AGREED)))
                agreed = [AGREED[(start + i) % len(AGREED)] for i in range(size - contested)]
                for animals in [CONTESTED] * contested + agreed:
                    better, worse = sorted(animals, key=liked.index)
                    rows.append((user, ANIMALS.index(better), ANIMALS.index(worse), mark))
        table = np.array(rows, dtype=np.int64)
        return Asked(*(table[:, i].copy() for i in range(4)))

    def _truth(self, asked: Asked) -> Truth:
        """Ceiling 1, and the floor of a rule for all, which is right in half of the contested pairs."""
        kind = np.arange(self.users) % len(ORDERS)
        worth = np.array([[len(ANIMALS) - 1 - liked.index(a) for a in ANIMALS] for liked in ORDERS.values()])
        weights = worth[kind].astype(np.float64)
        count = np.bincount(asked.user, minlength=self.users)
        contested = np.bincount(asked.user, _contested(asked), self.users)
        return Truth(
            ceiling=np.ones(self.users),
            floor=1 - contested / count / 2,
            utility_margin=weights[asked.user, asked.better] - weights[asked.user, asked.worse],
            cluster=kind.astype(np.int64),
            groups=tuple(ORDERS),
            latent=np.repeat(np.eye(len(ANIMALS)), SENTENCES, axis=0),
            weights=weights,
        )


def written(animal: str) -> list[str]:
    """The sentences about an animal: every opening with every fact."""
    return [opening.format(animal, fact) for opening in OPENINGS for fact in FACTS[animal]]


def _contested(asked: Asked) -> IntArray:
    """1 where a dog is compared with a cat, [n]."""
    pair = {ANIMALS.index(animal) for animal in CONTESTED}
    both = np.isin(asked.better, list(pair)) & np.isin(asked.worse, list(pair))
    return both.astype(np.int64)
