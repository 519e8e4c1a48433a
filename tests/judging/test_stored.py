"""Verdicts that others gave: looked up by pair, whichever way round, and never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prbench import data, registry
from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.judging import judge_entry_for, open_reader
from prbench.judging.backend import Answer, Pair
from prbench.judging.prompts import verdict
from prbench.judging.stored import StoredVerdicts
from prbench.judging.verdicts import Judged, margin
from prbench.loaders.mt_bench import read_votes

ASK = (Message("user", "Q"),)


def asked(backend: StoredVerdicts, *pairs: Pair) -> list[float]:
    found: dict[int, Answer] = {}
    backend.answer([verdict(pair) for pair in pairs], found.__setitem__)
    return [margin(found[i]) for i in range(len(pairs))]


def write(path: Path, *rows: dict[str, object]) -> StoredVerdicts:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return StoredVerdicts(file=str(path))


def test_a_verdict_holds_both_ways_round(tmp_path: Path) -> None:
    backend = write(
        tmp_path / "verdicts.jsonl",
        {"context": "Q", "first": "one", "second": "two", "verdict": "second"},
        {"context": [{"role": "user", "content": "Q"}], "first": "three", "second": "four", "verdict": "tie"},
        # Two verdicts on one pair: their mean.
        {"context": "Q", "first": "five", "second": "six", "verdict": "first"},
        {"context": "Q", "first": "six", "second": "five", "verdict": "tie"},
    )
    pairs = [Pair(ASK, "one", "two"), Pair(ASK, " two", "one "), Pair(ASK, "three", "four"), Pair(ASK, "six", "five")]
    assert asked(backend, *pairs) == [-1.0, 1.0, 0.0, -0.5]
    assert np.isnan(asked(backend, Pair(ASK, "one", "three"))[0])
    assert np.isnan(asked(backend, Pair((Message("user", "other"),), "one", "two"))[0])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "Q", "first": "a", "second": "b", "verdict": "A"}, "line 1: verdict is 'A'"),
        ({"context": "Q", "first": "a", "verdict": "first"}, "line 1: context, first or second is missing"),
    ],
)
def test_a_faulty_line_is_named(row: dict[str, object], message: str, tmp_path: Path) -> None:
    backend = write(tmp_path / "verdicts.jsonl", row)
    with pytest.raises(InputError) as caught:
        backend.verdicts()
    assert message in str(caught.value)


def test_gpt4s_verdicts_agree_with_people_as_published(
    shared_data: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zheng et al. 2023, table 5: 85% without ties. The judge reads the texts alone, no model's name."""
    monkeypatch.setenv("PRBENCH_DATA", str(shared_data))
    found = data.load(registry.get("datasets", "mt-bench-human"))
    reader = open_reader(judge_entry_for("gpt-4-verdicts"))
    assert len(list(read_votes(shared_data / "mt-bench-human" / "gpt4_pair.jsonl"))) == 2400
    assert found.text is not None
    pairs = [
        Pair(found.text.context(int(c)), found.text.response(int(c)), found.text.response(int(r)))
        for c, r in zip(found.chosen, found.rejected, strict=True)
    ]
    turned = [Pair(context, second, first) for context, first, second in pairs]
    both = reader.ask([verdict(pair) for pair in (*pairs, *turned)])
    margins = np.array([margin(answer) for answer in both]).reshape(2, -1)
    judged = Judged(*margins)
    assert not judged.failed.any()
    assert np.array_equal(judged.straight, -judged.turned)
    decided = judged.margin != 0
    assert (judged.margin[decided] > 0).mean() == pytest.approx(0.855, abs=0.005)
    assert reader.spent.cost == 0
