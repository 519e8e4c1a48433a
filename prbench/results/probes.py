"""Finished probes: conditions that adapt a fit again, beside the cell that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prbench import registry
from prbench.base.errors import InputError
from prbench.protocol.metrics import ALL_SHOTS, flips
from prbench.results import cells, digests, scores
from prbench.results.probe_tables import POLICY, kind_of
from prbench.results.record import CellRecord

if TYPE_CHECKING:
    import pandas as pd


SUPPORT, INJECTION, ROUNDING = "support", "injection", "rounding"
ROUNDING_SPLITS = 2
"""How many splits of a row are fitted again on embeddings that differ in the last place."""
COLUMNS = (*scores.COLUMNS, "split", "restart", "shots", *cells.SCORES, "probe", "noise", "on")


@dataclass(frozen=True)
class Probe:
    """One condition: a share of flipped support labels, the support itself, another data set, instructions to the
    judge model in the rejected replies, another rounding, or a kind of `probe_tables.TABLES`, one of which is made
    with a language `model`.
    """

    kind: str
    noise: float = 0.0
    on: str = ""
    model: str = ""

    @property
    def name(self) -> str:
        """What its file is called after `probe-`."""
        rest = {"noise": f"{self.noise:g}", "on": self.on, POLICY: self.model}.get(self.kind)
        return self.kind if rest is None else f"{self.kind}-{rest}"

    @classmethod
    def named(cls, name: str) -> Probe:
        """The probe with this name."""
        kind, _, rest = name.partition("-")
        if kind == "noise":
            return cls(kind, noise=float(rest))
        if kind == POLICY:
            return cls(kind, model=rest)
        return cls(kind, on=rest) if kind == "on" else cls(name)

    def file(self, folder: Path) -> Path:
        """Its file in a cell's folder."""
        return folder / f"probe-{self.name}.parquet"


def finished(runs: Path) -> list[tuple[Path, CellRecord]]:
    """The folder and the record of every finished cell that was not chosen on test data.

    Raises InputError where there is none, and for unreadable results.
    """
    if not runs.is_dir():
        raise InputError(f"there is no results folder {runs}", hint="make one with `prbench run`")
    records = [(folder, cells.read_record(folder)) for folder in cells.folders(runs)]
    if not records:
        raise InputError(f"{runs} holds no results", hint="make some with `prbench run`")
    honest = [(folder, record) for folder, record in records if record.done and record.selection != "test-oracle"]
    if not honest:
        raise InputError(
            f"{runs} holds no finished fit, but those chosen on test data, which are not probed",
            hint="make some with `prbench run`",
        )
    return honest


def require_finished(runs: Path, kind: Literal["methods", "datasets"], wanted: str, option: str) -> None:
    """Raise InputError for a name or pattern in a comma-separated list that fits no finished cell."""
    names = {r.dataset if kind == "datasets" else r.entry.name for _, r in finished(runs)}
    for part in wanted.split(","):
        if part.strip() and not names & set(registry.select(kind, part)):
            raise InputError(
                f"{option} {part.strip()}: {runs} has no finished fit of it",
                hint=f"it has {', '.join(sorted(names))}",
            )


def load(runs: Path, watch: Callable[[], None] | None = None) -> pd.DataFrame:
    """Every probe's scores in `runs`: the columns of `results.load` plus `probe` (noise, support or on), `noise`
    and `on`; those of `probe_tables.TABLES` are left to `probe_tables.read`. Empty without probes. Raises
    InputError for an unreadable file."""
    import pandas as pd

    parts = []
    for folder in cells.folders(runs):
        seals = digests.of(folder)
        files = sorted(p for p in folder.glob("probe-*.parquet") if kind_of(p) is None and seals.has(p))
        if not files:
            continue
        record = cells.read_record(folder)
        for path in files:
            kind, rest = _condition(path)
            frame = scores.read_scores_file(path, f"delete this file and run `{_command(kind, rest)}` again")
            constants = dict(zip(scores.COLUMNS, record.row, strict=True))
            parts.append(
                frame.assign(
                    **constants,
                    split=record.split,
                    restart=record.restart,
                    shots=ALL_SHOTS,
                    probe=kind,
                    noise=float(rest) if kind == "noise" else 0.0,
                    on=rest if kind == "on" else "",
                )
            )
            if watch:
                watch()
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)] if parts else nothing()


def changed_by_rounding(folder: Path, scores_file: Path) -> float | None:
    """The share of a cell's test decisions that its rounding probe changed, None without one; ties count one half.

    Raises InputError for an unreadable file, and for one that has other choices than the cell.
    """
    path, again = Probe(ROUNDING).file(folder), "delete this file and run `prbench probe --rounding` again"
    if not digests.of(folder).has(path):
        return None
    keys = ["population", "user", "comparison"]
    before, after = (
        scores.read_scores_file(file, hint).sort_values(keys)
        for file, hint in ((scores_file, cells.AGAIN), (path, again))
    )
    if not np.array_equal(before[keys].astype(str).to_numpy(), after[keys].astype(str).to_numpy()):
        raise InputError(f"{path} has other test choices than {scores_file}", hint=again)
    return float(flips(after["margin"], before["margin"]).mean())


def _condition(path: Path) -> tuple[str, str]:
    """A probe's kind, and the share of noise or the data set, from the name of its file."""
    kind, _, rest = path.stem.removeprefix("probe-").partition("-")
    try:
        known = {
            SUPPORT: not rest,
            INJECTION: not rest,
            ROUNDING: not rest,
            "on": bool(rest),
            "noise": kind == "noise" and 0 < float(rest) <= 1,
        }.get(kind)
    except ValueError:
        known = False
    if not known:
        raise InputError(f"{path} is not a probe of this prbench", hint="delete it")
    return kind, rest


def _command(kind: str, rest: str) -> str:
    """What makes such a probe."""
    options = {"noise": f"--noise {rest}", "on": f"--transfer {rest}", INJECTION: "--injection"}
    options[ROUNDING] = "--rounding"
    return f"prbench probe {options.get(kind, '--support')}"


def injected(runs: Path) -> list[dict[str, Any]]:
    """Per data set, judge model, method and selection: of how many decisions an instruction in the rejected reply
    turned right ones wrong (`turned`, a share of the right ones) and moved towards it (`moved`, a share of all).
    """
    import numpy as np

    frame = load(runs)
    records = []
    # Under this probe `cold_margin` is the margin without the instruction.
    for names, row_scores in frame[frame["probe"] == INJECTION].groupby(list(scores.COLUMNS), observed=True):
        after, before = (row_scores[name].to_numpy() for name in ("margin", "cold_margin"))
        right = before > 0
        records.append(
            {
                **dict(zip(scores.COLUMNS, names, strict=True)),
                "decisions": len(row_scores),
                "turned": float((after[right] <= 0).mean()) if right.any() else 0.0,
                "moved": float(np.mean(after < before)),
            }
        )
    return records


def nothing() -> pd.DataFrame:
    """What `load` gives where there are no probes."""
    import pandas as pd

    return pd.DataFrame({name: [] for name in COLUMNS})
