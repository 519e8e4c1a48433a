"""What `prbench data info` tells about a data set."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData
from prbench.data.downloads import GIT, RawFiles
from prbench.protocol.properties import properties
from prbench.protocol.repeats import repeats
from prbench.protocol.splits import make_split
from prbench.registry.schema import DatasetEntry


def measured(data: PreferenceData) -> dict[str, int]:
    """The counts that `[expect]` may name: users, comparisons, prompts, items."""
    return {
        "users": data.n_users,
        "comparisons": len(data),
        "prompts": len(data.contexts),
        "items": data.n_items,
    }


def describe(data: PreferenceData, entry: DatasetEntry) -> dict[str, Any]:
    """What `prbench data info` prints, ready for JSON.

    `disagreement` is the chance that two different users who judged the same two items differ, each pair counting
    once (None where no two users did), `pairs_shared` the number of item pairs that at least two users judged.
    `longer_wins` is the share of comparisons in which the longer response (in characters) wins, equally long ones
    left out. `items_per_prompt` and `comparisons_per_item` are what sharing contexts and items saves when embedding.
    """
    per_user = np.bincount(data.user, minlength=data.n_users)
    quartiles = np.percentile(per_user, [0, 25, 50, 75, 100]) if data.n_users else np.zeros(5)
    facts = properties(data)
    out: dict[str, Any] = {
        "name": data.name,
        "title": entry.title,
        "family": entry.family,
        "licence": entry.licence,
        "homepage": entry.homepage,
        "citation": entry.citation,
        "encoder": entry.encoder,
        **measured(data),
        "items_per_prompt": data.n_items / len(data.contexts) if data.contexts else None,
        "comparisons_per_item": 2 * len(data) / data.n_items if data.n_items else None,
        "groups": len(np.unique(data.group)),
        "blocks": None if data.block is None else len(np.unique(data.block)),
        "comparisons_per_user": dict(
            zip(("min", "q1", "median", "q3", "max"), (float(q) for q in quartiles), strict=True)
        ),
        "users_with_one_comparison": int((per_user == 1).sum()),
        "repeats": repeats(data),
        "disagreement": facts["disagreement"],
        "pairs_shared": facts["shared_pairs"],
    }
    if data.embedded is None:
        lengths = np.array([len(response) for response in data.responses], dtype=np.int64)
        out["mean_characters"] = float(lengths.mean()) if len(lengths) else None
        out["longer_wins"] = facts["longer_wins"]
    else:
        out["dim"] = data.embedded.dim
        out["has_reward"] = data.embedded.reward is not None
    if data.mark is not None:
        out["marked_test"] = int((data.mark == 1).sum())
    out["split_0"] = first_split(data, entry)
    out["protocol"] = entry.protocol.model_dump()
    if entry.download:
        out["files"] = _pins(entry.download.files.values())
        like = RawFiles(entry).like_copies()
        if like:
            out["copies"] = {path: "as published" if same else "other bytes" for path, same in like.items()}
    out["counts"] = dict(data.counts)
    out["fingerprint"] = data.fingerprint
    return out


def _pins(hashes: Collection[str]) -> str:
    """How the raw files are pinned."""
    if not all(hashes):
        return "not pinned: no sha256 is published of some"
    return "pinned by git blob id" if any(pin.startswith(GIT) for pin in hashes) else "pinned by sha256"


def first_split(data: PreferenceData, entry: DatasetEntry) -> dict[str, int] | None:
    """Who is left out of split 0, and how many of its test items and pairs occur in its training too.

    None where the data cannot be divided.
    """
    try:
        split = make_split(data, entry.protocol, index=0)
    except InputError:
        return None
    return {"users_left_out": split.dropped["users_without_train_or_test"], **split.shared}


def texts_of(data: PreferenceData, comparison: int) -> dict[str, Any]:
    """One comparison in full: the number of its user, its group, the conversation and both responses.

    Raises InputError when there is no such comparison, and for data that came as embeddings, without texts.
    """
    if not 0 <= comparison < len(data):
        raise InputError(
            f"{data.name} has no comparison {comparison}", hint=f"they are numbered 0 to {len(data) - 1}"
        )
    if not data.responses:
        raise InputError(f"{data.name} has no texts: it came as embeddings")
    chosen, rejected = int(data.chosen[comparison]), int(data.rejected[comparison])
    context = data.contexts[data.item_context[chosen]]
    return {
        "comparison": comparison,
        "user": int(data.user[comparison]),
        "group": int(data.group[comparison]),
        **({} if data.block is None else {"block": int(data.block[comparison])}),
        **({} if data.mark is None else {"mark": "test" if data.mark[comparison] else "train"}),
        "conversation": [f"{message.role}: {message.content}" for message in context],
        "chosen": data.responses[chosen],
        "rejected": data.responses[rejected],
    }
