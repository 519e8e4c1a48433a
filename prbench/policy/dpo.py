"""Personalised DPO: a policy for each of a few people, beside those for everybody, judged on people's own choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.base.files import digest, file_sha256, write_json, writing_folder
from prbench.base.reading import read_json, sealed, unsealed
from prbench.comparisons import FloatArray
from prbench.policy import training
from prbench.policy.language_model import LanguageModel, Sequenced, log_probabilities
from prbench.policy.pairs import BT, EVERYBODY, Labels, People, labelled, reward_margins
from prbench.policy.training import RECORD, WEIGHTS, Recipe, TextPair
from prbench.protocol.metrics import decisions


def outline(people: People, policy: LanguageModel, recipe: Recipe, out: Path) -> dict[str, Any]:
    """What training would take: the policies, those that are there already, pairs, steps; trains nothing."""
    labels, held_out = labelled(people, recipe.seed)
    folders = {name: _folder(people, policy, recipe, labels[name], out, name) for name in labels}
    return {
        "dataset": people.data.name,
        "method": people.record.method,
        "policy": policy.name,
        "users": people.users.tolist(),
        "policies": len(labels),
        "done": sum((folder / RECORD).is_file() for folder in folders.values()),
        "pairs": {name: len(each.rows) for name, each in labels.items()},
        "pairs left out as tested": held_out,
        **asdict(recipe),
    }


def execute(people: People, policy: LanguageModel, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train what is missing, judge it, and write `results.json` in `out`; returns what is written there.

    A policy is right on a choice where it has raised the chosen reply's log-probability over the reference model's
    more than the rejected one's; ties count one half. Beside the policies stand the reference model's own preference
    and the two rewards. Raises InputError as `training.train`, and for a policy's file that was changed.
    """
    training.require_trl()
    labels, held_out = labelled(people, recipe.seed)
    sequences, tests = _held_out(people, policy)
    found: dict[str, dict[str, Any]] = {}
    reference: FloatArray | None = None
    with progress("steps") as display:
        bar = display.add_task("DPO", total=recipe.steps * len(labels))
        for name, own in labels.items():
            folder = _folder(people, policy, recipe, own, out, name)
            display.update(bar, description=f"DPO, {name}")
            if (folder / RECORD).is_file():
                found[name] = _read(folder)
                display.advance(bar, recipe.steps)
                continue
            with writing_folder(folder) as new:
                pairs = [_texts(people, row, bool(turned)) for row, turned in zip(*own, strict=True)]
                model = training.train(policy, pairs, recipe, new, lambda: display.advance(bar))
                if reference is None:
                    with model.disable_adapter():
                        reference = _logs(model, sequences)
                adapted = _logs(model, sequences)
                margins = {
                    str(user): (_differences(adapted, rows) - _differences(reference, rows)).tolist()
                    for user, rows in tests.items()
                }
                own_margins = {str(user): _differences(reference, rows).tolist() for user, rows in tests.items()}
                record = {"name": name, "recipe": asdict(recipe), "policy": policy.identity()}
                training.finish(new, {**record, "margins": margins, "reference": own_margins})
            found[name] = _read(folder)
    policy.forget()
    return _report(people, policy, recipe, found, held_out, out)


def _report(
    people: People, policy: LanguageModel, recipe: Recipe, found: dict[str, dict[str, Any]], held_out: int, out: Path
) -> dict[str, Any]:
    rewards = reward_margins(people)
    rows = []
    for user in people.users.tolist():
        adapted, bt = rewards[user]
        arms = {
            "own policy": found[f"user-{user}"]["margins"][str(user)],
            "BT-labelled policy": found[BT]["margins"][str(user)],
            "unpersonalised policy": found[EVERYBODY]["margins"][str(user)],
            "reference model": found[BT]["reference"][str(user)],
            "own reward": adapted,
            "BT reward": bt,
        }
        shares = {name: float(decisions(np.asarray(values)).mean()) for name, values in arms.items()}
        rows.append({"user": user, "choices": len(adapted), **shares})
    columns = [name for name in rows[0] if name not in ("user", "choices")]
    mean = {name: float(np.mean([row[name] for row in rows])) for name in columns}
    result = {
        "dataset": people.data.name,
        "encoder": people.record.encoder,
        "method": people.record.method,
        "split": people.split.index,
        "policy": policy.name,
        "recipe": asdict(recipe),
        "pairs left out as tested": held_out,
        "users": rows,
        "mean": mean,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", sealed(result))
    return result


def _held_out(people: People, policy: LanguageModel) -> tuple[list[Sequenced], dict[int, Any]]:
    """The texts of the people's test choices as tokens, and by person the places of the chosen and rejected ones."""
    data = people.data
    place: dict[int, int] = {}
    tests = {}
    for user in people.users.tolist():
        rows = people.test_rows(user)
        tests[user] = tuple(
            np.array([place.setdefault(int(item), len(place)) for item in side[rows]], dtype=np.int64)
            for side in (data.chosen, data.rejected)
        )
    sequences = [policy.sequence(data.contexts[data.item_context[item]], data.responses[item]) for item in place]
    for sequence in sequences:
        if len(sequence.reply) + 1 > policy.context:
            said = f"{data.name} has a response of {len(sequence.reply):,} tokens"
            raise InputError(f"{said}, {policy.name} reads {policy.context:,}")
    return [Sequenced(s.prompt[-(policy.context - len(s.reply)) :], s.reply) for s in sequences], tests


def _logs(model: Any, sequences: Sequence[Sequenced]) -> FloatArray:
    return np.asarray(log_probabilities(model, sequences)[:, 0].double().numpy())


def _differences(logs: FloatArray, rows: tuple[Any, Any]) -> FloatArray:
    return np.asarray(logs[rows[0]] - logs[rows[1]])


def _texts(people: People, row: int, turned: bool) -> TextPair:
    data = people.data
    chosen, rejected = data.responses[int(data.chosen[row])], data.responses[int(data.rejected[row])]
    context = data.contexts[data.item_context[int(data.chosen[row])]]
    return TextPair(context, rejected, chosen) if turned else TextPair(context, chosen, rejected)


def _folder(people: People, policy: LanguageModel, recipe: Recipe, labels: Labels, out: Path, name: str) -> Path:
    """A policy's folder: its name, and 8 hex digits of all that its adapter and its margins depend on."""
    used = recipe.steps * recipe.batch
    made_of = {
        "data": people.data.fingerprint,
        "policy": policy.identity(),
        "recipe": asdict(recipe),
        "rows": labels.rows[:used].tolist(),
        "turned": labels.turned[:used].tolist(),
        "judged": {str(user): people.test_rows(user).tolist() for user in people.users.tolist()},
    }
    return out / f"{name}-{digest(made_of, length=8)}"


def _read(folder: Path) -> dict[str, Any]:
    """A finished policy's record. Raises InputError where it or the adapter is not as it was written."""
    hint = "delete its folder and run the same command again"
    record, known = unsealed(read_json(folder / RECORD, hint=hint), folder / RECORD, hint=hint)
    weights = folder / WEIGHTS
    if not known or not weights.is_file() or file_sha256(weights) != record.get("adapter_sha256"):
        raise InputError(f"{weights} is not the adapter that {RECORD} names", hint=hint)
    return record
