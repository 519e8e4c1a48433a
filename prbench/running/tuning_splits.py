"""Tuning splits: the training side of further splits, divided once more.

Tuning splits are drawn by the data set's own protocol, with indices from `TUNING_FROM` on; a run refuses
to report on those. The training side of a tuning split is divided once more: part of each seen user's training
choices and part of each unseen user's support (`validation_share` of the groups, or whole blocks where the
protocol's unit is one) are set aside to judge by. Test rows of a tuning split are used for nothing. Tuning splits
redraw the same users, so a training choice there may be a test choice of a reported split. Only the few tuned numbers
of a [search] pass across, chosen over all tuning splits together, for every method alike.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from rich.markup import escape

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import PreferenceData
from prbench.protocol import splits
from prbench.protocol.repeats import require_apart
from prbench.protocol.splits import TUNING_FROM, Split
from prbench.registry.schema import ProtocolEntry


def tuning_splits(data: PreferenceData, protocol: ProtocolEntry, count: int, *, seed: int) -> list[Split]:
    """The first `count` tuning splits; one that divides the choices as an earlier one does is left out, and said.

    Raises InputError as `tuning_split`.
    """
    found: dict[bytes, Split] = {}
    for i in range(count):
        split = tuning_split(data, protocol, index=TUNING_FROM + i, seed=seed)
        found.setdefault(split.same_division(), split)
    if len(found) < count:
        said = f"{data.name}: {count} tuning splits were asked for, and {len(found)} different ones were found"
        stderr().print(escape(f"{said}; each counts once"), soft_wrap=True)
    return list(found.values())


def tuning_split(data: PreferenceData, protocol: ProtocolEntry, *, index: int, seed: int) -> Split:
    """A tuning split: the training side of split `index`, divided once more.

    Its test rows are the choices set aside to judge by; the split's own test rows are in none of its arrays.
    Raises InputError as `make_split`, and where no seen or no unseen user has anything to set aside.
    """
    whole = splits.make_split(data, protocol, index=index, seed=seed)
    rng = Rng(whole.seed, data.name, "tuning", index)
    # Both populations at once: where whole blocks are held out, they are the same blocks for everyone.
    rows = np.concatenate([whole.seen_train, whole.unseen_support])
    kept, aside = splits.split_off_validation(data, rows, protocol, rng=rng)
    require_apart(data, kept, aside)
    kept_seen, aside_seen = (part[np.isin(data.user[part], whole.seen)] for part in (kept, aside))
    kept_unseen, aside_unseen = (part[np.isin(data.user[part], whole.unseen)] for part in (kept, aside))
    for population, part in (("seen", aside_seen), ("unseen", aside_unseen)):
        if not len(part):
            unit = "blocks" if protocol.unit == "block" else "groups"
            raise InputError(
                f"{data.name}, tuning split {index}: no {population} user has training choices in two {unit}, so "
                "none can be set aside to tune by",
                hint="use users with more comparisons",
            )
    return replace(
        whole, seen_train=kept_seen, seen_test=aside_seen, unseen_support=kept_unseen, unseen_test=aside_unseen
    )
