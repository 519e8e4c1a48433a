"""Loaded data sets as files of the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, file_sha256, write_json, writing_folder
from prbench.base.reading import read_json, sealed, unsealed
from prbench.comparisons import Message, PreferenceData
from prbench.registry.schema import DatasetEntry

LOADER_VERSION = 1
"""Raise this when a loader or the cache's format changes what is loaded: older caches are then not read."""

FILES = ("comparisons.parquet", "items.parquet", "prompts.parquet", "users.parquet")
COLUMNS = ("user", "chosen", "rejected", "group", "block", "mark", "time")


def write_cache(folder: Path, data: PreferenceData, entry: DatasetEntry) -> None:
    """Tables as parquet; the users' source ids apart, readable by the owner alone."""
    import pandas as pd

    columns = {name: column for name in COLUMNS if (column := getattr(data, name)) is not None}
    messages = [
        (number, message.role, message.content) for number, context in enumerate(data.contexts) for message in context
    ]
    with writing_folder(folder) as temporary:
        pd.DataFrame(columns).to_parquet(temporary / "comparisons.parquet", index=False)
        items = {"context": data.item_context, "response": list(data.responses)}
        pd.DataFrame(items).to_parquet(temporary / "items.parquet", index=False)
        prompts = pd.DataFrame(messages, columns=["context", "role", "content"])
        prompts.to_parquet(temporary / "prompts.parquet", index=False)
        private = temporary / "users.parquet"
        private.touch(mode=0o600)
        pd.DataFrame({"key": list(data.user_keys)}).to_parquet(private, index=False)
        record = {
            "version": LOADER_VERSION,
            "loader": entry.loader,
            "options": entry.options,
            "counts": dict(data.counts),
            "fingerprint": data.fingerprint,
            "files": {name: file_sha256(temporary / name) for name in FILES},
        }
        write_json(temporary / "data.json", sealed(json.loads(canonical_json(record))))


def read_cache(folder: Path) -> PreferenceData | None:
    """What `write_cache` wrote, or None where there is nothing; a damaged cache is reported and made again."""
    import pandas as pd

    if not folder.is_dir():
        return None
    try:
        record, _ = unsealed(read_json(folder / "data.json"), folder / "data.json")
        for name, known in record.get("files", {}).items():
            if name in FILES and file_sha256(folder / name) != known:
                raise ValueError(f"{name} does not match its sha256")
        table = pd.read_parquet(folder / "comparisons.parquet")
        items = pd.read_parquet(folder / "items.parquet")
        prompts = pd.read_parquet(folder / "prompts.parquet")
        keys = pd.read_parquet(folder / "users.parquet")
        contexts: list[list[Message]] = []
        for number, role, content in zip(prompts["context"], prompts["role"], prompts["content"], strict=True):
            if number == len(contexts):
                contexts.append([])
            contexts[number].append(Message(str(role), str(content)))
        columns: dict[str, Any] = {
            name: table[name].to_numpy(dtype=np.float64 if name == "time" else np.int64)
            for name in COLUMNS
            if name in table
        }
        data = PreferenceData(
            name=folder.parent.name,
            contexts=tuple(map(tuple, contexts)),
            item_context=items["context"].to_numpy(dtype=np.int64),
            responses=tuple(map(str, items["response"])),
            user_keys=tuple(map(str, keys["key"])),
            counts=record["counts"],
            **columns,
        )
        if data.fingerprint == record["fingerprint"]:
            return data
        reason = "its contents do not match its fingerprint"
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, InputError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    from prbench.base.console import stderr

    stderr().print(
        f"warning: the cache {folder} is damaged ({reason}); loading again", style="yellow", soft_wrap=True
    )
    return None
