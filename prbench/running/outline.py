"""What a run would take where its data or model are not here: from the entries alone, and rough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prbench import registry
from prbench.registry.schema import DatasetEntry
from prbench.running.prerequisites import Prerequisites, in_bytes

if TYPE_CHECKING:
    from prbench.running.request import RunRequest

# Seconds that 20 splits of a whole fit took in the shape of PRISM (44,064 comparisons, 4,096 columns) on two cores of
# a CPU: the tables of reports/guide/speed.md, made by `prbench bench fit`. Variants count as what they extend.
FIT_SECONDS = {
    "bt": 132.0, "mrm": 149.0, "lore": 347.0, "maml": 578.0, "mrm-no-basis": 1445.0, "gpo": 229.0, "vpl": 608.0,
    "np": 211.0, "pal": 657.0, "rfm": 85.0, "pref": 61.0,
}  # fmt: skip
SLOWEST = max(FIT_SECONDS, key=FIT_SECONDS.__getitem__)
MEASURED_SPLITS, MEASURED_COMPARISONS, MEASURED_DIM = 20, 44_064, 4_096
# A large GPU at a third of its peak in bfloat16, and a core of a CPU: operations a second.
GPU_RATE, CPU_RATE = 1e14, 6e10
# Larger models than this need a GPU.
CPU_GB = 1.0
BYTES_PER_PARAMETER = 2
# Beside its weights a model needs room for what it computes.
ROOM = 1.25
KEY_BYTES = 36


@dataclass(frozen=True)
class Outline:
    """A data set that cannot be opened here, and the fits that were asked for: numbers of splits by method."""

    needs: Prerequisites
    fits: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is not known is said to be unknown."""
        entry, encoder = self.needs.entry, self.needs.encoder
        size, expect = entry.size, entry.expect
        texts = size.texts or expect.get("items", 0)
        comparisons = size.comparisons or expect.get("comparisons", 0)
        weights = encoder.size.weights_gb * 1e9
        row_bytes = encoder.size.dim * BYTES_PER_PARAMETER + KEY_BYTES
        gpu = weights > CPU_GB * 1e9
        return {
            "dataset": entry.name,
            "encoder": encoder.name,
            **({"fits": sum(self.fits.values())} if self.fits else {}),
            "users": expect.get("users", "unknown"),
            "comparisons": comparisons or "unknown",
            "texts": texts or "unknown",
            "files": f"{len(self.needs.files)}, {in_bytes(sum(file.size for file in self.needs.files))}",
            "weights": in_bytes(weights),
            "gpu_memory": f"about {in_bytes(weights * ROOM)}" if gpu else "none needed",
            "disk_for_embeddings": in_bytes(texts * row_bytes) if encoder.size.dim else "unknown",
            "embedding_time": self._embedding_time(),
            **({"fitting_time": self._fitting_time(comparisons or texts)} if self.fits else {}),
            "expected": "from the entries; exact once the data are here",
        }

    def _embedding_time(self) -> str:
        tokens, weights = self.needs.entry.size.tokens, self.needs.encoder.size.weights_gb * 1e9
        if not tokens or not weights:
            return "unknown"
        gpu = weights > CPU_GB * 1e9
        seconds = 2 * tokens * weights / BYTES_PER_PARAMETER / (GPU_RATE if gpu else CPU_RATE)
        return f"{in_minutes(seconds)} at {'100 TFLOP/s on a GPU' if gpu else '60 GFLOP/s on a CPU'}"

    def _fitting_time(self, comparisons: int) -> str:
        dim = self.needs.encoder.size.dim
        if not comparisons or not dim:
            return "unknown"
        known = {name: splits for name, splits in self.fits.items() if is_measured(name)}
        seconds = sum(fit_seconds(name, comparisons, dim, splits) for name, splits in known.items())
        unknown = len(self.fits) - len(known)
        less = f"; the time of {unknown} method{'s' * (unknown > 1)} was not measured" if unknown else ""
        return f"{in_minutes(seconds)} on two cores of a CPU{less}"


def is_measured(method: str) -> bool:
    """Whether the time of a method, or of one that its name begins with, was measured."""
    return bool(_measured(method))


def fit_seconds(method: str, comparisons: int, dim: int, splits: int) -> float:
    """The seconds of a measured method's fits of `splits` splits on two cores, in proportion to the size."""
    share = comparisons / MEASURED_COMPARISONS * dim / MEASURED_DIM * splits / MEASURED_SPLITS
    return FIT_SECONDS[max(_measured(method), key=len)] * share


def _measured(method: str) -> list[str]:
    return [name for name in FIT_SECONDS if method == name or method.startswith(f"{name}-")]


def planned_fits(request: RunRequest, dataset: DatasetEntry) -> dict[str, int]:
    """The number of fits by method on a data set that need not be here. Raises InputError for unknown names."""
    from prbench.protocol.selection import parse_selections
    from prbench.running.plan import selections_of

    selections = parse_selections(request.selection)
    splits = request.splits or dataset.protocol.splits
    entries = [registry.get("methods", name) for name in request.methods]
    return {entry.name: splits * len(selections_of(entry, selections)) for entry in entries}


def missing(outlines: Sequence[Outline]) -> list[dict[str, Any]]:
    """A record for everything that is missing, each once."""
    records = {record["missing"]: record for outline in outlines for record in outline.needs.missing()}
    return list(records.values())


def in_minutes(seconds: float) -> str:
    """A rough time for people."""
    if seconds < 60:
        return "less than a minute"
    if seconds < 7200:
        count = round(seconds / 60)
        return f"about {count} minute{'' if count == 1 else 's'}"
    return f"about {seconds / 3600:,.0f} hours"
