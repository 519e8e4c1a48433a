"""`prbench probe --kinds policy`: a language model's log-probabilities beside a fit's rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import one_person
import pytest
import tiny_llama
from one_person import Place

from prbench import cli, registry
from prbench import data as datasets
from prbench.method import Method
from prbench.policy.log_probabilities import response_logs
from prbench.protocol.splits import make_split
from prbench.results import cells, probe_tables, probes
from prbench.running.open_dataset import adapt_rng, open_dataset
from prbench.running.probes import policies
from prbench.running.skipping import NotApplicableError
from prbench.sharing import pack

TEMPLATE = tiny_llama.TEMPLATE + "{% if add_generation_prompt %}<|start|>a:{% endif %}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with one_person.made(tmp_path_factory.mktemp("policy")) as place:
        yield place


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [
        tiny_llama.build(folder / name, reward=False, template=TEMPLATE, seed=seed)
        for seed, name in enumerate(("one", "two"))
    ]


def test_two_language_models_have_a_file_each_and_the_table_is_by_hand(
    place: Place, models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["probe", "--methods", "lore", "--runs", str(place.runs), "--kinds", "policy", "--json", "--policy"]
    for model in models:
        assert cli.main([*command, str(model)]) == 0
        assert json.loads(capsys.readouterr().out)["made"] == 1
    assert cli.main([*command, str(models[0]), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == 0
    (cell,) = (folder for folder in cells.folders(place.runs) if folder.parent.name == one_person.METHOD)
    files = sorted(path.name for path in cell.glob("probe-policy-*.parquet"))
    assert [name.split("-")[2] for name in files] == ["one", "two"]
    assert not len(probes.load(place.runs))
    table = probe_tables.read(place.runs, "policy")
    own = table[table["model"].str.startswith("one")]
    assert table["model"].nunique() == 2
    assert len(table) == 2 * len(own)

    record = cells.read_record(cell)
    setting = open_dataset("texts", "planted", "cpu", lambda data, entry: [])
    split = make_split(setting.data, record.protocol, index=0, seed=record.seed, draw=record.draw)
    logs = response_logs(
        datasets.load(registry.get("datasets", "texts")), str(models[0]), family=setting.entry.family
    )
    assert own["comparison"].tolist() == split.unseen_test.tolist()
    for name, values in (("summed", logs.summed), ("per_token", logs.per_token)):
        difference = values[setting.data.chosen] - values[setting.data.rejected]
        expected = difference[split.unseen_test] / difference[split.seen_train].std()
        np.testing.assert_allclose(own[name], expected, rtol=1e-5)
    method: Method = cells.load_method(cell, record)
    comparisons, rng = setting.comparisons(), adapt_rng(setting, split)
    seen = method.adapt_unseen(comparisons.take(split.seen_train), users=split.seen, rng=rng)
    spread = method.margins(seen, comparisons.take(split.seen_train)).double().std(correction=0)
    scores = probes.scores.read_scores_file(cells.scores_file(cell, -1), "")
    unseen = scores[scores["population"] == "unseen"].set_index("comparison").loc[own["comparison"]]
    np.testing.assert_allclose(own["reward"], unseen["margin"] / float(spread), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(own["cold"], unseen["cold_margin"] / float(spread), rtol=1e-3, atol=1e-4)

    packed = pack.pack(place.runs, tmp_path / "packed").path
    assert len(list(packed.rglob("probe-policy-*.parquet"))) == 2


def test_data_without_texts_and_rewards_that_are_all_the_same_are_skipped_by_name(
    place: Place, models: list[Path]
) -> None:
    (cell,) = (folder for folder in cells.folders(place.runs) if folder.parent.name == one_person.METHOD)
    record = cells.read_record(cell)
    setting = open_dataset("texts", "planted", "cpu", lambda data, entry: [])
    split = make_split(setting.data, record.protocol, index=0, seed=record.seed, draw=record.draw)
    method = cells.load_method(cell, record)
    flat = method.restore({name: 0 * tensor for name, tensor in method.learned().items()})
    with pytest.raises(NotApplicableError, match="its rewards differ by the same on all training pairs"):
        policies.policy(flat, setting, split, str(models[0]))
    bare = replace(setting, data=replace(setting.data, embedded=setting.comparisons().items))
    with pytest.raises(NotApplicableError, match="texts has no texts"):
        policies.policy(method, bare, split, str(models[0]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kinds", "exchange", "--policy", "smollm2-135m"], "--policy is for the kind policy alone"),
        (["--kinds", "policy", "--policy", "smolm2-135m"], "did you mean smollm2-135m?"),
        (["--kinds", "policy", "--policy", "gpt-4-verdicts"], "is not a model whose weights are read here"),
    ],
)
def test_a_wrong_language_model_is_one_line(
    place: Place, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probe", "--runs", str(place.runs), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) <= 2
