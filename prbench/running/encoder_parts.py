"""What `--encoder` may name: an encoder, or ENCODER+METHOD for texts that begin with a description of the user."""

from __future__ import annotations

from typing import NamedTuple

from prbench import registry
from prbench.base.errors import nearest
from prbench.methods.synthesizeme import SynthesizeMe
from prbench.registry import targets
from prbench.registry.schema import MethodEntry

JOINED = "+"


class EncoderParts(NamedTuple):
    """An encoder and the method whose personas stand before the texts that it reads."""

    encoder: str
    method: str


def described(encoder: str | None) -> EncoderParts | None:
    """The parts of `--encoder ENCODER+METHOD`; None for an encoder alone. Raises InputError for another method."""
    if encoder is None or JOINED not in encoder or encoder in registry.names("encoders"):
        return None
    name, _, method = encoder.rpartition(JOINED)
    writers = [entry.name for entry in registry.load_all("methods") if _writes(entry)]
    if method not in writers:
        raise nearest(method, writers, noun="method that writes personas", listing="prbench list methods")
    return EncoderParts(name, method)


def _writes(entry: MethodEntry) -> bool:
    target = targets.load_target("methods", entry)
    return issubclass(target, SynthesizeMe) and entry.params.get("persona", True) is not False


def plain_encoder(encoder: str | None) -> str | None:
    """The encoder alone."""
    parts = described(encoder)
    return parts.encoder if parts else encoder
