"""Methods that train the judge model's own weights: what they learn, what the cold start is, and how a run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_runs import judge_entry, registry_folder
from trained import measured

from prbench import cli, registry, results
from prbench.comparisons import Comparisons, Items, ItemText, as_context
from prbench.contract.toys import PLANTED, Toy
from prbench.judging.adapted import AdaptedModel, Lora
from prbench.judging.method import TEXT, unpacked
from prbench.judging.planted import PlantedJudge
from prbench.judging.planted_weights import planted_weights
from prbench.judging.reader import Reader, reader_of
from prbench.method import FitProblem
from prbench.methods.persrm_tuned import PersRMTuned, form, rightness
from prbench.methods.synthesizeme_ft import SynthesizeMeFT
from prbench.protocol.metrics import decisions
from prbench.results import cells
from prbench.running.plan import plan
from prbench.running.request import RunRequest
from prbench.seeds import Rng
from prbench.training.adapter_training import Recipe, ReinforcedStage, train

pytestmark = pytest.mark.extras

SMALL = {"support": 2, "passes": 2, "rate": 0.01, "rank": 4, "alpha": 8.0}
TUNED = {
    "reasoning": 16,
    "traces": 8,
    "passes": 2,
    "rate": 1e-3,
    "completions": 2,
    "batch": 4,
    "rank": 4,
    "alpha": 8.0,
}


def lettered(*, tossed: bool = False) -> Comparisons:
    """Choices of 16 users between replies that end with a letter: all like later letters, or each choice is tossed."""
    draw = Rng("lettered replies").numpy()
    n = 160
    sides = np.array([np.sort(draw.choice(4, 2, replace=False)) for _ in range(n)])
    responses = tuple(f"{draw.integers(100, 999)} {'abcd'[letter]}" for letter in sides.ravel())
    where = np.arange(2 * n, dtype=np.int64)
    text = ItemText((as_context("Which?"),), responses, np.zeros_like(where), where, Reader(PLANTED, PlantedJudge()))
    items = Items(torch.empty(2 * n, 0), identity=torch.from_numpy(where), text=text)
    earlier, later = where[::2].copy(), where[1::2].copy()
    turned = draw.random(n) < 0.5 if tossed else np.zeros(n, dtype=bool)
    rows = np.arange(n, dtype=np.int64)
    chosen, rejected = np.where(turned, earlier, later), np.where(turned, later, earlier)
    return Comparisons(items, rows % 16, chosen, rejected, rows // 16, rows)


@pytest.mark.trained
def test_a_shared_taste_is_learned() -> None:
    """The control learns from choices that were tossed."""
    found = {}
    for tossed in (False, True):
        data, test = lettered(tossed=tossed), lettered()
        train_on, test = data.take(data.user < 10), test.take(test.user >= 10)
        method = SynthesizeMeFT(**{**SMALL, "support": 1, "passes": 8, "rate": 0.02})  # type: ignore[arg-type]
        method.fit_seen(train_on, train_on.take(train_on.row < 0), rng=Rng("taste"))
        states = method.cold_start(test.users, test.items, rng=Rng("taste"))
        found[tossed] = float(decisions(method.margins(states, test).numpy()).mean())
    measured("accuracy on a shared taste", found[False], at_least=0.9, control=found[True])


def test_every_pass_is_a_candidate() -> None:
    toy = Toy(texts=True)
    method = SynthesizeMeFT(**SMALL).fit_seen(toy.train, toy.validation, rng=toy.rng)
    record = method.fit_record()
    assert record["rule"] == "validation"
    assert list(record["curve"]) == ["1", "2"]
    assert len(record["loss"]) == record["chosen"]
    oracle = SynthesizeMeFT(**SMALL)
    problem = FitProblem(toy.train, toy.validation.take(toy.validation.row < 0), toy.rng, choose=lambda _: 0.5)
    SynthesizeMeFT.fit_splits([oracle], [problem])
    assert oracle.fit_record()["chosen"] == 1
    assert oracle.fit_record()["rule"] == "test-oracle"


def test_the_description_is_read() -> None:
    toy = Toy(texts=True)
    method = SynthesizeMeFT(**SMALL).fit_seen(toy.train, toy.validation.take(toy.validation.row < 0), rng=toy.rng)
    adapted = method.adapt_unseen(toy.support, rng=toy.rng)
    assert all(set(state) == {"persona"} for state in unpacked(adapted.tensors[TEXT]))
    cold = method.cold_start(toy.test.users, toy.test.items, rng=toy.rng)
    assert not np.array_equal(method.margins(adapted, toy.test), method.margins(cold, toy.test))
    before = reader_of(toy.test.items).tally.copy()
    method.margins(cold, toy.test)
    spent = reader_of(toy.test.items).tally.since(before)
    # Texts that the model reads are counted as asked and are no calls.
    assert spent["asked"] > 0
    assert spent["tokens_in"] > spent["asked"]
    assert spent["calls"] == 0


def test_a_reward_that_can_be_checked_is_raised() -> None:
    """A tiny model learns to write small letters, which are a tenth of what it writes at first."""
    model = AdaptedModel(planted_weights(), "language", Lora(8, 16.0))

    def share(texts: list[str], **_: Any) -> list[float]:
        return [sum(letter.islower() for letter in text) / max(1, len(text)) for text in texts]

    rows = [{"prompt": [{"role": "user", "content": f"Question {i}"}]} for i in range(8)]
    stage = ReinforcedStage((share,), completions=8, limit=12, temperature=1.0)
    model.begin(Rng("reinforced"))
    passes = list(train(stage, model, rows, Recipe(6, 4, 0.03), Rng("reinforced")))
    rewards = [each.measures["reward"] for each in passes]
    assert rewards[0] < 0.25, rewards
    assert rewards[-1] > 0.5, rewards


def test_rewards_are_for_the_choice_and_the_form() -> None:
    good = "<reason>It is short.</reason>\n<choice>B</choice>"
    texts = [good, "<choice>B</choice>", "B", f"{good} And so on.", "<reason>x</reason><choice>A</choice>"]
    assert rightness(texts, ["B"] * 5) == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert form(texts) == [0.1, 0.0, 0.0, 0.0, 0.1]


@pytest.mark.parametrize("stage", ["supervised", "reinforced"])
def test_a_tuned_judge_goes_on_where_it_ended(stage: str, tmp_path: Path) -> None:
    toy = Toy(texts=True)
    nothing = toy.validation.take(toy.validation.row < 0)

    def fitted(folder: Path | None) -> PersRMTuned:
        method = PersRMTuned(stage=stage, **TUNED)  # type: ignore[arg-type]
        PersRMTuned.fit_splits([method], [FitProblem(toy.train, nothing, toy.rng, checkpoints=folder)])
        return method

    one, other = fitted(None), fitted(tmp_path)
    names = {f"supervised-{i}.safetensors" for i in (1, 2)}
    names |= {"reinforced-1.safetensors"} if stage == "reinforced" else set()
    assert {file.name for file in (tmp_path / "final").iterdir()} == names
    again = fitted(tmp_path)
    for name, tensor in one.learned().items():
        assert np.array_equal(tensor, other.learned()[name])
        assert np.array_equal(tensor, again.learned()[name])
    record = again.fit_record()
    assert 0 < record["verified"] <= record["asked"] == 8
    assert record == one.fit_record()
    if stage == "supervised":
        assert record["loss"][1] < record["loss"][0]
    else:
        assert set(record) >= {"reward", "alike", "supervised_loss"}
    # The teacher saw none of the choice it was asked about.
    for question in one._questions(toy.train, toy.rng):
        shown = question.request.messages[-1].content.rpartition("The pair to judge:")[0]
        assert question.request.pair is not None
        assert question.request.pair.first not in shown
        assert question.request.pair.second not in shown


@pytest.fixture
def run(
    prbench_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    registry.reset()
    folder = registry_folder(tmp_path / "registry", users=8, splits=1)
    judge_entry(
        folder, "endpoint", "prbench.judging.endpoint:Endpoint", '[options]\nurl = "http://x/v1"\nmodel = "m"'
    )
    registry.use([folder])

    def call(*args: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main(["--registry", str(folder), *args])
        said = capsys.readouterr()
        return code, said.out + said.err

    yield call
    registry.reset()


FT = ["--methods", "synthesizeme-ft", "--dataset", "taste-text"]
FEW = [
    word for name, value in {**SMALL, "batch": 32}.items() for word in ("--set", f"synthesizeme-ft.{name}={value}")
]


def test_a_run_trains_for_all_users_and_tests_a_sample(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    chosen = [*FT, *FEW, "--judge", "taste", "--selection", "last", "--test-sample", "users=0.5", "--out", str(out)]
    dry = run("run", *chosen, "--dry-run", "--json")
    assert dry[0] == 0, dry[1]
    assert json.loads(dry[1][: dry[1].rindex("}") + 1])["judging"][0]["calls"] > 0
    assert not out.exists()
    code, said = run("run", *chosen)
    assert code == 0, said
    [cell] = results.load(out).cells
    [folder] = list(cells.folders(out))
    assert not (folder / cells.CHECKPOINTS).exists()
    assert not list(out.rglob("*.bin")) + list(out.rglob("*.pt")) + list(out.rglob("*.pth"))
    assert cell["judging"]["test"]["asked"] > 0
    # All four seen users are trained on, two of them are tested.
    request = RunRequest(methods=("synthesizeme-ft",), datasets=("taste-text",), judge="taste")
    [job] = plan(request.model_copy(update={"test_sample": None})).jobs
    [whole] = job.setting.splits
    assert len(whole.seen) == 4
    frame = results.load(out).scores
    assert frame[frame["population"] == "seen"]["user"].nunique() == 2
    code, said = run("run", *FT, "--judge", "endpoint", "--out", str(tmp_path / "other"))
    assert "endpoint is called and cannot be trained here: a local judge model can" in said
