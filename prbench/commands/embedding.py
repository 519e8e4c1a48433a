"""`prbench embed`: texts to embeddings."""

from __future__ import annotations

from typing import Annotated

import typer

from prbench.commands.options import AsJson, Datasets, Device, OnDevice


def embed(
    dataset: Datasets,
    encoder: Annotated[str, typer.Option(help="Encoder: a name, a Hugging Face id or a folder.")] = "",
    device: OnDevice = Device.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be encoded.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encode the texts of data sets, each distinct text once; what is stored already is kept."""
    from prbench import data, embedding, encoders, listing, registry
    from prbench.encoders.base import require_device, resolved_device

    require_device(resolved_device(device.value))
    for name in registry.select("datasets", dataset):
        entry = registry.get("datasets", name)
        record = encoders.encoder_entry_for(encoder or entry.encoder)
        loaded = data.load(entry)
        if not dry_run:
            embedding.embed(loaded, record, family=entry.family, device=device.value)
        plan = embedding.plan_embedding(loaded, record, family=entry.family, device=device.value)
        listing.show_record(plan.as_dict(), as_json)
