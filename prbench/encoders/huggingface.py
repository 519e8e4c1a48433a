"""Any sequence-classification or causal model of Hugging Face.

The embedding of a response is the final hidden state (after the model's last norm) at the last token of the
conversation written by the model's own chat template, as in the published MRM scripts (Cai et al. 2026, arXiv
2601.18731); for a reward model its linear head on that vector is the model's own logit. The base model is
called directly and the last token is taken by its position: transformers' own pooling finds it by looking for
padding, and takes the token before the end where the padding and the end token are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.comparisons import Context, IntArray
from prbench.encoders import engines
from prbench.encoders.adapters import adapted_config, adapter_in, base_of, revision_of
from prbench.encoders.base import (
    SAMPLED,
    Encoded,
    Encoder,
    EncodingWork,
    Part,
    Text,
    require_device,
)
from prbench.encoders.chat import Chat, Form, Loss, System
from prbench.encoders.copies import copy_of
from prbench.encoders.engines import ENGINES, TOKEN_BUDGET, Engine, Model
from prbench.encoders.hub_models import snapshot, weights_here, with_weights
from prbench.encoders.packing import Rows, size_of
from prbench.encoders.sentence import declared
from prbench.encoders.transformer_models import (
    has_flash_attention,
    has_reward,
    load_model,
    read_config,
    reads_last_token,
    require_attention,
    takes_sdpa,
    usable_positions,
)
from prbench.encoders.trie import Trie

DTYPES = ("bfloat16", "float16", "float32")
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": DTYPES,
    "engine": ("auto", *ENGINES),
    "attention": ATTENTION,
    "pooling": ("declared", "last", "mean"),
    "form": ("auto", "template", "plain"),
    "system": ("apart", "folded"),
    "template_loss": ("refuse", "allow"),
}
# FlashAttention 2 needs an Ampere GPU or a newer one.


class HuggingFace(Encoder):
    """A model by Hugging Face id or folder.

    `model` with its `revision`; `dtype` of the weights and of the embedding; `pooling` of the token states,
    "last" or "mean", or as the folder of a sentence encoder declares it in modules.json, else "last";
    `max_length` in tokens, 0 for the model's own number of positions; `end`, the token that a conversation must
    end with and that padding must not be, where that is known of the model. `engine` "auto" is the trie where the
    model is known to take it, else padded. `attention` "auto" is flash_attention_2 where it is installed, the GPU
    and `dtype` support it and the engine can use it, else sdpa: the trie needs a mask of its own, which
    flash_attention_2 does not take. `copy` is a folder with the files of the hub's `model`, read in its place and
    under its name where there is such a folder. The folder of a LoRA adapter is read as its base with the adapter
    merged in, by its own tokenizer where it has one; that takes peft. `label` is which of a classifier's two labels
    is the better reply: the reward is its logit less the other's. Code that a model brings along is never run.

    A conversation that is too long loses its oldest messages, then the beginning of the message before the
    response; a response is never cut.
    """

    packs = True

    def __init__(
        self,
        *,
        model: str,
        revision: str = "main",
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
        engine: Literal["auto", "trie", "padded", "batch1"] = "auto",
        attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto",
        pooling: Literal["declared", "last", "mean"] = "declared",
        max_length: int = 0,
        end: str = "",
        form: Form = "auto",
        system: System = "apart",
        template_loss: Loss = "refuse",
        copy: str = "",
        label: int | None = None,
    ) -> None:
        _require_options(
            model,
            dtype=dtype,
            engine=engine,
            attention=attention,
            pooling=pooling,
            form=form,
            system=system,
            template_loss=template_loss,
        )
        if not isinstance(max_length, int) or max_length < 0:
            raise InputError(f"{model}: max_length is a number of tokens or 0, not {max_length!r}")
        self.model = model
        self.dtype = dtype
        self.engine = engine
        self.attention = attention
        self.pooling: Literal["last", "mean"] = "mean" if pooling == "mean" else "last"
        self.form, self.system, self.template_loss = form, system, template_loss
        self.label = label
        self._adopted: dict[str, str] = {}
        self._loaded: Model | None = None
        tokenizer_folder = self._open_files(model, revision, copy)
        self._read_config(pooling)
        if self._declared is not None:
            max_length = max_length or self._declared.max_length
        self.max_length = min(filter(None, (max_length, usable_positions(self._config))), default=0)
        self._chat = Chat(self.id, tokenizer_folder, self.max_length, form=form, system=system, loss=template_loss)
        self._pad = getattr(self._config, "pad_token_id", None)
        if end:
            self._chat.require_end(end, self._pad)
        self._require_engine(engine)

    def _open_files(self, model: str, revision: str, copy: str) -> Path:
        """Find the model's small files and what they are called; returns the folder of its tokenizer."""
        # A record may come from a machine that had a copy where this one has none.
        self._copy = Path(copy) if copy and Path(copy).is_dir() else None
        self._adapter = None if self._copy else adapter_in(model)
        if self._adapter is None:
            self._snapshot = copy_of(model, self._copy) if self._copy else snapshot(model, revision)
            self.id, self.revision = self._snapshot.name, self._snapshot.revision
            return self._snapshot.folder
        self._snapshot = base_of(self._adapter)
        self.id, self.revision = self._adapter.folder.name, revision_of(self._adapter, self._snapshot)
        return self._adapter.folder if self._adapter.brings_tokenizer else self._snapshot.folder

    def _read_config(self, pooling: str) -> None:
        """The configuration, and what follows from it: the head, its label, the pooling and the dimensions."""
        config = read_config(self.id, self._snapshot.folder)
        if self._adapter is not None:
            config = adapted_config(self._adapter, config)
        text_config = config.get_text_config()
        self._whole_config, self._config = config, text_config
        self.dim = int(text_config.hidden_size)
        self.has_reward = has_reward(self.id, config, self.label)
        # A head that reads whole sequences in its own way has no states of single tokens to average.
        self._own_head = self.has_reward and not reads_last_token(config)
        if self._own_head and pooling == "mean":
            raise InputError(
                f"{self.id}: its reward head reads texts in its own way", hint="leave --pooling mean out"
            )
        self._architecture = (getattr(config, "architectures", None) or [config.model_type])[0]
        follow = pooling == "declared" and not self._own_head
        self._declared = declared(self.id, self._snapshot.folder, self.dim) if follow else None
        if self._declared is not None:
            self.dim = self._declared.dim

    def _require_engine(self, engine: str) -> None:
        """Raise InputError for an engine that the model cannot use."""
        problems = {
            "trie": engines.tree_problem(self._config, self.max_length),
            "padded": engines.together_problem(self._config),
        }
        if problem := problems.get(engine):
            other = "padded" if engine == "trie" and not problems["padded"] else "batch1"
            raise InputError(f"{self.id} cannot use the engine {engine}: {problem}", hint=f"use --engine {other}")

    def fingerprint(self) -> dict[str, Any]:
        """What changes the numbers; `engine` and `attention` are what "auto" comes to on `device`."""
        # What is as in older stores is not named, so that they stay what they are.
        further = {
            "form": self._chat.form if self._chat.form != "template" else "",
            "system": self.system if self.system != "apart" else "",
            "template_loss": self.template_loss if self.template_loss != "refuse" else "",
            "head": self._head_name,
        }
        return {
            "id": self.id,
            "revision": self.revision,
            "dtype": self.dtype,
            "template": self._chat.fingerprint,
            "pooling": self.pooling if self._declared is None else self._declared.description,
            "max_length": self.max_length,
            "engine": self._engine.name,
            "attention": self._attention(self.device),
            **{name: value for name, value in further.items() if value},
        }

    @property
    def _head_name(self) -> str:
        """What tells another head than one linear layer on the last token, "" for that one."""
        architecture = self._architecture if self._own_head else ""
        return architecture if self.label is None else f"{architecture} label {self.label}".strip()

    def example(self, text: Text) -> dict[str, Any]:
        """As in `Encoder`: the conversation with its special tokens, and where the embedding is read out."""
        rendered, tokens = self._chat.rendered(*text)
        if self._own_head:
            place = f"the input of the last linear layer of the head of {self._architecture}"
        elif self._declared is not None:
            place = f"the token states, pooled as modules.json declares: {self._declared.description}"
        elif self.pooling == "mean":
            place = "the mean of the final hidden states of all tokens"
        else:
            place = f"the final hidden state of the last token, {tokens[-1]!r}"
        head = "none"
        if self.has_reward:
            head = "a linear layer on that" if self.pooling == "last" else "a linear layer on the last token's state"
        if self.label is not None:
            head += f": the logit of label {self.label} less the other's"
        return {
            "rendered": rendered,
            "tokens": len(tokens),
            "last_tokens": tokens[-4:],
            "read_out": place,
            "reward": head,
        }

    def lost_texts(self, texts: Sequence[Text]) -> int:
        """As in `Encoder`."""
        return self._chat.count_lost(texts)

    def adopt(self, fingerprint: Mapping[str, Any]) -> None:
        """Take over the engine and the attention of a store, where they are "auto"."""
        for name, known in (("engine", ENGINES), ("attention", ATTENTION)):
            if getattr(self, name) == "auto" and fingerprint.get(name) in known:
                self._adopted[name] = fingerprint[name]

    def prepare(self, device: str) -> None:
        """Load the weights. Raises InputError when they, the head or the device cannot be had."""
        self._load(device)

    def weights_size(self) -> int | None:
        """The bytes of the weights' files on this machine, or None where they are not here, or not all."""
        return weights_here(self._source, self._snapshot)

    def head(self) -> Tensor | None:
        """The reward head's weights, float32 [d]; None without a head, or where the embedding is not its input."""
        if not self.has_reward or self.pooling != "last" or self._declared is not None:
            return None
        head = self._load(self.device).head
        return None if head is None else head.weight.detach()[0].float().cpu()

    def plan(self, texts: Sequence[Text], *, at_once: int | None = None) -> PackedWork:
        """The texts packed for the engine; `at_once` has no meaning here, `token_budget` has.

        Raises TextError for a response that is longer than the model's positions, and for a conversation that
        the chat template refuses.
        """
        sequences, cut = self._chat.read(texts)
        # A post or conversation is known by its first messages; responses without any have nothing to share.
        groups = [_opening(context) or row for row, (context, _) in enumerate(texts)]
        budget = self.token_budget or TOKEN_BUDGET
        balance = engines.attention_balance(self._config)
        tries = self._engine.tries(sequences, groups, budget=budget, balance=balance)
        lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
        work = PackedWork(self, self._engine, self._engine.pack(tries, budget), lengths, cut)
        work.different = len({ids.tobytes() for ids in sequences})
        return work

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        """Embeddings [n, d] in `dtype`, and rewards float32 [n] of a model with a reward head.

        Raises TextError as `plan` does.
        """
        work = self.plan(texts)
        embedding = torch.empty((len(texts), self.dim), dtype=getattr(torch, self.dtype))
        reward = torch.empty(len(texts)) if self.has_reward else None
        self._load(device)
        for part in work.run(device):
            embedding[part.rows] = part.encoded.embedding
            if reward is not None and part.encoded.reward is not None:
                reward[part.rows] = part.encoded.reward
        return Encoded(embedding, reward, len(work.cut))

    @property
    def _source(self) -> str:
        """What is read: the copy's folder, else the folder or id of the model, or of its adapter's base."""
        return str(self._copy) if self._copy else self._adapter.base if self._adapter else self.model

    @property
    def _engine(self) -> Engine:
        name = self.engine if self.engine != "auto" else self._adopted.get("engine", "")
        if not name:
            name = engines.suitable(self._config, self.max_length)
            if name == "trie" and "flash_attention_2" in (self.attention, self._adopted.get("attention")):
                name = "padded"
        return ENGINES[name]

    def _attention(self, device: str) -> str:
        if self.attention != "auto":
            return self.attention
        if adopted := self._adopted.get("attention"):
            return adopted
        usable = self._engine.name != "trie" and self.dtype != "float32" and has_flash_attention(device)
        if not usable and not takes_sdpa(self._whole_config, self.has_reward):
            return "eager"
        return "flash_attention_2" if usable else "sdpa"

    def _load(self, device: str) -> Model:
        attention = self._attention(device)
        if self._loaded is None or (self._loaded.device, self._loaded.attention) != (device, attention):
            require_device(device)
            require_attention(self.id, attention, device)
            folder = with_weights(self._source, self._snapshot)
            dtype = getattr(torch, self.dtype)
            loaded = load_model(
                self.id, folder, self.has_reward, dtype, attention, device, self.label, adapter=self._adapter
            )
            if self._declared is not None:
                self._declared.load(device)
            if self._engine.name == "trie":
                engines.verify_tree_mask(loaded, self.id, int(self._config.vocab_size))
            if self.has_reward and self._pad is not None and self._pad == self._chat.last_token:
                stderr().print(
                    f"note: the padding token of {self.id} is its end token, so scores by transformers' own pooling"
                    " come from the token before the end; rewards here come from the end"
                )
            self._loaded = loaded
        return self._loaded


def _require_options(model: str, **options: str) -> None:
    """Raise InputError, naming `model`, for a value outside `CHOICES`, and for two that exclude each other."""
    for name, value in options.items():
        if value not in CHOICES[name]:
            raise InputError(f"{model}: {name} is one of {', '.join(CHOICES[name])}, not {value!r}")
    if options["engine"] == "trie" and options["attention"] == "flash_attention_2":
        raise InputError(
            f"{model}: flash_attention_2 takes no mask for tries",
            hint="use --attention sdpa, or --engine padded with flash_attention_2",
        )


class PackedWork(EncodingWork):
    """Texts in forward passes of tries, whose sequences are numbered by the texts' rows.

    `lengths` [n] are the tokens of each text read by itself; `cut` are the rows whose context was cut.
    """

    unit = "tokens"
    lengths: IntArray

    def __init__(
        self, encoder: HuggingFace, engine: Engine, passes: Sequence[Rows], lengths: IntArray, cut: AbstractSet[int]
    ) -> None:
        self.encoder = encoder
        self.engine = engine
        self.passes = passes
        self.lengths = lengths
        self.cut = cut

    @property
    def tries(self) -> list[Trie]:
        """The tries of all passes."""
        return [trie for rows in self.passes for row in rows for trie in row]

    @property
    def budget(self) -> int:
        """Tokens of one forward pass."""
        return self.encoder.token_budget or TOKEN_BUDGET

    @cached_property
    def packed(self) -> int:  # type: ignore[override]
        """The tokens that go through the model, padding included."""
        return sum(map(size_of, self.passes))

    @property
    def total(self) -> int:  # type: ignore[override]
        """As `packed`."""
        return self.packed

    def of(self, passes: Sequence[Rows], cut: AbstractSet[int] | None = None) -> PackedWork:
        """Other passes of the same texts."""
        work = PackedWork(self.encoder, self.engine, passes, self.lengths, self.cut if cut is None else cut)
        work.different = self.different
        return work

    def only(self, rows: Collection[int]) -> PackedWork:
        """As in `EncodingWork`."""
        wanted = frozenset(rows)
        holding = [
            pass_rows
            for pass_rows in self.passes
            if any(not wanted.isdisjoint(trie.number.tolist()) for row in pass_rows for trie in row)
        ]
        return self.of(holding, self.cut & wanted)

    def share(self, index: int, count: int) -> PackedWork:
        """As in `EncodingWork`; of the passes by size every `count`-th, so that shares are equally large."""
        return self.of(sorted(self.passes, key=size_of)[index::count])

    def sample(self) -> PackedWork:
        """As in `EncodingWork`."""
        tries = sorted(self.tries, key=len)
        some = tries[:: max(1, len(tries) // SAMPLED)]
        return self.of(self.engine.pack(some, self.budget))

    def run(self, device: str) -> Iterator[Part]:
        """As in `EncodingWork`."""
        model = self.encoder._load(device)
        balance = engines.attention_balance(self.encoder._config)
        for states in engines.run_passes(
            model,
            self.engine,
            self.passes,
            budget=self.budget,
            balance=balance,
            pooling=self.encoder._declared or self.encoder.pooling,
        ):
            cut = sum(row in self.cut for row in states.number)
            yield Part(states.number, Encoded(states.embedding, states.reward, cut), states.size)


def _opening(context: Context) -> Context:
    """The messages up to the first one that is not the system's: the post or the opening prompt."""
    first = next((i for i, message in enumerate(context) if message.role != "system"), len(context) - 1)
    return context[: first + 1]
