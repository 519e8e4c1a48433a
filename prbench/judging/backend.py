"""What a judge model is asked, what it answers, and the interface of whatever calls it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from prbench.base.errors import InputError
from prbench.comparisons import Context, Message

if TYPE_CHECKING:
    from prbench.judging.adapted import AdaptedModel, OwnWeights

CHARACTERS_PER_TOKEN = 4
"""How tokens are estimated where there is no tokenizer."""
LABELS = ("A", "B")
"""What the first and the second reply of a prompt are called."""


class Pair(NamedTuple):
    """Two replies in one context, in the order in which they are shown."""

    context: Context
    first: str
    second: str


@dataclass(frozen=True)
class Request:
    """One question.

    With `labels`, the answer is the log-probability of each of them as what comes next; without, it is a text of at
    most `limit` tokens. `temperature` 0 takes the likeliest token. `sample` tells apart answers that are drawn
    again. The first `shared` characters of the last message are the same in many requests. `pair` is what is judged:
    it is for verdicts that others stored, and no part of the prompt.
    """

    messages: tuple[Message, ...]
    labels: tuple[str, ...] = ()
    limit: int = 1
    temperature: float = 0.0
    sample: int = 0
    shared: int = 0
    pair: Pair | None = field(default=None, compare=False)

    def content(self) -> dict[str, Any]:
        """What the answer depends on, as plain values."""
        return {
            "messages": [list(message) for message in self.messages],
            "labels": list(self.labels),
            "limit": self.limit,
            "temperature": self.temperature,
            "sample": self.sample,
        }


@dataclass(frozen=True)
class Answer:
    """What came back.

    `logprobs` has one natural logarithm for each label of the request, where the model gives them; `text` is what was
    written. `failure` says in one word why there is no usable answer: "refused", "unparsable", "lost". Tokens are the
    server's or the tokenizer's count; `model`, `system` and `day` (YYYY-MM-DD) are those of the call.
    """

    text: str = ""
    logprobs: tuple[float, ...] | None = None
    failure: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    model: str = ""
    system: str = ""
    day: str = ""


Tell = Callable[[int, Answer], None]
"""Is told the number of a request and its answer, as soon as it is there."""


class Backend(ABC):
    """A judge model that can be called. Options of its entry are keyword-only constructor arguments."""

    # Whether it reads prompts. What does not knows verdicts on pairs alone, whoever the user is.
    reads_prompts: ClassVar[bool] = True
    # Whether it can write texts of several tokens.
    writes: ClassVar[bool] = True
    # Whether an answer costs so little that none is kept.
    instant: ClassVar[bool] = False
    # Whether its own weights are here and can be trained.
    trains: ClassVar[bool] = False
    # Where to compute, set by whoever builds it.
    device: str = "cpu"

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What changes its answers, as plain values; never a key or a password. Loads no weights, makes no call."""

    @abstractmethod
    def answer(self, requests: Sequence[Request], tell: Tell) -> None:
        """Answer each request, telling of each answer once; the order is free.

        Raises InputError where going on makes no sense, such as for a key that the server does not accept.
        """

    def prepare(self) -> None:
        """Get ready for calls, once. Raises InputError, in one line, where no call can succeed."""
        return

    def own_weights(self) -> OwnWeights:
        """The model itself, loaded apart from what answers, to be trained. Raises InputError where it is not here."""
        raise InputError("this judge model's weights are not here", hint="take a local judge model")

    def tuned(self, model: AdaptedModel, tensors: Mapping[str, Any]) -> Backend:
        """This model with an adapter's numbers on its own weights, as a judge model of its own."""
        raise InputError("this judge model's weights are not here", hint="take a local judge model")

    @property
    def context(self) -> int | None:
        """How many tokens prompt and answer may have together; None where that is not known."""
        return None

    def tokens(self, messages: Sequence[Message]) -> int:
        """How many tokens a prompt has: counted where there is a tokenizer, else estimated."""
        return sum(len(message.content) // CHARACTERS_PER_TOKEN + 4 for message in messages)

    @property
    def counts_tokens(self) -> bool:
        """Whether `tokens` counts with the model's own tokenizer."""
        return False
