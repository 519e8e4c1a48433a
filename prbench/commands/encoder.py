"""`prbench encoder`: what a model makes of texts, before anything is embedded."""

from __future__ import annotations

from typing import Annotated

import typer

from prbench.commands.options import GROUP, AsJson

app = typer.Typer(help="Show how encoders read texts.", **GROUP)


@app.callback()
def group() -> None:
    """Show how encoders read texts."""


@app.command(epilog="Example: prbench encoder show ./my-reward-model")
def show(
    encoder: Annotated[str, typer.Argument(help="Encoder: a name, a Hugging Face id, a folder, or NAME=FOLDER.")],
    prompt: Annotated[str, typer.Option(help="The user's message.")] = "How do I boil an egg?",
    response: Annotated[str, typer.Option(help="The reply to it.")] = "Eight minutes in boiling water.",
    as_json: AsJson = False,
) -> None:
    """Show a text as the model reads it, special tokens included, and what is read out where. Loads no weights."""
    from prbench import encoders
    from prbench.commands import output
    from prbench.comparisons import Message

    entry = encoders.encoder_entry_for(encoder)
    if entry.name == encoders.OWN:
        from prbench.base.errors import InputError

        raise InputError(
            "own stands for embeddings that a data set brings: no model reads a text", hint="name a model"
        )
    built = encoders.build_encoder(entry)
    record = {
        "encoder": entry.name,
        "title": entry.title,
        **built.fingerprint(),
        "width": built.dim,
        "reward_head": built.has_reward,
        **built.example(((Message("user", prompt),), response)),
    }
    output.show_record(record, as_json)
