"""Embeddings of texts that begin with a description of the user."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judged_runs import Letters, judge_entry, registry_folder
from taste_judge import TasteJudge

from prbench import cli, registry, results
from prbench.encoders.base import Encoded, Text
from prbench.judging import judge_entry_for, open_reader
from prbench.protocol.metrics import decisions
from prbench.running.described import DescribedDataset
from prbench.running.plan import open_settings
from prbench.running.request import RunRequest

ENCODER = "title = 'joint'\ntarget = 'judged_runs:{kind}'\nlicence = ''\nhomepage = ''\nsummary = 'no model'\n"
DESCRIBED = [
    "--dataset",
    "taste-text",
    "--encoder",
    "joint+synthesizeme-persona",
    "--judge",
    "taste",
    "--methods",
    "bt",
]
FEW = ["--set", "synthesizeme-persona.support=40", "--set", "synthesizeme-persona.random=0"]


class Joint(Letters):
    """Reads a description of tastes before a reply: the reply's properties, and these times the tastes."""

    id = "joint"
    dim = 10

    def fingerprint(self) -> dict[str, str]:
        return {"id": self.id, "dtype": "float32"}

    def encode(self, texts: Sequence[Text], *, device: str) -> Encoded:
        rule, rows = TasteJudge(), []
        for context, reply in texts:
            told = rule.described(context[0].content) if context[0].role == "system" else np.zeros(0)
            properties = rule.features(reply)
            tastes = told if len(told) else np.zeros(5)
            rows.append(np.concatenate([properties * tastes, properties]))
        return Encoded(torch.tensor(np.array(rows), dtype=torch.float32))


class Apart(Letters):
    """Embeds the context apart."""

    id = "apart"
    context_dim = 1


@pytest.fixture
def folder(prbench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for kind in (Joint, Apart):
        monkeypatch.setattr(f"judged_runs.{kind.__name__}", kind, raising=False)
    registry.reset()
    made = registry_folder(tmp_path / "registry")
    for kind in (Joint, Apart):
        (made / "encoders" / f"{kind.id}.toml").write_text(ENCODER.format(kind=kind.__name__))
    registry.use([made])
    yield made
    registry.reset()


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["--registry", str(folder), "run", *args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_descriptions_make_a_shared_reward_personal(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = tmp_path / "runs"
    code, _, err = run(*DESCRIBED, *FEW, "--out", str(out))
    assert code == 0, err
    assert "taste-text: texts to embed after a description, by split: " in err
    assert run("--dataset", "taste-text", "--encoder", "joint", "--methods", "bt", "--out", str(out))[0] == 0
    loaded = results.load(out)
    frame = loaded.scores[loaded.scores["population"] == "unseen"]
    right = frame.assign(right=decisions(frame["margin"].to_numpy()), cold=decisions(frame["cold_margin"].to_numpy()))
    told = right.groupby("encoder", observed=True)[["right", "cold"]].mean()
    own = told.loc["joint+synthesizeme-persona+taste"]
    assert own["right"] > 0.7
    # Before any choice is known there is no description: it is what the encoder alone can do.
    assert own["cold"] < 0.65
    assert told.loc["joint", "right"] < 0.65
    made = [cell for cell in loaded.cells if "+" in cell["encoder"]]
    assert sorted(cell["split"] for cell in made) == [0, 1]
    assert len({cell["embedding_fingerprint"] for cell in made}) == 1
    assert made[0]["encoder_fingerprint"]["described"]["params"]["support"] == 40
    # Nothing is left to do.
    assert run(*DESCRIBED, *FEW, "--out", str(out), "--json")[1].count('"status": "done"') == 2


def opened(split: int = 0) -> DescribedDataset:
    request = RunRequest(
        methods=("bt",), datasets=("taste-text",), encoder="joint+synthesizeme-persona", judge="taste"
    )
    setting = open_settings(request)[split]
    assert isinstance(setting, DescribedDataset)
    return setting


def test_test_choices_take_no_part(folder: Path) -> None:
    setting = opened()
    assert setting.judge is not None
    before, data, split = setting.descriptions(setting.judge), setting.data, setting.splits[0]
    assert all(before.values())
    test = np.isin(np.arange(len(data)), np.concatenate([split.seen_test, split.unseen_test]))
    setting.data = replace(
        data, chosen=np.where(test, data.rejected, data.chosen), rejected=np.where(test, data.chosen, data.rejected)
    )
    assert setting.descriptions(setting.judge) == before
    swapped = replace(data, chosen=data.rejected, rejected=data.chosen)
    setting.data = swapped
    assert setting.descriptions(setting.judge) != before


def test_every_row_keeps_its_replies(folder: Path) -> None:
    setting = opened(1)
    rows, data = setting.comparisons(), setting.data
    plain = torch.tensor(np.array([TasteJudge().features(reply) for reply in data.responses]), dtype=torch.float32)
    for side, own in ((rows.chosen, data.chosen), (rows.rejected, data.rejected)):
        assert torch.equal(rows.items.embedding[side][:, 5:], plain[own])
    bare = setting.undescribed(rows)
    assert torch.equal(rows.items.embedding[bare.chosen][:, 5:], plain[data.chosen])
    assert not bool(rows.items.embedding[bare.chosen][:, :5].any())
    sides = np.stack([np.repeat(data.user, 2), np.stack([data.chosen, data.rejected], axis=1).ravel()])
    assert setting.texts == np.unique(sides, axis=1).shape[1]


def test_a_dry_run_counts_and_calls_nothing(
    run: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    judge_entry(folder, "taste", "taste_judge:KeptJudge")
    code, out, err = run(*DESCRIBED, *FEW, "--out", str(tmp_path / "runs"), "--dry-run", "--json")
    assert code == 0, err
    [row] = json.loads(out)["judging"]
    assert row["method"] == "descriptions for joint+synthesizeme-persona+taste"
    assert row["calls"] > 16
    registry.reset()
    registry.use([folder])
    reader = open_reader(judge_entry_for("taste"))
    assert not reader.backend.instant
    assert reader.store.path is not None
    assert not reader.store.path.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--encoder", "apart+synthesizeme-persona"], "apart embeds the context apart from the reply"),
        (["--encoder", "joint+synthesizeme-demos"], "unknown method that writes personas 'synthesizeme-demos'"),
        (
            ["--encoder", "joint+synthesizeme-persona", "--shots", "3"],
            "a description rests on all of a user's support",
        ),
    ],
)
def test_what_cannot_be_described_is_refused_in_one_line(
    args: list[str], said: str, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    common = ["--dataset", "taste-text", "--methods", "bt", "--out", str(tmp_path / "runs")]
    code, _, err = run(*common, *args, "--judge", "taste")
    assert code == 2, err
    assert said in err
    assert not (tmp_path / "runs").exists()
    if "apart" in args[1]:
        assert "writing descriptions needs a judge model" in run(*common, *args)[2]
