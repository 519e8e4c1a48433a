"""A second judge model, named by a hyper-parameter: it writes, is counted, and is part of the key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judged_runs import judge_entry, registry_folder
from taste_judge import TasteJudge

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.comparisons import FloatArray
from prbench.judging import judge_entry_for, open_reader
from prbench.judging.backend import Request
from prbench.judging.method import TEXT, unpacked
from prbench.judging.reader import Budget, OutOfBudgetError
from prbench.methods.synthesizeme import SynthesizeMe
from prbench.running.plan import plan
from prbench.running.request import RunRequest
from prbench.seeds import Rng


class Mute(TasteJudge):
    """Judges as the taste judge does, and describes nobody."""

    def description(self, weights: FloatArray) -> str:
        return "someone"


@pytest.fixture
def folder(prbench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("taste_judge.Mute", Mute, raising=False)
    registry.reset()
    made = registry_folder(tmp_path / "registry")
    judge_entry(made, "mute", "taste_judge:Mute", "price_in = 1.0")
    registry.use([made])
    yield made
    registry.reset()


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["--registry", str(folder), *args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def personas(writer: str) -> list[str]:
    method = SynthesizeMe(support=8, examples=False, writer=writer)
    request = RunRequest(methods=("synthesizeme",), datasets=("taste-text",), judge="mute", splits=1)
    [job] = plan(request).jobs
    data, split = job.setting.comparisons(), job.setting.splits[0]
    states = method.states_of(data.take(split.unseen_support), split.unseen, Rng("writer"))
    return [state["persona"] for state in unpacked(states.tensors[TEXT])]


def test_the_second_model_writes_the_personas(folder: Path) -> None:
    assert set(personas("")) == {"someone"}
    written = personas("taste")
    assert all(text.startswith("long ") for text in written), written[0]
    assert len(set(written)) > 1


def test_it_is_part_of_the_key(folder: Path) -> None:
    def key(*overrides: str) -> str:
        request = RunRequest(
            methods=("synthesizeme",), datasets=("taste-text",), judge="mute", splits=1, overrides=overrides
        )
        return plan(request).jobs[0].cells[0].record.key

    one, other = key(), key("synthesizeme.writer=taste")
    assert one != other
    # The same name for another model is another key.
    judge_entry(folder, "taste", "taste_judge:KeptJudge")
    registry.reset()
    registry.use([folder])
    assert key("synthesizeme.writer=taste") not in {one, other}
    assert key() == one


def test_one_budget_and_one_count_hold_for_both(folder: Path) -> None:
    reader = open_reader(judge_entry_for("mute"), budget=Budget(calls=3))
    second = reader.second("taste")
    assert reader.second("taste") is second
    assert reader.second("") is reader.second("mute") is reader
    messages = judge_messages()
    reader.ask([Request(messages, limit=5), Request(messages, limit=6)])
    second.ask([Request(messages, limit=5)])
    assert (reader.tally.asked, reader.spent.calls) == (3, 3)
    with pytest.raises(OutOfBudgetError, match="--max-calls 3 is reached after 3 calls"):
        second.ask([Request(messages, limit=7)])
    # Tokens of each cost what its own entry says.
    assert reader.spent.cost == pytest.approx(2 * reader.backend.tokens(messages) / 1e6)


def judge_messages() -> tuple[object, ...]:
    from prbench.comparisons import Message

    return (Message("user", "Hello"),)


@pytest.mark.parametrize(
    ("writer", "said"),
    [
        ("tast", "unknown judge model 'tast': the second judge model tast is neither"),
        ("stored", "stored writes no texts"),
    ],
)
def test_a_writer_that_cannot_write_is_refused(
    writer: str, said: str, run: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "v.jsonl").write_text('{"context": "Q", "first": "a", "second": "b", "verdict": "tie"}')
    options = f"[options]\nfile = {str(tmp_path / 'v.jsonl')!r}"
    judge_entry(folder, "stored", "prbench.judging.stored:StoredVerdicts", options)
    chosen = ["--dataset", "taste-text", "--methods", "synthesizeme", "--judge", "mute", "--splits", "1"]
    _, _, err = run("run", *chosen, "--set", f"synthesizeme.writer={writer}", "--out", str(tmp_path / "runs"))
    assert said in err


def test_prices_of_two_currencies_are_refused(folder: Path) -> None:
    judge_entry(folder, "euros", rest='price_in = 1.0\ncurrency = "EUR"')
    with pytest.raises(InputError, match="prices in USD and euros in EUR"):
        open_reader(judge_entry_for("mute")).second("euros")
