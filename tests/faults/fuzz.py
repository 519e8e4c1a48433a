"""Every reader given files that nobody wrote on purpose: it reads them, or says in one line what is wrong.

    PYTHONPATH=tests:tests/faults:tests/loaders python tests/faults/fuzz.py 5000

Files are valid ones that hypothesis changed (parts replaced, left out, said twice, values of other kinds put in) and
arbitrary bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import campaign
import flips
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings, strategies
from hypothesis import seed as seeded
from small_runs import registry_folder
from test_hub_loaders import SMALL, write_personal, write_personalllm
from test_loaders import debate, rating, write_jsonl
from test_mt_bench import release
from upstream_fixtures import (
    Files,
    community_row,
    reddit_row,
    rewardbench2_row,
    write_community,
    write_parquet,
    write_reddit,
    write_regular_prism,
)

from prbench import registry
from prbench.base.errors import InputError
from prbench.base.reading import SEAL, sealed
from prbench.base.screen_text import message
from prbench.loaders.community_alignment import CommunityAlignment
from prbench.loaders.convarg import ConvArg
from prbench.loaders.crowdrag import CrowdRAG
from prbench.loaders.mrm_files import import_embeddings
from prbench.loaders.mt_bench import MTBenchHuman
from prbench.loaders.personalllm import PersonalLLM
from prbench.loaders.personalrewardbench import PersonalRewardBench
from prbench.loaders.prism import Prism
from prbench.loaders.reddit import RedditTLDR
from prbench.loaders.rewardbench2 import RewardBench2
from prbench.loaders.shapes import SHAPES
from prbench.loaders.user_rows import ImportOptions, read_file
from prbench.protocol.metrics import ALL_SHOTS
from prbench.registry.set_options import parse_set
from prbench.reporting.paper import printed_numbers
from prbench.user import files

# Seconds of computing: a reader that takes longer with a file of a few kilobytes hangs, as far as a person can tell.
SLOW = 20.0
TOKENS = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b",", b'"', b"'", b"\\", b"{", b"}", b"[" * 2_000, b"]",
    b"NaN", b"-Infinity", b"1e999", b"9" * 5_000, b"-1", b"null", b"true", b'"\\ud800"', b"\\u0000", b"\x1b[31m",
    b"../../../etc/passwd", b"2" * 19, b"0001-01-01", b"99999-12-31", b"&a;", b"<!ENTITY a 'b'>", b"=", b"[a]",
    "\u202e".encode(), "\ud83d".encode("utf-8", "surrogatepass"),
)  # fmt: skip
VALUES = strategies.recursive(
    strategies.one_of(
        strategies.none(),
        strategies.booleans(),
        strategies.integers(),
        strategies.sampled_from([2**63, -(2**70), 10**400, 1e308, -0.0, "", " ", "NaN", "\x1b[2J", "x" * 5_000]),
        strategies.floats(allow_nan=False, allow_infinity=False),
        strategies.text(max_size=20),
    ),
    lambda inner: strategies.one_of(
        strategies.lists(inner, max_size=4), strategies.dictionaries(strategies.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


class Reader(NamedTuple):
    """A file, the bytes that are right for it, and what reads it."""

    name: str
    file: Path
    whole: bytes
    read: Callable[[], Any]


@strategies.composite
def changed(draw: strategies.DrawFn, whole: bytes) -> bytes:
    """`whole` with a few changes, or something else."""
    if draw(strategies.integers(0, 19)) == 0:
        return draw(strategies.binary(max_size=200))
    content = whole
    for _ in range(draw(strategies.integers(1, 4))):
        begin = draw(strategies.integers(0, len(content)))
        length = draw(strategies.sampled_from([0, 1, 2, 8, 64, 1_000]))
        what = draw(strategies.integers(0, 4))
        part = content[begin : begin + length]
        new = (
            draw(strategies.sampled_from(TOKENS))
            if what < 2
            else draw(strategies.binary(max_size=8))
            if what == 2
            else part * 2
            if what == 3
            else b""
        )
        content = content[:begin] + new + content[begin + length :]
    return content


def _put(table: Any, draw: strategies.DrawFn) -> Any:
    """`table` with one value, at some depth, replaced, left out or under another name."""
    if isinstance(table, dict) and table and draw(strategies.integers(0, 3)):
        key = draw(strategies.sampled_from(sorted(table)))
        what = draw(strategies.integers(0, 9))
        rest = {name: value for name, value in table.items() if name != key}
        if what == 0:
            return rest
        if what == 1:
            return {**rest, draw(strategies.text(max_size=6)): table[key]}
        return {**table, key: _put(table[key], draw)}
    if isinstance(table, list) and table and draw(strategies.integers(0, 3)):
        place = draw(strategies.integers(0, len(table) - 1))
        return [*table[:place], _put(table[place], draw), *table[place + 1 :]]
    return draw(VALUES)


@strategies.composite
def retold(draw: strategies.DrawFn, whole: bytes) -> bytes:
    """JSON, or a JSON object a line, with other values in it."""
    lines = whole.splitlines() if whole.count(b"\n{") else [whole]
    place = draw(strategies.integers(0, len(lines) - 1))
    table = _put(json.loads(lines[place]), draw)
    # As by someone who changes a record on purpose: behind its digest it has to be looked at all the same.
    if isinstance(table, dict) and SEAL in table and draw(strategies.integers(0, 3)):
        table = sealed(table)
    lines[place] = json.dumps(table, allow_nan=True).encode()
    return b"\n".join(lines) + b"\n"


@strategies.composite
def other_columns(draw: strategies.DrawFn, whole: bytes) -> bytes:
    """A Parquet table with a column of another kind, without one, or with values that are not there."""
    table = pq.read_table(io.BytesIO(whole))
    name = draw(strategies.sampled_from(table.column_names))
    place = table.column_names.index(name)
    value = draw(
        strategies.sampled_from([None, 1, -1.5, True, "x", b"\xff", [1], {"role": "user"}, 2**62, float("inf")])
    )
    some = draw(strategies.booleans())
    old = table[name].to_pylist()
    try:
        new = pa.array([value, *old[1:]] if some and old else [value] * len(old))
    except (pa.ArrowException, TypeError, ValueError):
        new = pa.array([value] * len(old))
    table = table.set_column(place, name, new) if draw(strategies.integers(0, 5)) else table.remove_column(place)
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def fuzz(folder: Path, count: int, seed: int = 0) -> campaign.Figures:
    """Give `count` files to the readers, as many to each."""
    figures = campaign.Figures("fuzz")
    folder.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        every = list(readers(folder))
    each = -(-count // len(every))
    for number, reader in enumerate(every):
        strategy = strategies.one_of(*_strategies(reader))
        settled = settings(
            max_examples=each,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seeded(seed * 1000 + number)(settled(given(strategy)(_trying(reader, figures))))()
    figures.note(f"readers: {len(every)}")
    return figures


def _trying(reader: Reader, figures: campaign.Figures) -> Callable[[bytes], None]:
    """What gives a content to a reader and enters what it did wrong."""

    def give(content: bytes) -> None:
        figures.tried += 1
        if fault := fault_of(reader, content):
            figures.fault(*fault)

    return give


def _strategies(reader: Reader) -> Iterator[strategies.SearchStrategy[bytes]]:
    yield changed(reader.whole)
    ending = "".join(reader.file.suffixes)
    if ending in (".json", ".jsonl") or reader.file.name == "DONE":
        yield retold(reader.whole)
    if ending == ".parquet":
        yield other_columns(reader.whole)
    if ending.endswith(".gz"):
        inner = gzip.decompress(reader.whole)
        yield strategies.one_of(changed(inner), retold(inner)).map(gzip.compress)


def fault_of(reader: Reader, content: bytes) -> tuple[str, str] | None:
    """What a reader does wrong with a file, and where; nothing where it reads it or refuses it in one line."""
    before = reader.file.read_bytes()
    reader.file.write_bytes(content)
    begin = time.process_time()
    try:
        with redirect_stderr(io.StringIO()):
            reader.read()
    except InputError as error:
        said = f"{error.args[0]}"
        if "\n" in said or "\x1b" in message(said) or len(message(said)) > 1_000:
            return "more than a line", f"{reader.name}: {said[:300]!r}"
    except Exception as error:
        return "traceback", f"{reader.name}: {type(error).__name__}: {error} from {content[:600]!r}"
    finally:
        reader.file.write_bytes(before)
    if (seconds := time.process_time() - begin) > SLOW:
        return "hung", f"{reader.name}: {seconds:.0f} s with {content[:300]!r}"
    return None


def readers(folder: Path) -> Iterator[Reader]:
    """Every reader of prbench with a file that it takes."""

    def reader(name: str, file: Path, read: Callable[[], Any]) -> Reader:
        read()
        return Reader(name, file, file.read_bytes(), read)

    for kind in flips.kinds(folder / "own"):
        if not kind.name.startswith("cache"):
            yield reader(kind.name, kind.file, kind.read)
    # Cells of an earlier prbench, in which nothing but the reader stands between a file's contents and a person.
    older = folder / "older"
    shutil.copytree(folder / "own" / "runs", older)
    for done in older.glob("*/*/*/*/DONE"):
        done.write_text(f'{{"shots": [{ALL_SHOTS}, 2]}}')
    for kind in flips.cell_kinds(older):
        yield reader(f"older {kind.name}", kind.file, kind.read)
    yield from (reader(*each) for each in _own_data(folder / "rows"))
    yield from (reader(*each) for each in _releases(folder / "releases"))
    yield from (reader(*each) for each in _entries(folder / "entries"))


Parts = tuple[str, Path, Callable[[], Any]]
PARTS = json.dumps([{"type": "text", "text": "b"}])


def _own_data(folder: Path) -> Iterator[Parts]:
    folder.mkdir()
    pairs = [{"user_id": u, "prompt": f"q {i}", "chosen": f"a {i}", "rejected": f"b {u}"} for u in "ab" for i in "12"]
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    other = [chat[0], {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]
    shapes: dict[str, Sequence[dict[str, Any]]] = {
        "pairs": pairs,
        "chats": [{"user_id": "a", "prompt": None, "chosen": chat, "rejected": other, "timestamp": "2020-01-01"}],
        "label": [{"user_id": "a", "prompt": "q", "response_a": "x", "response_b": "y", "winner": "a"}],
        "arena": [{"judge": "a", "conversation_a": chat, "conversation_b": other, "winner": "model_b"}],
        "ratings": [{"user_id": "a", "prompt": "q", "response": str(i), "rating": i} for i in range(3)],
        "ranked": [{"user_id": "a", "prompt": "q", "responses": ["x", "y"], "ranking": [2, 1]}],
    }
    for name, rows in shapes.items():
        lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        contents = {f"{name}.jsonl": lines, f"{name}.json": json.dumps(rows).encode()}
        contents[f"{name}.jsonl.gz"] = gzip.compress(lines)
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        # A column of Parquet has one kind: the messages' texts here, not their parts.
        pq.write_table(
            pa.Table.from_pylist(json.loads(json.dumps(rows).replace(PARTS, '"b"'))), folder / f"{name}.parquet"
        )
        options = ImportOptions(shape=name if name in SHAPES else None)  # type: ignore[arg-type]
        dropping = ImportOptions(shape=options.shape, drop_bad=True, empty="keep")
        for file in (*contents, f"{name}.parquet"):
            path = folder / file
            yield f"import {file}", path, lambda path=path, options=options: read_file(path, options)
        path = folder / f"{name}.jsonl"
        yield f"import {name}, --drop-bad", path, lambda path=path, options=dropping: read_file(path, options)
    for ending, between in (("csv", ","), ("tsv", "\t")):
        path = folder / f"pairs.{ending}"
        path.write_text("\n".join(between.join(row) for row in (pairs[0].keys(), *(r.values() for r in pairs))))
        yield f"import pairs.{ending}", path, lambda path=path: read_file(path)
    mine = folder / "mine.jsonl"
    mine.write_text("".join(f"{json.dumps({k: v for k, v in row.items() if k != 'user_id'})}\n" for row in pairs))
    yield "one person's pairs", mine, lambda: files._read_pairs(mine)
    texts = folder / "texts.jsonl"
    texts.write_text(f"{json.dumps({'prompt': 'q', 'response': 'a'})}\n" * 2)
    yield "texts to score", texts, lambda: list(files._rows(texts, "response", other=("responses", "rank")))
    from prbench.loaders.mrm_files import _read_meta, read_pt

    meta, vectors = folder.parent / "own" / "vectors.json", folder.parent / "own" / "vectors.pt"
    yield "published scripts' tensor", vectors, lambda: read_pt(vectors, "")
    yield "published scripts' table", meta, lambda: _read_meta(meta, rows=8)
    taken = [0]

    def both() -> None:
        taken[0] += 1
        import_embeddings(vectors, meta, f"fuzz-{taken[0]}")

    yield "import-embeddings", meta, both


def _releases(folder: Path) -> Iterator[Parts]:
    """One file of each published release that prbench reads."""

    def loaded(loader: Any, at: Path) -> Callable[[], Any]:
        return lambda: loader.load(Files(at), "toy")

    prism = write_regular_prism(folder / "prism", 3)
    for name in ("survey.jsonl", "conversations.jsonl"):
        yield f"PRISM {name}", next(prism.rglob(name)), loaded(Prism(), prism)
    rows = [reddit_row("worker-a", "My cat sits on my keyboard.", " A.", " B.", 1) for _ in range(3)]
    reddit = write_reddit(folder / "reddit", rows, rows)
    yield "Reddit", reddit / "comparisons/train/0000.parquet", loaded(RedditTLDR(min_comparisons=1), reddit)
    llm = write_personalllm(folder / "personalllm")
    yield "PersonalLLM", next(llm.rglob("*.parquet")), loaded(PersonalLLM(**SMALL), llm)
    personal = write_personal(folder / "personal")
    yield "PersonalRewardBench", personal / "default/train/0000.parquet", loaded(PersonalRewardBench(), personal)
    replies = [f"reply {letter}" for letter in "abcd"]
    community = write_community(folder / "community", [community_row("c1", "a1", [("Tea?", "response_a", replies)])])
    yield "Community", next(community.rglob("*.csv")), loaded(CommunityAlignment(min_conversations=1), community)
    bench = folder / "rewardbench2"
    write_parquet(
        bench / "data/test-00000-of-00001.parquet", [rewardbench2_row("Focus", "q", ["a"], ["b", "c", "d"])]
    )
    yield "RewardBench 2", next(bench.rglob("*.parquet")), loaded(RewardBench2(), bench)
    votes = release(folder / "mt-bench").folder
    for name in ("human.jsonl", "question.jsonl", "model_answer/model-x.jsonl"):
        yield f"MT-bench {name}", votes / name, loaded(MTBenchHuman(min_comparisons=1), votes)
    convarg = folder / "convarg"
    convarg.mkdir()
    pair = (("a1", "Tea is warm."), ("a2", "Tea is wet."), [("worker-a", "a1"), ("worker-b", "a2")])
    (convarg / "x.xml").write_text(debate("Yes", pair))
    yield "ConvArg", convarg / "x.xml", loaded(ConvArg(min_comparisons=1), convarg)
    rag = folder / "crowdrag"
    write_jsonl(
        rag / "raw/study1_responses_human.jsonl.gz", [{"response": "h", "timestamp": 5, "text": "Early [0]."}]
    )
    write_jsonl(rag / "raw/study1_responses_llm.jsonl.gz", [{"response": "l", "text": "- Model [1,2,] text[3]."}])
    write_jsonl(rag / "raw/study1_retrieval.jsonl.gz", [{"topic": "q1", "query": "what is tea"}])
    votes_of = {"quality_overall": ["B", "A"]}
    write_jsonl(rag / "artifacts/ratings.jsonl.gz", [rating("h", "l", ["worker-a", "worker-b"], **votes_of)])
    loader = CrowdRAG(criteria=["quality_overall"], min_comparisons=1)
    for file in sorted(rag.rglob("*.gz")):
        yield f"CrowdRAG {file.name}", file, loaded(loader, rag)


def _entries(folder: Path) -> Iterator[Parts]:
    entries = registry_folder(folder)
    (entries / "methods" / "child.toml").write_text('extends = "bt"\n[params]\nsteps = 10\n[search]\n')

    def found(kind: Any, name: str) -> Callable[[], Any]:
        def read() -> Any:
            registry.reset()
            registry.use([entries])
            try:
                return registry.get(kind, name)
            finally:
                registry.reset()

        return read

    for kind, name in (("datasets", "tiny"), ("methods", "good"), ("methods", "child")):
        yield f"entry {name}", entries / kind / f"{name}.toml", found(kind, name)
    option = folder / "set.txt"
    option.write_text("bt.steps=10")
    yield "--set", option, lambda: parse_set(option.read_bytes().decode("utf-8", "replace"))
    assert printed_numbers.load("mrm")


if __name__ == "__main__":
    campaign.main(fuzz)
