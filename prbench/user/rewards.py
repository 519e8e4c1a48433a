"""People's rewards as a function that trains a language model: the signature of trl's reward functions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prbench.base.errors import InputError
from prbench.comparisons import Context, as_context
from prbench.method import UserStates
from prbench.training.compute import computing
from prbench.user.model import UserModel, open_state

State = UserStates | Path | str
Prompt = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages."""


class UserReward:
    """Rewards of completions for one person or several, as trl's `GRPOTrainer` and `RLOOTrainer` ask for them.

    `__call__` takes what trl gives: `prompts` and `completions`, texts or messages, and every further column of the
    training data by its name. The name that trl logs is that of the method.
    """

    def __init__(self, people: Mapping[str | None, tuple[UserModel, UserStates]], column: str) -> None:
        self._people = dict(people)
        self._column = column
        methods = sorted({model.origin["method"] for model, _ in self._people.values()})
        self.__name__ = "prbench_" + "_".join(re.sub(r"\W+", "_", name).strip("_") for name in methods)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: Any) -> list[float]:
        """A reward for each completion [n]. Higher is preferred; rewards of one person compare.

        A completion without text gets the least reward of the person's others in this call (0 where there are none):
        it must not pay to say nothing. Raises InputError for a person without a state, where the column that names
        the person is missing, and for a text that cannot be encoded.
        """
        users = self._users(len(prompts), columns)
        texts = [_text_of(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        rewards = [math.nan] * len(texts)
        for model in {id(model): model for model, _ in self._people.values()}.values():
            mine = [i for i, user in enumerate(users) if self._people[user][0] is model and texts[i][1].strip()]
            if mine:
                found = self._scores(model, [texts[i] for i in mine], [users[i] for i in mine])
                for i, value in zip(mine, found, strict=True):
                    rewards[i] = value
        least: dict[str | None, float] = {}
        for user, value in zip(users, rewards, strict=True):
            if not math.isnan(value):
                least[user] = min(value, least.get(user, math.inf))
        return [least.get(u, 0.0) if math.isnan(value) else value for u, value in zip(users, rewards, strict=True)]

    def _users(self, count: int, columns: Mapping[str, Any]) -> list[str | None]:
        """Whose reward each completion gets."""
        if None in self._people:
            return [None] * count
        if self._column not in columns:
            raise InputError(
                f"the training data have no column {self._column!r} that names the person of each row",
                hint="add it, or name another one as column=",
            )
        found = [str(value) for value in columns[self._column]]
        if unknown := [user for user in found if user not in self._people]:
            raise InputError(
                f"column {self._column!r} names {unknown[0]!r}, of whom there is no state",
                hint=f"there are {len(self._people):,}; adapt to this person first",
            )
        return list(found)

    def _scores(
        self, model: UserModel, texts: Sequence[tuple[Context, str]], users: Sequence[str | None]
    ) -> list[float]:
        """Each text is embedded once, whoever it is scored for."""
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        items = model.embed(list(place))
        rewards = np.zeros(len(texts))
        for user in dict.fromkeys(users):
            rows = [i for i, other in enumerate(users) if other == user]
            where = np.array([place[texts[i]] for i in rows], dtype=np.int64)
            with computing(model.precision):
                found = model.method.score(
                    self._people[user][1], np.zeros(len(rows), dtype=np.int64), items.take(where)
                )
            rewards[rows] = found.double().cpu().numpy()
        if not np.isfinite(rewards).all():
            raise FloatingPointError("a reward is not a finite number")
        return [float(value) for value in rewards]


def reward_function(
    states: State | Mapping[str, State],
    *,
    model: UserModel | None = None,
    run: Path | str | None = None,
    column: str = "user",
    encoder: str | None = None,
    device: str = "auto",
) -> UserReward:
    """A reward function for trl (`GRPOTrainer(reward_funcs=...)`) from one person's state, or several people's.

        reward_function("me.safetensors")
        reward_function({"ann": "ann.safetensors", "ben": "ben.safetensors"}, column="user")

    A state is a file that `prbench user adapt` or `UserModel.save` wrote, or what `UserModel.adapt` gave, which needs
    its `model`. With several people each row of the training data names its person in `column`. People of one fit
    share it: it is loaded once. `run`, `encoder` and `device` as in `UserModel.load`. Raises InputError as that does.
    """
    given: Mapping[Any, State] = states if isinstance(states, Mapping) else {None: states}
    if not given:
        raise InputError("states: there is no person", hint="give at least one state")
    if odd := [name for name in given if name is not None and not isinstance(name, str)]:
        raise InputError(f"states: the name {odd[0]!r} is not a text", hint="name each person by a text")
    folder = None if run is None else Path(run)
    opened: dict[Any, UserModel] = {}
    people: dict[str | None, tuple[UserModel, UserStates]] = {}
    for name, state in given.items():
        if not isinstance(state, UserStates):
            people[name] = open_state(Path(state), run=folder, encoder=encoder, device=device, opened=opened)
        elif model is None:
            raise InputError("a state in memory does not name its fit", hint="give the UserModel as model=")
        elif len(state) != 1:
            raise InputError(f"a state of {len(state):,} people was given where one person's belongs")
        else:
            people[name] = (model, state)
    return UserReward(people, column)


def _text_of(prompt: Prompt, completion: Prompt) -> tuple[Context, str]:
    """What was asked, and the reply to it.

    Of a completion of several messages, as tools make them, the last one is the reply and the others belong to the
    context. Where the prompt ends with the beginning of an answer, the completion goes on with it.
    """
    context = as_context(_plain(prompt, "prompt"))
    messages = [] if isinstance(completion, str) else as_context(_plain(completion, "completion"))
    if isinstance(completion, str):
        reply = completion
    elif messages:
        context, reply = (*context, *messages[:-1]), messages[-1].content
    else:
        reply = ""
    if len(context) > 1 and context[-1].role == "assistant" and len(messages) <= 1:
        return context[:-1], context[-1].content + reply
    return context, reply


def _plain(given: Prompt, what: str) -> str | list[Mapping[str, str]]:
    """Messages whose content is one text each; trl splits it into parts for models that see pictures.

    A call of a tool has no content of its own.
    """
    if isinstance(given, str):
        return given
    found: list[Mapping[str, str]] = []
    for message in given:
        content = message.get("content")
        if isinstance(content, list):
            if other := [part.get("type") for part in content if part.get("type") != "text"]:
                raise InputError(f"a {what} holds a part of type {other[0]!r}: rewards read texts alone")
            content = "".join(part["text"] for part in content)
        found.append({"role": message["role"], "content": "" if content is None else content})
    return found
