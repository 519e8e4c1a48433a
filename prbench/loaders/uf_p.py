"""UF-P-2 and UF-P-4: simulated users who judge UltraFeedback's pairs by one of two or four aspects.

Poddar et al., "Personalizing Reinforcement Learning from Human Feedback with Variational Preference Learning" (VPL),
NeurIPS 2024 (arXiv 2408.10075), on the ratings of Cui et al., "UltraFeedback", ICML 2024 (arXiv 2310.01377). The sets
have no files of their own: they are made from the ratings and from the pairs of Argilla's cleaned binarisation. Two
generations of labels exist, which do not agree: in VPL's development a pair on which an aspect ties is dropped; in
the released code, and in those that build on it, a coin decides.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import IntArray, PreferenceData, as_context
from prbench.hyperparameters import Count
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder
from prbench.loaders.json_lines import json_lines
from prbench.loaders.rows import records

RATINGS = ("evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat")
PAIRS = "default/train/0000.parquet"
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
"""In the order of VPL's user types 8, 4, 2, 1."""
NOT_RATED = "N/A"
TEST_SHARE = 0.1
TEST_SEED = 42
"""VPL's test pairs are NumPy's choice after this seed."""

UNRATED = "pairs without four ratings of both replies dropped"
EQUAL = "pairs of two equal or empty replies dropped"
AGREED = "pairs that no two users disagree on dropped"
TIED = "labels of an aspect that ties dropped"
COINS = "labels of an aspect that ties, drawn by a coin"
BY_COIN = "comparisons labelled by a coin"

Rating = tuple[int, ...]


class Pairs(NamedTuple):
    """n pairs: prompts, both replies, the difference of their ratings [n, 4], and the mark [n], 1 for test."""

    prompts: list[str]
    replies: list[tuple[str, str]]
    difference: IntArray
    mark: IntArray


@dataclass(frozen=True, kw_only=True, config=STRICT)
class UFP:
    """Loader of UF-P. A user has one aspect and prefers the reply that is rated higher on it.

    `kinds` 2 has users of helpfulness and honesty, 4 of all four aspects. `ties` "drop" leaves a pair out for the
    users whose aspect ties; with two kinds, for all users where either ties. "coin" draws the label of a tie once for
    each pair and aspect, as the released code does. Only controversial pairs are kept: those on which two users whose
    aspect does not tie disagree; with coins, those on which the labels of any two of the four aspects do, whichever
    kinds of users there are. VPL's own filter for "drop" with four kinds was not seen: the rule is prbench's reading.

    `users` people, as many of each kind, judge `train_prompts` pairs of the training part (mark 0) and `test_prompts`
    of the test part (mark 1), drawn at random by `seed` and the user's number. VPL has one user of each kind, who
    judges everything; many of a kind, as CoPL has them, allow for users who were never trained on. VPL chooses
    contexts until they single out one user: here none are chosen so. A group is a prompt.

    Without coins whoever knows a user's kind and the ratings is always right; with coins, in all but half of the
    comparisons that the counts say a coin labelled.
    """

    kinds: Literal[2, 4] = 2
    ties: Literal["drop", "coin"] = "drop"
    users: Annotated[int, Field(ge=2)] = 1000
    train_prompts: Count = 8
    test_prompts: Count = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.users % self.kinds:
            raise InputError(f"UF-P: users is {self.users}, not as many of each of {self.kinds} kinds")

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The users' choices. Raises InputError naming the row that is not to the schema, or too few pairs."""
        builder = Builder("pairs", UNRATED, EQUAL)
        pairs = read_pairs(raw, builder)
        sign = np.sign(pairs.difference)
        coin = sign == 0
        if self.ties == "coin":
            draw = Rng(self.seed, "uf-p", "coins").numpy()
            sign = np.where(coin, 2 * draw.integers(0, 2, sign.shape) - 1, sign)
        kept = self._controversial(sign)
        asked = kept[:, None] & (sign[:, : self.kinds] != 0)
        builder.counts[AGREED] = int((~kept).sum())
        builder.counts["controversial pairs"] = int(kept.sum())
        if self.ties == "drop":
            builder.counts[TIED] = int((kept[:, None] & coin[:, : self.kinds]).sum())
        else:
            builder.counts[COINS] = int((kept[:, None] & coin[:, : self.kinds]).sum())
            builder.counts[BY_COIN] = 0
        for user in range(self.users):
            kind = user % self.kinds
            person = f"simulated-{ASPECTS[kind]}-{user}"
            rng = Rng(self.seed, "uf-p", "user", user)
            for mark, wanted in enumerate((self.train_prompts, self.test_prompts)):
                eligible = np.flatnonzero(asked[:, kind] & (pairs.mark == mark))
                if len(eligible) < wanted:
                    part = ("training", "test")[mark]
                    message = f"{name}: the {part} part has {len(eligible)} pairs for users of {ASPECTS[kind]}"
                    raise InputError(f"{message}, {wanted} are asked for", hint=f"ask for fewer {part} prompts")
                drawn = rng.child(mark).numpy().choice(eligible, size=wanted, replace=False)
                for pair in drawn.tolist():
                    first, second = pairs.replies[pair]
                    chosen, rejected = (first, second) if sign[pair, kind] > 0 else (second, first)
                    prompt = pairs.prompts[pair]
                    builder.add(person, as_context(prompt), chosen, rejected, group=prompt, mark=mark)
                    if self.ties == "coin":
                        builder.counts[BY_COIN] += bool(coin[pair, kind])
        return builder.build(name, empty="no pair is controversial")

    def _controversial(self, sign: IntArray) -> NDArray[np.bool_]:
        """On which pairs two users disagree, [n]."""
        judged = sign if self.ties == "coin" else sign[:, : self.kinds]
        differ = (judged > 0).any(axis=1) & (judged < 0).any(axis=1)
        return np.asarray(differ, dtype=bool)


def read_pairs(raw: RawSource, builder: Builder) -> Pairs:
    """The pairs whose replies are both rated in all four aspects; what is left out is counted in `builder`.

    A rating belongs to a prompt and a reply; where UltraFeedback rates a reply to a prompt more than once, the first
    counts (VPL joins the two files row by row instead).
    """
    ratings: dict[bytes, Rating | None] = {}
    for file in RATINGS:
        _read_ratings(raw.path(f"{file}.jsonl"), ratings)
    prompts: list[str] = []
    replies: list[tuple[str, str]] = []
    differences: list[list[int]] = []
    places: list[int] = []
    rows = 0
    for where, record in records(raw.path(PAIRS), ("prompt", "chosen", "rejected"), ()):
        prompt = record["prompt"]
        if not isinstance(prompt, str):
            raise InputError(f"{where}: prompt is missing or not a text")
        sides = _reply(record["chosen"], f"{where}: chosen"), _reply(record["rejected"], f"{where}: rejected")
        builder.counts["pairs"] += 1
        rows += 1
        rated = [ratings.get(_key(prompt, side)) for side in sides]
        if sides[0] == sides[1] or not all(side.strip() for side in sides):
            builder.counts[EQUAL] += 1
        elif rated[0] is None or rated[1] is None:
            builder.counts[UNRATED] += 1
        else:
            prompts.append(prompt)
            replies.append(sides)
            differences.append([a - b for a, b in zip(rated[0], rated[1], strict=True)])
            places.append(rows - 1)
    # Which rows are VPL's test part depends on how many there are, those left out included.
    test = np.random.RandomState(TEST_SEED).choice(rows, int(rows * TEST_SHARE), replace=False)
    mark = np.isin(np.array(places, dtype=np.int64), test).astype(np.int64)
    table = np.array(differences, dtype=np.int64).reshape(-1, len(ASPECTS))
    return Pairs(prompts, replies, table, mark)


def _read_ratings(path: Path, ratings: dict[bytes, Rating | None]) -> None:
    """Enter the ratings of one file of UltraFeedback; None for a reply that lacks one."""
    for line, record in json_lines(path):
        where = f"{path}, line {line}"
        prompt, completions = record.get("instruction"), record.get("completions")
        if not isinstance(prompt, str):
            raise InputError(f"{where}: instruction is missing or not a text")
        if not isinstance(completions, list) or not all(isinstance(each, dict) for each in completions):
            raise InputError(f"{where}: completions is not a list of objects")
        for place, completion in enumerate(completions, start=1):
            response, annotations = completion.get("response"), completion.get("annotations")
            here = f"{where}, completion {place}"
            if not isinstance(response, str) or not isinstance(annotations, dict):
                raise InputError(f"{here}: response is not a text, or annotations is not an object")
            rated = [_rating(annotations.get(aspect), f"{here}: {aspect}") for aspect in ASPECTS]
            complete = tuple(each for each in rated if each is not None)
            ratings.setdefault(_key(prompt, response), complete if len(complete) == len(ASPECTS) else None)


def _rating(annotation: Any, where: str) -> int | None:
    """A rating, None where there is none."""
    if annotation is None:
        return None
    value = annotation.get("Rating") if isinstance(annotation, dict) else None
    if value == NOT_RATED:
        return None
    if not isinstance(value, str) or not (value.isascii() and value.isdecimal()) or len(value) > 2:
        raise InputError(f"{where}: Rating is {str(value)[:40]!r}, expected a whole number as text, or {NOT_RATED}")
    return int(value)


def _reply(messages: Any, where: str) -> str:
    """The reply in a chat of one question and one reply."""
    if not isinstance(messages, list) or len(messages) != 2 or not all(isinstance(each, dict) for each in messages):
        raise InputError(f"{where} is not a list of two messages")
    content = messages[1].get("content")
    if messages[1].get("role") != "assistant" or not isinstance(content, str):
        raise InputError(f"{where}: its second message is not a reply of the assistant")
    return content


def _key(prompt: str, reply: str) -> bytes:
    """16 bytes that stand for a prompt and a reply: the texts themselves would take gigabytes."""
    state = hashlib.blake2b(digest_size=16)
    for text in (prompt, reply):
        content = text.encode()
        state.update(len(content).to_bytes(8, "big") + content)
    return state.digest()
