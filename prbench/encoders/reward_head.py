"""Reward heads other than one linear layer on the last token: read as transformers' own class computes them.

What goes into the last linear layer of the head is the embedding, so that the reward is linear in it, as it is with
the heads of language models.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from prbench.base.errors import InputError

SUPPORTED = (
    "reward models of transformers end in a linear layer with one output (a ...ForSequenceClassification); with two, "
    "an entry says which label is the better reply: options.label = 1"
)
# How far a logit by hand may lie from the model's own, relative to its size.
NOISE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def reward_labels(name: str, config: Any, label: int | None) -> None:
    """Raise InputError unless one number can be read as the reward: one label, or two of which `label` is given."""
    count = int(config.num_labels)
    if count == 1 and label is None:
        return
    names = ", ".join(f"{number}: {title}" for number, title in sorted(dict(config.id2label or {}).items()))
    if count == 2 and label in (0, 1):
        return
    if label is not None:
        raise InputError(
            f"{name} has {count} labels ({names}): label is 0 or 1 of two, not {label!r}", hint=SUPPORTED
        )
    raise InputError(
        f"{name} is a classifier with {count} labels ({names}), not a reward model with one", hint=SUPPORTED
    )


def reward_layer(name: str, model: Any, label: int | None) -> tuple[Any, nn.Linear]:
    """The part of a model that gives states, and the linear layer that makes a reward of a sequence's last one.

    A head called `score` is on the last token's state. Any other is followed as the model computes it: its last
    linear layer's input is given as the state of every token. Raises InputError where there is no such layer, and
    where something comes after it.
    """
    score = getattr(model, "score", None)
    if isinstance(score, nn.Linear):
        return model.base_model, _one_output(score, label)
    count = int(model.config.num_labels)
    body = {id(module) for module in model.base_model.modules()}
    last = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == count and id(m) not in body]
    if len(last) != 1 or last[0].in_features != int(model.config.get_text_config().hidden_size):
        raise InputError(f"the reward head of {name} has no single linear layer at its end", hint=SUPPORTED)
    head = Head(model, last[0])
    head.verify(name)
    return head, _one_output(last[0], label)


def _one_output(layer: nn.Linear, label: int | None) -> nn.Linear:
    """The layer, or of two labels one whose output is the logit of `label` less the other's."""
    if label is None:
        return layer
    output = nn.Linear(layer.in_features, 1, bias=layer.bias is not None)
    output = output.to(layer.weight.device, layer.weight.dtype)
    with torch.no_grad():
        output.weight.copy_(layer.weight[label : label + 1] - layer.weight[1 - label : 2 - label])
        if layer.bias is not None:
            output.bias.copy_(layer.bias[label : label + 1] - layer.bias[1 - label : 2 - label])
    return output


class Head:
    """A model whose head reads whole sequences, one a row; called as its body would be."""

    def __init__(self, model: Any, last: nn.Linear) -> None:
        self.model = model
        self.last = last
        self._entered: Tensor | None = None
        last.register_forward_pre_hook(self._note)

    def _note(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._entered = given[0]

    def parameters(self) -> Any:
        """The model's."""
        return self.model.parameters()

    def __call__(self, *, use_cache: bool = False, **inputs: Tensor) -> SimpleNamespace:
        """`last_hidden_state` [rows, width, d]: of each row what enters the head's last layer, for every token."""
        self.model(**inputs)
        entered, self._entered = self._entered, None
        rows, width = inputs["input_ids"].shape
        if entered is None or entered.shape != (rows, self.last.in_features):
            raise InputError("the reward head does not make one vector of a text", hint=SUPPORTED)
        return SimpleNamespace(last_hidden_state=entered[:, None].expand(rows, width, -1))

    @torch.inference_mode()
    def verify(self, name: str) -> None:
        """Raise InputError unless the layer's output is the model's logit."""
        device = self.last.weight.device
        ids = torch.arange(5, 12, device=device)[None] % int(self.model.config.get_text_config().vocab_size)
        logit = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        states = self(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, -1]
        off = float((self.last(states) - logit).abs().max())
        if not off <= NOISE[self.last.weight.dtype] * max(1.0, float(logit.abs().max())):
            raise InputError(f"the reward head of {name} does more after its last linear layer", hint=SUPPORTED)
