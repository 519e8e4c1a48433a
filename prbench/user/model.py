"""One user's workflow: from a person's own choices to scores of new texts for that person."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, file_sha256
from prbench.base.reading import parse_json
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, Context, IntArray, Items, ItemText, as_context
from prbench.encoders import OWN, build_encoder
from prbench.encoders.base import Encoder, TextError, require_device, resolved_device
from prbench.judging import open_reader
from prbench.judging.reader import Reader
from prbench.method import Method, UserStates
from prbench.protocol.metrics import decisions
from prbench.registry.schema import JudgeEntry
from prbench.training.compute import Precision, computing
from prbench.user.fits import (
    FitQuery,
    FittedModel,
    from_checkpoint,
    from_results,
    require_same_encoder,
    require_same_width,
    require_state_of,
)

if TYPE_CHECKING:
    from torch import Tensor


USER: IntArray = np.zeros(1, dtype=np.int64)
RNG = Rng("user")


@dataclass(frozen=True)
class Pair:
    """One choice of a user: a prompt (a string or chat messages), the chosen and the rejected response."""

    prompt: str | Sequence[dict[str, str]]
    chosen: str
    rejected: str


class RankedResponse(NamedTuple):
    """A response with its score for a user; the best has rank 1, and equal scores share a rank."""

    rank: int
    score: float
    response: str


class Prediction(NamedTuple):
    """How many of a user's own choices are predicted before and after adapting; a tie counts one half."""

    before: float
    after: float


@dataclass(eq=False)
class UserModel:
    """A fitted method with its encoder, for single users and their texts.

        model = UserModel.open("runs", "lore", dataset="convarg")
        me = model.adapt([Pair(prompt, chosen, rejected), ...])
        model.rank(me, prompt, [response, ...])
        model.save(me, "me.safetensors")
        model, me = UserModel.load("me.safetensors", run="runs")

    `run` is the folder of results or the checkpoint it came from, `origin` names the fit by the hash of its file:
    with both a saved state finds it again. `precision` is that of the products when the method was fitted;
    adaptation and scores keep to it.
    """

    method: Method
    encoder: Encoder | Reader
    origin: dict[str, str]
    device: str
    precision: Precision = "highest"
    run: Path = Path("runs")

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
        made: Encoder | Reader
        if isinstance(found.encoder, JudgeEntry):
            made = open_reader(found.encoder, device=device)
            if found.fingerprint is not None and made.identity != found.fingerprint:
                raise InputError(
                    f"{found.file.parent} was made with another {found.encoder.name} than there is here",
                    hint="run again with this judge model, or bring the other one back",
                )
            origin = _origin(method, found, wanted)
            return cls(found.method, made, origin, device, found.precision, run)
        made = build_encoder(found.encoder, device=device)
        if found.fingerprint is not None:
            made.adopt(found.fingerprint)
            require_same_encoder(made, found)
        require_same_width(made, found)
        return cls(found.method, made, _origin(method, found, wanted), device, found.precision, run)

    @classmethod
    def load(
        cls, path: Path | str, *, run: Path | str | None = None, encoder: str | None = None, device: str = "auto"
    ) -> tuple[UserModel, UserStates]:
        """A saved user's state and the fitted method it belongs to, found in `run` by the hash of its file.

        Without `run` it is looked for where it lay, relative to the state, when the state was saved. `encoder` is
        needed only for a checkpoint whose encoder is a folder. Raises InputError when the file is not a state and
        when the fit is not there.
        """
        return open_state(Path(path), run=None if run is None else Path(run), encoder=encoder, device=device)

    def save(self, state: UserStates, path: Path | str) -> None:
        """Write a user's state; the weights of the method stay where they are."""
        path = Path(path)
        where = os.path.relpath(self.run.resolve(), path.resolve().parent)
        # A path through the root would tell the folders of this machine and lead nowhere on another.
        beside = os.path.commonpath([self.run.resolve(), path.resolve()]) != os.path.sep
        state.save(path, {**self.origin, **({"run": where} if beside else {})})

    def embed(self, texts: Sequence[tuple[Context, str]]) -> Items:
        """Items of (context, response) texts. Raises InputError for a text that cannot be encoded."""
        if isinstance(self.encoder, Reader):
            return _read_by(self.encoder, texts)
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

    def adapt(self, pairs: Sequence[Pair | Mapping[str, Any]]) -> UserStates:
        """The user's state from the user's own choices; without any, the method's cold start.

        Choices may be given as dicts with `prompt`, `chosen` and `rejected`. Raises InputError that names the choice
        at fault, for an empty text and for a choice between two equal ones.
        """
        choices = _pairs(pairs)
        return self._adapt(self._comparisons(choices) if choices else self._nothing())

    def _nothing(self) -> Comparisons:
        items = self.embed([]) if isinstance(self.encoder, Reader) else Items(torch.empty(0, self.encoder.dim))
        none: IntArray = np.empty(0, dtype=np.int64)
        return Comparisons(items=items, user=none, chosen=none, rejected=none, group=none, row=none)

    def predicted(self, state: UserStates, pairs: Sequence[Pair | Mapping[str, Any]]) -> Prediction:
        """How many of `pairs` the cold start and the adapted state predict. Raises InputError as `adapt` does."""
        choices = _pairs(pairs)
        if not choices:
            return Prediction(0.0, 0.0)
        own = self._comparisons(choices)
        with computing(self.precision):
            cold = self.method.cold_start(USER, own.items, rng=RNG)
            margins = [self.method.margins(states, own) for states in (cold, state)]
        before, after = (float(decisions(margin.cpu().numpy()).sum()) for margin in margins)
        return Prediction(before, after)

    def _comparisons(self, choices: Sequence[Pair]) -> Comparisons:
        texts: dict[tuple[Context, str], int] = {}
        chosen, rejected = (
            [texts.setdefault((as_context(pair.prompt), getattr(pair, side)), len(texts)) for pair in choices]
            for side in ("chosen", "rejected")
        )
        n = np.arange(len(choices), dtype=np.int64)
        return Comparisons(
            items=self.embed(list(texts)),
            user=np.zeros_like(n),
            chosen=np.array(chosen, dtype=np.int64),
            rejected=np.array(rejected, dtype=np.int64),
            group=n,
            row=n,
        )

    def _adapt(self, support: Comparisons) -> UserStates:
        with computing(self.precision):
            return self.method.adapt_unseen(support, users=USER, rng=RNG)

    def score(self, state: UserStates, prompt: str | Sequence[dict[str, str]], responses: Sequence[str]) -> Tensor:
        """Scores [n] of responses to one prompt, for the user of `state`. Higher is preferred.

        Raises InputError for one text in place of a list, for an empty list and an empty text.
        """
        _require_list(responses, "responses", "a list of texts")
        if not responses:
            raise InputError("responses: there is no text to score")
        for number, response in enumerate(responses, start=1):
            _text(response, "response", f"response {number}")
        return self.score_texts(state, [(as_context(prompt), response) for response in responses])

    def rank(
        self, state: UserStates, prompt: str | Sequence[dict[str, str]], responses: Sequence[str]
    ) -> list[RankedResponse]:
        """The responses to one prompt, best first for the user of `state`. Raises InputError as `score` does."""
        return ranked(self.score(state, prompt, responses).tolist(), responses)

    def score_texts(self, state: UserStates, texts: Sequence[tuple[Context, str]]) -> Tensor:
        """Scores [n] of (context, response) texts, for the user of `state`."""
        items = self.embed(texts)
        with computing(self.precision):
            return self.method.score(state, np.zeros(len(texts), dtype=np.int64), items)


def ranked(scores: Sequence[float], responses: Sequence[str]) -> list[RankedResponse]:
    """Responses by their scores, best first; equal scores share a rank and keep their order."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [RankedResponse(1 + sum(s > scores[i] for s in scores), scores[i], responses[i]) for i in order]


def open_state(
    path: Path,
    *,
    run: Path | None = None,
    encoder: str | None = None,
    device: str = "auto",
    opened: dict[tuple[Path, FitQuery], UserModel] | None = None,
) -> tuple[UserModel, UserStates]:
    """As `UserModel.load`; `opened` keeps fits for further states of theirs."""
    state, origin = UserStates.load(path)
    needed = ("method", "dataset", "encoder", "split", "model_sha256")
    if any(name not in origin for name in needed) or not re.fullmatch(r"\d{1,9}", origin["split"]):
        raise InputError(f"{path} is not a user state", hint="make one with `prbench user adapt`")
    elsewhere = "name the folder that holds it with --run, or adapt again"
    if run is None:
        if "run" not in origin:
            raise InputError(f"{path} does not say where its method was fitted", hint=elsewhere)
        run = path.resolve().parent / origin["run"]
        if not run.exists():
            raise InputError(f"{path} belongs to a method fitted in {run}, which is gone", hint=elsewhere)
    fit = FitQuery(
        origin["dataset"] or None, encoder or origin["encoder"], int(origin["split"]), None, origin["model_sha256"]
    )
    known = {} if opened is None else opened
    same = (run.resolve() / origin["method"], fit)
    model = known.get(same) or UserModel._open(run, origin["method"], fit, device)
    known[same] = model
    if model.origin["model_sha256"] != origin["model_sha256"]:
        raise InputError(
            f"{path} was made with another fit of {origin['method']} than {run} now holds", hint=elsewhere
        )
    require_state_of(model.method, path, state, model._adapt(model._nothing()))
    return model, state


def _require_list(value: Any, name: str, wanted: str) -> None:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise InputError(f"{name} is a {type(value).__name__}, not {wanted}")


def _pairs(choices: Sequence[Pair | Mapping[str, Any]]) -> list[Pair]:
    """The choices, each checked."""
    if isinstance(choices, Pair):
        raise InputError("one choice was given where a list of choices belongs")
    _require_list(choices, "pairs", "a list of choices")
    checked = []
    for number, choice in enumerate(choices, start=1):
        where = f"choice {number}"
        if isinstance(choice, Mapping):
            if missing := [key for key in ("prompt", "chosen", "rejected") if key not in choice]:
                raise InputError(f"{where} has no {missing[0]!r}", hint="give prompt, chosen and rejected")
            choice = Pair(choice["prompt"], choice["chosen"], choice["rejected"])
        if not isinstance(choice, Pair):
            raise InputError(f"{where} is a {type(choice).__name__}, not a Pair or a dict")
        _context({"prompt": choice.prompt}, where)
        chosen, rejected = (_text(getattr(choice, side), side, where) for side in ("chosen", "rejected"))
        if chosen == rejected:
            raise InputError(f"{where}: chosen and rejected are the same text", hint="leave it out")
        checked.append(choice)
    return checked


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
        return parse_json(value)
    except ValueError as error:
        raise InputError(f"{where}: 'responses' is not a JSON list: {error}") from error


def _read_by(reader: Reader, texts: Sequence[tuple[Context, str]]) -> Items:
    """Items for a method that reads texts through a judge model."""
    where = np.arange(len(texts), dtype=np.int64)
    contexts = dict.fromkeys(context for context, _ in texts)
    place = {context: i for i, context in enumerate(contexts)}
    context_of = np.array([place[context] for context, _ in texts], dtype=np.int64)
    text = ItemText(tuple(contexts), tuple(response for _, response in texts), context_of, where, reader)
    length = torch.tensor([len(response) for _, response in texts], dtype=torch.int64)
    return Items(torch.empty(len(texts), 0), length=length, text=text)


def _origin(method: str, found: FittedModel, wanted: FitQuery) -> dict[str, str]:
    """What finds a fit again."""
    return {
        "method": method,
        "dataset": found.dataset,
        "encoder": found.encoder.name,
        "split": str(wanted.split),
        "model_sha256": file_sha256(found.file),
    }
