"""One user's workflow over files: adapt, score, rank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prbench.base.errors import InputError
from prbench.loaders.rows import records
from prbench.loaders.user_file import read_rows
from prbench.user.model import Pair, UserModel, _context, _parsed, _text, open_state


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
    """Adapt to one user's choices in a file and save the state; says what was done."""
    model = UserModel.open(
        run, method, dataset=dataset, encoder=encoder, split=split, selection=selection, device=device
    )
    choices = _read_pairs(pairs)
    state = model.adapt(choices)
    state.save(out, model.origin)
    values = sum(tensor.numel() for tensor in state.tensors.values())
    return {
        "state": str(out),
        "comparisons": len(choices),
        "method": method,
        "encoder": model.origin["encoder"],
        "values": values,
        "bytes of values": sum(t.numel() * t.element_size() for t in state.tensors.values()),
    }


def score(state: Path, texts: Path, *, device: str = "auto") -> list[dict[str, Any]]:
    """The score of each line's response for the user of a saved state, in the order of the file."""
    model, user = open_state(state, device=device)
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


def rank(state: Path, texts: Path, *, device: str = "auto") -> list[dict[str, Any]]:
    """The responses to each line's prompt for the user of a saved state, best first (best of n)."""
    model, user = open_state(state, device=device)
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
    ranked = []
    for number, (_, responses) in enumerate(prompts, start=1):
        scored = sorted(((next(values), response) for response in responses), key=lambda pair: -pair[0])
        ranked += [
            {"prompt": number, "rank": place, "score": value, "response": response}
            for place, (value, response) in enumerate(scored, start=1)
        ]
    return ranked


def _read_pairs(path: Path) -> list[Pair]:
    pairs = [
        Pair([message._asdict() for message in row.context], row.chosen, row.rejected)
        for row in read_rows(path, needs_user=False)
    ]
    if not pairs:
        raise InputError(f"{path} has no rows", hint='each line needs "prompt", "chosen" and "rejected"')
    return pairs


def _rows(path: Path, column: str, *, other: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with `prompt` and `column`; `other` is the column that another command, the second, reads instead."""
    for where, record in records(path, ("prompt",), (column, other[0])):
        if record.get(column) is None and record.get(other[0]) is not None:
            raise InputError(f"{where} has {other[0]!r}, not {column!r}", hint=f"use `prbench user {other[1]}`")
        yield where, record
