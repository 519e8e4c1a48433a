"""A tiny language model with random weights that reads bytes: what trained methods are checked on, in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prbench.base.seeds import Rng
from prbench.comparisons import Message
from prbench.judging.adapted import OwnWeights, quiet

WIDTH, LAYERS, ROOM = 32, 2, 8192
SPECIAL = ("<|begin|>", "<|start|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role[0] }}:{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>a:{% endif %}"
)


def tokenizer() -> Any:
    """One token a byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core: Any = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    begin, _, end = SPECIAL
    kind: Any = PreTrainedTokenizerFast
    made: Any = kind(tokenizer_object=core, bos_token=begin, eos_token=end, pad_token=end)
    made.chat_template = TEMPLATE
    return made


def planted_weights() -> OwnWeights:
    """A Llama of two layers, the same in every process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = tokenizer()
    config: Any = LlamaConfig(
        vocab_size=len(reader),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=ROOM,
        bos_token_id=reader.bos_token_id,
        eos_token_id=reader.eos_token_id,
        pad_token_id=reader.pad_token_id,
    )
    with quiet():
        model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=Rng("planted weights", name).torch())

    def said(messages: Sequence[Message]) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in messages]

    def ids(messages: Sequence[Message], answered: bool) -> tuple[int, ...]:
        found = reader.apply_chat_template(
            said(messages), add_generation_prompt=not answered, tokenize=True, return_dict=False
        )
        return tuple(found)

    return OwnWeights(model.eval(), reader, ids, said, ROOM)
