"""A causal language model of transformers as judge model: letters' probabilities read from one forward pass."""

from __future__ import annotations

import copy
import inspect
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.comparisons import Message
from prbench.encoders.adapters import merged, read_adapter
from prbench.encoders.chat import DATE, TODAY, unreadable
from prbench.encoders.hub_models import snapshot, with_weights
from prbench.judging.adapted import AdaptedModel, OwnWeights
from prbench.judging.backend import Answer, Backend, Request, Tell
from prbench.judging.model_files import model_files, snapshot_of_adapter
from prbench.method import tensors_digest

AT_ONCE = 4096
LEAST_SHARED = 16
"""Tokens that several prompts must begin with for these to be computed once."""
ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"


@dataclass(frozen=True)
class _Prompt:
    """A request as tokens."""

    number: int
    request: Request
    ids: tuple[int, ...]


class LocalModel(Backend):
    """Any causal model of transformers: a folder, a hub id, or `package:NAME` for the folder of a Python package.

    `gguf` names a GGUF file in the folder, whose weights and tokenizer are read instead. `adapter` is the folder of a
    LoRA adapter (peft, safetensors). Quantised models load as their configuration says. `dtype` "auto" is that of the
    files, float32 on a CPU. `max_length` in tokens is the model's own number of positions by default. `batch_tokens`
    go through the model at once. `system` "folded" puts the instruction before the user's message, for templates that
    know no system message. Code that a model brings along is never run.

    The log-probabilities of a request's labels are those of the label's tokens right after the prompt; where one
    label begins as another does ("1" and "10"), the shorter one is what is left. Prompts that begin alike share the
    computation of their beginning. Texts are likeliest ones where the temperature is 0.
    """

    trains: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: str,
        revision: str = "main",
        gguf: str = "",
        adapter: str = "",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        max_length: int = 0,
        batch_tokens: int = 8192,
        system: Literal["apart", "folded"] = "apart",
    ) -> None:
        self.model = model
        self.gguf = gguf
        self.adapter = adapter
        self.dtype = dtype
        self.batch_tokens = batch_tokens
        self.system = system
        self._folder, self._name, self._revision = model_files(model, revision, gguf)
        self._model: Any = None
        self._tokenizer: Any = None
        self._template = ""
        self._max_length = max_length
        self._control: list[str] = []
        self._cache_name = ""

    def identity(self) -> dict[str, Any]:
        """The model's files and how they are read; the batch and the device are not among it."""
        found: dict[str, Any] = {"kind": "local", "model": self._name, "revision": self._revision}
        found |= {"dtype": self.dtype, "system": self.system}
        if self.adapter:
            found["adapter"] = snapshot_of_adapter(self.adapter)
        return found

    @property
    def context(self) -> int:
        """The model's positions, or fewer where `max_length` says so."""
        self._read_tokenizer()
        return self._max_length

    @property
    def counts_tokens(self) -> bool:
        """Always."""
        return True

    def tokens(self, messages: Sequence[Message]) -> int:
        """The tokens of a prompt as the chat template writes it."""
        return len(self._ids(messages))

    def own_weights(self) -> OwnWeights:
        """The weights once more, apart from those that answer. Raises InputError where they cannot be had."""
        self._read_tokenizer()
        reader, model = copy.deepcopy(self._tokenizer), self._load()
        reader.chat_template = self._template
        # Weights that were read from a quantised file are whole numbers' floats here: nothing of it may stay.
        if self.gguf and hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        return OwnWeights(model, reader, self._ids, self._said, self._max_length)

    def tuned(self, model: AdaptedModel, tensors: Mapping[str, Any]) -> LocalModel:
        """This model with an adapter's numbers, as a judge model of its own."""
        made = TunedModel.__new__(TunedModel)
        made.__dict__.update(self.__dict__)
        made.adapted, made.tensors = model, dict(tensors)
        made._model = model.peft.get_base_model()
        known = inspect.signature(type(made._model).forward).parameters
        made._cache_name = "cache" if "cache" in known else "past_key_values"
        return made

    def prepare(self) -> None:
        """Load the weights. Raises InputError where they cannot be had."""
        if self._model is None:
            self._read_tokenizer()
            self._model = self._load()
            # Renamed in transformers 5.24.
            known = inspect.signature(type(self._model).forward).parameters
            self._cache_name = "cache" if "cache" in known else "past_key_values"

    def answer(self, requests: Sequence[Request], tell: Tell) -> None:
        """As in `Backend`; requests that begin alike, and those of about equal length, go through together."""
        import torch

        self.prepare()
        with torch.inference_mode():
            # Tokens of a whole data set's prompts would take gigabytes.
            for start in range(0, len(requests), AT_ONCE):
                self._answer(start, requests[start : start + AT_ONCE], tell)

    def _answer(self, start: int, requests: Sequence[Request], tell: Tell) -> None:
        """Answer some of the requests, the first of which has the number `start`."""
        prompts = [_Prompt(start + i, request, self._ids(request.messages)) for i, request in enumerate(requests)]
        for labels, group in _grouped(prompts, lambda p: p.request.labels):
            if not labels:
                for together in self._writing(group):
                    for number, answer in self._write(together):
                        tell(number, answer)
                continue
            for shared, batch in self._batches(group):
                for number, answer in self._choose(labels, shared, batch):
                    tell(number, answer)

    def _batches(self, prompts: Sequence[_Prompt]) -> Iterator[tuple[int, list[_Prompt]]]:
        """(tokens at the beginning that all have, prompts) of every forward pass."""
        key = lambda p: (p.request.messages[:-1], p.request.messages[-1].content[: p.request.shared])  # noqa: E731
        for _, group in _grouped(prompts, key):
            # The last token of a prompt is always computed: its state is what is read.
            shared = min(_common([p.ids for p in group]), *(len(p.ids) - 1 for p in group))
            if len(group) == 1 or shared < LEAST_SHARED:
                shared = 0
            ordered = sorted(group, key=lambda p: len(p.ids))
            start = 0
            while start < len(ordered):
                end = start + 1
                # A row holds the shared beginning too: its keys and values are copied for each.
                while end < len(ordered) and (end + 1 - start) * len(ordered[end].ids) <= self.batch_tokens:
                    end += 1
                yield shared, ordered[start:end]
                start = end

    def _choose(self, labels: tuple[str, ...], shared: int, batch: Sequence[_Prompt]) -> Iterator[tuple[int, Answer]]:
        """The log-probabilities of the labels after each prompt."""
        import torch

        began = time.perf_counter()
        tokens = [tuple(self._tokenizer.encode(label, add_special_tokens=False)) for label in labels]
        device = self._model.device
        past = self._computed(batch[0].ids[:shared], len(batch))
        rows = [prompt.ids[shared:] for prompt in batch]
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        width = int(last.max()) + 1
        # Filled up on the right: a token sees those before it alone, so that nothing of this reaches what is read.
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        kept, place = torch.unique(last, return_inverse=True)
        made = self._model(
            input_ids=ids,
            attention_mask=torch.ones(len(rows), shared + width, dtype=torch.int64, device=device),
            position_ids=torch.arange(shared, shared + width, device=device)[None].expand(len(rows), -1),
            use_cache=bool(past),
            logits_to_keep=kept,
            **past,
        )
        logits = made.logits[torch.arange(len(rows), device=device), place]
        first = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
        longer = {t[0] for t in tokens if len(t) > 1}
        following = {
            (i, token): self._after((*prompt.ids, token)) for i, prompt in enumerate(batch) for token in longer
        }
        seconds = (time.perf_counter() - began) / len(batch)
        for i, prompt in enumerate(batch):
            values = []
            for t in tokens:
                value = float(first[i, t[0]])
                for n in range(1, len(t)):
                    known = following[i, t[0]] if n == 1 else self._after((*prompt.ids, *t[:n]))
                    value += float(known[t[n]])
                values.append(value)
            yield (
                prompt.number,
                Answer(
                    logprobs=tuple(_exclusive(tokens, values)),
                    tokens_in=len(prompt.ids),
                    tokens_out=1,
                    seconds=seconds,
                    model=self._name,
                ),
            )

    def _computed(self, ids: Sequence[int], count: int) -> dict[str, Any]:
        """The keys and values of a beginning that `count` prompts have, as an argument of the model; none of none."""
        import torch
        from transformers import DynamicCache

        if not ids:
            return {}
        past: Any = DynamicCache(config=self._model.config)
        start = torch.tensor([list(ids)], device=self._model.device)
        self._model(input_ids=start, use_cache=True, logits_to_keep=1, **{self._cache_name: past})
        past.batch_repeat_interleave(count)
        return {self._cache_name: past}

    def _after(self, ids: Sequence[int]) -> Any:
        """The log-probabilities of every token after `ids`."""
        import torch

        made = self._model(
            input_ids=torch.tensor([ids], device=self._model.device), use_cache=False, logits_to_keep=1
        )
        return torch.log_softmax(made.logits[0, -1].float(), dim=-1).cpu().numpy()

    def _write(self, batch: Sequence[_Prompt]) -> Iterator[tuple[int, Answer]]:
        """The texts that follow prompts of one limit and temperature, each to its end or the limit."""
        import torch

        began = time.perf_counter()
        device, first = self._model.device, batch[0].request
        end = self._tokenizer.eos_token_id
        width = max(len(prompt.ids) for prompt in batch)
        # Filled up on the left, where the mask hides it: new tokens come at the right.
        ids = torch.tensor([[end] * (width - len(p.ids)) + list(p.ids) for p in batch], device=device)
        mask = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in batch], device=device)
        settings = copy.deepcopy(self._model.generation_config)
        sampling = first.temperature > 0
        settings.update(
            max_new_tokens=first.limit,
            max_length=None,
            do_sample=sampling,
            temperature=first.temperature if sampling else None,
            top_p=None,
            top_k=None,
            pad_token_id=end,
            eos_token_id=settings.eos_token_id or end,
        )
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            # What is drawn depends on what is asked alone, and on which of several samples it is.
            torch.manual_seed(int(digest(first.content(), length=15), 16))
            made = self._model.generate(ids, attention_mask=mask, generation_config=settings)
        seconds = (time.perf_counter() - began) / len(batch)
        for prompt, row in zip(batch, made[:, width:], strict=True):
            text = self._tokenizer.decode(row, skip_special_tokens=True)
            written = int((row != end).sum()) + 1
            yield (
                prompt.number,
                Answer(
                    text=text,
                    tokens_in=len(prompt.ids),
                    tokens_out=min(written, first.limit),
                    seconds=seconds,
                    model=self._name,
                ),
            )

    def _writing(self, prompts: Sequence[_Prompt]) -> Iterator[list[_Prompt]]:
        """Prompts whose texts are written together: the likeliest ones in batches, drawn ones alone."""
        for (_, temperature), group in _grouped(prompts, lambda p: (p.request.limit, p.request.temperature)):
            batch: list[_Prompt] = []
            for prompt in sorted(group, key=lambda p: len(p.ids)):
                room = (len(batch) + 1) * (len(prompt.ids) + prompt.request.limit)
                if batch and (temperature > 0 or room > self.batch_tokens):
                    yield batch
                    batch = []
                batch.append(prompt)
            yield batch

    def _said(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """A conversation as the chat template takes it."""
        self._read_tokenizer()
        said = [{"role": role, "content": self._defused(content)} for role, content in messages]
        if self.system == "folded" and len(said) > 1 and said[0]["role"] == "system":
            joined = f"{said[0]['content']}\n\n{said[1]['content']}"
            said = [{"role": said[1]["role"], "content": joined}, *said[2:]]
        return said

    def _ids(self, messages: Sequence[Message], answered: bool = False) -> tuple[int, ...]:
        """A conversation as tokens: up to where the answer begins, or with its answer, the last message."""
        said = self._said(messages)
        from jinja2 import TemplateError

        try:
            ids = self._tokenizer.apply_chat_template(
                said,
                chat_template=self._template,
                add_generation_prompt=not answered,
                tokenize=True,
                return_dict=False,
                date_string=DATE.strftime("%d %b %Y"),
            )
        except TemplateError as error:
            raise InputError(
                f"the chat template of {self._name} refuses a system and a user message: {error}",
                hint='say system = "folded" in the options of the judge model\'s entry',
            ) from error
        return tuple(ids)

    def _defused(self, text: str) -> str:
        """A text without tokens that steer the model: these would end a message from inside it."""
        for token in self._control:
            if token in text:
                text = text.replace(token, token[0] + ZERO_WIDTH + token[1:])
        return text

    def _read_tokenizer(self) -> None:
        if self._tokenizer is not None:
            return
        from transformers import AutoConfig, AutoTokenizer

        from prbench.encoders.base import quiet_transformers

        source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        source |= {"gguf_file": self.gguf} if self.gguf else {}
        try:
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(str(self._folder), **source)
                config = AutoConfig.from_pretrained(str(self._folder), **source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise unreadable(self._name, "tokenizer", error) from error
        template = tokenizer.chat_template
        template = template.get("default") if isinstance(template, dict) else template
        if not template:
            raise InputError(
                f"{self._name} has no chat template: a base model cannot be asked", hint="take an instruction model"
            )
        self._template = TODAY.sub(lambda match: repr(DATE.strftime(match[2])), template)
        positions = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)
        self._max_length = min(filter(None, (self._max_length, positions)), default=2**20)
        control = {*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}
        self._control = sorted((token for token in control if token.strip()), key=len, reverse=True)
        self._tokenizer = tokenizer

    def _load(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        from prbench.encoders.base import quiet_transformers, require_device

        require_device(self.device)
        dtype: Any = self.dtype
        if dtype == "auto" and self.device == "cpu":
            dtype = "float32"
        folder = self._folder if self.gguf else with_weights(self.model, snapshot(self.model, self._revision_asked))
        options: dict[str, Any] = {"gguf_file": self.gguf} if self.gguf else {"use_safetensors": True}
        try:
            with quiet_transformers():
                model: Any = AutoModelForCausalLM.from_pretrained(
                    str(folder),
                    local_files_only=True,
                    trust_remote_code=False,
                    dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                    **options,
                )
                if self.adapter:
                    model = merged(model, read_adapter(Path(self.adapter).expanduser()), self._name)
            return model.to(self.device).eval()
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{self._name} does not fit into the memory of {self.device}", hint="try --device cpu"
            ) from error
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise unreadable(self._name, "weights", error) from error

    @property
    def _revision_asked(self) -> str:
        """What a hub model is looked up by; a folder has no revision to ask for."""
        return "main" if Path(self.model).expanduser().is_dir() else self._revision


class TunedModel(LocalModel):
    """A local model with an adapter that was trained here; several of one model share its weights."""

    adapted: AdaptedModel
    tensors: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """The model's files, and the adapter's numbers."""
        return {**super().identity(), "tuned": tensors_digest(self.tensors, {})}

    def answer(self, requests: Sequence[Request], tell: Tell) -> None:
        """As in `Backend`, with this one's numbers in place of those that another may have loaded."""
        self.adapted.load(self.tensors)
        super().answer(requests, tell)


def _grouped(prompts: Sequence[_Prompt], key: Any) -> list[tuple[Any, list[_Prompt]]]:
    """The prompts by a key, in the order in which keys first occur."""
    groups: dict[Any, list[_Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(key(prompt), []).append(prompt)
    return list(groups.items())


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return sum(1 for _ in same)


def _exclusive(tokens: Sequence[tuple[int, ...]], values: Sequence[float]) -> list[float]:
    """Log-probabilities of labels as whole answers: without those of longer labels that begin as they do."""
    found = []
    for t, value in zip(tokens, values, strict=True):
        longer = [v for other, v in zip(tokens, values, strict=True) if other != t and other[: len(t)] == t]
        left = np.exp(value) - np.exp(longer).sum() if longer else np.exp(value)
        found.append(float(np.log(left)) if left > 0 and longer else value if not longer else float("-inf"))
    return found
