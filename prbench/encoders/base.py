"""What every encoder does: turn (context, response) texts into embeddings, and say exactly how."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, digest
from prbench.comparisons import Context, IntArray

if TYPE_CHECKING:
    import torch


Text = tuple[Context, str]
"""A context (chat messages) and a response to it."""


# Texts, or tries of texts, that the rate is measured on.
SAMPLED = 64
SURROGATE = "it holds half of a surrogate pair, which is not valid Unicode"


@dataclass(frozen=True, eq=False)
class Encoded:
    """n encoded texts: `embedding` [n, d], `reward` float32 [n] where the encoder has a reward head.

    `contexts_cut` is the number of texts whose context was shortened on the left so that the response fits.
    """

    embedding: torch.Tensor
    reward: torch.Tensor | None = None
    contexts_cut: int = 0


@dataclass(frozen=True, eq=False)
class Part:
    """Some texts, encoded: their `rows` [n] in an `EncodingWork`, and how much of its `total` they were."""

    rows: Sequence[int]
    encoded: Encoded
    done: int


class EncodingWork(ABC):
    """Encoding some texts: how much it is, known before it starts, and doing it."""

    # What `total` counts: "tokens" that go through the model, padding included, or "texts".
    unit: str
    total: int
    # The tokens of each text read by itself [n], or None where the encoder does not count tokens.
    lengths: IntArray | None
    # The tokens that go through the model, padding included, or None where they are not counted.
    packed: int | None
    # How many of the distinct texts' token sequences differ, or None where that is not counted.
    different: int | None = None
    # Told how much of `total` is done of the step in progress, where the encoder says so: for a display alone.
    listener: Callable[[float], None] | None = None

    @abstractmethod
    def only(self, rows: Collection[int]) -> EncodingWork:
        """The steps of this work that hold any of `rows`, each as it is here: the same texts go through together.

        What a text's numbers are to the last bit depends on what it is read with, and so not on what is asked for.
        """

    @abstractmethod
    def share(self, index: int, count: int) -> EncodingWork:
        """Share `index` of `count` about equal ones, made of the same steps and with the same row numbers."""

    @abstractmethod
    def sample(self) -> EncodingWork:
        """A small and typical part, of several steps, to measure the rate on."""

    @abstractmethod
    def run(self, device: str) -> Iterator[Part]:
        """Encode, in whatever order is fastest. Raises InputError as `Encoder.encode` does."""


class Encoder(ABC):
    """One way to turn texts into embeddings. Options are keyword-only constructor arguments.

    Constructing an encoder and asking for its fingerprint and keys loads no weights.
    """

    # The model's name, and what pins it: a commit or a sha256 of its weights.
    id: str
    revision: str
    # d, the width of an embedding.
    dim: int
    has_reward: bool
    # How many leading columns of an embedding are those of the context alone, where there are such columns.
    context_dim: int | None = None
    # How many texts `encode` takes at a time: the step of progress.
    texts_at_once: ClassVar[int] = 512
    # The device used to resolve options set to "auto".
    device: str = "cpu"
    # The tokens of one forward pass, where the encoder packs several texts into one; 0 leaves it to the encoder.
    token_budget: int = 0
    packs: ClassVar[bool] = False
    # Told which share of the texts of the `encode` in progress is done.
    listener: Callable[[float], None] | None = None

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Whatever changes the numbers, as plain JSON values: id, revision, dtype, template, pooling, limits."""

    @abstractmethod
    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        """Embeddings of n texts, in that order.

        The result does not depend on which texts are encoded together, up to float noise. Raises InputError
        when the model cannot be had, and `TextError` for a text that cannot be encoded.
        """

    def tell(self, share: float) -> None:
        """Say which share of the texts of this `encode` is done, so that a bar moves before all of them are."""
        if self.listener is not None:
            self.listener(share)

    def head(self) -> torch.Tensor | None:
        """The weights [d] of the linear reward head on the embedding, float32, or None where there is none."""
        return None

    def adopt(self, fingerprint: Mapping[str, Any]) -> None:  # noqa: B027 - nothing to adopt is the common case
        """Choose, where the options leave a choice to the machine, what a store with `fingerprint` was made with."""

    def prepare(self, device: str) -> None:  # noqa: B027 - an encoder may have nothing to load
        """Load the weights, as `encode` would. Raises InputError when the model or the device cannot be had."""

    def plan(self, texts: Sequence[Text], *, at_once: int | None = None) -> EncodingWork:
        """What encoding `texts` takes; loads no weights. `at_once` is a number of texts, for encoders that take one.

        Raises TextError for a text that cannot be encoded, where that shows without the weights.
        """
        return TextWork(self, texts, chunked(range(len(texts)), at_once or self.texts_at_once))

    def token_counts(self, texts: Sequence[Text]) -> tuple[IntArray, int] | None:
        """The tokens of each text read by itself [n], and those that the model reads of all of them together.

        None where the encoder does not count tokens. Needs the tokenizer and no weights.
        """
        return None

    def lost_texts(self, texts: Sequence[Text]) -> int:
        """How many texts have a message that does not reach the model whole because a chat template leaves it out.

        Needs no weights. Raises TextError for a text that cannot be written at all.
        """
        return 0

    def example(self, text: Text) -> dict[str, Any]:
        """One text as the model reads it, where the encoder can show that: `rendered`, and what is `read_out` where.

        Raises TextError for a text that cannot be encoded.
        """
        return {}

    def weights_size(self) -> int | None:
        """The bytes of the weights' files on this machine, or None where they would have to be downloaded first."""
        return 0

    def keys(self, texts: Sequence[Text]) -> list[bytes]:
        """32 bytes per text, as `keys_of` with this encoder's fingerprint."""
        return keys_of(self.fingerprint(), texts)


class TextWork(EncodingWork):
    """Texts that are encoded by `Encoder.encode` in `chunks` of rows, in order."""

    unit = "texts"

    def __init__(self, encoder: Encoder, texts: Sequence[Text], chunks: Sequence[Sequence[int]]) -> None:
        self.encoder = encoder
        self.texts = texts
        self.chunks = chunks
        self.total = sum(map(len, chunks))

    @cached_property
    def lengths(self) -> IntArray | None:  # type: ignore[override]
        """As in `EncodingWork`."""
        counts = self.encoder.token_counts(self.texts)
        return counts and counts[0]

    @cached_property
    def packed(self) -> int | None:  # type: ignore[override]
        """As in `EncodingWork`."""
        counts = self.encoder.token_counts([self.texts[row] for chunk in self.chunks for row in chunk])
        return counts and counts[1]

    def of(self, chunks: Sequence[Sequence[int]]) -> TextWork:
        """Other chunks of the same texts."""
        return TextWork(self.encoder, self.texts, chunks)

    def only(self, rows: Collection[int]) -> TextWork:
        """As in `EncodingWork`."""
        wanted = frozenset(rows)
        return self.of([chunk for chunk in self.chunks if not wanted.isdisjoint(chunk)])

    def share(self, index: int, count: int) -> TextWork:
        """As in `EncodingWork`."""
        return self.of(self.chunks[index::count])

    def sample(self) -> TextWork:
        """As in `EncodingWork`."""
        rows = [row for chunk in self.chunks for row in chunk]
        return self.of(chunked(rows[:: max(1, len(rows) // SAMPLED)], SAMPLED // 4))

    def run(self, device: str) -> Iterator[Part]:
        """As in `EncodingWork`."""
        for rows in self.chunks:
            with self._listening(len(rows)):
                try:
                    encoded = self.encode(rows, device)
                except TextError as error:
                    raise TextError(rows[error.row], error.why) from error
            yield Part(rows, encoded, len(rows))

    @contextlib.contextmanager
    def _listening(self, texts: int) -> Iterator[None]:
        """The encoder's shares of a chunk of so many texts go to this work's listener."""
        listener = self.listener
        self.encoder.listener = None if listener is None else lambda share: listener(share * texts)
        try:
            yield
        finally:
            self.encoder.listener = None

    def encode(self, rows: Sequence[int], device: str) -> Encoded:
        """The texts of a chunk. Raises TextError with the place in it."""
        return self.encoder.encode([self.texts[row] for row in rows], device=device)


def chunked(rows: Sequence[int], size: int) -> list[Sequence[int]]:
    """Consecutive pieces of at most `size` rows."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def require_unicode(texts: Sequence[Text]) -> None:
    """Raise TextError for a text that no tokenizer takes: one with half of a surrogate pair."""
    for row, (context, response) in enumerate(texts):
        try:
            for part in (response, *(part for message in context for part in message)):
                part.encode()
        except UnicodeEncodeError as error:
            raise TextError(row, SURROGATE) from error


def keys_of(fingerprint: Mapping[str, Any], texts: Iterable[Text]) -> list[bytes]:
    """The sha256 of an encoder's fingerprint and each text: 32 bytes per text.

    Raises TextError for a text that is not valid Unicode.
    """
    prefix = digest(fingerprint, length=64).encode()
    keys = []
    for row, (context, response) in enumerate(texts):
        try:
            text = canonical_json([[list(message) for message in context], response]).encode()
        except UnicodeEncodeError as error:
            raise TextError(row, SURROGATE) from error
        keys.append(hashlib.sha256(prefix + text).digest())
    return keys


def plain_context(context: Context) -> str:
    """A context as one text: the content of a single message, else one line "role: content" per message."""
    if len(context) == 1:
        return context[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in context)


class TextError(InputError):
    """The text at `row` of those given cannot be encoded, because `why`."""

    def __init__(self, row: int, why: str) -> None:
        super().__init__(f"text {row} cannot be encoded: {why}")
        self.row = row
        self.why = why


class ModelUnavailableError(InputError):
    """The model's files cannot be had: it is not here and cannot be downloaded."""


def resolved_device(device: str) -> str:
    """`device`, with "auto" being cuda where there is one, else cpu."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(device: str) -> None:
    """Raise InputError when torch cannot compute on `device`."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        if device.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None:
            raise InputError(
                f"--device {device}: the installed torch {torch.__version__} is a build for CPUs alone",
                hint="install a CUDA build of torch (https://pytorch.org), or use --device cpu",
            ) from error
        raise InputError(f"there is no device {device!r} here", hint="use --device cpu") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Loading models without transformers' own bars and notes, which would tear prbench's progress display."""
    from transformers.utils import logging as transformers_logging

    # transformers ships types, but these functions have none.
    logging: Any = transformers_logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
