"""Which methods are measured, and in which order."""

from __future__ import annotations

from prbench import registry
from prbench.method import Method
from prbench.registry import methods
from prbench.registry.schema import DatasetEntry, MethodEntry
from prbench.timing.gpu.part import Setting

TABLE_1 = ("bt", "mrm", "lore", "gpo", "vpl", "pal", "reference")
"""Methods of Table 1 of arXiv 2601.18731 that read embeddings; SynthesizeMe asks a judge model."""

TABLE_2 = ("mrm-no-meta", "mrm-no-rpo", "mrm-no-basis")


def entries(setting: Setting) -> list[MethodEntry]:
    """The methods that read embeddings: those of the paper first, then the others, then variants of them.

    Raises InputError for a name that is not a method's.
    """
    if setting.methods is not None:
        return [registry.get("methods", name) for name in setting.methods]
    place = {name: i for i, name in enumerate((*TABLE_1, *TABLE_2))}

    def order(entry: MethodEntry) -> tuple[bool, int, str]:
        return entry.extends is not None and entry.name not in place, place.get(entry.name, len(place)), entry.name

    return sorted((entry for entry in registry.load_all("methods") if entry.family != "judge"), key=order)


def made(entry: MethodEntry, dataset: DatasetEntry) -> Method:
    """An unfitted method with its parameters for a data set."""
    return methods.make_method(entry, dataset, {})
