"""PersonalLLM: eight models' replies to each prompt, scored by ten reward models; users are mixtures of these.

Zollo et al., "PersonalLLM: Tailoring LLMs to Individual Preferences", ICLR 2025 (arXiv 2409.20296); as a benchmark of
reward models in Bose et al. 2025 (LoRe, arXiv 2504.14439).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import FloatArray, PreferenceData, as_context
from prbench.loaders import STRICT, RawSource
from prbench.loaders.building import Builder
from prbench.loaders.rows import records

FILES = ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
RESPONSES = 8
REWARD_MODELS = (
    "gemma_2b",
    "gemma_7b",
    "mistral_raft",
    "mistral_ray",
    "mistral_weqweasdas",
    "llama3_sfairx",
    "oasst_deberta_v3",
    "beaver_7b",
    "oasst_pythia_7b",
    "oasst_pythia_1b",
)


class Table(NamedTuple):
    """One file: n prompts, each with its replies, and the scores [n, replies, reward models]."""

    prompts: list[str]
    replies: list[list[str]]
    scores: FloatArray


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PersonalLLM:
    """Loader of PersonalLLM with simulated users.

    A user's weights over the ten reward models are drawn from a symmetric Dirichlet distribution with concentration
    `alpha`; its reward of a reply is the weighted sum of their scores, and it always prefers the higher reward. Each
    user judges `train_prompts` prompts of the training file (mark 0) and `test_prompts` of the test file (mark 1),
    all drawn from streams named by `seed` and the user's number, so that more users leave the first ones as they are.

    `pairs` "best-worst" compares the replies of highest and lowest reward, as LoRe does; "random" two replies drawn
    at random, as PersonalLLM's interaction data do. `scores` "raw" takes the released scores, as LoRe does;
    "standardised" centres and scales each reward model over the training file first, as PersonalLLM does. A group is
    a prompt. LoRe: alpha 0.1, 1,000 seen users with 47 prompts, 500 unseen ones with 9, all 1,000 test prompts each.
    """

    users: Annotated[int, Field(ge=2)] = 1500
    alpha: Annotated[float, Field(gt=0)] = 0.1
    train_prompts: Annotated[int, Field(ge=1)] = 47
    test_prompts: Annotated[int, Field(ge=1)] = 100
    pairs: Literal["best-worst", "random"] = "best-worst"
    scores: Literal["raw", "standardised"] = "raw"
    seed: int = 0

    def load(self, raw: RawSource, name: str) -> PreferenceData:
        """The users' choices. Raises InputError naming a file and row that is broken, or too few prompts."""
        paths = [raw.path(path) for path in FILES]
        train, test = (read_table(path) for path in paths)
        for path, table, n_prompts in zip(paths, (train, test), (self.train_prompts, self.test_prompts), strict=True):
            if len(table.prompts) < n_prompts:
                raise InputError(f"{path} has {len(table.prompts)} prompts, {n_prompts} are asked for")
        centre, scale = np.zeros(len(REWARD_MODELS)), np.ones(len(REWARD_MODELS))
        if self.scores == "standardised":
            centre, scale = train.scores.mean(axis=(0, 1)), train.scores.std(axis=(0, 1))
            if (scale == 0).any():
                raise InputError(f"{paths[0]}: the scores of {REWARD_MODELS[int(scale.argmin())]} are all the same")

        builder = Builder("prompts judged", "choices between equal rewards or texts dropped")
        for user in range(self.users):
            rng = Rng(self.seed, "personalllm", "user", user)
            weights = rng.child("weights").numpy().dirichlet(np.full(len(REWARD_MODELS), self.alpha))
            for mark, (table, n_prompts) in enumerate(((train, self.train_prompts), (test, self.test_prompts))):
                draw = rng.child("prompts", mark).numpy()
                drawn = draw.choice(len(table.prompts), size=n_prompts, replace=False)
                rewards = (table.scores[drawn] - centre) / scale @ weights
                for prompt, reward in zip(drawn.tolist(), rewards, strict=True):
                    builder.counts["prompts judged"] += 1
                    best, worst = int(reward.argmax()), int(reward.argmin())
                    if self.pairs == "random":
                        first, second = draw.choice(RESPONSES, size=2, replace=False).tolist()
                        best, worst = (first, second) if reward[first] >= reward[second] else (second, first)
                    replies = table.replies[prompt]
                    if reward[best] == reward[worst] or replies[best] == replies[worst]:
                        builder.counts["choices between equal rewards or texts dropped"] += 1
                        continue
                    builder.add(
                        f"simulated-{user}",
                        as_context(table.prompts[prompt]),
                        replies[best],
                        replies[worst],
                        group=table.prompts[prompt],
                        mark=mark,
                    )
        return builder.build(name, empty="all replies to a prompt are the same")


def read_table(path: Path) -> Table:
    """One file. Raises InputError naming the missing columns, and the row of a text or score that is not there."""
    texts = [f"response_{i}" for i in range(1, RESPONSES + 1)]
    columns = [[f"{text}_{model}" for model in REWARD_MODELS] for text in texts]
    required = ["prompt", *texts, *(column for row in columns for column in row)]
    prompts: list[str] = []
    replies: list[list[str]] = []
    scores: list[list[list[float]]] = []
    for where, record in records(path, required, ()):
        for column in ("prompt", *texts):
            if not isinstance(record[column], str):
                raise InputError(f"{where}: {column} is not a text")
        for row in columns:
            for column in row:
                value = record[column]
                if not isinstance(value, int | float) or not math.isfinite(value):
                    raise InputError(f"{where}: {column} is {value!r}, not a finite number")
        prompts.append(record["prompt"])
        replies.append([record[text] for text in texts])
        scores.append([[float(record[column]) for column in row] for row in columns])
    if not prompts:
        raise InputError(f"{path} has no rows")
    return Table(prompts, replies, np.array(scores, dtype=np.float64))
