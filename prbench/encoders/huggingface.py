"""Any sequence-classification or causal model of Hugging Face: the plain path, one text at a time.

The embedding of a response is the final hidden state (after the model's last norm) at the last token of the
conversation written by the model's own chat template, as in the published MRM scripts (Cai et al. 2026, arXiv
2601.18731); for a reward model its linear head on that vector is the model's own logit. The base model is
called directly and the last token is taken by its position: transformers' own pooling finds it by looking for
padding, and takes the token before the end where the padding and the end token are the same.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from prbench.comparisons import Context
from prbench.encoders.base import Encoded, Encoder, Text, TextError, quiet_transformers, require_device
from prbench.encoders.hub import snapshot, with_weights
from prbench.errors import InputError
from prbench.files import digest

DTYPES = ("bfloat16", "float16", "float32")
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
# Some templates write today's date into the conversation. This is the date that Llama 3.1's writes by default.
DATE = datetime.date(2024, 7, 26)
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class HuggingFace(Encoder):
    """A model by Hugging Face id or folder.

    `model` with its `revision`; `dtype` of the weights and of the embedding; `attn`, where "auto" is
    flash_attention_2 if it is installed and the device is CUDA, else sdpa; `pooling` of the token states, "last"
    or "mean"; `max_length` in tokens, 0 for the model's own number of positions. Code that a model brings along
    is never run.

    A conversation that is too long loses its oldest messages, then the beginning of the message before the
    response; a response is never cut.
    """

    texts_at_once = 8

    def __init__(
        self,
        *,
        model: str,
        revision: str = "main",
        dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
        attn: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto",
        pooling: Literal["last", "mean"] = "last",
        max_length: int = 0,
    ) -> None:
        for name, value, allowed in (
            ("dtype", dtype, DTYPES),
            ("attn", attn, ATTENTION),
            ("pooling", pooling, ("last", "mean")),
        ):
            if value not in allowed:
                raise InputError(f"{model}: {name} is one of {', '.join(allowed)}, not {value!r}")
        if not isinstance(max_length, int) or max_length < 0:
            raise InputError(f"{model}: max_length is a number of tokens or 0, not {max_length!r}")
        self.model = model
        self.dtype = dtype
        self.attn = attn
        self.pooling = pooling
        self._adopted: str | None = None
        self._loaded: _Loaded | None = None
        self._snapshot = snapshot(model, revision)
        self.id, self.revision = self._snapshot.name, self._snapshot.revision
        config = _config(self.id, self._snapshot.folder)
        self._tokenizer, self._template = _tokenizer(self.id, self._snapshot.folder)
        text_config = config.get_text_config()
        self.dim = int(text_config.hidden_size)
        self.has_reward = _has_reward(self.id, config)
        positions = int(getattr(text_config, "max_position_embeddings", 0) or 0)
        self.max_length = min(filter(None, (max_length, positions)), default=0)

    def fingerprint(self) -> dict[str, Any]:
        """What changes the numbers; `attn` is what "auto" comes to on `device`."""
        return {
            "id": self.id,
            "revision": self.revision,
            "dtype": self.dtype,
            "template": digest([self._template, DATE.isoformat()]),
            "pooling": self.pooling,
            "max_length": self.max_length,
            "engine": "transformers, one text at a time",
            "attn": self._attention(self.device),
        }

    def adopt(self, fingerprint: Mapping[str, Any]) -> None:
        """Take over the attention of a store, where `attn` is "auto"."""
        if self.attn == "auto" and fingerprint.get("attn") in ATTENTION:
            self._adopted = fingerprint["attn"]

    def prepare(self, device: str) -> None:
        """Load the weights. Raises InputError when they, the head or the device cannot be had."""
        self._load(device)

    def head(self) -> Tensor | None:
        """The reward head's weights, float32 [d]; None without a head, or where the embedding is not its input."""
        if not self.has_reward or self.pooling != "last":
            return None
        head = self._load(self.device).head
        return None if head is None else head.weight.detach()[0].float().cpu()

    @torch.inference_mode()
    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        """Embeddings [n, d] in `dtype`, and rewards float32 [n] of a model with a reward head.

        Raises TextError for a response that is longer than the model's positions, and for a conversation that
        the chat template refuses.
        """
        loaded = self._load(device)
        embeddings, rewards, cut = [], [], 0
        for row, (context, response) in enumerate(texts):
            tokens, shortened = self._tokens(row, context, response)
            cut += shortened
            ids = torch.tensor([tokens], device=device)
            states = loaded.base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            hidden = states.last_hidden_state[0]
            last = hidden[len(tokens) - 1]
            pooled = last if self.pooling == "last" else hidden.float().mean(dim=0).to(hidden.dtype)
            embeddings.append(pooled.cpu())
            if loaded.head is not None:
                weight, bias = loaded.head.weight.float(), loaded.head.bias
                reward = last.float() @ weight[0] + (bias.float()[0] if bias is not None else 0.0)
                rewards.append(reward.cpu())
        if not embeddings:
            none = torch.empty(0)
            empty = torch.empty((0, self.dim), dtype=getattr(torch, self.dtype))
            return Encoded(empty, none if self.has_reward else None)
        return Encoded(torch.stack(embeddings), torch.stack(rewards) if rewards else None, cut)

    def _tokens(self, row: int, context: Context, response: str) -> tuple[list[int], bool]:
        """The token ids of a conversation, and whether its context was cut to make room for the response."""
        messages = [message._asdict() for message in context]
        reply = {"role": "assistant", "content": response}
        tokens = self._render(row, [*messages, reply])
        if not self.max_length or len(tokens) <= self.max_length:
            return tokens, False
        head = messages[:1] if messages and messages[0]["role"] == "system" else []
        rest = messages[len(head) :]
        while len(rest) > 1:
            rest = rest[1:]
            # A conversation begins with a user's message; many templates insist on it.
            if rest[0]["role"] == "assistant" and len(rest) > 1:
                continue
            tokens = self._render(row, [*head, *rest, reply])
            if len(tokens) <= self.max_length:
                return tokens, True
        content = rest[0]["content"] if rest else ""
        bare = [{**rest[0], "content": ""}] if rest else []
        shortest = self._render(row, [*head, *bare, reply])
        if len(shortest) > self.max_length and head:
            head, shortest = [], self._render(row, [*bare, reply])
        if len(shortest) > self.max_length:
            raise TextError(
                row, f"the response alone takes {len(shortest)} tokens, {self.id} reads at most {self.max_length}"
            )
        best, low, high = shortest, 0, len(content)
        while low < high:
            keep = (low + high + 1) // 2
            ending = [{**rest[0], "content": content[len(content) - keep :]}]
            tokens = self._render(row, [*head, *ending, reply])
            if len(tokens) <= self.max_length:
                best, low = tokens, keep
            else:
                high = keep - 1
        return best, True

    def _render(self, row: int, messages: list[dict[str, str]]) -> list[int]:
        """The conversation as the chat template writes it, tokenised once: the template brings its own BOS."""
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                date_string=DATE.strftime("%d %b %Y"),
            )
        except TemplateError as error:
            raise TextError(row, f"the chat template of {self.id} refuses it: {error}") from error
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not tokens:
            raise TextError(row, f"the chat template of {self.id} makes nothing of it")
        return tokens

    def _attention(self, device: str) -> str:
        if self.attn != "auto":
            return self.attn
        if self._adopted:
            return self._adopted
        from transformers.utils.import_utils import is_flash_attn_2_available

        return "flash_attention_2" if device.startswith("cuda") and is_flash_attn_2_available() else "sdpa"

    def _load(self, device: str) -> _Loaded:
        attention = self._attention(device)
        if self._loaded is None or (self._loaded.device, self._loaded.attention) != (device, attention):
            require_device(device)
            _require_attention(self.id, attention, device)
            folder = with_weights(self.model, self._snapshot)
            self._loaded = _load(self.id, folder, self.has_reward, getattr(torch, self.dtype), attention, device)
        return self._loaded


class _Loaded(NamedTuple):
    base: Any
    head: torch.nn.Linear | None
    device: str
    attention: str


def _config(name: str, folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, "configuration", error) from error


def _tokenizer(name: str, folder: Path) -> tuple[Any, str]:
    """The tokenizer and its chat template, with a fixed date in place of today's."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unreadable(name, "tokenizer", error) from error
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise InputError(
            f"{name} has no chat template, so there is no agreed way to write a conversation for it",
            hint="put a chat_template.jinja into a folder with the model's files and name that folder",
        )
    template = TODAY.sub(lambda match: repr(DATE.strftime(match[2])), template)
    if re.search(r"strftime_now\s*\(", template):
        raise InputError(
            f"the chat template of {name} writes today's date, so embeddings would change from day to day",
            hint="put a chat_template.jinja with a fixed date into a folder with the model's files",
        )
    return tokenizer, template


def _has_reward(name: str, config: Any) -> bool:
    """Whether a model has a reward head. Raises InputError for a model of neither kind."""
    architecture = (getattr(config, "architectures", None) or ["Model"])[0]
    if architecture.endswith("ForSequenceClassification"):
        if config.num_labels != 1:
            raise InputError(f"{name} is a classifier with {config.num_labels} labels, not a reward model with one")
        return True
    if architecture.endswith(("ForCausalLM", "Model")) and not architecture.endswith("RewardModel"):
        return False
    raise InputError(
        f"{name} is a {architecture}; prbench reads sequence-classification and causal models of transformers"
    )


def _require_attention(name: str, attention: str, device: str) -> None:
    if attention != "flash_attention_2":
        return
    from transformers.utils.import_utils import is_flash_attn_2_available

    if not device.startswith("cuda") or not is_flash_attn_2_available():
        raise InputError(
            f"{name}: attn flash_attention_2 needs a CUDA device and the package flash-attn",
            hint="set attn to sdpa; embeddings made with the other attention stay in a store of their own",
        )


def _load(name: str, folder: Path, reward: bool, dtype: torch.dtype, attention: str, device: str) -> _Loaded:
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if reward else AutoModel
    try:
        with quiet_transformers():
            model, report = kind.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
            )
        model = model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise InputError(f"{name} does not fit into the memory of {device}", hint="try --device cpu") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise _unreadable(name, "weights", error) from error
    # transformers fills missing weights with random numbers.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"the weights of {name} lack {missing[0]}" + (f" and {len(missing) - 1} more" * (len(missing) > 1))
        )
    if not reward:
        return _Loaded(model, None, device, attention)
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise InputError(f"the reward head of {name} is no linear layer called 'score' on the last token")
    return _Loaded(model.base_model, head, device, attention)


def _unreadable(name: str, part: str, error: Exception) -> InputError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"the {part} of {name} cannot be read by transformers: {first}")
