"""How likely a language model holds each response of a data set, computed once per context and response.

It is an embedding stage: what stands for a text is its summed log-probability, in nats, and its number of tokens. The
store, PRBENCH_HOME/embeddings/FAMILY/logprob-MODEL, has the fingerprint of the model and of how it is read; what is
in it is never computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.comparisons import FloatArray, PreferenceData
from prbench.embedding.stage import embed
from prbench.encoders.base import Encoded, Encoder, Text, TextError, require_unicode
from prbench.judging import judge_entry_for
from prbench.policy.language_model import LanguageModel, Sequenced, log_probabilities, model_of
from prbench.registry.schema import EncoderEntry

TARGET = "prbench.policy.log_probabilities:LogProbabilities"
READING = 1
"""Raised with a change of how a response is read that moves its log-probability by more than rounding."""


class LogProbabilities(Encoder):
    """Texts as [summed log-probability, number of tokens] under a causal model; options as `LocalModel`."""

    dim = 2
    has_reward = False
    texts_at_once: ClassVar[int] = 8

    def __init__(
        self,
        *,
        model: str,
        revision: str = "main",
        gguf: str = "",
        adapter: str = "",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        max_length: int = 0,
        batch_tokens: int = 0,
        system: Literal["apart", "folded"] = "apart",
    ) -> None:
        # 0 is the model's own limit, which its files say: the tokenizer need not be read to know what is stored.
        self.max_length = max_length
        self._policy = LanguageModel(
            model=model,
            revision=revision,
            gguf=gguf,
            adapter=adapter,
            dtype=dtype,
            max_length=max_length,
            system=system,
        )
        said = self._policy.identity()
        self.id, self.revision = str(said["model"]), str(said["revision"])

    def fingerprint(self) -> dict[str, Any]:
        """The model's files, and how they are read."""
        said = {key: value for key, value in self._policy.identity().items() if key not in ("kind", "model")}
        return {
            "id": self.id,
            **said,
            "gives": "log-probabilities",
            "reading": READING,
            "max_length": self.max_length,
        }

    def prepare(self, device: str) -> None:
        """As in `Encoder`."""
        self._policy.device = device
        self._policy.prepare()

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        """As in `Encoder`; a context too long for the model loses its beginning."""
        require_unicode(texts)
        self.prepare(device)
        sequences, cut = [], 0
        for row, (context, response) in enumerate(texts):
            sequence = self._policy.sequence(context, response)
            room = self._policy.context - len(sequence.reply)
            if room < 1:
                raise TextError(
                    row, f"its response has {len(sequence.reply):,} tokens, the model reads {self._policy.context:,}"
                )
            cut += len(sequence.prompt) > room
            sequences.append(Sequenced(sequence.prompt[-room:], sequence.reply))
        return Encoded(log_probabilities(self._policy.weights, sequences), contexts_cut=cut)


class ResponseLogs(NamedTuple):
    """The log-probabilities of a data set's items: `summed` and `per_token` [m], and the model that gave them.

    `model` is its name and, in brackets, 8 hex digits of its fingerprint.
    """

    model: str
    summed: FloatArray
    per_token: FloatArray


def response_logs(
    data: PreferenceData, model: str, *, family: str | None = None, device: str = "cpu"
) -> ResponseLogs:
    """The log-probability of every item of `data` under the language model called `model`; what is stored is read.

    Raises InputError as `language_model` and `embed`, and for data that come as embeddings without texts.
    """
    if data.embedded is not None:
        raise InputError(
            f"{data.name} comes as embeddings: a language model has nothing to read", hint="take a data set of texts"
        )
    entry = judge_entry_for(model)
    model_of(entry, device=device)
    made = EncoderEntry(
        name=f"logprob-{entry.name}",
        title=f"log-probabilities of {entry.title}",
        target=TARGET,
        licence=entry.licence,
        homepage=entry.homepage,
        summary="how likely a language model holds each response",
        options=dict(entry.options),
    )
    values = embed(data, made, family=family, device=device).embedding.double().numpy()
    summed, tokens = np.asarray(values[:, 0]), np.asarray(values[:, 1])
    fingerprint = digest(LogProbabilities(**made.options).fingerprint(), length=8)
    return ResponseLogs(f"{entry.name} ({fingerprint})", summed, summed / np.maximum(tokens, 1))
