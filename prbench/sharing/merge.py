"""Several people's results as one folder: what they have in common must agree, what does not is kept apart.

Nothing is used in silence: two copies of a row that differ are both kept beside the merged folder's results and
neither is reported, unless one source is preferred; results of other data, code or parameters than those of an
earlier source are kept apart. merge.json says all of it, and reports show it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.files import canonical_json, write_json, writing_folder
from prbench.base.reading import sealed
from prbench.results import cells, digests, merged, scores, submitted
from prbench.results.merged import ApartRow, DifferingRow, Merge, RowName
from prbench.results.record import CellRecord
from prbench.results.submitted import SubmittedRow
from prbench.sharing.agreement import Agreement, agreement, rows_agree, spread_of_starts
from prbench.sharing.archive import SUFFIX
from prbench.sharing.pack import CELL_FILE, opened

Facts = dict[str, Any]


def board_facts(record: CellRecord) -> Facts:
    """What all rows of a data set and encoder share, by the words for it."""
    return {
        "data": record.data_fingerprint,
        "embeddings": record.embedding_fingerprint,
        "protocol": record.protocol.model_dump(exclude={"splits"}),
        "version of the protocol": record.protocol_version,
    }


def cell_facts(record: CellRecord) -> Facts:
    """What two cells of one row and split may differ in, by the words for it, in the order in which it is named."""
    return {
        "code": record.code,
        "revision of the method": record.revision,
        "parameters": record.params,
        "seed": record.seed,
        "division of the split": record.split_file,
        "precision": record.precision,
    }


@dataclass(eq=False)
class Copy:
    """A cell in one of the sources."""

    source: str
    place: Path
    folder: Path
    record: CellRecord

    @property
    def done(self) -> bool:
        """Whether it has scores."""
        return self.record.done

    @property
    def worth(self) -> tuple[int, bool]:
        """Of two copies that agree the one with more numbers of shots stays, then the one with its model."""
        return len(scores._scores_files(self.folder)), (self.folder / cells.MODEL).is_file()


Row = tuple[str, str, str, str]


@dataclass(eq=False)
class _Merging:
    """What is known while the sources are read."""

    kept: dict[Row, dict[str, Copy]] = field(default_factory=dict)
    apart: list[tuple[Copy, str]] = field(default_factory=list)
    reasons: list[ApartRow] = field(default_factory=list)
    differs: list[DifferingRow] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)
    twice: int = 0
    identical: int = 0
    submitted: dict[tuple[str, str], tuple[str, SubmittedRow]] = field(default_factory=dict)


def merge(sources: Sequence[Path], out: Path, *, prefer: Path | None = None, least: int = 2) -> Merge:
    """Merge results folders, packs or archives into the new folder `out`.

    `prefer` is the source whose rows are used where copies differ, and whose data and code count where others have
    other ones. Raises InputError as `opened`, for fewer than `least` sources, and where `out` is there already.
    """
    if len(sources) < least:
        raise InputError("a merge needs two results folders or more", hint="prbench results merge A B --out C")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already", hint="name a new folder")
    names = _names(sources)
    wanted = ""
    if prefer is not None:
        same = [name for name, path in names.items() if path.resolve() == prefer.resolve()]
        if not same:
            raise InputError(f"--prefer {prefer} is not among the merged folders", hint=f"it may be {_or(sources)}")
        wanted = same[0]
    order = sorted(names, key=lambda name: name != wanted)
    with contextlib.ExitStack() as stack:
        folders = {name: stack.enter_context(opened(names[name])) for name in order}
        state = _Merging()
        facts: dict[tuple[str, str], tuple[str, Facts]] = {}
        for name in order:
            if before := merged.read(folders[name]):
                state.differs += before.differs
                state.reasons += before.apart
            for row, copies in _rows(name, folders[name], names[name], facts, state).items():
                _add(row, copies, state, wanted)
        handed_in = [each for name in order for each in _submitted(name, folders[name], state)]
        outcome = Merge(
            format=1,
            sources=list(names),
            prefer=wanted,
            cells=sum(len(copies) for copies in state.kept.values()),
            twice=state.twice,
            identical=state.identical,
            largest=dict(sorted(state.largest.items())),
            differs=state.differs,
            apart=state.reasons,
        )
        with writing_folder(out) as folder:
            for copy in (copy for copies in state.kept.values() for copy in copies.values()):
                _copy(copy, folder)
            for copy, source in state.apart:
                _copy(copy, folder / merged.APART / source)
            for handed, place in handed_in:
                submitted.write(folder / place, handed.record.model_dump(exclude={"margins"}), handed.margins)
            write_json(folder / merged.FILE, sealed(json.loads(canonical_json(outcome.model_dump()))))
    return outcome


def sentences(outcome: Merge) -> list[str]:
    """A sentence on each row that differs and on each that was kept apart."""
    lines = []
    for row in outcome.differs:
        numbers = " and ".join(f"{100 * value:.2f}% ({source})" for source, value in row.accuracy.items())
        end = f"{row.used} is used" if row.used else "neither is used; --prefer FOLDER chooses"
        lines.append(f"{row.row.shown} differs between machines: {numbers} over {row.splits} splits; {end}")
    return lines + [f"{row.row.shown} of {row.source} is kept apart: {row.why}" for row in outcome.apart]


def _names(sources: Sequence[Path]) -> dict[str, Path]:
    """A short name for each source: its own, with a number where two have the same."""
    names: dict[str, Path] = {}
    for path in sources:
        base = path.absolute().name.removesuffix(SUFFIX).lstrip(".") or "results"
        name, number = base, 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names[name] = path
    return names


def _or(sources: Sequence[Path]) -> str:
    return " or ".join(map(str, sources))


def _rows(
    source: str,
    folder: Path,
    shown: Path,
    facts: dict[tuple[str, str], tuple[str, Facts]],
    state: _Merging,
) -> dict[Row, dict[str, Copy]]:
    """The rows of a source, by place within the folder; those of other data than an earlier source's go apart."""
    rows: dict[Row, dict[str, Copy]] = {}
    strange: dict[tuple[str, str], str] = {}
    count = 0
    for cell in cells.folders(folder):
        count += 1
        record = cells.read_record(cell)
        if record.done and (lost := cells._lost(cell)):
            raise InputError(f"{cell} lacks {lost}", hint=cells.REPEAT)
        copy = Copy(source, cell.relative_to(folder), cell, record)
        board = record.dataset, record.encoder
        record_facts = board_facts(record)
        first, known = (
            facts.setdefault(board, (source, record_facts)) if copy.done else facts.get(board, (source, record_facts))
        )
        if first != source and record_facts != known:
            words = [word for word in record_facts if record_facts[word] != known[word]]
            strange.setdefault(board, f"other {' and '.join(words)} than {first}")
            state.apart.append((copy, source))
            continue
        rows.setdefault(record.row, {})[f"{record.split}-{record.restart}"] = copy
    if not count and not any(submitted.files(folder)):
        raise InputError(f"{shown} holds no results", hint="make some with `prbench run`")
    for (dataset, encoder), why in strange.items():
        state.reasons.append(ApartRow(row=RowName(dataset=dataset, encoder=encoder), source=source, why=why))
    return rows


def _submitted(source: str, folder: Path, state: _Merging) -> list[tuple[SubmittedRow, str]]:
    """The submitted rows of a source, each with the folder below the merged one where it belongs."""
    rows = []
    for row in submitted.load(folder):
        record = row.record
        first, other = state.submitted.setdefault((record.dataset, record.name), (source, row))
        if first == source:
            rows.append((row, ""))
        elif other.record != record:
            name = RowName(
                dataset=record.dataset, encoder=submitted.FOLDER, method=record.name, selection="submitted"
            )
            why = f"other submitted scores of this name than {first}"
            state.reasons.append(ApartRow(row=name, source=source, why=why))
            rows.append((row, f"{merged.APART}/{source}"))
    return rows


def _add(row: Row, copies: dict[str, Copy], state: _Merging, wanted: str) -> None:
    """Add a source's copy of a row to what earlier sources have of it."""
    here = state.kept.get(row)
    if here is None:
        state.kept[row] = copies
        return
    source = next(iter(copies.values())).source
    if not here:
        state.apart += [(copy, source) for copy in copies.values()]
        state.reasons.append(ApartRow(row=_name(row), source=source, why="earlier sources differ in this row"))
        return
    both = [(here[split], copies[split]) for split in sorted(here.keys() & copies.keys())]
    done = [(a, b) for a, b in both if a.done and b.done]
    name = _name(row)
    if other := [pair for pair in done if pair[0].record.key != pair[1].record.key]:
        state.apart += [(copy, source) for copy in copies.values()]
        state.reasons.append(ApartRow(row=name, source=source, why=_why(*other[0])))
        return
    compared = [(a, b, _compared(a, b)) for a, b in done]
    state.twice += len(done)
    state.identical += sum(result.identical for _, _, result in compared)
    if not _agree(row, [(a.record.split, result) for a, _, result in compared]):
        first = next(iter(here.values())).source
        accuracy = np.array([result.accuracy for _, _, result in compared]).mean(axis=0).tolist()
        differing = DifferingRow(
            row=name,
            accuracy=dict(zip((first, source), accuracy, strict=True)),
            splits=len(done),
            decisions=max(result.decisions for _, _, result in compared),
            used=first if first == wanted else "",
        )
        state.differs.append(differing)
        state.apart += [(copy, copy.source) for copy in copies.values()]
        if not differing.used:
            state.apart += [(copy, copy.source) for copy in here.values()]
            # An empty row: a further source's copy must not take the place that two could not agree on.
            state.kept[row] = {}
        return
    for _, _, result in compared:
        state.largest[row[2]] = max(state.largest.get(row[2], 0.0), result.margin)
    for split, copy in copies.items():
        mine = here.get(split)
        if mine is None or (copy.done, copy.done and copy.worth) > (mine.done, mine.done and mine.worth):
            here[split] = copy


def _name(row: Row) -> RowName:
    return RowName(dataset=row[0], encoder=row[1], method=row[2], selection=row[3])


def _why(a: Copy, b: Copy) -> str:
    first, second = cell_facts(a.record), cell_facts(b.record)
    words = [word for word in first if canonical_json(first[word]) != canonical_json(second[word])]
    return f"other {' and '.join(words) or 'cell keys'} than {a.source}"


def _compared(a: Copy, b: Copy) -> Agreement:
    """The worst agreement of the two over the numbers of shots that both have."""
    files = [{path.name: path for path in scores._scores_files(copy.folder)} for copy in (a, b)]
    results = [
        agreement(*(scores.read_scores_file(each[name], cells.AGAIN) for each in files))
        for name in sorted(files[0].keys() & files[1].keys(), key=lambda name: name != "scores-all.parquet")
    ]
    worst = next((result for result in results if not result.agrees), results[0])
    return Agreement(
        decisions=max(result.decisions for result in results),
        accuracy=worst.accuracy,
        margin=max(result.margin for result in results),
        identical=all(result.identical for result in results),
        comparable=all(result.comparable for result in results),
    )


def _agree(row: Row, compared: Sequence[tuple[int, Agreement]]) -> bool:
    """Whether two copies of a row are one result; `compared` has the split of each pair of cells."""
    if all(result.agrees for _, result in compared):
        return True
    if not all(result.comparable for _, result in compared):
        return False
    known = [spread_of_starts([(split, result.accuracy[i]) for split, result in compared]) for i in (0, 1)]
    left, right = (starts_of(row[2]) if spread is None else spread for spread in known)
    if left is None or right is None:
        return False
    return rows_agree([result.accuracy for _, result in compared], (left, right))


def starts_of(method: str) -> float | None:
    """The spread over random starts that the present entry of a row's method states, in points; None without one."""
    name = method.partition("[")[0]
    return registry.get("methods", name).starts if name in registry.names("methods") else None


def _copy(copy: Copy, out: Path) -> None:
    """Copy a cell's own files; others that lie beside them stay behind."""
    target = out / copy.place
    target.mkdir(parents=True, exist_ok=True)
    for path in _files(copy):
        shutil.copyfile(path, target / path.name)


def _files(copy: Copy) -> Iterable[Path]:
    seals = digests.of(copy.folder)
    for path in sorted(copy.folder.iterdir()):
        part = not copy.done or path.name == digests.DONE or seals.has(path)
        if CELL_FILE.fullmatch(path.name) and part:
            yield path
