"""What every encoder does: turn (context, response) texts into embeddings, and say exactly how."""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from prbench.comparisons import Context
from prbench.errors import InputError
from prbench.files import canonical_json, digest

if TYPE_CHECKING:
    import torch

Text = tuple[Context, str]
"""A context (chat messages) and a response to it."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """n encoded texts: `embedding` [n, d], `reward` float32 [n] where the encoder has a reward head.

    `contexts_cut` is the number of texts whose context was shortened on the left so that the response fits.
    """

    embedding: torch.Tensor
    reward: torch.Tensor | None = None
    contexts_cut: int = 0


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
    # How many texts `encode` takes at a time: the step of progress.
    texts_at_once: ClassVar[int] = 512
    # What choices left to the machine are made for.
    device: str = "cpu"

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Whatever changes the numbers, as plain JSON values: id, revision, dtype, template, pooling, limits."""

    @abstractmethod
    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        """Embeddings of n texts, in that order.

        The result does not depend on which texts are encoded together, up to float noise. Raises InputError
        when the model cannot be had, and `TextError` for a text that cannot be encoded.
        """

    def head(self) -> torch.Tensor | None:
        """The weights [d] of the linear reward head on the embedding, float32, or None where there is none."""
        return None

    def adopt(self, fingerprint: Mapping[str, Any]) -> None:  # noqa: B027 - nothing to adopt is the common case
        """Choose, where the options leave a choice to the machine, what a store with `fingerprint` was made with."""

    def prepare(self, device: str) -> None:  # noqa: B027 - an encoder may have nothing to load
        """Load the weights, as `encode` would. Raises InputError when the model or the device cannot be had."""

    def keys(self, texts: Sequence[Text]) -> list[bytes]:
        """32 bytes per text, as `keys_of` with this encoder's fingerprint."""
        return keys_of(self.fingerprint(), texts)


def keys_of(fingerprint: Mapping[str, Any], texts: Sequence[Text]) -> list[bytes]:
    """The sha256 of an encoder's fingerprint and each text: 32 bytes per text.

    Raises TextError for a text that is no valid Unicode.
    """
    prefix = digest(fingerprint, length=64).encode()
    keys = []
    for row, (context, response) in enumerate(texts):
        try:
            text = canonical_json([[list(message) for message in context], response]).encode()
        except UnicodeEncodeError as error:
            raise TextError(row, "it holds half of a surrogate pair, which is no valid Unicode") from error
        keys.append(hashlib.sha256(prefix + text).digest())
    return keys


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
