"""The hub's data sets from end to end: getting the files, the cache around them, and a run on PRISM's own schema."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import errors as hub
from pydantic import ValidationError
from upstream_fixtures import REWARDBENCH2, reddit_row, write_parquet, write_prism, write_reddit, write_regular_prism

from prbench import cli, data, registry, results
from prbench.base.errors import InputError
from prbench.data.downloads import RawFiles
from prbench.embedding import stage
from prbench.encoders import encoder_entry_for
from prbench.loaders.rewardbench2 import side_check
from prbench.registry.schema import DatasetEntry, Download
from prbench.user.model import UserModel

ENCODER = """
title = "planted"
target = "planted_encoder:Planted"
licence = ""
homepage = ""
summary = "hashes"
[options]
dim = 6
"""

HUB_ENTRIES = (
    "arena-personalrewardbench",
    "community-alignment",
    "community-alignment-all",
    "coval",
    "coval-world",
    "multipref",
    "personalllm",
    "prism",
    "prism-personalrewardbench",
    "prism-published-code",
    "reddit100",
    "reddit100-published-code",
    "reddit150",
    "reddit150-published-code",
    "rewardbench2",
    "uf-p-2",
    "uf-p-2-release",
    "uf-p-4",
    "uf-p-4-release",
)


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prbench_home: Path) -> Iterator[Path]:
    """PRBENCH_DATA; the hub, if it is asked, is out of reach."""
    folder = tmp_path / "raw data"
    folder.mkdir()
    monkeypatch.setenv("PRBENCH_DATA", str(folder))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(hub.LocalEntryNotFoundError("offline")))
    registry.reset()
    yield folder
    registry.reset()


def raising(error: Exception) -> Any:
    def download(*_: Any, **__: Any) -> str:
        raise error

    return download


def answer(status: int) -> Any:
    """What the hub's errors read of a response, whichever HTTP library they come with."""
    return SimpleNamespace(status_code=status, headers={}, request=None)


def refusal(call: Any) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_every_hub_entry_loads_only_on_request_and_names_its_family_and_licence() -> None:
    for name in HUB_ENTRIES:
        entry = registry.get("datasets", name)
        raw = RawFiles(entry)
        assert all(raw.on_hub(file.path) for file in raw.listing()), name
        assert not entry.default, name
        assert entry.licence, name
        assert data.make_loader(entry)
        assert not set(entry.expect) - {"users", "comparisons"}, name
    everything = registry.select("datasets", "all")
    assert not set(everything) & set(HUB_ENTRIES)
    # MRM's and other methods' PRISM values are found by the family's name.
    assert registry.get("datasets", "prism-published-code").family == "prism"
    assert registry.get("datasets", "prism").expect == {"users": 1287}
    assert registry.get("datasets", "reddit150").expect == {"users": 40}
    assert registry.get("datasets", "reddit100-published-code").expect == {}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub.LocalEntryNotFoundError("no"), "no connection to the hub"),
        (hub.GatedRepoError("no", response=answer(403)), "it is gated, its terms must be accepted first"),
        (hub.RepositoryNotFoundError("no", response=answer(401)), "the hub has nothing public of that name"),
        (hub.RevisionNotFoundError("no", response=answer(404)), "the hub has no such revision (at main)"),
        (hub.RemoteEntryNotFoundError("no", response=answer(404)), "the hub has no such file (at main)"),
        (hub.HfHubHTTPError("no", response=answer(503)), "the hub says 503"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_file_that_cannot_be_had_is_named_with_the_places_to_put_it(
    error: Exception, words: str, at_hand: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    said = refusal(lambda: data.load(registry.get("datasets", "prism")))
    assert "cannot download survey.jsonl of the Hugging Face data set HannahRoseKirk/prism-alignment" in said
    assert words in said
    assert str(prbench_home / "raw" / "prism" / "survey.jsonl") in said
    assert "PRBENCH_DATA" in said
    assert "prism/survey.jsonl" in said
    assert files(prbench_home) == []


def test_the_hub_is_asked_for_a_data_set_at_its_revision(
    at_hand: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    file = prbench_home / "hub" / "0000.parquet"
    file.parent.mkdir(parents=True)
    file.touch()

    def download(repository: str, path: str, *, repo_type: str, revision: str, **_: Any) -> str:
        asked.append((repository, path, repo_type, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    raw = RawFiles(registry.get("datasets", "reddit100"))
    assert raw.path("comparisons/train/0000.parquet") == file
    place = "openai/summarize_from_feedback", "comparisons/train/0000.parquet", "dataset", "refs/convert/parquet"
    assert asked == [place]
    assert (
        raw.url(place[1]) == f"https://huggingface.co/datasets/{place[0]}/resolve/refs%2Fconvert%2Fparquet/{place[1]}"
    )
    assert set(raw.identity().values()) == {"refs/convert/parquet"}


def test_only_hub_files_may_go_without_a_hash_and_a_hash_given_is_checked(at_hand: Path) -> None:
    with pytest.raises(ValidationError, match="may go without a hash"):
        Download(base="https://example.org/data", files={"a": ""})
    entry = registry.get("datasets", "prism")
    pinned = entry.model_copy(
        update={"download": Download(base="hf://datasets/a/b", files={"survey.jsonl": "0" * 64})}
    )
    (at_hand / "prism").mkdir()
    (at_hand / "prism" / "survey.jsonl").write_text("{}")
    assert "is not the expected file" in refusal(lambda: RawFiles(pinned).path("survey.jsonl"))
    assert RawFiles(entry).path("survey.jsonl") == at_hand / "prism" / "survey.jsonl"
    assert RawFiles(pinned).identity() == {"survey.jsonl": "0" * 64}


def test_other_files_at_hand_are_other_data(at_hand: Path) -> None:
    entry = registry.get("datasets", "prism")
    write_regular_prism(at_hand / "prism", users=3)
    first, folder = data.load(entry), data.cache_folder(entry)
    write_regular_prism(at_hand / "prism", users=4)
    assert data.cache_folder(entry) != folder
    assert (first.n_users, data.load(entry).n_users) == (3, 4)
    write_regular_prism(at_hand / "prism", users=3)
    assert data.cache_folder(entry) == folder
    assert data.load(entry).fingerprint == first.fingerprint


def test_settings_of_one_family_share_their_files(at_hand: Path) -> None:
    write_prism(at_hand / "prism")
    paper, published = (data.load(registry.get("datasets", name)) for name in ("prism", "prism-published-code"))
    assert (len(paper), len(published)) == (26, 28)
    assert data.cache_folder(registry.get("datasets", "reddit100")) == data.cache_folder(
        registry.get("datasets", "reddit150")
    )


def test_a_broken_file_leaves_nothing_half_written(at_hand: Path, prbench_home: Path) -> None:
    write_prism(at_hand / "prism")
    file = at_hand / "prism" / "conversations.jsonl"
    file.write_text(file.read_text()[:-30])
    said = refusal(lambda: data.load(registry.get("datasets", "prism")))
    assert f"{file}, line " in said
    assert "no valid JSON" in said
    assert files(prbench_home) == []


def cells(file: Path) -> str:
    """Everything in a file as text; Parquet is compressed, so its cells are read."""
    if file.suffix == ".parquet":
        return pd.read_parquet(file).to_json()
    return file.read_text(errors="replace")


def test_the_sources_ids_are_in_the_private_file_alone(
    at_hand: Path, prbench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_prism(at_hand / "prism")
    names = {"alice", "bob", "carol", "worker-a", "worker-b"}
    rows = [reddit_row(f"worker-{name}", f"Post {i}.", " A.", " B.", i % 2) for name in "ab" for i in range(60)]
    write_reddit(at_hand / "reddit", rows, rows[:3])
    for name in ("prism", "reddit100"):
        assert cli.main(["data", "get", name]) == 0
        assert cli.main(["data", "info", name, "--json"]) == 0
    captured = capsys.readouterr()
    assert not any(name in captured.out + captured.err for name in names)
    written = files(prbench_home)
    private = [file for file in written if file.name == "users.parquet"]
    assert len(private) == 2
    assert {name for file in private for name in names if name in cells(file)} == names - {"carol"}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in private)
    for file in set(written) - set(private):
        assert not any(name in cells(file) for name in names), file


def test_what_sharing_saves_is_told(at_hand: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        reddit_row("worker-a", f"Post {i}.", f" S{a}.", f" S{b}.", 0)
        for i in range(25)
        for a, b in ((1, 2), (3, 4), (1, 3), (2, 4))
    ]
    write_reddit(at_hand / "reddit", rows, rows[:1])
    assert cli.main(["data", "info", "reddit100", "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert told["items_per_prompt"] == 4
    assert told["comparisons_per_item"] == pytest.approx(2 * 101 / 100)
    assert told["counts"]["expected users"] == 40
    assert "reddit100 has 1 users, its entry expects 40" in captured.err


def test_prism_from_its_files_to_results(
    at_hand: Path, tmp_path: Path, prbench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_regular_prism(at_hand / "prism", users=8)
    mine = tmp_path / "mine"
    (mine / "encoders").mkdir(parents=True)
    (mine / "encoders" / "planted.toml").write_text(ENCODER)
    with_mine = ["--registry", str(mine)]
    runs = tmp_path / "runs"

    assert cli.main(["data", "get", "prism"]) == 0
    captured = capsys.readouterr()
    assert "prism has 8 users, its entry expects 1,287" in captured.err
    assert "turns without a rejected reply dropped" in captured.out
    assert (
        cli.main([*with_mine, "embed", "--dataset", "prism", "--encoder", "planted", "--device", "cpu", "--json"])
        == 0
    )
    plan = json.loads(capsys.readouterr().out)
    # 8 users, 6 dialogues, 3 replies in the first turn and 2 in the second.
    assert (plan["texts"], plan["missing"]) == (8 * 6 * 5, 0)
    asked = ["--methods", "bt,mrm", "--dataset", "prism", "--encoder", "planted", "--splits", "2", "--device", "cpu"]
    quick = ["--set", "bt.steps=20", "--set", "mrm.epochs=2"]
    assert cli.main([*with_mine, "run", *asked, *quick, "--out", str(runs)]) == 0

    found = results.load(runs)
    done = [(cell.method.partition("[")[0], cell.split, cell.status) for cell in found.cells]
    assert done == [(method, split, "done") for method in ("bt", "mrm") for split in (0, 1)]
    # The family's own step size, not the one for Reddit.
    assert {cell.params["rate"] for cell in found.cells if cell.method.startswith("mrm")} == {1e-3}
    scores = pd.concat(pd.read_parquet(file) for file in runs.rglob("scores-*.parquet"))
    assert np.isfinite(scores["margin"]).all()
    # Half of each user's six dialogues, three comparisons each, for two methods and two splits.
    assert len(scores) == 8 * 3 * 3 * 2 * 2
    for cell in found.cells:
        assert "person-" not in cell.model_dump_json()

    write_parquet(at_hand / "rewardbench2" / "data/test-00000-of-00001.parquet", REWARDBENCH2)
    check = data.load(registry.get("datasets", "rewardbench2"))
    items = stage.embed(check, encoder_entry_for("planted"), family="rewardbench2")
    model = UserModel.open(runs, "bt[steps=20]", dataset="prism", encoder="planted", device="cpu")
    accuracy = side_check(model.method, model.adapt([]), check, items)
    assert list(accuracy) == ["Factuality", "Math", "mean"]
    assert accuracy["mean"] == (accuracy["Factuality"] + accuracy["Math"]) / 2


def test_an_option_of_a_hub_data_set_that_does_not_exist_is_refused() -> None:
    entry: DatasetEntry = registry.get("datasets", "prism").model_copy(update={"options": {"ties": "maybe"}})
    assert "data set prism, option ties: Input should be 'keep' or 'drop'" in refusal(lambda: data.make_loader(entry))
    other = entry.model_copy(update={"options": {"min_dialogs": 6}})
    assert "its loader has no option 'min_dialogs'" in refusal(lambda: data.make_loader(other))
