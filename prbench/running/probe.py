"""Further evaluations of finished fits: unseen users adapt again, under other conditions.

Five conditions give scores, each a file in the cell's folder, so that figures remain pure functions of the results
store:

- noise: a share of the unseen users' support labels is flipped (`probe-noise-0.2.parquet`). The flips nest: what is
  flipped at 0.1 is flipped at 0.2 too.
- support: the unseen users' own support choices are scored, which shows how far a method follows what it was shown
  (`probe-support.parquet`).
- transfer: unseen users of another data set with the same encoder adapt and are tested
  (`probe-on-NAME.parquet`). Data sets of one family share people or texts and do not count as another.
- injection: the rejected reply of each test choice tells the judge model to choose it (`probe-injection.parquet`,
  where the column `cold_margin` holds the margin without that). It concerns methods that read texts alone.
- rounding: the only one that fits. Two splits of a row are fitted again on embeddings that differ in the last place,
  which shows how far the method magnifies rounding (`probe-rounding.parquet`; `prbench.running.rounding`).

Further kinds, each with a table of its own (`results.probe_tables`), are made by `running.probes.makers`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rich.markup import escape

from prbench import registry
from prbench.base.console import progress, stderr
from prbench.base.errors import InputError, nearest
from prbench.base.files import canonical_json
from prbench.encoders import OWN
from prbench.encoders.base import require_device, resolved_device
from prbench.judging import judge_entry_for
from prbench.method import Method, Watch
from prbench.protocol import splits
from prbench.protocol.samples import sampled
from prbench.registry import methods as methods_module
from prbench.registry.schema import DatasetEntry, SelectionRule
from prbench.results import cells as results
from prbench.results import scores
from prbench.results.claims import Claims
from prbench.results.probe_tables import POLICY
from prbench.results.probes import INJECTION, ROUNDING, ROUNDING_SPLITS, SUPPORT, Probe, finished
from prbench.results.record import CellRecord, DoneRecord, PlannedRecord
from prbench.running.display import Display
from prbench.running.execution import HERE, Execution
from prbench.running.executors import Local, Work, executor_for
from prbench.running.needs import Needs, fit_needs
from prbench.running.open_dataset import Drawing, InMemory, OpenDataset, open_dataset, open_recorded
from prbench.running.probes import policies
from prbench.running.probes.conditions import unseen_margins
from prbench.running.probes.makers import MAKERS
from prbench.running.request import ProbesDescription
from prbench.running.rounding import refitted
from prbench.running.skipping import NotApplicableError
from prbench.training.compute import computing

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(eq=False)
class ProbeTask:
    """A probe of a finished cell; `policy` finds the language model that the probe names, where it names one."""

    folder: Path
    record: PlannedRecord
    probe: Probe
    policy: str = ""

    @property
    def done(self) -> bool:
        """Whether its file is there."""
        return results.has_scores(self.probe.file(self.folder))


def tasks(
    runs: Path,
    *,
    noise: Sequence[float] = (),
    support: bool = False,
    rounding: bool = False,
    transfer: Sequence[str] = (),
    kinds: Sequence[str] = (),
    policy: str = policies.MODEL,
    injection: bool = False,
    methods: Sequence[str] | None = None,
    datasets_: Sequence[str] | None = None,
) -> list[ProbeTask]:
    """The probes of every finished cell in `runs`, of these methods and data sets where given.

    `transfer` names the data sets to test on; a cell whose encoder reads texts is tested on those of another family
    that are texts. `policy` is the language model of the kind "policy". `rounding` takes the first `ROUNDING_SPLITS`
    splits of each row. Rows chosen on test data are not probed.

    Raises InputError for a share of noise outside (0, 1], for an unknown data set, for unreadable results, and where
    there is nothing to do.
    """
    for share in noise:
        if not 0 < share <= 1:
            raise InputError(f"--noise {share:g} is not a share", hint="for example --noise 0.1,0.2,0.4")
    targets = [registry.get("datasets", name) for name in transfer]
    cells = _finished_cells(runs, methods, datasets_)
    if unknown := [kind for kind in kinds if kind not in MAKERS]:
        raise nearest(unknown[0], list(MAKERS), noun="kind of probe", listing="prbench probe --help")
    if injection and not any(record.reader for _, record in cells):
        raise InputError(
            f"--injection: {runs} has no finished fit that reads texts", hint="make some with `prbench run --judge`"
        )
    conditions = [Probe("noise", noise=share) for share in noise] + ([Probe(SUPPORT)] if support else [])
    asked = judge_entry_for(policy).name if POLICY in kinds else ""
    conditions += [Probe(kind, model=asked if kind == POLICY else "") for kind in kinds]
    todo = [
        ProbeTask(folder, record, probe, policy if probe.kind == POLICY else "")
        for folder, record in cells
        for probe in _probes_of(record, conditions, targets, injection)
    ]
    if rounding:
        todo += _rounding_tasks(cells)
    if targets and not any(task.probe.on for task in todo):
        raise InputError(
            f"--transfer: no fit in {runs} can be tested on {', '.join(transfer)}",
            hint="name data sets of other people and texts, and fits whose encoder reads texts",
        )
    return todo


def _finished_cells(
    runs: Path, methods: Sequence[str] | None, datasets_: Sequence[str] | None
) -> list[tuple[Path, CellRecord]]:
    """The finished cells of these methods on these data sets, trial runs on a part of one left out.

    Raises InputError where there is none.
    """
    cells = [
        (folder, record)
        for folder, record in finished(runs)
        if not record.dataset.endswith("]")
        and (methods is None or record.entry.name in methods)
        and (datasets_ is None or record.dataset in datasets_)
    ]
    if not cells:
        raise InputError(
            f"{runs} has no finished fit of these methods on these data sets", hint="make some with `prbench run`"
        )
    return cells


def _scores_vectors_first(record: CellRecord) -> bool:
    """Whether a cell is of a method that scores vectors, and of its first start."""
    return not (record.restart or record.reader)


def _probes_of(
    record: CellRecord, conditions: Sequence[Probe], targets: Sequence[DatasetEntry], injection: bool
) -> list[Probe]:
    """The conditions that make sense for a cell, then the injection, or each data set that it can be tested on."""
    probes = [probe for probe in conditions if probe.kind not in MAKERS or _scores_vectors_first(record)]
    if record.reader:
        return probes + ([Probe(INJECTION)] if injection else [])
    return probes + [
        Probe("on", on=target.name) for target in targets if can_transfer(record.dataset, record.encoder, target)
    ]


def _rounding_tasks(cells: Sequence[tuple[Path, CellRecord]]) -> list[ProbeTask]:
    """The rounding probe of the first `ROUNDING_SPLITS` splits of each row."""
    by_row: dict[tuple[str, ...], list[tuple[Path, CellRecord]]] = {}
    fits = [(folder, record) for folder, record in cells if _scores_vectors_first(record)]
    for folder, record in sorted(fits, key=lambda cell: cell[1].split):
        by_row.setdefault(tuple(getattr(record, name) for name in scores.COLUMNS), []).append((folder, record))
    return [ProbeTask(*cell, Probe(ROUNDING)) for row in by_row.values() for cell in row[:ROUNDING_SPLITS]]


def can_transfer(dataset: str, encoder: str, target: DatasetEntry) -> bool:
    """Whether a fit on embeddings can be tested on `target`: other people and texts, which its encoder can read."""
    fitted_on = registry.get("datasets", dataset)
    return fitted_on.family != target.family and OWN not in (encoder, target.encoder)


class Untold(NamedTuple):
    """How many probes gave nothing."""

    failed: int
    skipped: int


def execute(todo: Sequence[ProbeTask], *, device: str = "auto", execution: Execution = HERE) -> tuple[int, int]:
    """Do the tasks that lack their file; returns how many were done and how many failed.

    A failure is told on stderr and the others go on, as is a probe that has no meaning for a fit; an interruption
    loses at most the tasks in progress. Several processes of this machine may share the rows, or a cluster, as
    `execution` says. Raises InputError where a cell rests on other data or embeddings than are here now.
    """
    device = resolved_device(device)
    require_device(device)
    missing = sorted((task for task in todo if not task.done), key=_tested_on)
    if not missing:
        return 0, 0
    runs = missing[0].folder.parents[3]
    groups = [list(group) for _, group in groupby(missing, key=lambda task: _tested_on(task)[:-1])]
    _ask_models(missing, device)
    claims = Claims(runs)
    try:
        with progress() as display:
            bar = display.add_task("probing", total=len(missing))
            memory = InMemory(display, claims)
            local = Local(_one_by_one(groups, device, claims, memory))
            places: dict[tuple[str, str], OpenDataset] = {}
            alone = execution.workers == 1 and not execution.elsewhere
            for group in () if alone else groups:
                place = _tested_on(group[0])[:2]
                places[place] = places.get(place) or _opened(group[0], device, {})
            settings = [] if alone else [places[_tested_on(group[0])[:2]] for group in groups]
            work = Work(settings, partial(_needs, groups, settings), runs)
            executor = executor_for(execution, local, work, memory)
            listener = _Probes(groups, display, bar)
            executor.run([_described(group, runs, device, execution.job_threads) for group in groups], listener)
    finally:
        claims.clear()
    return len(missing) - listener.failed - listener.skipped - listener.handed_over, listener.failed


def _needs(
    groups: Sequence[Sequence[ProbeTask]], settings: Sequence[OpenDataset], execution: Execution
) -> list[Needs]:
    """A probe adapts and scores what is fitted: it takes no longer than a fit of its split."""
    found = []
    for group, setting in zip(groups, settings, strict=True):
        entry = group[0].record.entry
        method = methods_module.make_method(registry.get("methods", entry.name), setting.entry, {})
        one = replace(setting, splits=setting.splits[:1])
        found.append(fit_needs(method, entry.name, one, execution, fits=len(group)))
    return found


def _one_by_one(
    groups: Sequence[Sequence[ProbeTask]], device: str, claims: Claims, memory: InMemory
) -> Generator[tuple[int, Callable[[Watch], Untold]]]:
    """Each group as its turn comes, in this process."""
    opened: dict[str, list[OpenDataset]] = {}
    for number, group in enumerate(groups):
        memory.take(_opened(group[0], device, opened))
        yield number, partial(_do, group, device, claims, opened)


def _do(
    tasks: Sequence[ProbeTask], device: str, claims: Claims, opened: dict[str, list[OpenDataset]], watch: Watch
) -> Untold:
    """Do the tasks of one group that no other program does; returns how many of them gave nothing."""
    failed = skipped = 0
    with closing(claims.each(tasks, name=_name_of, is_open=lambda task: not task.done)) as mine:
        for task in mine:
            try:
                columns = _probed(task, _opened(task, device, opened))
            except InputError:
                raise
            except NotApplicableError as error:
                skipped += 1
                where = "/".join(task.folder.parts[-4:])
                stderr().print(escape(f"{task.probe.name} of {where} is skipped: {error}"), soft_wrap=True)
            except Exception as error:
                # One method's failure must not cost the others' probes.
                failed += 1
                message = escape(f"{task.probe.name} of {task.folder}: {type(error).__name__}: {error}")
                stderr().print(f"[red]failed[/red] {message}", soft_wrap=True)
            else:
                results.add_scores(task.probe.file(task.folder), columns, task.folder.parents[3])
            watch(1 / len(tasks))
    return Untold(failed, skipped)


def perform(description: ProbesDescription, watch: Watch, opened: dict[str, list[OpenDataset]]) -> Untold:
    """Do described probes, and return how many gave nothing; `opened` keeps the last job's data set for the next."""
    todo = [
        ProbeTask(folder, results.read_record(folder), Probe.named(name), description.policy)
        for folder, name in description.probes
    ]
    return _do(todo, description.device, Claims(description.runs, description.lost), opened, watch)


def opened_as(description: ProbesDescription) -> str:
    """What groups of probes have in common that are made on the same open data set."""
    folder, name = description.probes[0]
    return _same(ProbeTask(folder, results.read_record(folder), Probe.named(name)))


def _ask_models(tasks: Sequence[ProbeTask], device: str) -> None:
    """What language models say of data sets is computed before anything else: it has a display of its own."""
    for task in {(*_tested_on(task)[:2], task.policy): task for task in tasks if task.probe.model}.values():
        setting = _opened(task, device, {})
        if setting.data.embedded is None:
            policies.logs_of(setting, task.policy)


def _described(group: Sequence[ProbeTask], runs: Path, device: str, threads: int) -> ProbesDescription:
    probes = tuple((task.folder, task.probe.name) for task in group)
    entry, names = group[0].record.entry, dict.fromkeys(task.probe.name for task in group)
    return ProbesDescription(
        runs=runs,
        device=device,
        probes=probes,
        registry=registry.used(),
        threads=threads,
        title=f"probing {group[0].record.method} on {_tested_on(group[0])[0]}",
        work=canonical_json(["probe", *names, *_tested_on(group[0])[:2], *group[0].record.row]),
        code={entry.target: code} if (code := group[0].record.code) else {},
        policy=max(task.policy for task in group),
    )


class _Probes(Display):
    """The display of probes, which counts those that failed, and those that have no meaning for their fit."""

    def __init__(self, groups: Sequence[Sequence[ProbeTask]], display: Progress, bar: TaskID) -> None:
        names = [f"probing {group[0].record.method} on {_tested_on(group[0])[0]}" for group in groups]
        super().__init__(names, [len(group) for group in groups], display, bar)
        self._groups = groups
        self.failed = self.skipped = self.handed_over = 0

    def end(self, job: int, outcome: Untold) -> None:
        self.failed += outcome.failed
        self.skipped += outcome.skipped
        super().end(job, outcome)

    def hand_over(self, job: int, where: str) -> None:
        self.handed_over += len(self._groups[job])
        super().hand_over(job, where)

    def lose(self, job: int, reason: str) -> None:
        self.failed += sum(not task.done for task in self._groups[job])
        super().lose(job, reason)


def _name_of(task: ProbeTask) -> str:
    """The name under which programs claim a probe."""
    return f"probe {task.probe.name} of {'/'.join(task.folder.parts[-4:])}"


def _tested_on(task: ProbeTask) -> tuple[str, str, str, str]:
    """Tasks on the same embeddings follow one another, so that one data set is in memory at a time; of these, the
    tasks of a row: data set tested on, encoder, folder of the row, folder of the cell."""
    record = task.record
    return (task.probe.on or record.dataset, record.encoder, str(task.folder.parent), str(task.folder))


def _same(task: ProbeTask) -> str:
    name, encoder = _tested_on(task)[:2]
    return f"probe {name} with {encoder}"


def _opened(task: ProbeTask, device: str, opened: dict[str, list[OpenDataset]]) -> OpenDataset:
    """The data set that a task is tested on; `opened` keeps the last one, and opening another lets go of it."""
    name, encoder = _tested_on(task)[:2]
    same = _same(task)
    if same not in opened:
        for setting in (setting for settings in opened.values() for setting in settings):
            setting.forget()
        opened.clear()
        # Splits are drawn by the protocol of each cell's own record.
        if task.record.reader:
            where, drawn = task.folder / "cell.json", Drawing(lambda *_: [])
            opened[same] = [open_recorded(task.record, where, device, drawn, name=name)]
        else:
            opened[same] = [open_dataset(name, encoder, device, lambda data, entry: [])]
    return opened[same][0]


def _probed(task: ProbeTask, setting: OpenDataset) -> dict[str, Any]:
    record, probe = task.record, task.probe
    if record.split_file:
        raise InputError(
            f"{task.folder} has a split from a file, and probes are made on splits that the protocol draws",
            hint="leave out its data set or method, with --dataset or --methods",
        )
    method = _unfitted(task) if probe.kind == ROUNDING else results.load_method(task.folder, record)
    if not probe.on:
        _require_same(task, setting)
    protocol = setting.entry.protocol if probe.on else record.protocol
    entry = setting.entry.model_copy(update={"protocol": protocol})
    seed = record.seed - record.split
    split = splits.make_split(setting.data, protocol, index=record.split, seed=seed, draw=record.draw)
    if record.reader and protocol.test_sample is not None:
        split = sampled(setting.data, split, protocol.test_sample)
    # What has to be embedded first is embedded as a run does it.
    setting.comparisons()
    with computing(record.precision):
        if probe.kind == ROUNDING:
            return refitted(method, _rule_of(record), replace(setting, entry=entry), split)
        if maker := MAKERS.get(probe.kind):
            return maker(method, setting, split, task.folder, task.policy)
        return unseen_margins(method, setting, split, probe, record.restart)


def _unfitted(task: ProbeTask) -> Method:
    """The method of a cell before its fit. Raises InputError where it is not the method that made the cell."""
    fitted, revision = results.load_method(task.folder, task.record), task.record.revision
    if fitted.revision != revision:
        raise InputError(
            f"{task.folder} is of revision {revision} of {task.record.method}, now it has {fitted.revision}",
            hint=results.REPEAT,
        )
    return fitted.fresh()


def _rule_of(record: PlannedRecord) -> SelectionRule:
    """The rule that a cell was fitted by: a tuned one has that of its record of tuning."""
    if record.selection != "tuned":
        return cast(SelectionRule, record.selection)
    rule = record.fit.rule if isinstance(record, DoneRecord) else ""
    return cast(SelectionRule, rule or record.entry.selection)


def _require_same(task: ProbeTask, setting: OpenDataset) -> None:
    record = task.record
    for name, then, now in (
        ("data fingerprint", record.data_fingerprint, setting.data.fingerprint),
        ("embedding fingerprint", record.embedding_fingerprint, setting.embedding_fingerprint),
    ):
        if then != now:
            raise InputError(
                f"{task.folder} was made with {name} {then}, here it is {now}",
                hint="run the cell again, or probe it where its data are",
            )
