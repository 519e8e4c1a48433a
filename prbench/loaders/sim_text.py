"""Simulated users who choose between texts, with known tastes: a data set with a truth that text readers can read.

Each prompt has several candidate replies about its topic. A reply is written from templates by five properties that
are drawn independently of one another (length, formality, numbered steps, hedging, warmth), and by one quality,
whether it keeps to the topic. A user's utility is

    quality · kept + majority · s_u · warmth + personal · w_u · (properties) / ‖w_u‖

with s_u = 1 for most users and −1 for the planted minority. The directions w_u come in opposite pairs, so a rule
shared by all users is right half of the time on the personal part. Choices follow Bradley and Terry with a stated
temperature; careless users toss a coin in a stated share of their choices. Some of a user's pairs are asked twice,
with noise of their own. Several users judge each pair.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, IntArray, Message, PreferenceData, Truth
from prbench.hyperparameters import Count, Share
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import require_size

PROPERTIES = ("long", "formal", "steps", "hedged", "warm")

TOPICS = (
    "a leaking tap", "a squeaky door", "a slow laptop", "a wilting fern", "a flat bicycle tyre", "a noisy fridge",
    "a blocked sink", "a scratched table", "a torn jacket", "a dull kitchen knife", "a shaky shelf", "a dusty carpet",
    "a faded photograph", "a stuck zip", "a foggy window", "a weak phone signal", "a creaking floor", "a burnt pan",
    "a rusty gate", "a dripping gutter", "a stained shirt", "a crooked picture", "a lost password", "a loose tile",
    "a mouldy wall", "a broken umbrella", "a tangled hose", "an untuned guitar", "an empty printer", "an old lamp",
)  # fmt: skip
QUESTIONS = ("How do I deal with {}?", "What is the best way to handle {}?", "Can you help me with {}?")
START = {
    True: ("One should first examine {} with care", "It is advisable to begin by inspecting {}"),
    False: ("Just have a quick look at {}", "Okay, so grab a light and check out {}"),
}
MIDDLE = {
    True: ("subsequently, the necessary materials are to be assembled", "thereafter, one obtains the required tools"),
    False: ("then get your stuff together", "next, grab whatever tools you've got"),
}
END = {
    True: ("finally, the work is to be completed and verified", "lastly, one carries out the work and confirms it"),
    False: ("then just get it done and see if it holds", "and then you fix it, easy as that"),
}
MORE = {
    True: (
        "In addition, the surrounding area ought to be cleaned, since residue impairs the result.",
        "Furthermore, a record of each stage is to be kept, which facilitates later maintenance.",
        "It is also customary to allow a full day before normal use is resumed.",
    ),
    False: (
        "Oh, and wipe the place down before you start, or you'll be at it twice.",
        "Snap a photo on the way so you don't forget what went where.",
        "Give it a day before you go wild with it again.",
    ),
}
HEDGE = ("Perhaps this will help, though I may be wrong: ", "I am not sure, but it might work like this: ")
WARM = (" I hope this helps, and I wish you the best of luck!", " You've got this, I'm cheering for you!")
ELSEWHERE = "the weather this week"
DAY = 86_400.0
TEXT = 100
"""Characters of a reply, about."""


class World(NamedTuple):
    """Candidates: prompt [m], properties [m, 5] of ±1, `kept` [m] of ±1; users: weights [users, 5], s_u [users], and
    `careless` [users], 1 for who tosses coins.
    """

    prompt: IntArray
    properties: FloatArray
    kept: FloatArray
    weights: FloatArray
    side: FloatArray
    careless: FloatArray


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SimText:
    """Options of simulated texts. The same options give the same data under any name.

    `users` people, an even number, judge `pairs` pairs each, `pairs_per_prompt` on each of their prompts; each of
    `prompts` prompts has `candidates` replies. `personal`, `quality` and `majority` are the weights of the parts of
    the utility, whose properties are ±1. `temperature` is that of Bradley and Terry; with 0 the better reply is
    always chosen.
    `minority` and `careless` are shares of the users, `carelessness` the share of coin tosses among the choices of a
    careless user, `repeats` the share of a user's pairs that are asked a second time.
    """

    cached: ClassVar[bool] = False

    users: Annotated[int, Field(ge=2)] = 80
    prompts: Count = 90
    candidates: Annotated[int, Field(ge=4, le=8)] = 6
    pairs: Count = 60
    pairs_per_prompt: Count = 2
    personal: Annotated[float, Field(ge=0)] = 1.5
    quality: Annotated[float, Field(ge=0)] = 0.5
    majority: Annotated[float, Field(ge=0)] = 0.4
    temperature: Annotated[float, Field(ge=0)] = 0.5
    minority: Share = 0.1
    careless: Share = 0.1
    carelessness: Share = 0.8
    repeats: Share = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.users % 2:
            raise InputError(
                f"simulated texts: users is {self.users}; tastes come in opposite pairs: give an even number"
            )
        most = self.candidates * (self.candidates - 1) // 2
        if self.pairs_per_prompt > most:
            raise InputError(
                f"simulated texts: pairs_per_prompt is {self.pairs_per_prompt}, but there are {most} pairs"
            )
        if self.pairs > self.prompts * self.pairs_per_prompt:
            raise InputError(
                f"simulated texts: {self.pairs} pairs a user need {-(-self.pairs // self.pairs_per_prompt)} prompts, "
                f"but there are {self.prompts}"
            )
        sizes = {"prompts x candidates": self.prompts * self.candidates, "users x pairs": self.users * self.pairs}
        require_size("simulated texts", {name: TEXT * size for name, size in sizes.items()})

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The data set called `name`; reads no files."""
        rng = Rng("sim-text", self.seed)
        world = self._world(rng)
        user, first, second, order = self._asked(rng, world)
        difference = self._utility(world, user, first) - self._utility(world, user, second)
        probability = self._probability(difference, world.careless[user])
        # The order of the columns of a pair says nothing of the choice: the first is chosen with this probability.
        wins = rng.child("choices").numpy().uniform(size=len(user)) < probability
        texts = [self._reply(rng, world, item) for item in range(len(world.prompt))]
        contexts = tuple((Message("user", _question(prompt)),) for prompt in range(self.prompts))
        pair_group = np.unique(np.stack([user, world.prompt[first]]), axis=1, return_inverse=True)[1].reshape(-1)
        return PreferenceData(
            name=name,
            contexts=contexts,
            item_context=world.prompt.copy(),
            responses=tuple(texts),
            user=user,
            chosen=np.where(wins, first, second),
            rejected=np.where(wins, second, first),
            group=pair_group.astype(np.int64),
            user_keys=tuple(f"simulated user {u}" for u in range(self.users)),
            time=order * DAY + 3600.0 * (user % 24),
            counts={"careless users": int(world.careless.sum()), "minority users": int((world.side < 0).sum())},
            truth=self._truth(world, user, first, second, np.where(wins, difference, -difference)),
            attributes=self._attributes(rng.child("attributes"), world),
        )

    def _attributes(self, rng: Rng, world: World) -> dict[str, tuple[str, ...]]:
        """`profession` follows the taste for formality in four of five users; `device` follows nothing."""
        draw = rng.numpy()
        liking = np.argsort(np.argsort(world.weights[:, PROPERTIES.index("formal")])) * 3 // self.users
        anything = draw.integers(0, 3, self.users)
        by_taste = np.where(draw.random(self.users) < 0.8, liking, anything)
        by_chance = draw.integers(0, 3, self.users)
        return {
            "profession": tuple(("designer", "teacher", "lawyer")[i] for i in by_taste),
            "device": tuple(("laptop", "phone", "tablet")[i] for i in by_chance),
        }

    def _world(self, rng: Rng) -> World:
        m = self.prompts * self.candidates
        prompt: IntArray = np.repeat(np.arange(self.prompts, dtype=np.int64), self.candidates)
        draw = rng.child("candidates").numpy()
        properties = np.asarray(2 * draw.integers(0, 2, (m, len(PROPERTIES))) - 1, dtype=np.float64)
        kept = np.asarray(2 * draw.integers(0, 2, m) - 1, dtype=np.float64)
        half = rng.child("tastes").numpy().normal(size=(self.users // 2, len(PROPERTIES)))
        weights = np.concatenate([half, -half])
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        roles = rng.child("roles").numpy().permutation(self.users)
        minority, careless = round(self.minority * self.users), round(self.careless * self.users)
        if minority + careless > self.users:
            raise InputError("simulated texts: minority and careless together are more than all users")
        side, toss = np.ones(self.users), np.zeros(self.users)
        side[roles[:minority]] = -1
        toss[roles[minority : minority + careless]] = 1
        return World(prompt, properties, kept, weights, side, toss)

    def _asked(self, rng: Rng, world: World) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
        """Who is asked about which two candidates, in which order of time; a repeat comes after all first askings."""
        left, right = np.triu_indices(self.candidates, 1)
        pairs = [
            rng.child("pairs", prompt).numpy().permutation(len(left))[: self.pairs_per_prompt]
            for prompt in range(self.prompts)
        ]
        columns: list[tuple[int, int, int, int]] = []
        for user in range(self.users):
            draw = rng.child("asked", user).numpy()
            judged_pairs = [
                (prompt, pair)
                for prompt in draw.permutation(self.prompts)[: -(-self.pairs // self.pairs_per_prompt)].tolist()
                for pair in pairs[prompt].tolist()
            ][: self.pairs]
            again = draw.permutation(len(judged_pairs))[: round(self.repeats * len(judged_pairs))].tolist()
            for place, (prompt, pair) in enumerate([*judged_pairs, *(judged_pairs[i] for i in again)]):
                sides = [prompt * self.candidates + int(side[pair]) for side in (left, right)]
                columns.append((user, *(sides if draw.integers(2) else sides[::-1]), place))
        table = np.array(columns, dtype=np.int64)
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.float64)

    def _weights(self, world: World) -> FloatArray:
        """What each user's utility weighs the properties and the quality with, [users, 6]."""
        weights = np.column_stack([self.personal * world.weights, np.full(self.users, self.quality)])
        weights[:, len(PROPERTIES) - 1] += self.majority * world.side
        return weights

    def _utility(self, world: World, user: IntArray, item: IntArray) -> FloatArray:
        personal = (world.weights[user] * world.properties[item]).sum(1)
        common = self.quality * world.kept[item] + self.majority * world.side[user] * world.properties[item, -1]
        return np.asarray(common + self.personal * personal)

    def _probability(self, difference: FloatArray, careless: FloatArray) -> FloatArray:
        """That the first of two is chosen, from the difference of utilities."""
        if self.temperature:
            chosen = 1 / (1 + np.exp(-difference / self.temperature))
        else:
            chosen = (np.sign(difference) + 1) / 2
        toss = self.carelessness * careless
        return np.asarray((1 - toss) * chosen + toss / 2)

    def _truth(
        self, world: World, user: IntArray, first: IntArray, second: IntArray, utility_margin: FloatArray
    ) -> Truth:
        """The ceiling of the user's own utility, and the floor of the best rule that does not know the user."""
        everyone = np.arange(self.users)
        pairs, position = np.unique(np.stack([first, second]), axis=1, return_inverse=True)
        position = position.reshape(-1)
        chance = np.stack(
            [
                self._probability(
                    self._utility(world, np.full(pairs.shape[1], u), pairs[0])
                    - self._utility(world, np.full(pairs.shape[1], u), pairs[1]),
                    np.full(pairs.shape[1], world.careless[u]),
                )
                for u in everyone
            ]
        )
        chance_of_user = chance[user, position]
        shared = np.where(chance.mean(0) >= 0.5, 1.0, 0.0)[position]
        count = np.bincount(user, minlength=self.users)
        return Truth(
            ceiling=np.bincount(user, np.maximum(chance_of_user, 1 - chance_of_user), self.users) / count,
            floor=np.bincount(user, np.where(shared == 1, chance_of_user, 1 - chance_of_user), self.users) / count,
            utility_margin=utility_margin,
            cluster=np.where(world.careless > 0, 2, np.where(world.side < 0, 1, 0)).astype(np.int64),
            groups=("majority", "minority", "careless"),
            latent=np.column_stack([world.properties, world.kept]),
            weights=self._weights(world),
            prompt=world.prompt,
            quality=world.kept,
        )

    def _reply(self, rng: Rng, world: World, item: int) -> str:
        """The text of a candidate. Phrases vary by a stream of the candidate's own."""
        draw = rng.child("phrases", item).numpy()
        long, formal, steps, hedged, warm = (value > 0 for value in world.properties[item])
        topic = TOPICS[int(world.prompt[item]) % len(TOPICS)] if world.kept[item] > 0 else ELSEWHERE

        def phrase(options: tuple[str, ...]) -> str:
            return options[int(draw.integers(len(options)))]

        parts = [phrase(START[formal]).format(topic), phrase(MIDDLE[formal]), phrase(END[formal])]
        if steps:
            body = "\n".join(f"{n}. {part[0].upper()}{part[1:]}." for n, part in enumerate(parts, start=1))
        else:
            body = f"{parts[0]}; {parts[1]}; {parts[2]}."
        more = " ".join(MORE[formal]) if long else ""
        text = f"{phrase(HEDGE) if hedged else ''}{body}{' ' + more if more else ''}{phrase(WARM) if warm else ''}"
        # A number keeps two candidates of a prompt apart that drew the same properties and phrases.
        return f"{text} (Note {item % self.candidates + 1}.)"


def _question(prompt: int) -> str:
    topic, turn = TOPICS[prompt % len(TOPICS)], prompt // len(TOPICS)
    question = QUESTIONS[turn % len(QUESTIONS)].format(topic)
    return question if turn < len(QUESTIONS) else f"{question} This is my question number {turn + 1}."
