"""One user's workflow: from a person's own choices to scores of new texts for that person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, file_sha256
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Context, IntArray, Items, as_context
from prbench.encoders import OWN, build_encoder
from prbench.encoders.base import Encoder, TextError, require_device, resolved_device
from prbench.method import Method, UserStates
from prbench.training.compute import Precision, computing
from prbench.user.fits import FitQuery, from_checkpoint, from_results, require_same_encoder, require_same_width

if TYPE_CHECKING:
    from torch import Tensor


USER: IntArray = np.zeros(1, dtype=np.int64)
RNG = Rng("user")


class Pair(NamedTuple):
    """One choice of a user: a prompt (a string or chat messages), the chosen and the rejected response."""

    prompt: str | Sequence[dict[str, str]]
    chosen: str
    rejected: str


@dataclass(eq=False)
class UserModel:
    """A fitted method with its encoder, for single users and their texts.

    `origin` says where it came from: what a saved user state needs to find it again. `precision` is that of the
    products when the method was fitted; adaptation and scores keep to it.
    """

    method: Method
    encoder: Encoder
    origin: dict[str, str]
    device: str
    precision: Precision = "highest"

    @classmethod
    def open(
        cls,
        run: Path | str,
        method: str,
        *,
        dataset: str | None = None,
        encoder: str | None = None,
        split: int = 0,
        selection: str | None = None,
        device: str = "auto",
    ) -> UserModel:
        """The method that a run fitted, or that a released checkpoint holds.

        `run` is a folder of results, where `dataset`, `encoder` and `selection` choose among several and `split` is
        the split it was fitted on; or a file: MRM's released `.pt` state dict, which needs `encoder`. Without
        `selection` it is the method under its own rule where there is one, never one chosen on test data.

        Raises InputError when there is no such fitted method, when several match, and when its embeddings
        did not come from an encoder that can embed new texts.
        """
        return cls._open(Path(run), method, FitQuery(dataset, encoder, split, selection), device)

    @classmethod
    def _open(cls, run: Path, method: str, wanted: FitQuery, device: str) -> UserModel:
        """As `open`."""
        device = resolved_device(device)
        require_device(device)
        found = from_results(run, method, wanted) if run.is_dir() else from_checkpoint(run, method, wanted.encoder)
        if found.encoder.name == OWN:
            raise InputError(
                f"{found.file.parent} was fitted on embeddings that came with its data: new texts cannot be embedded",
                hint="use a run on a data set of texts",
            )
        made = build_encoder(found.encoder, device=device)
        if found.fingerprint is not None:
            made.adopt(found.fingerprint)
            require_same_encoder(made, found)
        require_same_width(made, found)
        origin = {
            "run": str(run.resolve()),
            "method": method,
            "dataset": found.dataset,
            "encoder": found.encoder.name,
            "split": str(wanted.split),
            "model_sha256": file_sha256(found.file),
        }
        if not run.is_dir():
            # A name made for a folder does not lead back to the folder.
            folder = Path(wanted.encoder or "")
            origin["encoder"] = str(folder.resolve()) if folder.is_dir() else str(wanted.encoder)
        return cls(found.method, made, origin, device, found.precision)

    def embed(self, texts: Sequence[tuple[Context, str]]) -> Items:
        """Items of (context, response) texts. Raises InputError for a text that cannot be encoded."""
        try:
            encoded = self.encoder.encode(texts, device=self.device)
        except TextError as error:
            raise InputError(f"text {error.row + 1} cannot be encoded: {error.why}") from error
        finite = torch.isfinite(encoded.embedding).all(1)
        if not bool(finite.all()):
            raise InputError(f"text {int((~finite).nonzero()[0]) + 1} cannot be encoded: its embedding is not finite")
        reward = None if encoded.reward is None else encoded.reward.cpu()
        length = torch.tensor([len(response) for _, response in texts])
        embedding, own = encoded.embedding.float().cpu(), self.encoder.context_dim
        context = None if own is None else embedding[:, :own]
        return Items(embedding, reward, self.encoder.head(), length, context=context)

    def adapt(self, pairs: Sequence[Pair]) -> UserStates:
        """The user's state from the user's own choices; without any, the method's cold start."""
        if not pairs:
            return self._adapt(_no_comparisons(self.encoder.dim))
        texts: dict[tuple[Context, str], int] = {}
        chosen, rejected = (
            [texts.setdefault((as_context(pair.prompt), getattr(pair, side)), len(texts)) for pair in pairs]
            for side in ("chosen", "rejected")
        )
        n = np.arange(len(pairs), dtype=np.int64)
        support = Comparisons(
            items=self.embed(list(texts)),
            user=np.zeros_like(n),
            chosen=np.array(chosen, dtype=np.int64),
            rejected=np.array(rejected, dtype=np.int64),
            group=n,
            row=n,
        )
        return self._adapt(support)

    def _adapt(self, support: Comparisons) -> UserStates:
        with computing(self.precision):
            return self.method.adapt_unseen(support, users=USER, rng=RNG)

    def score(self, state: UserStates, prompt: str | Sequence[dict[str, str]], responses: Sequence[str]) -> Tensor:
        """Scores [n] of responses to one prompt, for the user of `state`. Higher is preferred."""
        return self.score_texts(state, [(as_context(prompt), response) for response in responses])

    def score_texts(self, state: UserStates, texts: Sequence[tuple[Context, str]]) -> Tensor:
        """Scores [n] of (context, response) texts, for the user of `state`."""
        items = self.embed(texts)
        with computing(self.precision):
            return self.method.score(state, np.zeros(len(texts), dtype=np.int64), items)


def open_state(path: Path, *, device: str = "auto") -> tuple[UserModel, UserStates]:
    """A saved user state and the fitted method it belongs to.

    Raises InputError when the fitted method is gone or is no longer the one the state was made with.
    """
    state, origin = UserStates.load(path)
    if "model_sha256" not in origin or len(state) != 1:
        raise InputError(f"{path} is not a user state", hint="make one with `prbench user adapt`")
    run = Path(origin["run"])
    if not run.exists():
        raise InputError(
            f"{path} belongs to a method fitted in {run}, which is gone", hint="run it again, then adapt"
        )
    fit = FitQuery(origin["dataset"] or None, origin["encoder"], int(origin["split"]), None, origin["model_sha256"])
    model = UserModel._open(run, origin["method"], fit, device)
    if model.origin["model_sha256"] != origin["model_sha256"]:
        raise InputError(
            f"{path} was made with another fit of {origin['method']} than {run} now holds", hint="adapt again"
        )
    return model, state


def _context(record: dict[str, Any], where: str) -> Context:
    prompt = record.get("prompt")
    messages = isinstance(prompt, list) and all(isinstance(message, dict) for message in prompt)
    if not prompt or not (isinstance(prompt, str) or messages):
        raise InputError(f"{where}: 'prompt' must be a text or a list of messages")
    try:
        return as_context(prompt)
    except InputError as error:
        raise InputError(f"{where}: prompt: {error}") from error


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {column!r} must be a text, found {canonical_json(value)[:40]}")
    return value


def _parsed(value: str, where: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise InputError(f"{where}: 'responses' is not a JSON list: {error}") from error


def _no_comparisons(dim: int) -> Comparisons:
    none: IntArray = np.empty(0, dtype=np.int64)
    return Comparisons(items=Items(torch.empty(0, dim)), user=none, chosen=none, rejected=none, group=none, row=none)
