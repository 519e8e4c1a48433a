"""The encoders' engines on a Llama with random weights: how fast they read, and that they agree.

`batch1` reads one text at a time and is what the others are compared with. Tokens count as they go through the model,
padding included; the share is that of the rate of one large product in the same precision, which counts the model's
matrices and neither its attention nor anything else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from prbench.encoders import engines
from prbench.encoders.engines import ENGINES, NOISE, TOKEN_BUDGET, Model
from prbench.timing import embed
from prbench.timing.gpu.part import Clock, Goal, Outcome, Setting
from prbench.training.compute import peak_memory

if TYPE_CHECKING:
    from torch import Tensor

GOAL = 0.5
BUDGETS = (TOKEN_BUDGET, 4 * TOKEN_BUDGET, 16 * TOKEN_BUDGET)
WARMED = 8
"""One text of so many is read before the time is taken."""
ROOM = 2**30
"""Bytes beside the weights when memory is to run out."""
NO_TRANSFORMERS = "transformers is not installed: the engines were not measured"


def measure(setting: Setting, clock: Clock) -> Outcome:
    """Each engine on conversations like PRISM's and posts like Reddit's: a row for each of them."""
    if not installed("transformers"):
        return Outcome(left_out=[NO_TRANSFORMERS])
    size = embed.SIZES[setting.size.model]
    outcome = Outcome()
    start = time.perf_counter()
    setting.model = model = embed.random_model(size.config, setting.device, _dtype(setting))
    outcome.facts = {
        "model": f"Llama with random weights, configuration {setting.size.model}",
        "weights": sum(weight.numel() for weight in model.base.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "seconds_to_make": time.perf_counter() - start,
        "attention": "torch's scaled_dot_product_attention",
    }
    flash = _flash_problem(setting)
    if flash:
        outcome.left_out.append(flash)
    shapes = {
        "prism": embed.conversations(size.conversations, size.scale),
        "tldr": embed.posts(size.posts, size.scale),
    }
    ways: list[tuple[str, int, str]] = [("batch1", TOKEN_BUDGET, "sdpa")]
    ways += [("trie", budget, "sdpa") for budget in BUDGETS] + [("padded", BUDGETS[1], "sdpa")]
    ways += [] if flash else [(name, BUDGETS[1], "flash_attention_2") for name in ("batch1", "padded")]
    todo = [(shape, way) for shape in shapes for way in ways]
    reference: dict[str, Tensor] = {}
    rate = setting.rates.get(outcome.facts["dtype"]) or embed.matmul_rate(setting.device, model.dtype)
    for number, (shape, (name, budget, attention)) in enumerate(todo):
        called = f"{name} on {shape}, {budget:,} tokens at a time, {attention}"
        allowed = clock.left / (len(todo) - number)
        if allowed <= 0:
            outcome.left_out.append(f"{called}: the time was up")
            continue
        setting.say(f"reading: {called}")
        with _attention(model, attention):
            row, found = _read(model, shapes[shape], name, budget, int(size.config["vocab_size"]), allowed)
        if found is None:
            outcome.left_out.append(f"{called}: the time was up")
            continue
        alone = reference.setdefault(shape, found)
        off = _off(found, alone)
        used = 2 * engines.matrix_size(model.base.config) * int(size.config["num_hidden_layers"])
        outcome.rows.append(
            {
                "engine": name,
                "texts_like": shape,
                "tokens_at_a_time": budget if name != "batch1" else None,
                "attention": attention,
                **row,
                "share_of_product_rate": row["tokens_per_second"] * used / rate,
                "largest_difference": off,
                "within_noise": off <= NOISE[model.dtype],
            }
        )
    best = max((row["share_of_product_rate"] for row in outcome.rows if row["engine"] == "trie"), default=None)
    outcome.goals = [
        Goal(
            f"tries reach {GOAL:.0%} of the rate of a matrix product",
            best,
            "of it",
            None if best is None else best >= GOAL,
        ),
        Goal(
            "every engine gives the states of texts read alone, up to noise",
            max((row["largest_difference"] for row in outcome.rows), default=None),
            "largest relative difference",
            all(row["within_noise"] for row in outcome.rows) if outcome.rows else None,
        ),
    ]
    return outcome


def exhaust(setting: Setting, clock: Clock) -> Outcome:
    """Let memory run out on purpose: the budget of tokens must be halved, and every state come out the same."""
    model, outcome = setting.model, Outcome()
    if not installed("transformers") or model is None:
        return Outcome(left_out=["there was no model: memory was not made to run out"])
    size = embed.SIZES[setting.size.model]
    texts = embed.posts(size.posts, size.scale)
    vocabulary = int(size.config["vocab_size"])
    usual, _ = _pass(model, texts, "trie", TOKEN_BUDGET, vocabulary, None)
    halved: list[int] = []
    how = _out_of_gpu_memory(setting, model) if setting.on_gpu else _out_of_planted_memory(model, texts)
    with how as said:
        found, _ = _pass(model, texts, "trie", 32 * TOKEN_BUDGET, vocabulary, halved)
    off = _off(found, usual)
    outcome.facts = {"how": said, "tokens_at_first": 32 * TOKEN_BUDGET, "halved_to": halved, "texts": len(found)}
    outcome.rows = [{"tokens_at_a_time": budget} for budget in halved]
    outcome.goals = [
        Goal(
            "when memory runs out, fewer tokens are read at a time and every state stays the same",
            off,
            "largest relative difference",
            bool(halved) and off <= NOISE[model.dtype],
        )
    ]
    # What follows has the whole memory.
    setting.model = None
    return outcome


def installed(package: str) -> bool:
    """Whether a package can be imported here."""
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


def _dtype(setting: Setting) -> torch.dtype:
    return torch.bfloat16 if setting.on_gpu else torch.float32


def _flash_problem(setting: Setting) -> str:
    """Why FlashAttention's own package is left out; nothing where it is used."""
    if not installed("flash_attn"):
        return "FlashAttention: flash_attn is not installed (torch has kernels of its own, which were measured)"
    from prbench.encoders.transformer_models import has_flash_attention

    return "" if has_flash_attention(setting.device) else "FlashAttention: flash_attn does not support this device"


@contextmanager
def _attention(model: Model, name: str) -> Iterator[None]:
    """The model with another implementation of attention; put back after."""
    before = model.base.config._attn_implementation
    if name == before:
        yield
        return
    model.base.set_attn_implementation(name)
    try:
        yield
    finally:
        model.base.set_attn_implementation(before)


def _read(
    model: Model, texts: embed.Texts, name: str, budget: int, vocabulary: int, seconds: float
) -> tuple[dict[str, Any], Tensor | None]:
    """A row of figures and the states [n, d] of all texts; no states where they would take longer than `seconds`."""
    few = embed.Texts(texts.sequences[::WARMED], texts.groups[::WARMED], [])
    # The first pass of a shape compiles and allocates; the second says how long all of them take.
    _pass(model, few, name, budget, vocabulary, None)
    start = embed.now(model.device)
    _pass(model, few, name, budget, vocabulary, None)
    if (embed.now(model.device) - start) * WARMED > 4 * seconds:
        return {}, None
    if model.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    start = embed.now(model.device)
    found, tokens = _pass(model, texts, name, budget, vocabulary, None)
    taken = embed.now(model.device) - start
    return {
        "texts": len(texts.sequences),
        "tokens": tokens,
        "seconds": taken,
        "tokens_per_second": tokens / taken,
        "texts_per_second": len(texts.sequences) / taken,
        "peak_memory_gb": peak_memory(model.device) / 1e9,
    }, found


def _pass(
    model: Model, texts: embed.Texts, name: str, budget: int, vocabulary: int, halved: list[int] | None
) -> tuple[Tensor, int]:
    """The states [n, d] of all texts in float32, and the tokens that went through the model."""
    engine, balance = ENGINES[name], engines.attention_balance(model.base.config)
    sequences = [ids % vocabulary for ids in texts.sequences]
    tries = engine.tries(sequences, texts.groups, budget=budget, balance=balance)
    found = torch.empty((len(sequences), model.base.config.hidden_size))
    tokens = 0
    told = None if halved is None else halved.append
    for part in engines.run(model, engine, tries, budget=budget, balance=balance, halved=told):
        found[part.number] = part.embedding.float()
        tokens += part.size
    return found, tokens


def _off(found: Tensor, alone: Tensor) -> float:
    """The largest distance of a state from the one it should be, relative to that one's length."""
    return float(((found - alone).norm(dim=1) / alone.norm(dim=1)).max())


@contextmanager
def _out_of_gpu_memory(setting: Setting, model: Model) -> Iterator[str]:
    """While this process may hold only `ROOM` more than it does."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(setting.device).total_memory
    allowed = torch.cuda.memory_reserved() + ROOM
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    try:
        yield f"torch was allowed {allowed / 1e9:.1f} GB, {ROOM / 1e9:.1f} GB more than the weights"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@contextmanager
def _out_of_planted_memory(model: Model, texts: embed.Texts) -> Iterator[str]:
    """While passes of more tokens than the longest text has are refused: a CPU's memory is not to be exhausted."""
    most = max(map(len, texts.sequences))

    def refuse(_: Any, args: Sequence[Any], inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].numel() > most:
            raise torch.OutOfMemoryError("planted")

    handle = model.base.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield f"planted: passes of more than {most} tokens were refused"
    finally:
        handle.remove()
