"""What a shell proposes where names of entries are typed; `prbench --install-completion` sets it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prbench.base.errors import InputError

if TYPE_CHECKING:
    from prbench.registry.schema import Kind


def names_of(*kinds: Kind, further: tuple[str, ...] = (), listed: bool = False) -> Callable[[str], list[str]]:
    """A function that proposes the names of entries of these kinds, and `further` words, for what is typed so far.

    With `listed` the text is a list: the names before its last comma stay, and are not proposed again.
    """

    def proposed(incomplete: str) -> list[str]:
        from prbench import registry

        before, comma, begun = incomplete.rpartition(",") if listed else ("", "", incomplete)
        try:
            known = sorted({name for kind in kinds for name in registry.names(kind)} | set(further))
        except InputError:
            # A broken entry is not a reason to print into somebody's command line.
            return []
        given = set(before.split(","))
        return [f"{before}{comma}{name}" for name in known if name.startswith(begun) and name not in given]

    return proposed
