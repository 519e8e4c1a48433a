"""Plans without data and weights: what is needed, what is missing, and that nothing is asked of the network."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_llama

from prbench import cli, registry
from prbench.base import network
from prbench.base.errors import InputError
from prbench.encoders import encoder_entry_for, presence
from prbench.encoders.copies import copied
from prbench.encoders.huggingface import HuggingFace
from prbench.running import prerequisites

DRY = ("run", "--methods", "bt,mrm", "--dry-run", "--json", "--dataset")

ENTRY = """
title = "a published model"
target = "prbench.encoders.huggingface:HuggingFace"
licence = ""
homepage = ""
summary = "tiny"
[options]
model = "someone/tiny"
dtype = "float32"
[size]
dim = {dim}
weights_gb = {weights_gb}
"""


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, prbench_home: Path, tmp_path: Path) -> Iterator[None]:
    """No raw data, an empty hub cache, and a network that must not be asked."""
    import huggingface_hub.constants

    monkeypatch.delenv("PRBENCH_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    network._answers.cache_clear()
    yield
    network._answers.cache_clear()
    registry.reset()


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert cli.main(words) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_dry_run_plans_what_it_can_and_lists_all_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *DRY, "simulated,reddit100,prism", "--splits", "2")
    assert [(c["dataset"], c["method"]) for c in found["cells"]] == [  # type: ignore[attr-defined]
        ("simulated", method) for method in ("bt", "bt", "mrm", "mrm")
    ]
    outlines = {each["dataset"]: each for each in found["outlines"]}  # type: ignore[attr-defined]
    assert outlines["prism"]["fits"] == outlines["reddit100"]["fits"] == 4
    assert (outlines["prism"]["users"], outlines["prism"]["texts"]) == (1287, 65744)
    assert outlines["prism"]["weights"] == "15.0 GB"
    missing = {each["missing"]: each for each in found["missing"]}  # type: ignore[attr-defined]
    assert len(missing) == 5
    assert missing["prism: conversations.jsonl"]["size"] == "60.3 MB"
    assert missing["prism: conversations.jsonl"]["sha256"] == "not pinned"
    assert missing["prism: survey.jsonl"]["address"].startswith("https://huggingface.co/datasets/HannahRoseKirk/")


def test_a_dry_run_tells_the_pins_and_the_addresses_of_files_of_several_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = planned(capsys, *DRY, "humour,coval-world,multipref,uf-p-4-release", "--splits", "1")
    assert plan["cells"] == []
    missing = {each["missing"]: each for each in plan["missing"]}  # type: ignore[attr-defined]
    humour = missing["humour: results.tsv"]
    assert humour["sha256"] == "git:1914b9b19f8905c6d9f29c4e8e28fd8521bfa845"
    assert humour["address"].startswith("https://raw.githubusercontent.com/UKPLab/")
    assert missing["coval-world: comparisons.jsonl"]["size"] == "18.4 MB"
    for path, repository in (
        ("flan.jsonl", "openbmb/UltraFeedback"),
        ("default/train/0000.parquet", "argilla/ultrafeedback-binarized-preferences-cleaned"),
    ):
        address = missing[f"uf-p-4-release: {path}"]["address"]
        assert address.startswith(f"https://huggingface.co/datasets/{repository}/resolve/")


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--report", "paper", "--dataset", "prism", "--dry-run"),
        ("tune", "--methods", "bt", "--dataset", "prism", "--trials", "2", "--dry-run"),
        ("embed", "--dataset", "prism", "--dry-run"),
        ("data", "get", "prism", "--list"),
    ],
)
def test_every_plan_works_without_data(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "conversations.jsonl" in out
    assert "60.3 MB" in out
    assert "not pinned" in out


def test_a_run_without_a_connection_names_everything_at_once_and_tries_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def fail(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise OSError("unreachable")

    monkeypatch.setattr(socket, "create_connection", fail)
    assert cli.main(["run", "--methods", "bt", "--dataset", "prism,reddit100"]) == 2
    assert asked == [("huggingface.co", 443)]
    said = capsys.readouterr().err
    for part in (
        "conversations.jsonl (60.3 MB)",
        "survey.jsonl",
        "train/0000.parquet",
        "Skywork",
        "--encoder NAME=F",
    ):
        assert part in said


def test_a_slow_network_gets_a_word_and_five_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(network, "SOON", 0.01)
    monkeypatch.setattr(network, "PATIENCE", 0.05)

    def hang(*_: object, **__: object) -> None:
        threading.Event().wait(0.2)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "create_connection", hang)
    assert not network.reachable("https://slow.invalid")
    assert "waiting for slow.invalid" in capsys.readouterr().err
    assert not network.reachable("https://slow.invalid")
    assert capsys.readouterr().err == ""


def test_a_proxy_is_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    class Open:
        def close(self) -> None:
            """As a socket's."""

    def connect(address: tuple[str, int], timeout: float) -> Open:
        asked.append(address)
        return Open()

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    assert network.reachable("https://huggingface.co")
    assert asked == [("proxy.invalid", 3128)]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with a model's files, and the entry `tiny` of the hub's model that it is a copy of."""
    model = tiny_llama.build(tmp_path / "copy")
    size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e9
    folder = tmp_path / "entries" / "encoders"
    folder.mkdir(parents=True)
    width = json.loads((model / "config.json").read_text())["hidden_size"]
    (folder / "tiny.toml").write_text(ENTRY.format(dim=width, weights_gb=size))
    (folder / "wide.toml").write_text(ENTRY.format(dim=width + 1, weights_gb=size))
    (folder / "heavy.toml").write_text(ENTRY.format(dim=width, weights_gb=2 * size))
    registry.use([tmp_path / "entries"])
    return model


def test_a_copy_is_read_under_its_published_name(published: Path) -> None:
    entry = encoder_entry_for(f"tiny={published}")
    assert entry.name == "tiny"
    assert presence.presence(entry).weights
    encoder = HuggingFace(**entry.options)
    assert encoder.id == "someone/tiny"
    # Without the hub's notes it is pinned by its contents.
    assert len(encoder.revision) == 16
    assert encoder.weights_size()


@pytest.mark.parametrize("name", ["wide", "heavy"])
def test_another_model_is_no_copy(published: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"--encoder {name}=.*its (states|weights) are"):
        encoder_entry_for(f"{name}={published}")


def test_a_folder_that_is_not_there_is_said_not_to_be_one(published: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        copied("tiny", published / "nothing")


def test_the_hub_cache_pins_a_copy_by_its_commit_while_its_contents_are_the_noted_ones(
    published: Path, tmp_path: Path
) -> None:
    import hashlib

    commit = "c0ffee" * 6 + "c0ff"
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / commit
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in published.iterdir():
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    assert HuggingFace(model="someone/tiny", copy=str(snapshot)).revision == commit
    weights = next(snapshot.glob("*.safetensors")).resolve()
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    assert HuggingFace(model="someone/tiny", copy=str(snapshot)).revision != commit


def test_a_record_of_a_copy_elsewhere_is_the_hub_s_model(published: Path) -> None:
    options = {**encoder_entry_for(f"tiny={published}").options, "copy": "/nowhere"}
    assert (
        presence.presence(registry.get("encoders", "tiny").model_copy(update={"options": options})).readable is False
    )


def test_what_needs_nothing_lists_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert prerequisites.prerequisites("simulated", None).can_run
    assert cli.main(["data", "get", "simulated", "--list"]) == 2
    assert "needs no files" in capsys.readouterr().err
