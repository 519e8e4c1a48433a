"""One shard of an embedding store: what it may hold, and reading it with every check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.base.reading import read_bytes
from prbench.embedding.manifest import KEY_BYTES, MANIFEST, STORED_TYPES, Manifest, Shard

if TYPE_CHECKING:
    import torch


def unfit_row(
    embedding: torch.Tensor, reward: torch.Tensor | None, manifest: Manifest | None
) -> tuple[int, str] | None:
    """The first row that a store with this manifest cannot take and why, or None."""
    import torch

    if embedding.ndim != 2 or not embedding.shape[1]:
        return 0, f"the embeddings have the shape {list(embedding.shape)}, not [rows, width]"
    if type_name(embedding) not in STORED_TYPES:
        return 0, f"its embedding is {type_name(embedding)}, a store takes {', '.join(STORED_TYPES)}"
    if reward is not None and reward.shape != embedding.shape[:1]:
        return 0, f"{list(reward.shape)} rewards for {len(embedding)} embeddings"
    if manifest is not None:
        if embedding.shape[1] != manifest.dim:
            return 0, f"its embedding has width {embedding.shape[1]}, the store has {manifest.dim}"
        if type_name(embedding) != manifest.dtype:
            return 0, f"its embedding is {type_name(embedding)}, the store has {manifest.dtype}"
        if (reward is not None) != manifest.reward:
            return 0, f"the store has {'a reward' if manifest.reward else 'no rewards'} for every row"
    finite = torch.isfinite(embedding).all(dim=1)
    if reward is not None:
        finite &= torch.isfinite(reward)
    if not bool(finite.all()):
        return int((~finite).nonzero()[0]), "its embedding or reward is NaN or infinite" + (
            "; numbers may be too large for float16, --dtype bfloat16 or float32 hold them"
            if embedding.dtype == torch.float16
            else ""
        )
    return None


def read_shard(folder: Path, shard: Shard, manifest: Manifest, encoder: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The columns of a shard. Raises InputError where its bytes are not those that the manifest lists, or are of
    another encoder."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / shard.file
    try:
        content = read_bytes(path)
    except InputError as error:
        raise _corrupt(path, str(error.args[0]).partition("unreadable: ")[2]) from error
    if _encoder_named_in(content) not in (None, digest(encoder)):
        raise InputError(
            f"{path} was made by another encoder or revision than its {MANIFEST} names"
            f" ({encoder.get('id')}, revision {encoder.get('revision')})",
            hint="delete it and run `prbench embed` again",
        )
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise _corrupt(path, f"its sha256 is not the one in {MANIFEST}")
    try:
        tensors: dict[str, torch.Tensor] = load(content)
    except SafetensorError as error:
        raise _corrupt(path, str(error)) from error
    if fault := _fault_of(tensors, shard, manifest):
        raise _corrupt(path, fault)
    return tensors


def _fault_of(tensors: Mapping[str, torch.Tensor], shard: Shard, manifest: Manifest) -> str:
    """How the columns of a shard differ from what the manifest says; nothing where they do not."""
    wanted = {"embedding": [shard.rows, manifest.dim], "key": [shard.rows, KEY_BYTES]}
    wanted |= {"reward": [shard.rows]} if manifest.reward else {}
    for name, shape in wanted.items():
        if name not in tensors:
            return f"it lacks the column {name} that {MANIFEST} says"
        if list(tensors[name].shape) != shape:
            if tensors[name].shape[:1] != (shard.rows,):
                return f"it does not have the {shard.rows} rows that {MANIFEST} says"
            return f"its column {name} has the shape {list(tensors[name].shape)}, {MANIFEST} says {shape}"
    return ""


def _corrupt(path: Path, why: str) -> InputError:
    if not path.exists():
        return InputError(f"{path} is missing", hint="run `prbench embed` again")
    return InputError(f"{path} is corrupt: {why}", hint="delete it and run `prbench embed` again")


def _encoder_named_in(content: bytes) -> str | None:
    """The encoder that a shard's header names, or None where the header cannot be read."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return str(header["__metadata__"]["encoder"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def type_name(tensor: torch.Tensor) -> Any:
    """A tensor's precision as the manifest names it."""
    return str(tensor.dtype).removeprefix("torch.")
