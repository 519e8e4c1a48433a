"""The embedding store: a folder of immutable safetensors shards and a manifest.

A shard holds up to 4,096 rows: `embedding` [n, d] (float32, float16 or bfloat16), `reward` float32 [n] where the
encoder has a reward head, and `key` uint8 [n, 32]. `manifest.json` names the encoder that made them, its head
vector, and each shard with its number of rows and its sha256. A shard is complete and listed, or it is not
there: a process killed while writing loses the rows of one shard at most, and the next one goes on from there.
`before-FINGERPRINT.keys` are the keys of a data set's texts that were here before it was embedded, and their
sha256: the others are packed together, whenever they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.base.files import canonical_json, digest, home, write_json, writing
from prbench.base.locks import alone
from prbench.base.reading import read_bytes, sealed
from prbench.embedding.manifest import FORMAT, KEY_BYTES, MANIFEST, SHARD_ROWS, Manifest, Shard, read_manifest
from prbench.embedding.shards import read_shard, type_name, unfit_row

if TYPE_CHECKING:
    import torch

__all__ = ["KEY_BYTES", "MANIFEST", "SHARD_ROWS", "EmbeddingStore", "stores"]

LOCK = ""
"""Held by who writes, or leads those that write together: `.lock`."""

APPEND = ".append"
"""Held while files change: `.append.lock`."""


def stores() -> list[Path]:
    """The folders of all stores below PRBENCH_HOME/embeddings, sorted."""
    return sorted(path.parent for path in (home() / "embeddings").glob(f"*/*/{MANIFEST}"))


class EmbeddingStore:
    """The embeddings that one encoder made of the texts of one data family.

    `encoder` is the fingerprint of the encoder (prbench.encoders.base.Encoder.fingerprint). `manifest` is None
    until the first rows are stored; until then nothing is on disk.
    """

    def __init__(self, folder: Path, encoder: Mapping[str, Any], manifest: Manifest | None) -> None:
        self.folder = folder
        # As it reads back from the manifest: tuples become lists.
        self.encoder: dict[str, Any] = json.loads(canonical_json(encoder))
        self.manifest = manifest
        self._writing = False

    @classmethod
    def open(cls, folder: Path) -> EmbeddingStore:
        """The store in `folder`. Raises InputError when there is none or its manifest is broken."""
        store = cls.open_or_none(folder)
        if store is None:
            raise InputError(f"there is no embedding store in {folder}", hint="make one with `prbench embed`")
        return store

    @classmethod
    def open_or_none(cls, folder: Path) -> EmbeddingStore | None:
        """The store in `folder`, or None where there is none."""
        manifest = read_manifest(folder)
        return None if manifest is None else cls(folder, manifest.encoder, manifest)

    @classmethod
    def open_for(cls, folder: Path, encoder: Mapping[str, Any]) -> EmbeddingStore:
        """The store in `folder`, or a new one, for an encoder with this fingerprint.

        Raises InputError when the store there was made by another encoder, revision, precision or template.
        """
        store = cls(folder, encoder, read_manifest(folder))
        store._require_same_encoder()
        return store

    def __len__(self) -> int:
        return len(self.known)

    @property
    def shards(self) -> list[Shard]:
        """The shards that the manifest lists."""
        return self.manifest.shards if self.manifest else []

    @property
    def head(self) -> torch.Tensor | None:
        """The weights of the encoder's linear reward head, float32 [d], where it has one."""
        if self.manifest is None or self.manifest.head is None:
            return None
        import torch

        return torch.tensor(self.manifest.head, dtype=torch.float32)

    @cached_property
    def known(self) -> dict[bytes, tuple[int, int]]:
        """Where each key is: number of the shard in the manifest, row in the shard.

        Every shard is hashed on the way. The rows of one whose file is gone are not known. Raises InputError for
        a shard that is corrupt or was made by another encoder.
        """
        index: dict[bytes, tuple[int, int]] = {}
        for number, shard in enumerate(self.shards):
            if (self.folder / shard.file).exists():
                for row, key in enumerate(self._read(shard)["key"].numpy()):
                    index.setdefault(key.tobytes(), (number, row))
        return index

    def gather(self, keys: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The embeddings [n, d], in the stored precision, and rewards float32 [n] of `keys`, in that order.

        Raises InputError for unknown keys and for a corrupt shard.
        """
        import torch

        unknown = sum(key not in self.known for key in keys)
        if unknown or self.manifest is None:
            raise InputError(
                f"{unknown} of {len(keys)} texts have no embedding in {self.folder}", hint="run `prbench embed` first"
            )
        embedding = torch.empty((len(keys), self.manifest.dim), dtype=getattr(torch, self.manifest.dtype))
        reward = torch.empty(len(keys), dtype=torch.float32) if self.manifest.reward else None
        wanted: dict[int, tuple[list[int], list[int]]] = {}
        for position, key in enumerate(keys):
            number, row = self.known[key]
            positions, rows = wanted.setdefault(number, ([], []))
            positions.append(position)
            rows.append(row)
        for number, (positions, rows) in wanted.items():
            tensors = self._read(self.shards[number])
            embedding[torch.tensor(positions)] = tensors["embedding"][torch.tensor(rows)]
            if reward is not None:
                reward[torch.tensor(positions)] = tensors["reward"][torch.tensor(rows)]
        return embedding, reward

    def verify(self) -> list[str]:
        """Re-hash every shard; one line per problem, none when all is as it was written."""
        problems = []
        for shard in self.shards:
            try:
                self._read(shard)
            except InputError as error:
                problems.append(str(error))
        return problems

    @contextlib.contextmanager
    def writer(self, *, follows: bool = False, wait: bool = False) -> Iterator[EmbeddingStore]:
        """Hold the store for writing: leftovers of a killed process go, shards whose file is gone are forgotten.

        Of processes that work together one holds it, and the others, which then `follows`, write beside it, a shard
        at a time. Raises InputError when the folder cannot be written and when another process is writing to it,
        which `wait` waits for.
        """
        with contextlib.nullcontext() if follows else _held(self.folder, wait=wait):
            if not follows:
                with self._alone():
                    self._tidy()
            self._writing = True
            try:
                yield self
            finally:
                self._writing = False
                if not follows:
                    self._leave_nothing()

    def begin(self, fingerprint: str, keys: Sequence[bytes]) -> None:
        """Make the folder ready for processes that each write a share of `keys`, as `writer` would for one.

        Raises InputError as `writer`.
        """
        with _held(self.folder, wait=False):
            with self._alone():
                self._tidy()
            self.note_stored_before(fingerprint, keys)

    def _leave_nothing(self) -> None:
        """Remove the folder where nothing was stored."""
        self.manifest = read_manifest(self.folder)
        if self.manifest is None:
            # On Windows the lock that is held stays, and the folder with it.
            with contextlib.suppress(OSError):
                for file in (*self.folder.glob("before-*.keys"), *self.folder.glob(".*lock")):
                    file.unlink(missing_ok=True)
                for empty in (self.folder, self.folder.parent):
                    empty.rmdir()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Among the processes that write, change files alone, and with what the others have stored."""
        with alone(self.folder, APPEND):
            self.reload()
            yield

    def reload(self) -> None:
        """Take up what other processes have stored since this store was opened.

        Raises InputError when they used another encoder.
        """
        self.manifest = read_manifest(self.folder)
        self._require_same_encoder()
        self.__dict__.pop("known", None)

    def append(
        self,
        keys: Sequence[bytes],
        embedding: torch.Tensor,
        reward: torch.Tensor | None = None,
        *,
        head: torch.Tensor | None = None,
        contexts_cut: int = 0,
    ) -> None:
        """Store the rows `embedding` [n, d] and `reward` [n] under `keys` [n], at most 4,096, as one shard.

        `head` [d] is kept from the first shard. Only inside `writer()`. Raises InputError for numbers that are
        not finite or have another width, precision or columns than the store's, and when the disk is full;
        the store is then as it was.
        """
        if not self._writing:
            raise RuntimeError("append is for use inside `with store.writer()`")
        with self._alone():
            self._append(keys, embedding, reward, head, contexts_cut)

    def _append(
        self,
        keys: Sequence[bytes],
        embedding: torch.Tensor,
        reward: torch.Tensor | None,
        head: torch.Tensor | None,
        contexts_cut: int,
    ) -> None:
        import torch
        from safetensors.torch import save

        if not 0 < len(keys) <= SHARD_ROWS or len(set(keys)) < len(keys) or any(len(k) != KEY_BYTES for k in keys):
            raise ValueError(f"a shard takes 1 to {SHARD_ROWS} distinct keys of {KEY_BYTES} bytes")
        if (fault := self.fault(embedding, reward)) is not None:
            row, message = fault
            raise InputError(f"row {row} cannot be stored in {self.folder}: {message}")
        if len(embedding) != len(keys):
            raise ValueError(f"{len(keys)} keys for {len(embedding)} embeddings")
        columns = {
            "embedding": embedding.detach().cpu().contiguous(),
            "key": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), KEY_BYTES),
        }
        if reward is not None:
            columns["reward"] = reward.detach().cpu().float().contiguous()
        content = save(columns, metadata={"format": str(FORMAT), "encoder": digest(self.encoder)})
        number = 1 + max((int(shard.file[6:11]) for shard in self.shards), default=-1)
        shard = Shard(
            file=f"shard-{number:05d}.safetensors",
            rows=len(keys),
            sha256=hashlib.sha256(content).hexdigest(),
            contexts_cut=contexts_cut,
        )
        before = self.manifest or Manifest(
            format=1,
            encoder=self.encoder,
            dim=embedding.shape[1],
            dtype=type_name(embedding),
            reward=reward is not None,
            head=None if head is None else head.detach().cpu().double().tolist(),
            data={},
            shards=[],
        )
        path = self.folder / shard.file
        try:
            with writing(path) as temporary:
                temporary.write_bytes(content)
            self._write_manifest(before.model_copy(update={"shards": [*before.shards, shard]}))
        except InputError:
            # The manifest on disk decides: it may have been renamed before its folder could not be synced.
            self.reload()
            if path.name not in {listed.file for listed in self.shards}:
                path.unlink(missing_ok=True)
            raise

    def stored_before(self, fingerprint: str) -> frozenset[bytes]:
        """The keys that were stored when the data of this embedding fingerprint were first embedded here.

        Those stored now where they never were. Raises InputError for a record that cannot be read.
        """
        path = self._before(fingerprint)
        if self.manifest is None or not path.exists():
            return frozenset(self.known)
        content = read_bytes(path)
        keys, check = content[:-KEY_BYTES], content[-KEY_BYTES:]
        if hashlib.sha256(keys).digest() != check or len(keys) % KEY_BYTES:
            raise InputError(f"{path} is corrupt", hint="delete it and run `prbench embed` again")
        return frozenset(keys[i : i + KEY_BYTES] for i in range(0, len(keys), KEY_BYTES))

    def note_stored_before(self, fingerprint: str, keys: Sequence[bytes]) -> None:
        """Record which of `keys` are stored, for `stored_before`, unless that is known. Only inside `writer()`."""
        path = self._before(fingerprint)
        if self.manifest is not None and path.exists():
            return
        stored = b"".join(sorted({key for key in keys if key in self.known}))
        with writing(path) as temporary:
            temporary.write_bytes(stored + hashlib.sha256(stored).digest())

    def _before(self, fingerprint: str) -> Path:
        return self.folder / f"before-{fingerprint}.keys"

    def note_data(self, name: str, fingerprint: str) -> None:
        """Record that texts of the data set `name`, with this fingerprint, were encoded. Only inside `writer()`."""
        with self._alone():
            if self.manifest is not None and self.manifest.data.get(name) != fingerprint:
                data = {**self.manifest.data, name: fingerprint}
                self._write_manifest(self.manifest.model_copy(update={"data": data}))

    def fault(self, embedding: torch.Tensor, reward: torch.Tensor | None) -> tuple[int, str] | None:
        """The first row that this store cannot take and why, or None."""
        return unfit_row(embedding, reward, self.manifest)

    def _read(self, shard: Shard) -> dict[str, torch.Tensor]:
        assert self.manifest is not None
        return read_shard(self.folder, shard, self.manifest, self.encoder)

    def _require_same_encoder(self) -> None:
        if self.manifest is None or self.manifest.encoder == self.encoder:
            return
        was, now = self.manifest.encoder, self.encoder
        name = next(name for name in [*now, *was] if was.get(name) != now.get(name))
        raise InputError(
            f"the embeddings in {self.folder} were made with {name} {was.get(name)!r}, the encoder now has"
            f" {now.get(name)!r}",
            hint="move that folder away and run `prbench embed` again",
        )

    def _tidy(self) -> None:
        listed = {shard.file for shard in self.shards}
        for path in [*self.folder.glob("shard-*.safetensors"), *self.folder.glob(".*.tmp")]:
            if path.name not in listed:
                path.unlink()
        there = [shard for shard in self.shards if (self.folder / shard.file).exists()]
        if self.manifest is not None and len(there) < len(self.shards):
            self._write_manifest(self.manifest.model_copy(update={"shards": there}))

    def _write_manifest(self, manifest: Manifest) -> None:
        write_json(self.folder / MANIFEST, sealed(manifest.model_dump()))
        self.manifest = manifest
        self.__dict__.pop("known", None)


@contextlib.contextmanager
def _held(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of the store in `folder`; see `EmbeddingStore.writer`."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(folder, LOCK, timeout=0))
        except Timeout:
            state = f"another process is writing to {folder}"
            if not wait:
                raise InputError(state, hint="wait until it is done and run again") from None
            stderr().print(f"{state}: waiting until it is done", markup=False, soft_wrap=True)
            stack.enter_context(alone(folder, LOCK))
        yield
