"""The interface of a personalised reward model.

A method is fitted on the choices of *seen* users, adapts to an *unseen* user from a few *support* choices, and
scores items for one user. Everything it learns is tensors, so that it can be counted, saved and compared.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from prbench.base.errors import InputError
from prbench.base.files import canonical_json, writing
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, IntArray, Items, concatenate

if TYPE_CHECKING:
    from torch import Tensor

ITEMS_AT_ONCE = 16_384


class ParameterCount(NamedTuple):
    """Stored numbers: `shared` by all users, which fitting finds, and `per_user` for each of them.

    `Method.encodes_users` is true when a user's numbers come from a forward pass instead of a fit.
    """

    shared: int
    per_user: int

    def total(self, users: int) -> int:
        """All numbers stored for a population of `users`."""
        return self.shared + self.per_user * users


@dataclass(frozen=True, eq=False)
class UserStates:
    """What a method knows of u users: tensors whose first dimension is the user.

    `users` [u] are user numbers, ascending and distinct. A method without personal state has no tensors.
    """

    users: IntArray
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.users.shape[0])

    def positions(self, user: IntArray) -> Tensor:
        """Where each of `user` [n] is in `users`; raises KeyError for a user without a state."""
        position = np.searchsorted(self.users, user)
        inside = position < len(self.users)
        if not inside.all() or not (self.users[position] == user).all():
            raise KeyError("a user has no state: adapt the method to this user first")
        return torch.from_numpy(position)

    def take(self, user: IntArray) -> UserStates:
        """The states of some of the users."""
        users = np.unique(user)
        where = self.positions(users)
        return UserStates(users, {name: tensor[where.to(tensor.device)] for name, tensor in self.tensors.items()})

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write as safetensors for its owner alone; `metadata` goes into the header, and a digest of all of it."""
        tensors = {"users": torch.from_numpy(self.users), **self.tensors}
        # Said apart from the digest, so that a state that lost it does not pass for one of an earlier prbench.
        known = {**(metadata or {}), SEALED: "yes"}
        save_tensors(path, tensors, {**known, SEAL: tensors_digest(tensors, known)}, private=True)

    @classmethod
    def load(cls, path: Path) -> tuple[UserStates, dict[str, str]]:
        """Read what `save` wrote, with its metadata. Raises InputError when the file is not one of these."""
        tensors, metadata = load_tensors(path)
        if "users" not in tensors:
            raise InputError(f"{path} holds no user states", hint="make one with `prbench user adapt`")
        digest = metadata.pop(SEAL, None)
        if digest is None and SEALED not in metadata:
            from prbench.base.console import stderr

            stderr().print(f"{path} carries no digest, as states of an earlier prbench: unverified", soft_wrap=True)
        if (digest is not None or SEALED in metadata) and digest != tensors_digest(tensors, metadata):
            raise InputError(f"{path} is damaged: it does not match its sha256", hint="adapt again")
        metadata.pop(SEALED, None)
        users = tensors.pop("users")
        rows = users.shape
        if users.dtype != torch.int64 or users.dim() != 1 or any(t.shape[:1] != rows for t in tensors.values()):
            raise InputError(f"{path} holds no user states: there is not one row per user", hint="adapt again")
        return cls(users.numpy(), tensors), metadata


class ComparedFeatures(NamedTuple):
    """Features [m, k] of the distinct items of n comparisons, and where each comparison's two items are, [n]."""

    features: Tensor
    chosen: Tensor
    rejected: Tensor


class Method(ABC):
    """A personalised reward model.

    Hyper-parameters are keyword-only constructor arguments, stored unchanged under their own names. What is
    learned lives in tensors and is returned by `learned`.
    """

    # True where the order of a user's support comparisons may change the result.
    order_matters: ClassVar[bool] = False
    # True where a user's state depends on numbers drawn in `adapt_unseen`.
    adaptation_is_random: ClassVar[bool] = False
    # True where a user's state comes out of a forward pass: it is stored, but none of it is fitted to the user.
    encodes_users: ClassVar[bool] = False
    # False where fitting and adapting draw no random numbers: the method is then fitted once, whatever `--restarts`.
    random_start: ClassVar[bool] = True
    # True where a user's score is linear in `item_features`, with weights of the user's own.
    linear_user_part: ClassVar[bool] = False
    # The name of the state's tensor that holds the mean of a posterior under a prior N(0, 1), where there is one.
    latent_state: ClassVar[str] = ""
    # True where the method reads the items' texts, through a judge model, and no embeddings.
    reads_text: ClassVar[bool] = False
    # True where margins come from comparing two replies with one another, so that no reply has a score of its own.
    pairwise: ClassVar[bool] = False
    # Raised by one with a change of code that moves the scores by more than rounding: earlier results are then set
    # aside and made again. It is part of a result's key above 1.
    revision: ClassVar[int] = 1
    # Hyper-parameters that were added when there were results already: each is part of a result's key only where it
    # differs from its default, which must be what those results were made with.
    later_parameters: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise TypeError(f"{cls.__name__}: the hyper-parameter {name!r} must be keyword-only")
            if name in cls.later_parameters and parameter.default is parameter.empty:
                raise TypeError(f"{cls.__name__}: the later hyper-parameter {name!r} must have a default")

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """The constructor arguments by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @property
    def key_parameters(self) -> dict[str, Any]:
        """The hyper-parameters that name a result: all but those of `later_parameters` at their defaults."""
        defaults = {name: p.default for name, p in inspect.signature(type(self)).parameters.items()}
        return {
            name: value
            for name, value in self.hyper_parameters.items()
            if name not in self.later_parameters or value != defaults[name]
        }

    def fresh(self) -> Self:
        """A new, unfitted method with the same hyper-parameters."""
        return type(self)(**self.hyper_parameters)

    def unsupported(self, data: Comparisons) -> str | None:
        """Why this method cannot run on `data`, in one sentence, or None when it can."""
        return None

    @abstractmethod
    def fit_seen(self, train: Comparisons, validation: Comparisons, *, rng: Rng, device: str = "cpu") -> Self:
        """Learn from the seen users' choices and adapt to each of these users.

        `validation` holds other choices of the same users and may be empty: then nothing is selected and the
        method does what its recipe says. A method that selects something on `validation` fits again on both.
        """

    @classmethod
    def fit_splits(
        cls,
        methods: Sequence[Self],
        problems: Sequence[FitProblem],
        *,
        device: str = "cpu",
        watch: Watch | None = None,
    ) -> None:
        """Fit `methods[i]` on `problems[i]`; `watch` is told of every piece of work done.

        Methods that can train many splits together override this.
        """
        for method, problem in zip(methods, problems, strict=True):
            method.fit_seen(problem.train, problem.validation, rng=problem.rng, device=device)
            if watch:
                watch(1 / len(methods))

    @abstractmethod
    def seen_users(self) -> UserStates:
        """The adapted states of the users in `train`."""

    @abstractmethod
    def adapt_unseen(self, support: Comparisons, *, users: IntArray | None = None, rng: Rng) -> UserStates:
        """States of `users` (default: those in `support`) from their support choices; changes nothing here.

        A user without support gets the method's cold start. Each state depends on that user's rows alone.
        """

    def update_user(
        self, states: UserStates, earlier: Comparisons, new: Comparisons, *, rng: Rng, last: int = 0
    ) -> UserStates:
        """The states of the users in `states` once `new` choices follow the `earlier` ones that made these states.

        By default the users adapt again on all of their choices or, with `last` above 0, on each user's `last` ones;
        a method that can do better, or cheaper, overrides this. `earlier` and `new` are each in the order of time.
        """
        known = concatenate([earlier, new]).by_user()
        if last:
            _, first, count = np.unique(known.user, return_index=True, return_counts=True)
            place = np.arange(len(known)) - np.repeat(first, count)
            known = known.take(place >= np.repeat(count, count) - last)
        return self.adapt_unseen(known, users=states.users, rng=rng)

    def cold_start(self, users: IntArray, items: Items, *, rng: Rng) -> UserStates:
        """The states of `users` before any choice of theirs is known."""
        none = np.empty(0, dtype=np.int64)
        empty = Comparisons(items=items, user=none, chosen=none, rejected=none, group=none, row=none)
        return self.adapt_unseen(empty, users=np.unique(users), rng=rng)

    def item_features(self, items: Items) -> Tensor:
        """What does not depend on the user, computed once per item: [m, k]. By default the embedding."""
        return items.embedding

    @abstractmethod
    def score_features(self, states: UserStates, position: Tensor, features: Tensor) -> Tensor:
        """Scores [n] of item features [n, k] for the users at `position` [n] of `states`. Higher is preferred."""

    def score(self, states: UserStates, user: IntArray, items: Items) -> Tensor:
        """Scores [n] of n items for n user numbers. Higher is preferred; scores compare within a user only.

        Items that are the same to the method have one score, whatever else is scored with them.
        """
        position = states.positions(user)
        scores = self.score_features(states, position, self.item_features(items))
        first = self._first_alike(items)
        alike = np.flatnonzero(first != np.arange(len(first)))
        if not len(alike):
            return scores
        _, place, group = np.unique(
            np.stack([position.numpy(), first]), axis=1, return_index=True, return_inverse=True
        )
        return scores[torch.from_numpy(place[group.ravel()])]

    def _first_alike(self, items: Items) -> IntArray:
        """For each item, the first one with the same embedding and the same features: [m]."""
        rows = items.embedding.contiguous().view(torch.uint8).numpy()
        first_of: dict[bytes, int] = {}
        first = np.array([first_of.setdefault(row.tobytes(), i) for i, row in enumerate(rows)], dtype=np.int64)
        alike = np.flatnonzero(first != np.arange(len(first)))
        apart = alike[~self._same_features(items, alike, first[alike])]
        first[apart] = apart
        return first

    def _same_features(self, items: Items, left: IntArray, right: IntArray) -> NDArray[np.bool_]:
        """Whether items at `left` [k] have the features of those at `right` [k], whose embeddings are the same: [k].

        Both are computed in products of one shape and at one place in them, so that rounding takes no part.
        """
        same = np.ones(len(left), dtype=bool)
        for i in range(0, len(left), ITEMS_AT_ONCE):
            part = slice(i, i + ITEMS_AT_ONCE)
            a, b = (self.item_features(items.take(index[part])) for index in (left, right))
            same[part] = (a == b).flatten(1).all(dim=1).numpy()
        return same

    def features_of(self, comparisons: Comparisons) -> ComparedFeatures:
        """The features of every item in `comparisons`, each computed once; `margins` takes them ready.

        Two sides that are the same to the method, embedding and features alike, share the chosen one's features.
        """
        used, place = np.unique(np.stack([comparisons.chosen, comparisons.rejected]), return_inverse=True)
        # At least one call, so that no comparisons still give features of the right width.
        parts = [
            self.item_features(comparisons.items.take(used[i : i + ITEMS_AT_ONCE]))
            for i in range(0, max(1, len(used)), ITEMS_AT_ONCE)
        ]
        chosen, rejected = torch.from_numpy(place.reshape(2, -1))
        equal = np.flatnonzero(comparisons.equal_vectors)
        same = self._same_features(comparisons.items, comparisons.chosen[equal], comparisons.rejected[equal])
        shared = torch.from_numpy(equal[same])
        rejected = rejected.index_copy(0, shared, chosen[shared])
        return ComparedFeatures(torch.cat(parts), chosen, rejected)

    def margins(
        self, states: UserStates, comparisons: Comparisons, features: ComparedFeatures | None = None
    ) -> Tensor:
        """score(chosen) − score(rejected), [n]: positive where the method agrees with the user, 0 for equal sides.

        `features` are those of `features_of(comparisons)`, for scoring the same comparisons in several states.
        """
        ready = self.features_of(comparisons) if features is None else features
        position = states.positions(comparisons.user)
        margins = []
        for i in range(0, max(1, len(comparisons)), ITEMS_AT_ONCE):
            part = slice(i, i + ITEMS_AT_ONCE)
            chosen, rejected = (
                self.score_features(states, position[part], ready.features[where[part]])
                for where in (ready.chosen, ready.rejected)
            )
            margins.append(chosen - rejected)
        margin = torch.cat(margins)
        return margin.masked_fill((ready.chosen == ready.rejected) & margin.isfinite(), 0.0)

    def fitted_per_user(self, count: ParameterCount) -> int:
        """How many of a user's numbers in `count` are fitted to the user's choices: none where users are encoded."""
        return 0 if self.encodes_users else count.per_user

    @abstractmethod
    def parameter_count(self) -> ParameterCount:
        """The stored numbers of this fitted method, shared and per user."""

    def parameters_for(self, dim: int) -> ParameterCount | None:
        """What `parameter_count` will be on embeddings of `dim` dimensions; None where it depends on the data."""
        return None

    def bytes_per_update(self, trains: Sequence[Comparisons], rngs: Sequence[Rng]) -> float | None:
        """The bytes that one update of these splits reads and writes at least, for `prbench bench`.

        Every split's own embeddings count, forward and backward, also where a row is read once for several splits.
        None for a method that is not trained by updates, or does not say.
        """
        return None

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """Every shared learned tensor by name. The seen users' states are not among them: they are users' own."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """Take learned tensors back, as `learned` gave them. A restored method knows no seen users."""

    def fit_record(self) -> dict[str, Any]:
        """What the fit decided (chosen epoch, chosen strength, ...) and by which rule, for the record."""
        return {}

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write what was learned as safetensors."""
        save_tensors(path, self.learned(), metadata)

    def load(self, path: Path) -> Self:
        """Read what `save` wrote."""
        return self.restore(load_tensors(path)[0])


@dataclass(frozen=True, eq=False)
class FitProblem:
    """One split's fitting job.

    `choose`, where given, replaces the validation accuracy as the judge of a candidate (a fitted copy of the
    method); only the test-oracle rule uses it, to show what choosing on test data claims. `checkpoints` is a folder
    for methods that keep what is trained so far.
    """

    train: Comparisons
    validation: Comparisons
    rng: Rng
    choose: Callable[[Method], float] | None = None
    checkpoints: Path | None = None


# Called with the share of the whole fit that has been done since the last call.
Watch = Callable[[float], None]


def require_fitted(value: Tensor | None, method: Method) -> Tensor:
    """`value`, or RuntimeError when the method has not been fitted."""
    if value is None:
        raise RuntimeError(f"{type(method).__name__} is not fitted: call fit_seen first")
    return value


SEAL = "sha256"
SEALED = "sealed"


def tensors_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The sha256 of named tensors and of text that belongs to them."""
    import hashlib

    hashed = hashlib.sha256(canonical_json(dict(metadata)).encode())
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        hashed.update(canonical_json([name, str(plain.dtype), list(plain.shape)]).encode())
        hashed.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    private: bool = False,
) -> None:
    """Write tensors as safetensors, atomically; `private` is for the eyes of the owner."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Written by `writing`, not by safetensors: a full disk then gives one clear line. An empty table of metadata
    # together with no tensors would be written as a broken header.
    content = save(plain, metadata=dict(metadata) if metadata else None)
    with writing(path, private=private) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises InputError when it is missing or broken."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error
