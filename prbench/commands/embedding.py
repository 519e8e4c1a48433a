"""`prbench embed`: texts to embeddings."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from prbench.base.errors import InputError
from prbench.commands.execution import Address, Executor, ExecutorName, JobResources, SlurmOptions, execution
from prbench.commands.options import AsJson, Datasets, Device, OnDevice


class EngineOption(StrEnum):
    """How texts go through the model."""

    auto = "auto"
    trie = "trie"
    padded = "padded"
    batch1 = "batch1"


class Attention(StrEnum):
    """The attention's implementation."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


class Pooling(StrEnum):
    """What of the token states is the embedding."""

    last = "last"
    mean = "mean"


class Dtype(StrEnum):
    """Precision of weights and embeddings."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Form(StrEnum):
    """How a conversation is written for the model."""

    template = "template"
    plain = "plain"


class System(StrEnum):
    """Where the system's message goes."""

    apart = "apart"
    folded = "folded"


class TemplateLoss(StrEnum):
    """What happens where a chat template leaves out text."""

    refuse = "refuse"
    allow = "allow"


def embed(
    dataset: Datasets,
    encoder: Annotated[str, typer.Option(help="Encoder: a name, a Hugging Face id or a folder.")] = "",
    engine: Annotated[
        EngineOption,
        typer.Option(
            help="trie reads what texts of a conversation or post share once; padded puts texts of equal length"
            " together; batch1 reads one at a time. auto: trie where the model takes it, else padded."
        ),
    ] = EngineOption.auto,
    token_budget: Annotated[
        int, typer.Option(min=0, help="Tokens of one forward pass; halved where memory runs out. 0: 4096.")
    ] = 0,
    pooling: Annotated[
        Pooling | None, typer.Option(help="Another pooling than the encoder's makes the encoder NAME@mean or @last.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Another precision than the encoder's makes the encoder NAME@float32, ...")
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            help="template: the model's chat template; plain: context, line break, response, as NAME@plain."
            " Left out: the template where the model has one."
        ),
    ] = None,
    system: Annotated[
        System | None,
        typer.Option(help="folded puts the system's text before the user's message, as NAME@folded."),
    ] = None,
    template_loss: Annotated[
        TemplateLoss | None,
        typer.Option(
            help="refuse: text that the template leaves out is an error; allow: embed the rest, as NAME@allow."
        ),
    ] = None,
    attention: Annotated[
        Attention,
        typer.Option(help="auto: flash_attention_2 where it is installed and the GPU and engine take it, else sdpa."),
    ] = Attention.auto,
    device: OnDevice = Device.auto,
    executor: ExecutorName = Executor.local,
    address: Address = None,
    slurm: SlurmOptions = None,
    resources: JobResources = None,
    shares: Annotated[
        int | None,
        typer.Option(min=1, help="On a cluster: the number of jobs.", show_default="one for 4,096 texts, at most 64"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count texts and tokens, and estimate the time.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encode the texts of data sets, each distinct text once; what is stored already is kept.

    Started by `accelerate launch -m prbench embed ...`, several GPUs share the texts.
    """
    from prbench import data, encoders, registry
    from prbench.commands import output
    from prbench.commands.runs import outlined, show_outlines
    from prbench.embedding import estimate, stage
    from prbench.encoders import team as teams
    from prbench.encoders.base import require_device, resolved_device
    from prbench.running import embedding_jobs, prerequisites
    from prbench.running.outline import Outline

    where = execution(executor, 1, None, address, slurm, resources, device.value)
    if shares and not where.elsewhere:
        raise InputError("--shares is for clusters", hint="add --executor slurm or ray")
    require_device(resolved_device(where.device_here))
    chosen = {"pooling": pooling, "dtype": dtype, "form": form, "system": system, "template_loss": template_loss}
    variant = {name: option.value for name, option in chosen.items() if option is not None}
    how = {"engine": engine.value, "attention": attention.value}
    team = teams.join(where.device_here)
    lost = 0
    outlines: list[Outline] = []
    try:
        for name in registry.select("datasets", dataset):
            entry = registry.get("datasets", name)
            record = encoders.encoder_entry_for(encoder or entry.encoder)
            record = encoders.with_options(encoders.variant(record, **variant), **how)
            needed = prerequisites.prerequisites(name, encoder or None)
            if dry_run and not needed.can_plan:
                outlines.append(Outline(needed, {}))
                continue
            if not dry_run:
                prerequisites.require([needed])
            # The first process fills the cache, the others read it.
            if not team.leads:
                team.wait()
            loaded = data.load(entry)
            if team.leads:
                team.wait()
            if dry_run:
                if team.leads:
                    counted = estimate.account(
                        loaded, record, family=entry.family, device=team.device, token_budget=token_budget
                    )
                    output.show_record(counted, as_json)
                continue
            told: dict[str, int] = {}
            if where.elsewhere:
                done = embedding_jobs.embed(loaded, entry, record, where, shares=shares, token_budget=token_budget)
                told = embedding_jobs.summary(done)
                lost += told.get("shares_lost", 0)
            else:
                stage.embed(loaded, record, family=entry.family, token_budget=token_budget, team=team)
            plan = stage.plan_embedding(loaded, record, family=entry.family, device=team.device)
            if team.leads:
                output.show_record(plan.as_dict() | told, as_json)
        if outlines and team.leads:
            output.show_json(outlined(outlines)) if as_json else show_outlines(outlines)
    finally:
        team.leave()
    if lost:
        raise typer.Exit(1)
