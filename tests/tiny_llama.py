"""A tiny random Llama with a byte tokenizer whose padding token is its end token, and whose template writes BOS."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

POSITIONS = 160
BOS, START, EOT = 256, 257, 258
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('no role ' + m.role) }}{% endif %}"
    "<|start|>{{ m.role[0] }}:{{ m.content | trim }}<|eot|>{% endfor %}"
)


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token per byte; encoding a plain text puts BOS before it, as Llama's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<|bos|>", "<|start|>", "<|eot|>")])
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|eot|>", pad_token="<|eot|>"
    )
    made.chat_template = template
    return made


def build(
    folder: Path,
    *,
    reward: bool = True,
    template: str | None = TEMPLATE,
    labels: int = 1,
    seed: int = 0,
    positions: int = POSITIONS,
    pad: int | None = EOT,
) -> Path:
    """Save a model with d = 16, grouped queries and Llama 3's RoPE, and its tokenizer, in `folder`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        bos_token_id=BOS,
        eos_token_id=EOT,
        pad_token_id=pad,
        num_labels=labels,
    )
    model = LlamaForSequenceClassification(config) if reward else LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: object) -> None:
    """Change config.json in place."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
