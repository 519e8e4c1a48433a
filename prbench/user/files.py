"""One user's workflow over files: adapt, score, rank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.loaders.rows import records
from prbench.loaders.user_file import read_rows
from prbench.user.model import Pair, UserModel, _context, _parsed, _text, open_state, ranked


def adapt(
    run: Path,
    method: str,
    pairs: Path,
    out: Path,
    *,
    dataset: str | None = None,
    encoder: str | None = None,
    split: int = 0,
    selection: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Adapt to one user's choices in a file and save the state; says what was done.

    Raises InputError for a file that holds the choices of several users.
    """
    model = UserModel.open(
        run, method, dataset=dataset, encoder=encoder, split=split, selection=selection, device=device
    )
    choices = _read_pairs(pairs)
    state = model.adapt(choices)
    predicted = model.predicted(state, choices)
    model.save(state, out)
    values = sum(tensor.numel() for tensor in state.tensors.values())
    return {
        "state": str(out),
        "comparisons": len(choices),
        "predicted before": predicted.before,
        "predicted after": predicted.after,
        "method": method,
        "encoder": model.origin["encoder"],
        "values": values,
        "bytes of values": sum(t.numel() * t.element_size() for t in state.tensors.values()),
    }


def score(
    state: Path, texts: Path, *, run: Path | None = None, encoder: str | None = None, device: str = "auto"
) -> list[dict[str, Any]]:
    """The score of each line's response for the user of a saved state, in the order of the file."""
    model, user = open_state(state, run=run, encoder=encoder, device=device)
    rows = [
        (where, _context(record, where), _text(record.get("response"), "response", where))
        for where, record in _rows(texts, "response", other=("responses", "rank"))
    ]
    if not rows:
        raise InputError(f"{texts} has no rows")
    values = model.score_texts(user, [(context, response) for _, context, response in rows])
    return [
        {"row": i + 1, "score": float(value), "response": response}
        for i, (value, (_, _, response)) in enumerate(zip(values, rows, strict=True))
    ]


def rank(
    state: Path, texts: Path, *, run: Path | None = None, encoder: str | None = None, device: str = "auto"
) -> list[dict[str, Any]]:
    """The responses to each line's prompt for the user of a saved state, best first (best of n)."""
    model, user = open_state(state, run=run, encoder=encoder, device=device)
    prompts = []
    for where, record in _rows(texts, "responses", other=("response", "score")):
        responses = record.get("responses")
        if isinstance(responses, str):
            responses = _parsed(responses, where)
        if not isinstance(responses, list) or not responses:
            raise InputError(f"{where}: 'responses' must be a list of texts")
        prompts.append((_context(record, where), [_text(r, "responses", where) for r in responses]))
    if not prompts:
        raise InputError(f"{texts} has no rows")
    flat = [(context, response) for context, responses in prompts for response in responses]
    values = iter(model.score_texts(user, flat).tolist())
    return [
        {"prompt": number, **place._asdict()}
        for number, (_, responses) in enumerate(prompts, start=1)
        for place in ranked([next(values) for _ in responses], responses)
    ]


def _read_pairs(path: Path) -> list[Pair]:
    rows = list(read_rows(path, needs_user=False))
    people = {row.user for row in rows}
    if len(people) > 1:
        raise InputError(
            f"{path} holds the choices of {len(people):,} people in user_id",
            hint="keep one person's lines; for all of them `prbench data import`",
        )
    pairs = [Pair([message._asdict() for message in row.context], row.chosen, row.rejected) for row in rows]
    if not pairs:
        raise InputError(f"{path} has no rows", hint='each line needs "prompt", "chosen" and "rejected"')
    return pairs


def _rows(path: Path, column: str, *, other: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with `prompt` and `column`; `other` is the column that another command, the second, reads instead."""
    for where, record in records(path, ("prompt",), (column, other[0])):
        if record.get(column) is None and record.get(other[0]) is not None:
            raise InputError(f"{where} has {other[0]!r}, not {column!r}", hint=f"use `prbench user {other[1]}`")
        yield where, record
