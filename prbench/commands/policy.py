"""`prbench policy`: from rewards to language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import GROUP, AsJson, Device, OnDevice

app = typer.Typer(help="Train language models on people's rewards, and judge them by people's own choices.", **GROUP)


@app.callback()
def group() -> None:
    """Train language models on people's rewards, and judge them by people's own choices."""


@app.command(epilog="Example: prbench policy dpo --dataset sim-text --method rfm --users any:2")
def dpo(
    dataset: Annotated[str, typer.Option(help="One data set of texts.")],
    method: Annotated[str, typer.Option(help="The fitted method whose rewards label the pairs.")],
    users: Annotated[
        str, typer.Option(help="Unseen users by their numbers in the results, as 12,40; or any:4, or all.")
    ],
    runs: Annotated[Path, typer.Option(help="Folder of results, with fits of the method and of bt.")] = Path("runs"),
    encoder: Annotated[str | None, typer.Option(help="Which encoder's fits, where there are several.")] = None,
    split: Annotated[int, typer.Option(min=0, help="Which split's fits.")] = 0,
    policy: Annotated[
        str, typer.Option(help="Language model: a judge model that is read here, a folder or a hub id.")
    ] = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="Folder for the adapters and results.json.")] = Path("policies"),
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Steps of each policy.")] = 300,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Pairs of a step.")] = 8,
    rate: Annotated[float, typer.Option(min=1e-12, max=1.0, help="Learning rate.")] = 1e-4,
    beta: Annotated[float, typer.Option(min=1e-6, max=1e6, help="DPO's beta.")] = 0.1,
    rank: Annotated[int, typer.Option(min=1, max=4096, help="Rank of the LoRA adapters.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the pairs' order and the adapters.")] = 0,
    device: OnDevice = Device.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be trained.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy for each user by DPO on pairs that the user's adapted reward labels, and two to compare with.

    BT's reward labels the pairs of the one, seen users' own choices those of the other; pairs, order and steps are
    the same. Each is judged on the user's own held-out choices. What is done is kept: the same command goes on.
    """
    from prbench.base.files import require_writable
    from prbench.commands import output
    from prbench.encoders.base import require_device, resolved_device
    from prbench.policy import dpo as trained
    from prbench.policy import training
    from prbench.policy.language_model import language_model
    from prbench.policy.pairs import open_people

    where = resolved_device(device.value)
    require_device(where)
    recipe = training.Recipe(steps=steps, batch=batch, rate=rate, beta=beta, rank=rank, seed=seed)
    read = language_model(policy, device=where)
    people = open_people(runs, dataset, method, users, encoder=encoder, split=split, device=where)
    if dry_run:
        output.show_record(trained.outline(people, read, recipe, out), as_json)
        return
    training.require_trl()
    require_writable(out)
    done = trained.execute(people, read, recipe, out)
    if as_json:
        output.show_json(done)
        return
    points = [
        {name: 100 * value if isinstance(value, float) else value for name, value in row.items()}
        for row in (*done["users"], {"user": "mean", "choices": "", **done["mean"]})
    ]
    output.show_rows(points, as_json)
