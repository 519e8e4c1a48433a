"""`prbench user`: one user's own comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prbench.commands.options import GROUP, AsJson, Device, OnDevice

app = typer.Typer(help="Adapt to one person from their own choices, and score new texts for them.", **GROUP)


@app.command(epilog="Example: prbench user adapt --run runs --method mrm --pairs my.jsonl --out me.safetensors")
def adapt(
    run: Annotated[Path, typer.Option(exists=True, help="Folder of results, or a released checkpoint.")],
    method: Annotated[str, typer.Option(help="The fitted method.")],
    pairs: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help="JSONL file of this person's choices: prompt, chosen, rejected."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File for the user's state.")] = Path("user.safetensors"),
    dataset: Annotated[str | None, typer.Option(help="Which data set's run, where there are several.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Which encoder's run, where there are several.")] = None,
    split: Annotated[int, typer.Option(min=0, help="Which split's fitted method.")] = 0,
    selection: Annotated[
        str | None,
        typer.Option(
            help="Which fit, where there are several: published, tuned, validation or last; without it published."
        ),
    ] = None,
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Adapt a fitted method to one person, from their own choices, and save that state."""
    from prbench.commands import output
    from prbench.user import files

    done = files.adapt(
        run,
        method,
        pairs,
        out,
        dataset=dataset,
        encoder=encoder,
        split=split,
        selection=selection,
        device=device.value,
    )
    output.show_record(done, as_json)


@app.command(epilog="Example: prbench user score --state me.safetensors --texts new.jsonl --json")
def score(
    state: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A user's state.")],
    texts: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSONL file of texts: prompt, response.")],
    run: Annotated[
        Path | None,
        typer.Option(exists=True, help="Folder of results, or the checkpoint, where the state's method is now."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="A checkpoint's encoder, where it is a folder.")] = None,
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Score texts for one user. Scores of one user compare with each other only."""
    from prbench.commands import output
    from prbench.user import files

    output.show_rows(files.score(state, texts, run=run, encoder=encoder, device=device.value), as_json)


@app.command(epilog="Example: prbench user rank --state me.safetensors --texts candidates.jsonl")
def rank(
    state: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A user's state.")],
    texts: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="JSONL file of texts: prompt, responses (a list).")
    ],
    run: Annotated[
        Path | None,
        typer.Option(exists=True, help="Folder of results, or the checkpoint, where the state's method is now."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="A checkpoint's encoder, where it is a folder.")] = None,
    device: OnDevice = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Rank the responses to each prompt for one user, best first (best of n)."""
    from prbench.commands import output
    from prbench.user import files

    output.show_rows(files.rank(state, texts, run=run, encoder=encoder, device=device.value), as_json)


@app.command(epilog="Example: prbench user serve --state me.safetensors --port 8000")
def serve(
    state: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A user's state.")],
    run: Annotated[
        Path | None,
        typer.Option(exists=True, help="Folder of results, or the checkpoint, where the state's method is now."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="A checkpoint's encoder, where it is a folder.")] = None,
    device: OnDevice = Device.auto,
    host: Annotated[
        str, typer.Option(help="Address to serve at; any but this machine's own lets others ask.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8000,
    max_body: Annotated[int, typer.Option(min=1, help="The most bytes of a request.")] = 1 << 20,
    max_responses: Annotated[int, typer.Option(min=1, help="The most responses of a request.")] = 64,
    max_text: Annotated[int, typer.Option(min=1, help="The most characters of one text.")] = 32_768,
    max_waiting: Annotated[int, typer.Option(min=1, help="The most requests at a time; others get 503.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Serve one user's scores over HTTP until Ctrl-C: POST /score and /rank, GET /health.

    A request is {"prompt": ..., "responses": [...]}. No text of a request is logged or kept.
    """
    from prbench.base.console import stderr
    from prbench.commands import output
    from prbench.serving.server import serve as serve_until_interrupted
    from prbench.user.model import open_state

    model, user = open_state(state, run=run, encoder=encoder, device=device.value)

    def ready(url: str) -> None:
        if as_json:
            output.show_json({"url": url, **model.origin})
        what = f"{model.origin['method']}, {model.origin['encoder']}"
        stderr().print(f"serving {state.name} ({what}) at {url}; Ctrl-C ends it", markup=False, soft_wrap=True)

    limits = {"body": max_body, "responses": max_responses, "text": max_text, "waiting": max_waiting}
    serve_until_interrupted(model, user, host=host, port=port, limits=limits, ready=ready)
