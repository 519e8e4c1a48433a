"""A causal language model as a policy: what it says after a context, as tokens and as log-probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from prbench.base.errors import InputError
from prbench.comparisons import Context, Message
from prbench.encoders.chat import DATE
from prbench.judging import LOCAL, build_backend, judge_entry_for
from prbench.judging.local import LocalModel
from prbench.registry.schema import JudgeEntry

BATCH_TOKENS = 2048
"""Tokens of one forward pass: each has a row of logits as wide as the vocabulary."""


class Sequenced(NamedTuple):
    """The tokens of a context, up to where the answer begins, and of a response with the token that ends it."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]


class LanguageModel(LocalModel):
    """A model that `LocalModel` reads, as a policy. Options as there."""

    @property
    def name(self) -> str:
        """The model's name, without a path."""
        return self._name

    @property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises InputError where it cannot be had."""
        self._read_tokenizer()
        return self._tokenizer

    @property
    def weights(self) -> Any:
        """The weights, loaded at the first call. Raises InputError where they cannot be had."""
        self.prepare()
        return self._model

    @property
    def chat_tokenizer(self) -> Any:
        """The tokenizer with the chat template that is used here."""
        tokenizer = self.tokenizer
        tokenizer.chat_template = self._template
        return tokenizer

    def messages(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """Messages as the tokenizer takes them, without tokens that steer the model."""
        self._read_tokenizer()
        return [{"role": role, "content": self._defused(content)} for role, content in messages]

    def forget(self) -> None:
        """Let the weights go; the next call loads them again, as they are on disk."""
        self._model = None

    def sequence(self, context: Context, response: str) -> Sequenced:
        """A response to a context as the chat template writes both.

        The reply is what follows the tokens that the context, with the beginning of an answer, has in common with
        the whole conversation; it ends with the token that ends a message, where the template writes one.
        """
        opening = list(self._ids(context))
        whole = self._whole((*context, Message("assistant", response)))
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(opening, whole, strict=False)))
        reply, end = whole[same:], self._tokenizer.eos_token_id
        if end in reply:
            # A line break after the end of the message is the template's, not the model's.
            reply = reply[: len(reply) - reply[::-1].index(end)]
        return Sequenced(tuple(whole[:same]), tuple(reply))

    def _whole(self, messages: Sequence[Message]) -> list[int]:
        ids: list[int] = self._tokenizer.apply_chat_template(
            self.messages(messages),
            chat_template=self._template,
            add_generation_prompt=False,
            tokenize=True,
            return_dict=False,
            date_string=DATE.strftime("%d %b %Y"),
        )
        return ids


def language_model(name: str, *, device: str = "cpu") -> LanguageModel:
    """The language model called `name`: a judge model's entry that is read here, a model's folder or a hub id.

    No weights are loaded. Raises InputError for a judge model that is asked elsewhere and for one that cannot be had.
    """
    return model_of(judge_entry_for(name), device=device)


def model_of(entry: JudgeEntry, *, device: str = "cpu") -> LanguageModel:
    """The language model of a judge model's entry. Raises InputError as `language_model`."""
    if entry.target != LOCAL:
        raise InputError(
            f"{entry.name} is not a model whose weights are read here: its log-probabilities are not known",
            hint="name smollm2-135m, a causal model's folder or its id on the hub",
        )
    # What is wrong with an option is said as for a judge model.
    build_backend(entry, device=device)
    made = LanguageModel(**entry.options)
    made.device = device
    return made


def log_probabilities(model: Any, sequences: Sequence[Sequenced], batch_tokens: int = BATCH_TOKENS) -> torch.Tensor:
    """The summed log-probability, in nats, of each reply after its prompt, and its number of tokens: float32 [n, 2].

    Sequences of about equal length go through together; padding stands on the right, where no token sees it.
    """
    found = torch.zeros(len(sequences), 2)
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].prompt) + len(sequences[i].reply))
    start = 0
    with torch.inference_mode():
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * _length(sequences[order[end]]) <= batch_tokens:
                end += 1
            batch = [sequences[i] for i in order[start:end]]
            found[order[start:end]] = torch.stack(
                [_summed(model, batch), torch.tensor([float(len(s.reply)) for s in batch])], dim=1
            )
            start = end
    return found


def _length(sequence: Sequenced) -> int:
    return len(sequence.prompt) + len(sequence.reply)


def _summed(model: Any, batch: Sequence[Sequenced]) -> torch.Tensor:
    width = max(map(_length, batch))
    rows = [[*s.prompt, *s.reply] for s in batch]
    device = model.device
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    # The token at t is said by the state at t − 1: the states before the first reply are not needed.
    first = min(len(s.prompt) for s in batch) - 1
    kept = torch.arange(first, width - 1, device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=kept).logits
    said = torch.zeros(len(batch), dtype=torch.float64)
    for i, (sequence, row) in enumerate(zip(batch, rows, strict=True)):
        at = slice(len(sequence.prompt) - 1 - first, len(row) - 1 - first)
        scores = logits[i, at].float()
        target = torch.tensor(sequence.reply, device=device)
        chosen = scores.gather(1, target[:, None])[:, 0] - torch.logsumexp(scores, dim=1)
        said[i] = chosen.double().sum().cpu()
    return said.float()
