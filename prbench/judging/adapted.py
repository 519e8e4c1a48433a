"""A judge model's own weights with a LoRA adapter on them (Hu et al. 2021, arXiv 2106.09685), and what they say.

The weights stay as they are; what is trained is the adapter alone, by peft, and it is kept as tensors under the names
that peft gives them.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Message

if TYPE_CHECKING:
    from torch import Tensor

    from prbench.judging.backend import Backend

PACKAGES = ("trl", "peft", "accelerate", "datasets")
INSTALL = "pip install 'prbench[judge-train]'"
HEAD = "score"
Kind = Literal["reward", "language"]


class Lora(NamedTuple):
    """The form of an adapter: the rank of its products, which are weighed with `alpha` / `rank`."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class OwnWeights:
    """A causal language model that can be trained, with what writes its prompts.

    `ids(messages, answered)` are the tokens of a conversation; without an answer they end where one begins. `said`
    is a conversation as the tokenizer's template takes it, with nothing in it that steers the model. `room` is the
    number of tokens that the model can read.
    """

    model: Any
    tokenizer: Any
    ids: Callable[[Sequence[Message], bool], tuple[int, ...]]
    said: Callable[[Sequence[Message]], list[dict[str, str]]]
    room: int


def lacking() -> str | None:
    """Which packages training needs and does not have here, in one sentence; None where all are there."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return f"training a judge model needs {', '.join(missing)}: {INSTALL}" if missing else None


class AdaptedModel:
    """A model with an adapter of one form; which numbers the adapter holds changes with `begin` and `load`.

    A "reward" model has a head with one number, read at the last token, in place of the head of the "language" model.
    The adapter changes all linear layers; the head is trained with it.
    """

    def __init__(self, own: OwnWeights, kind: Kind, lora: Lora, *, batch_tokens: int = 8192) -> None:
        import peft

        self.own, self.kind, self.lora = own, kind, lora
        self.batch_tokens = batch_tokens
        base = _with_head(own.model) if kind == "reward" else own.model
        settings: Any = importlib.import_module("peft").LoraConfig(
            task_type="SEQ_CLS" if kind == "reward" else "CAUSAL_LM",
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules="all-linear",
            modules_to_save=[HEAD] if kind == "reward" else None,
        )
        with quiet():
            self.peft: Any = peft.get_peft_model(base, settings)
        self.peft.eval()

    @property
    def device(self) -> str:
        """Where it computes."""
        return str(next(self.peft.parameters()).device)

    def trained(self) -> list[tuple[str, Any]]:
        """The names and parameters that training changes."""
        return [(name, each) for name, each in self.peft.named_parameters() if each.requires_grad]

    def begin(self, rng: Rng) -> None:
        """An adapter that changes nothing yet, as LoRA begins: one factor drawn, the other zero; a head drawn."""
        import torch

        with torch.no_grad():
            for name, parameter in self.trained():
                if "lora_B" in name:
                    parameter.zero_()
                    continue
                drawn = torch.empty(parameter.shape)
                generator = rng.child(name).torch()
                if "lora_A" in name:
                    bound = parameter.shape[1] ** -0.5
                    drawn.uniform_(-bound, bound, generator=generator)
                else:
                    drawn.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
                parameter.copy_(drawn)

    def tensors(self) -> dict[str, Tensor]:
        """The adapter's numbers, copied, on the CPU."""
        import peft

        with quiet():
            found = peft.get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        return {name: tensor.detach().float().cpu().clone() for name, tensor in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take an adapter's numbers back. Raises InputError for those of another model or of another form."""
        import peft

        there = self.tensors()
        wrong = next((n for n in there if n not in tensors or tensors[n].shape != there[n].shape), None)
        wrong = wrong or next((n for n in tensors if n not in there), None)
        if wrong:
            raise InputError(
                f"the adapter does not fit the judge model: {wrong} is missing, or not of its shape",
                hint="it was trained on another model: repeat the run",
            )
        with quiet():
            peft.set_peft_model_state_dict(self.peft, dict(tensors))
        self.peft.eval()

    def rewards(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The reward of each text, given as tokens: float64 [n]."""
        import torch

        base = self.peft.get_base_model()
        inner, head = getattr(base, base.base_model_prefix), getattr(base, HEAD)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = torch.empty(len(texts), dtype=torch.float64)
        start = 0
        self.peft.eval()
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(texts[order[end]]) <= self.batch_tokens:
                end += 1
            rows = [list(texts[i]) for i in order[start:end]]
            width = max(map(len, rows))
            # Filled up on the right: a token sees those before it alone, and nothing of this reaches what is read.
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.device)
            last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
            with torch.inference_mode():
                hidden = inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0]
                values = head(hidden[torch.arange(len(rows), device=self.device), last])
            found[order[start:end]] = values[:, 0].double().cpu()
            start = end
        return found


_ADAPTED: WeakKeyDictionary[Backend, dict[tuple[Kind, Lora], AdaptedModel]] = WeakKeyDictionary()


def adapted(backend: Backend, kind: Kind, lora: Lora) -> AdaptedModel:
    """The backend's weights with an adapter of this form, made once: whoever uses it loads its own numbers first."""
    known = _ADAPTED.setdefault(backend, {})
    if (kind, lora) not in known:
        known[kind, lora] = AdaptedModel(backend.own_weights(), kind, lora)
    return known[kind, lora]


def _with_head(model: Any) -> Any:
    """The model with a head of one number: its layers are the same ones, not copies."""
    import torch
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    config = copy.deepcopy(model.config)
    config.num_labels = 1
    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    kind, prefix = mapping.get(type(config), None), model.base_model_prefix
    if kind is None or not hasattr(model, prefix):
        raise InputError(
            f"transformers has no reward model of the kind {type(model).__name__}", hint="take another judge model"
        )
    with torch.device("meta"), quiet():
        made = kind(config)
    if not hasattr(made, HEAD):
        raise InputError(f"{type(made).__name__} has no head called {HEAD}", hint="take another judge model")
    setattr(made, prefix, getattr(model, prefix))
    width = int(config.get_text_config().hidden_size)
    made.score = torch.nn.Linear(width, 1, bias=False, device=model.device, dtype=model.dtype)
    return made


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Work of trl and peft without their warnings and bars, and without a trace in the process's random numbers."""
    import torch

    from prbench.encoders.base import quiet_transformers

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(), warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
