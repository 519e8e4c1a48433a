"""What a sentence encoder's folder declares in modules.json: pooling, dense layers and normalising, followed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from prbench.base.errors import InputError
from prbench.base.reading import read_json
from prbench.encoders.packing import Batch
from prbench.encoders.trie import ancestors

# As sentence-transformers (Reimers & Gurevych 2019, arXiv 1908.10084) names them in 1_Pooling/config.json.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.activation.ReLU": torch.relu,
    "torch.nn.modules.linear.Identity": None,
}
IGNORED = "--pooling mean reads the model without its modules.json"


@dataclass(frozen=True)
class Dense:
    """One dense layer: its weights' file, whether it has a bias, and its activation's name."""

    file: Path
    out: int
    bias: bool
    activation: str


@dataclass
class Declared:
    """Pooling `modes` (their results side by side), `dense` layers, and whether vectors are normalised.

    A normalised vector is multiplied by the root of its width, so that its coordinates have a root mean square of
    1: the scale of a language model's final norm, which published recipes assume.
    """

    modes: tuple[str, ...]
    dim: int
    dense: list[Dense] = field(default_factory=list)
    normalised: bool = False
    max_length: int = 0
    weights: list[tuple[Tensor, Tensor | None, str]] | None = None

    @property
    def description(self) -> str:
        """For the fingerprint and for people."""
        parts = [" and ".join(self.modes), *(f"dense to {layer.out}" for layer in self.dense)]
        return ", ".join(parts + ([f"normalised, times sqrt({self.dim})"] if self.normalised else []))

    def load(self, device: str) -> None:
        """Read the dense layers' weights. Raises InputError where they are not safetensors."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.weights = []
        for layer in self.dense:
            try:
                tensors = {name.split(".")[-1]: tensor.float() for name, tensor in load_file(layer.file).items()}
                bias = tensors["bias"].to(device) if layer.bias else None
                self.weights.append((tensors["weight"].to(device), bias, layer.activation))
            except (OSError, SafetensorError, KeyError) as error:
                raise InputError(f"{layer.file} cannot be read: {error}", hint=IGNORED) from error

    def __call__(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The vectors [n, dim] of the sequences of a forward pass with states `hidden` [rows, width, d]."""
        pooled = torch.empty((len(batch.number), hidden.shape[2] * len(self.modes)), device=hidden.device)
        for r in range(len(batch.ids)):
            for k in np.flatnonzero(batch.row == r):
                on_path = ancestors(batch.end[r], batch.node[k : k + 1])[0]
                states = hidden[r, torch.from_numpy(np.flatnonzero(on_path)).to(hidden.device)].float()
                pooled[k] = torch.cat([_pool(states, mode) for mode in self.modes])
        for weight, bias, activation in self.weights or []:
            pooled = torch.nn.functional.linear(pooled, weight, bias)
            function = ACTIVATIONS[activation]
            pooled = pooled if function is None else function(pooled)
        if self.normalised:
            pooled = normalize(pooled, dim=1) * math.sqrt(self.dim)
        return pooled.to(hidden.dtype)


def _pool(states: Tensor, mode: str) -> Tensor:
    """One vector [d] of a text's states [tokens, d]."""
    if mode == "cls":
        return states[0]
    if mode == "lasttoken":
        return states[-1]
    if mode == "max":
        return states.max(dim=0).values
    if mode == "mean_sqrt_len_tokens":
        return states.sum(dim=0) / math.sqrt(len(states))
    if mode == "weightedmean":
        weight = torch.arange(1, len(states) + 1, device=states.device).float()
        return (weight @ states) / weight.sum()
    return states.mean(dim=0)


def declared(name: str, folder: Path, width: int) -> Declared | None:
    """What modules.json of a model with states of `width` declares, or None without one.

    Raises InputError for modules that are not followed here.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    declaration: Declared | None = None
    options: Any = {}
    for module in _read(path):
        kind = str(module.get("type", "")).rpartition(".")[2]
        place = folder / str(module.get("path", ""))
        if kind == "Transformer":
            limits = folder / "sentence_bert_config.json"
            options = _read(limits) if limits.is_file() else {}
        elif kind == "Pooling":
            declaration = _pooling(name, _read(place / "config.json"), width)
        elif kind == "Dense" and declaration:
            layer = _read(place / "config.json")
            activation = str(layer.get("activation_function", "torch.nn.modules.activation.Tanh"))
            if activation not in ACTIVATIONS:
                raise InputError(f"{name}: its modules.json has the activation {activation}", hint=IGNORED)
            file, out = place / "model.safetensors", int(layer["out_features"])
            declaration.dense.append(Dense(file, out, bool(layer.get("bias", True)), activation))
            declaration.dim = out
        elif kind == "Normalize" and declaration:
            declaration.normalised = True
        else:
            raise InputError(f"{name}: its modules.json has a module {kind}, which is not followed", hint=IGNORED)
    if declaration is None:
        raise InputError(f"{name}: its modules.json declares no pooling", hint=IGNORED)
    declaration.max_length = int(options.get("max_seq_length") or 0)
    if options.get("do_lower_case"):
        raise InputError(f"{name}: its do_lower_case is not followed", hint=IGNORED)
    return declaration


def _pooling(name: str, config: Any, width: int) -> Declared:
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or [])
    modes = modes or [short for key, short in MODES.items() if config.get(key)]
    if not modes or set(modes) - set(MODES.values()):
        raise InputError(
            f"{name}: its pooling {', '.join(map(str, modes)) or 'without a mode'} is not known", hint=IGNORED
        )
    return Declared(tuple(modes), width * len(modes))


def _read(path: Path) -> Any:
    return read_json(path, hint=IGNORED, infinite=True)
