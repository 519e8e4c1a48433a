"""Speed and memory of fitting and adapting, side by side with a plain loop of the same recipe in one run."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from prbench import data as datasets
from prbench import registry
from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.base.seeds import Rng
from prbench.comparisons import Comparisons, PreferenceData
from prbench.encoders import OWN
from prbench.encoders.base import require_device, resolved_device
from prbench.method import Watch
from prbench.protocol import splits
from prbench.protocol.selection import fit_rng
from prbench.protocol.splits import Split
from prbench.registry import methods
from prbench.registry.schema import DatasetEntry
from prbench.training.compute import Precision, computing, peak_memory
from prbench.training.gradient import GradientMethod, SplitBatch

COPIED = 2**29
MULTIPLIED = 4096
ROUNDS = 3
# Seconds that one round of the engine and of the loop may take; at least a few updates are always made.
ROUND_SECONDS = 6.0
FEWEST = 3
ADAPTED_ALONE = 30


def fit(
    method: str, shape: str, count: int, *, device: str = "auto", full: bool = False, precision: Precision = "highest"
) -> dict[str, Any]:
    """Time `method` on `count` splits of the simulated data set `shape`.

    The engine trains all splits; the loop trains one, and its time is multiplied by the number of splits. They
    take turns for `ROUNDS` rounds; medians are given. With `full` the whole recipe is trained by the engine once
    more and its time is `fit_seconds`, else that is projected. `bandwidth_share` is `Method.bytes_per_update` per
    second as a share of what copying a large buffer moves (read and written) on the same machine in the same run; it
    can exceed 1 where the engine reads a row once for several splits. `product_share` is `products_per_update`
    (floating-point operations inside matrix products) per second as a share of what one large product of the same
    precision reaches there. Whichever is near 1 is the bound that is met; where neither is, small operations are.

    Raises InputError for unknown names, for a shape that has no embeddings of its own and for a method that is
    not trained by gradient steps.
    """
    device = resolved_device(device)
    require_device(device)
    entry = registry.get("datasets", shape)
    gradient_method = methods.make_method(registry.get("methods", method), entry, {})
    if not isinstance(gradient_method, GradientMethod):
        raise InputError(f"{method} is not trained by gradient steps", hint="time bt, lore or mrm")
    work = shape_of(shape, count)
    trains, rngs = work.trains, work.rngs

    engine_times, loop_times, bandwidths, rates = [], [], [], []
    with progress() as display:
        bar = display.add_task(f"{method} on {shape}", total=2 * ROUNDS)
        for _ in range(ROUNDS):
            bandwidths.append(copy_bandwidth(device))
            with computing(precision):
                rates.append(product_rate(device))
                engine_times.append(engine(gradient_method, trains, rngs, device))
            display.advance(bar)
            loop_times.append(loop(gradient_method, trains[0], rngs[0], device))
            display.advance(bar)
    update = float(np.median([timed.seconds for timed in engine_times]))
    setup = float(np.median([timed.setup for timed in engine_times]))
    single = float(np.median(loop_times))
    updates = engine_times[0].updates
    moved = gradient_method.bytes_per_update(trains, rngs)
    bandwidth = float(np.median(bandwidths))
    products = products_per_update(gradient_method, trains, rngs, device)
    rate = float(np.median(rates))
    whole = setup + update * updates
    if full:
        with computing(precision):
            whole = _whole(gradient_method, trains, rngs, device)
    adapting = _adapting(gradient_method, work.comparisons.take(work.splits[0].unseen_support), trains[0], rngs[0])
    return {
        "method": method,
        "shape": shape,
        "splits": count,
        "updates_per_second": 1 / update,
        "seconds": update,
        "ratio_to_loop": single * count / update,
        "loop": "one user at a time" if gradient_method.plain_loop(trains[0], rngs[0]) else "one split at a time",
        "loop_seconds": single * count,
        "updates": updates,
        "setup_seconds": setup,
        "fit_seconds": whole,
        "fit_is": "measured" if full else "projected",
        "bytes_per_update": moved,
        "bandwidth_gb_per_second": bandwidth / 1e9,
        "bandwidth_share": None if moved is None else moved / update / bandwidth,
        "products_per_update": products,
        "product_gflops_per_second": rate / 1e9,
        "product_share": products / update / rate,
        "peak_memory_mb": peak_memory(device) / 2**20,
        **adapting,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "precision": precision,
        "torch": torch.__version__,
    }


@dataclass(frozen=True, eq=False)
class Shape:
    """A simulated data set with its embeddings and the splits that methods are timed on."""

    entry: DatasetEntry
    data: PreferenceData
    comparisons: Comparisons
    splits: list[Split]

    @cached_property
    def trains(self) -> list[Comparisons]:
        """What the seen users of each split train on."""
        return [self.comparisons.take(split.seen_train) for split in self.splits]

    @property
    def rngs(self) -> list[Rng]:
        """The stream that fitting each split draws from."""
        return [fit_rng(self.data, split) for split in self.splits]


def shape_of(name: str, count: int) -> Shape:
    """The simulated data set of that name and its first `count` splits.

    Raises InputError for an unknown name and for data that come without embeddings.
    """
    entry = registry.get("datasets", name)
    if entry.encoder != OWN:
        raise InputError(f"{name} comes without embeddings", hint="choose a simulated data set, such as sim-prism")
    data = datasets.load(entry)
    items = data.embedded
    assert items is not None
    # As a run numbers them: see `OpenDataset.comparisons`.
    items = replace(items, identity=torch.arange(len(items)) if items.identity is None else items.identity)
    drawn = [splits.make_split(data, entry.protocol, index=i) for i in range(count)]
    return Shape(entry, data, data.comparisons(items), drawn)


def copy_bandwidth(device: str) -> float:
    """Bytes read and written per second by copying a buffer far larger than a core's caches, best of three."""
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    best = np.inf
    for _ in range(3):
        start = now(device)
        target.copy_(source)
        best = min(best, now(device) - start)
    return 2 * COPIED / best


def product_rate(device: str) -> float:
    """Floating-point operations per second in one large product of float32 matrices, best of three."""
    factor = torch.randn(MULTIPLIED, MULTIPLIED, device=device)
    target = torch.empty_like(factor)
    best = np.inf
    for _ in range(4):
        start = now(device)
        torch.mm(factor, factor, out=target)
        best = min(best, now(device) - start)
    return 2 * MULTIPLIED**3 / best


def products_per_update(
    method: GradientMethod, trains: list[Comparisons], rngs: list[Rng], device: str = "cpu"
) -> float:
    """Floating-point operations inside the matrix products and attentions of one update of all splits, counted.

    The average of the updates that `ROUND_SECONDS` have room for.
    """
    work, total = _work(method, trains, rngs, device), 0.0
    blocks = method.blocks(work)
    for block in blocks:
        counted: list[int] = []
        with counting() as counter:

            def on_update(_: float, counter: FlopCounterMode = counter, counted: list[int] = counted) -> None:
                counted.append(counter.get_total_flops())

            _timed_block(method, work.take(block), ROUND_SECONDS / len(blocks), on_update)
        total += (counted[-1] - counted[0]) / (len(counted) - 1)
    return total


def counting() -> FlopCounterMode:
    """torch's counter of operations, which by itself leaves out attentions of CPUs and batched products in place."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def attention_backward(
        out: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
    ) -> int:
        return int(sdpa_backward_flop_count(out, query, key, value))  # type: ignore[no-untyped-call]

    def products(_: torch.Size, left: torch.Size, right: torch.Size, **__: Any) -> int:
        return 2 * left.numel() * right[-1]

    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        aten.baddbmm_: products,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def now(device: str) -> float:
    """Seconds; what a GPU was given before is done by then."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


class Timed(NamedTuple):
    """Seconds per update of all splits, seconds before the first has ended, and updates of the whole recipe."""

    seconds: float
    setup: float
    updates: int


def _work(method: GradientMethod, trains: list[Comparisons], rngs: list[Rng], device: str) -> SplitBatch:
    return SplitBatch(trains, rngs, [{method.budget}] * len(trains), device)


def engine(
    method: GradientMethod,
    trains: list[Comparisons],
    rngs: list[Rng],
    device: str,
    most_seconds: float | None = None,
) -> Timed:
    """Time updates of all splits for `most_seconds` (default: `ROUND_SECONDS`), trained as a fit trains them."""
    most_seconds = ROUND_SECONDS if most_seconds is None else most_seconds
    work = _work(method, trains, rngs, device)
    blocks = method.blocks(work)
    alone = _timed_block(method, work.take(blocks[0]), 0.0)
    updates = _timed_block(method, work.take([0]), 0.0).updates if len(blocks[0]) > 1 else alone.updates
    start = now(device)
    marks: list[float] = []
    shares: list[float] = []

    def watch(share: float) -> None:
        marks.append(now(device) if len(marks) < FEWEST else time.perf_counter())
        shares.append(share)
        if len(marks) > 2 * FEWEST and marks[-1] - marks[FEWEST - 1] > most_seconds:
            raise _EnoughError

    try:
        for _ in method.train(replace(work, watch=watch)):
            pass
    except _EnoughError:
        pass
    # Threads of a CPU end with an update that is not counted.
    end = now(device) if device.startswith("cuda") else marks[-1]
    warm = min(FEWEST, len(marks) - 1)
    # All shares of one update of all splits add up to 1 / updates.
    seconds = (end - marks[warm - 1]) / (sum(shares[warm:]) * updates)
    # What comes before the first block's first update is partly done once for all of them.
    setup = marks[0] - start + (len(blocks) - 1) * alone.setup
    return Timed(seconds, setup, updates)


def _timed_block(
    method: GradientMethod, work: SplitBatch, most_seconds: float, on_update: Watch | None = None
) -> Timed:
    """Time some updates; `on_update`, where given, hears of each."""
    device = work.device
    start = now(device)
    marks: list[float] = []
    shares: list[float] = []

    def watch(share: float) -> None:
        # Waiting for a GPU at every update would slow it down; the first updates and the last matter.
        marks.append(now(device) if len(marks) < FEWEST else time.perf_counter())
        shares.append(share)
        if on_update:
            on_update(share)
        if len(marks) > 2 * FEWEST and marks[-1] - marks[FEWEST - 1] > most_seconds:
            raise _EnoughError

    try:
        for _ in method.train_splits(replace(work, watch=watch)):
            pass
    except _EnoughError:
        pass
    end = now(device)
    warm = min(FEWEST, len(marks) - 1)
    # Every update tells of its share of the longest split's work.
    return Timed((end - marks[warm - 1]) / (len(marks) - warm), marks[0] - start, round(1 / shares[0]))


class _EnoughError(Exception):
    """Enough updates were timed."""


def loop(
    method: GradientMethod, train: Comparisons, rng: Rng, device: str, most_seconds: float | None = None
) -> float:
    """Seconds per update of one split, by the plain loop (on the CPU) where there is one."""
    most_seconds = ROUND_SECONDS if most_seconds is None else most_seconds
    if method.plain_loop(train, rng) is None:
        return engine(method, [train], [rng], device, most_seconds).seconds
    return _timed(_endless(lambda: method.plain_loop(train, rng)), most_seconds)


def _endless(make: Callable[[], Iterator[Any] | None]) -> Iterator[Any]:
    while (steps := make()) is not None:
        yield from steps


def _timed(steps: Iterator[Any], most_seconds: float) -> float:
    for _ in islice(steps, FEWEST):
        pass
    start, done = time.perf_counter(), 0
    while done < FEWEST or time.perf_counter() - start < most_seconds:
        next(steps)
        done += 1
    return (time.perf_counter() - start) / done


def _whole(method: GradientMethod, trains: list[Comparisons], rngs: list[Rng], device: str) -> float:
    start = now(device)
    with progress() as display:
        bar = display.add_task("the whole fit", total=100)
        wanted = [{method.budget}] * len(trains)
        for _ in method.train(
            SplitBatch(trains, rngs, wanted, device, lambda share: display.advance(bar, 100 * share))
        ):
            pass
    return now(device) - start


def _adapting(method: GradientMethod, support: Comparisons, train: Comparisons, rng: Rng) -> dict[str, float]:
    """Adapting all unseen users of a split together, against one call per user."""
    (snapshot,) = method.train_splits(SplitBatch([train], [rng], [{1}]))
    fitted = method.fresh().accept(snapshot.tensors, train, rng)
    users = support.users
    start = time.perf_counter()
    fitted.adapt_unseen(support, rng=rng)
    together = time.perf_counter() - start
    some = users[:ADAPTED_ALONE]
    own = [support.of(int(user)) for user in some]
    start = time.perf_counter()
    for rows in own:
        fitted.adapt_unseen(rows, rng=rng)
    alone = (time.perf_counter() - start) / len(some) * len(users)
    return {"adapt_seconds": together, "adapt_users": len(users), "adapt_ratio_to_loop": alone / together}
