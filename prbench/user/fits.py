"""The fitted method that serves a user: found in a folder of results, or read from a released checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prbench import registry
from prbench.base.errors import InputError, near
from prbench.base.files import canonical_json, file_sha256
from prbench.comparisons import Items
from prbench.encoders import encoder_entry_for, require_recorded
from prbench.encoders.base import Encoder
from prbench.encoders.folder_names import plain_names
from prbench.judging import recorded_entry
from prbench.loaders.mrm_files import read_pt
from prbench.method import Method, UserStates
from prbench.methods.mrm import MRM
from prbench.protocol.selection import parse_selections
from prbench.registry import methods as methods_module
from prbench.registry.schema import EncoderEntry, JudgeEntry, Selection
from prbench.results import cells
from prbench.results.record import DoneRecord, PlannedRecord
from prbench.training.compute import Precision


class FittedModel(NamedTuple):
    """A fitted method, the file it is in, what its embeddings were made with and of, and how exact its products."""

    method: Method
    file: Path
    encoder: EncoderEntry | JudgeEntry
    fingerprint: dict[str, Any] | None
    dataset: str
    precision: Precision


class FitQuery(NamedTuple):
    """Which fit of a method, where a folder has several: None for any; `model_sha256` decides among all."""

    dataset: str | None
    encoder: str | None
    split: int
    selection: str | None
    model_sha256: str | None = None


def from_results(run: Path, method: str, wanted: FitQuery) -> FittedModel:
    """The fit in a folder of results.

    Without `selection` a data set's fit under the method's own rule goes before its others. Fits selected on
    test data are never used. Raises InputError when no fit is named, or several are.
    """
    dataset, encoder, split = wanted.dataset, wanted.encoder, wanted.split
    rule = _one_rule(wanted.selection)
    every = [(folder, cells.read_record(folder)) for folder in cells.folders(run)]
    # One fit serves a user: that from the first of a split's random starts.
    fitted = [(f, r) for f, r in every if isinstance(r, DoneRecord) and not r.restart]
    if not fitted:
        raise InputError(f"{run} holds no fitted method", hint="make one with `prbench run`")
    methods = sorted({record.method for _, record in fitted})
    if method not in methods:
        raise InputError(
            f"unknown method in {run}: {method!r}{near(method, methods)}", hint=f"it has {', '.join(methods)}"
        )
    # A run names an encoder by its entry; a folder given here has the name that the run gave it.
    local = encoder_entry_for(encoder) if encoder and ("=" in encoder or Path(encoder).is_dir()) else None
    names = (None, encoder, local.name if local else encoder)
    shown = plain_names({record.encoder: record.encoder_entry.title for _, record in fitted})
    chosen = [
        (folder, record)
        for folder, record in fitted
        if record.method == method
        and record.split == split
        and dataset in (None, record.dataset)
        and (encoder is None or record.encoder in names or shown[record.encoder] == encoder)
    ]
    what = f"{method}{f' on {dataset}' if dataset else ''}{f' with {encoder}' if encoder else ''}"
    if not chosen:
        raise InputError(
            f"{run} has no split {split} of {what}",
            hint=f"it has {_places([record for _, record in fitted if record.method == method])}",
        )
    if wanted.model_sha256:
        same = [
            (f, r)
            for f, r in chosen
            if (f / cells.MODEL).is_file() and file_sha256(f / cells.MODEL) == wanted.model_sha256
        ]
        chosen = same or chosen[:1]
    else:
        chosen = _fits_with_rule(rule, chosen, f"{run} has no fit of split {split} of {what}")
    if len(chosen) > 1:
        listed = ", ".join(f"{r.dataset} with {r.encoder} ({r.selection}, {f.name})" for f, r in chosen)
        options = [
            name for name in ("dataset", "encoder", "selection") if len({getattr(r, name) for _, r in chosen}) > 1
        ]
        hint = "choose with " + " and ".join(f"--{name}" for name in options)
        raise InputError(
            f"{run} has several fits of {method}: {listed}", hint=hint if options else "use runs folders of their own"
        )
    folder, record = chosen[0]
    encoder_entry = reader_entry(record, folder / "cell.json")
    if local and "copy" in local.options:
        copied = {**encoder_entry.options, "copy": local.options["copy"]}
        encoder_entry = encoder_entry.model_copy(update={"options": copied})
    return FittedModel(
        cells.load_method(folder, record),
        folder / cells.MODEL,
        encoder_entry,
        record.encoder_fingerprint,
        record.dataset,
        record.precision,
    )


def reader_entry(record: PlannedRecord, where: Path) -> EncoderEntry | JudgeEntry:
    """The entry of the encoder or judge model that a fit's results name, if this prbench would use the same.

    Raises InputError where it would not.
    """
    if isinstance(record.encoder_entry, EncoderEntry):
        require_recorded(record.encoder_entry, where)
        return record.encoder_entry
    return recorded_entry(record.encoder_entry, where)


def _one_rule(selection: str | None) -> Selection | None:
    """The one selection rule asked for, if any."""
    if selection is None:
        return None
    rules = parse_selections(selection)
    if len(rules) > 1:
        raise InputError(f"--selection {selection}: a user has one fitted method", hint="name one rule")
    if rules == ["test-oracle"]:
        raise InputError("--selection test-oracle: what was chosen on test data serves no user", hint="leave it out")
    return rules[0]


def _fits_with_rule(
    rule: Selection | None, fits: list[tuple[Path, DoneRecord]], none: str
) -> list[tuple[Path, DoneRecord]]:
    """The fits under a rule; without one the published fit of each data set and encoder, or all where it has none."""
    honest = [(folder, record) for folder, record in fits if record.selection != "test-oracle"]
    if not honest:
        raise InputError(f"{none} but one chosen on test data", hint="run it again without --selection test-oracle")
    published = [(folder, record) for folder, record in honest if record.selection == record.entry.selection]
    if rule is None:
        places = {(record.dataset, record.encoder) for _, record in published}
        return published + [
            (folder, record) for folder, record in honest if (record.dataset, record.encoder) not in places
        ]
    found = published if rule == "published" else [(f, r) for f, r in honest if r.selection == rule]
    if not found:
        there = sorted({record.selection for _, record in honest})
        raise InputError(f"{none} with --selection {rule}", hint=f"it has {', '.join(there)}")
    return found


def _places(records: Sequence[DoneRecord]) -> str:
    """On which data sets, with which encoders and on how many splits a method was fitted."""
    splits: dict[str, list[int]] = {}
    for record in records:
        splits.setdefault(f"{record.dataset} with {record.encoder}", []).append(record.split)
    return "; ".join(f"{place}, splits {min(found)} to {max(found)}" for place, found in splits.items())


def from_checkpoint(file: Path, method: str, encoder: str | None) -> FittedModel:
    """The state dict that the MRM authors' training script saves: V and w0."""
    if not file.is_file():
        raise InputError(f"there is no run folder or checkpoint {file}")
    if encoder is None:
        raise InputError(f"{file} does not say which embeddings it was trained on", hint="add --encoder skywork-v1")
    made = methods_module.make_method(registry.get("methods", method), None, {})
    if not isinstance(made, MRM):
        raise InputError(f"{file}: released checkpoints are MRM's, {method} is none", hint="add --method mrm")
    content = read_pt(file, "name the state dict that MRM's training script saved, or a folder of results")
    tensors = content if isinstance(content, dict) else {}
    missing = [
        name for name in ("layers.0.weight", "shared_weight") if not isinstance(tensors.get(name), torch.Tensor)
    ]
    if missing:
        raise InputError(f"{file} lacks {' and '.join(missing)}, which MRM's released checkpoints have")
    if tensors["layers.0.weight"].dim() != 2:
        raise InputError(f"{file}: layers.0.weight has {tensors['layers.0.weight'].dim()} dimensions, not 2")
    bases = int(tensors["layers.0.weight"].shape[0])
    if tensors["shared_weight"].numel() != bases:
        raise InputError(f"{file}: shared_weight has {tensors['shared_weight'].numel()} values for {bases} bases")
    if more := sorted(name for name in tensors if str(name).startswith("layers.") and name != "layers.0.weight"):
        raise InputError(f"{file} also has {', '.join(more)}: only one linear layer without a bias can be read")
    fitted = type(made)(**{**made.hyper_parameters, "bases": bases})
    return FittedModel(fitted.restore(tensors), file, encoder_entry_for(encoder), None, "", "highest")


def require_same_encoder(encoder: Encoder, found: FittedModel) -> None:
    """Today's encoder must be the one that made the embeddings the method was fitted on."""
    assert found.fingerprint is not None
    today = json.loads(canonical_json(encoder.fingerprint()))
    if different := [
        key for key in sorted({*today, *found.fingerprint}) if today.get(key) != found.fingerprint.get(key)
    ]:
        key = different[0]
        raise InputError(
            f"{found.file.parent} was fitted on embeddings of {found.encoder.name} with {key} "
            f"{found.fingerprint.get(key)}, the encoder here has {today.get(key)}",
            hint="run again with this encoder, or bring the other one back",
        )


def require_same_width(encoder: Encoder, found: FittedModel) -> None:
    """The fitted method must take the encoder's embeddings."""
    context = None if encoder.context_dim is None else torch.zeros(1, encoder.context_dim)
    reward, length = torch.zeros(1) if encoder.has_reward else None, torch.zeros(1, dtype=torch.int64)
    probe = Items(torch.zeros(1, encoder.dim), reward, length=length, context=context)
    try:
        found.method.item_features(probe)
    except InputError as error:
        raise InputError(f"{found.file}: {error.args[0]}", hint=error.hint) from error
    except RuntimeError as error:
        raise InputError(
            f"{found.file} does not take the {encoder.dim} dimensions of {found.encoder.name}",
            hint="use the encoder the method was fitted with",
        ) from error


def require_state_of(method: Method, path: Path, state: UserStates, cold: UserStates) -> None:
    """The state read from `path` must be one person's, of the form of the method's cold start, and finite.

    Where a method reads texts its states are texts, of any length. Raises InputError that names the first tensor at
    fault.
    """
    hint, name_of_method = "adapt again", type(method).__name__
    if state.users.tolist() != cold.users.tolist():
        raise InputError(f"{path} is not one person's state", hint=hint)
    found, wanted = (
        {name: _form(tensor, any_length=method.reads_text) for name, tensor in each.tensors.items()}
        for each in (state, cold)
    )
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            have, need = (forms.get(name, "no such tensor") for forms in (found, wanted))
            said = f"{path} is not a state of {name_of_method}: {name} is {have}, {name_of_method} has {need}"
            raise InputError(said, hint=hint)
    for name, tensor in state.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds a value that is not finite", hint=hint)


def _form(tensor: torch.Tensor, *, any_length: bool) -> str:
    """The kind and shape of a user's tensor, such as "float32 [20, 8]"."""
    shape = ["any"] * (tensor.dim() - 1) if any_length else list(tensor.shape[1:])
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"
