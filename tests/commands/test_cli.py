"""The command line: what it prints, how it refuses, what it passes on, and how light it starts."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import prbench
from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.commands import doctor
from prbench.running.execution import Execution
from prbench.running.request import CallBudget

HEAVY = ("torch", "transformers", "pandas", "numpy", "pyarrow", "scipy", "matplotlib", "safetensors", "optuna")

METHOD = """
title = "Mine"
target = "prbench.methods.bt_ridge:BTRidge"
family = "no personalisation"
paper = "none"
summary = "a method of my own [with brackets]"
[style]
colour = "#112233"
"""

REPORT = """
title = "Mine"
target = "my_report:make"
summary = "my report"
[options]
alpha = 0.1
"""

DATASET = """
title = "Mine"
loader = "prbench.loaders.simulated:Simulated"
family = "mine"
licence = "CC0"
homepage = ""
citation = ""
summary = "my data"
encoder = "own"
simulated = true
"""


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(prbench_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the command line in this process."""
    registry.reset()
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield call
    registry.reset()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A registry folder with a method, a data set and a report, all called `mine`, `mine-data`, `mine-report`."""
    for where, text in (("methods/mine", METHOD), ("datasets/mine-data", DATASET), ("reports/mine-report", REPORT)):
        file = tmp_path / "mine" / f"{where}.toml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return tmp_path / "mine"


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put functions in place of a module of prbench."""

    def put(name: str, **functions: Any) -> None:
        fake = SimpleNamespace(**functions)
        parent = importlib.import_module(f"prbench.{name}".rpartition(".")[0])
        monkeypatch.setitem(sys.modules, f"prbench.{name}", fake)
        monkeypatch.setattr(parent, name.rpartition(".")[2], fake, raising=False)

    return put


def refused(outcome: Outcome) -> str:
    """The error line of a command that was refused."""
    assert outcome.code == 2
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), outcome.err
    return outcome.err


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *(["list", kind] for kind in registry.KINDS),
        ["show", "simulated", "--json"],
        ["show", "minilm"],
        ["show", "leaderboard"],
    ],
)
def test_starting_imports_nothing_heavy(words: list[str]) -> None:
    code = f"import sys; from prbench.cli import main; main({words!r}); print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.stdout


@pytest.mark.parametrize(
    "start", [["-m", "prbench"], ["-c", "import sys, prbench.cli; sys.exit(prbench.cli.main())"]]
)
def test_exit_codes_reach_the_shell(start: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, *start, "show", "nothing"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown entry 'nothing'")
    assert "Traceback" not in done.stderr


def commands(typer_app: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [(*path, c.name or c.callback.__name__) for c in typer_app.registered_commands]
    for group in typer_app.registered_groups:
        found += commands(group.typer_instance, (*path, group.name))
    return found


@pytest.mark.parametrize("command", commands(cli.app), ids=" ".join)
def test_every_command_has_help_with_an_example(run: Run, command: tuple[str, ...]) -> None:
    found = run(*command, "--help")
    assert found.code == 0
    assert f"Example: prbench {' '.join(command)}" in " ".join(found.out.split())


def test_the_commands_of_the_design_are_there() -> None:
    expected = "list show check doctor embed tune run probe status report data get|info|show|verify|import|import-embeddings results verify|pack|unpack|merge|submit|fetch|import-margins user adapt|score|rank|serve policy dpo bench fit|embed|gpu|scale|growth encoder show splits export"
    groups = ("data", "results", "user", "policy", "bench", "encoder", "splits")
    single, nested = [], []
    words = expected.split()
    for before, word in zip(["", *words], words, strict=False):
        if before in groups:
            nested += [(before, name) for name in word.split("|")]
        elif word not in groups:
            single.append((word,))
    assert sorted(commands(cli.app)) == sorted(single + nested)


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"prbench {prbench.__version__}\n", "")
    assert "Usage: prbench" in run("--help").out
    for group in ((), ("data",), ("user",), ("bench",)):
        bare = run(*group)
        assert bare.code == 2
        assert "Usage: prbench" in bare.out + bare.err
        assert "error" not in bare.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["lst", "methods"], "list"),
        (["list"], "Missing argument"),
        (["list", "things"], "'things'"),
        (["run", "--dataset", "simulated"], "give --methods or --report"),
        (["run", "--methods", "bt", "--dataset", "simulated", "--splits", "0"], "--splits"),
        (["run", "--methods", "bt", "--dataset", "simulated", "--device", "tpu"], "'tpu'"),
        (["run", "--methods", "bt", "--dataset", "simulated", "--selection", "best"], "'best'"),
        (["run", "--mehtods", "bt"], "--methods"),
        (["show", "mrn"], "did you mean mrm"),
        (["check", "mrn"], "unknown method 'mrn'; did you mean mrm"),
        (["data", "info", "simulatd"], "unknown data set 'simulatd'; did you mean simulated"),
        (["report", "leaderbord"], "unknown report 'leaderbord'; did you mean leaderboard"),
        (["data", "import", "/no/such/file.csv", "--name", "x"], "/no/such/file.csv"),
        (["data", "import-embeddings", "--pt", "/no/such.pt", "--meta", "/no.json", "--name", "x"], "/no/such.pt"),
        (["--registry", "/no/such/folder", "list", "methods"], "--registry /no/such/folder: no folder"),
        (["list", "methods", "--registry"], "--registry needs a folder"),
        (["list", "methods", "--registry="], "--registry names no folder"),
        (["list", "methods", "--registry", ""], "--registry names no folder"),
        (["run", "--report", "paper", "--dataset", "simulated", "--tuned", "x"], "leave out --tuned"),
        (["run", "--methods", "bt", "--dataset", "simulated", "--tuned", "x"], "--tuned x: nothing is to run tuned"),
        (
            ["run", "--methods", "bt", "--dataset", "simulated", "--selection", "last", "--tuned", "x"],
            "add --selection tuned, or leave --tuned out",
        ),
        (
            ["run", "--methods", "lore", "--dataset", "simulated", "--set", "lore.bases=2", "--set", "lore.bases=3"],
            "--set lore.bases=3: lore.bases is set twice",
        ),
    ],
)
def test_bad_usage_is_one_line_and_a_hint(run: Run, words: list[str], expected: str) -> None:
    assert expected in refused(run(*words))


def test_listings(run: Run, mine: Path) -> None:
    listed = run("list", "methods", "--registry", mine)
    assert listed.code == 0
    lines = [line for line in listed.out.splitlines() if line.strip().startswith("mine ")]
    assert len(lines) == 1
    assert "a method of my own [with brackets]" in lines[0]
    for kind in registry.KINDS:
        rows = json.loads(run("list", kind, "--json").out)
        assert [row["name"] for row in rows] == registry.names(kind)
        for row in rows:
            assert row["title"]
            assert row["summary"]


def test_names_are_never_cut(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = run("list", "methods").out
    assert max(map(len, out.splitlines())) <= 60
    for name in registry.names("methods"):
        assert any(line.strip().startswith(f"{name} ") for line in out.splitlines()), name


def test_an_empty_listing_is_an_empty_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_own_folder", lambda kind: Path("/nowhere"))
    assert json.loads(run("list", "methods", "--json").out) == []
    assert run("list", "methods").code == 0


def test_show_has_all_that_is_inherited(run: Run, mine: Path) -> None:
    (mine / "methods" / "child.toml").write_text(
        'extends = "mine"\ntitle = "Child"\n[params.sim-nothing]\nrate = 1\n'
    )
    shown = json.loads(run("show", "child", "--json", "--registry", mine).out)
    assert shown["kind"] == "methods"
    assert shown["file"] == str((mine / "methods" / "child.toml").resolve())
    assert shown["style"]["colour"] == "#112233"
    assert shown["extends"] == "mine"
    assert "sim-nothing" in shown["unused"][0]
    assert "BTRidge has no parameter 'rate'" in shown["broken"]
    table = run("show", "child", "--registry", mine).out
    assert "style.colour" in table
    assert "[with brackets]" in table


def test_show_lists_a_methods_hyper_parameters_and_counts(run: Run) -> None:
    lines = {words[0]: words[1:] for line in run("show", "mrm").out.splitlines() if (words := line.split())}
    assert lines["hyper_parameters.rate"] == ["0.005", "(entry)"]
    assert lines["hyper_parameters.link"] == ["softmax", "(default)"]
    assert lines["hyper_parameters.warmup"] == ["0.05", "(default)"]
    assert lines["parameter_count.shared"] == ["8,194"]
    assert lines["parameter_count.total_by_users.10000"] == ["28,194"]
    assert json.loads(run("show", "mrm", "--json").out)["hyper_parameters"]["rate"] == {
        "value": 0.005,
        "from": "entry",
    }


def test_a_name_of_two_kinds_needs_the_kind(run: Run, mine: Path) -> None:
    (mine / "reports" / "mine.toml").write_text(REPORT)
    assert "add --kind methods" in refused(run("show", "mine", "--registry", mine))
    assert json.loads(run("show", "mine", "--kind", "reports", "--json", "--registry", mine).out)["kind"] == "reports"


def test_registry_may_stand_anywhere_and_repeat(run: Run, mine: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "methods"
    other.mkdir(parents=True)
    (other / "theirs.toml").write_text(METHOD)
    words = ["--registry", mine, "list", f"--registry={other.parent}", "methods", "--json"]
    assert {"mine", "theirs"} <= {row["name"] for row in json.loads(run(*words).out)}


def test_a_bad_entry_is_named(run: Run, mine: Path) -> None:
    bad = mine / "methods" / "bad.toml"
    bad.write_text("title = \n")
    assert f"{bad.resolve()} line 1: malformed TOML" in refused(run("list", "methods", "--registry", mine))


class Plan:
    """A plan of the runner, as far as the command line sees it."""

    jobs = ()

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def table(self) -> str:
        return "the plan"

    def as_dict(self) -> dict[str, Any]:
        return {"cells": [1, 2]}


@pytest.fixture
def runner(plant: Callable[..., None]) -> SimpleNamespace:
    """A runner that records what it is asked."""
    seen = SimpleNamespace(plans=[], executed=[], failed=0)

    def plan(request: Any) -> Plan:
        seen.plans.append(Plan(**dict(request)))
        return seen.plans[-1]

    def execute(plan: Plan, *, execution: Execution) -> SimpleNamespace:
        seen.executed.append(plan)
        seen.execution = execution
        return SimpleNamespace(failed=seen.failed, table=lambda: "the outcome")

    plant("running.plan", Plan=Plan, plan=plan)
    plant("running.run", execute=execute)
    return seen


def test_run_passes_everything_on(run: Run, runner: SimpleNamespace) -> None:
    words = "run --methods bt,mrm-no-* --dataset simulated --encoder own --splits 3 --seed 7 --shots 0,5,all,5"
    more = "--selection published,tuned --device cpu --set mrm.bases=4 --set bt.rate=1 --out elsewhere"
    more += " --tuned mine --workers 2 --threads 1"
    done = run(*words.split(), *more.split())
    assert (done.code, done.out) == (0, "the outcome\n")
    assert runner.executed == runner.plans
    assert runner.execution.workers == 2
    assert runner.plans[0].arguments == {
        "methods": ("bt", "mrm-no-basis", "mrm-no-meta", "mrm-no-rpo"),
        "datasets": ("simulated",),
        "encoder": "own",
        "splits": 3,
        "limit": None,
        "seed": 7,
        "shots": (0, 5, -1),
        "selection": "published,tuned",
        "device": "cpu",
        "overrides": ("mrm.bases=4", "bt.rate=1"),
        "out": Path("elsewhere"),
        "tuned": Path("mine"),
        "precision": "highest",
        "split_files": None,
        "restarts": 1,
        "refit": False,
        "judge": None,
        "test_sample": None,
        "budget": CallBudget(),
    }


def test_run_has_the_designs_defaults(run: Run, runner: SimpleNamespace) -> None:
    run("run", "--methods", "all", "--dataset", "all")
    expected = {"encoder": None, "splits": None, "seed": 42, "shots": (-1,), "selection": None, "device": "auto"}
    assert expected.items() <= runner.plans[0].arguments.items()
    assert runner.plans[0].arguments["out"] == Path("runs")
    assert runner.plans[0].arguments["tuned"] == Path("tuned")
    assert runner.plans[0].arguments["methods"] == tuple(m.name for m in registry.load_all("methods") if m.default)


def test_a_dry_run_executes_nothing(run: Run, runner: SimpleNamespace) -> None:
    assert run("run", "--methods", "bt", "--dataset", "simulated", "--dry-run") == (0, "the plan\n", "")
    done = run("run", "--methods", "bt", "--dataset", "simulated", "--dry-run", "--json")
    assert json.loads(done.out) == {"cells": [1, 2]}
    assert runner.executed == []


def test_failed_cells_exit_with_one(run: Run, runner: SimpleNamespace) -> None:
    runner.failed = 2
    assert run("run", "--methods", "bt", "--dataset", "simulated").code == 1
    done = run("run", "--methods", "bt", "--dataset", "simulated", "--json")
    assert done.code == 1
    assert json.loads(done.out) == {"failed": 2, "cells": [1, 2]}


@pytest.mark.parametrize(
    ("shots", "expected"),
    [("five", "expected numbers"), ("-3", "cannot be negative"), ("5,-1", "cannot be negative"), (",", "expected")],
)
def test_bad_shots_are_refused(run: Run, runner: SimpleNamespace, shots: str, expected: str) -> None:
    words = ["run", "--methods", "bt", "--dataset", "simulated", f"--shots={shots}"]
    assert expected in refused(run(*words))
    assert runner.executed == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("two\n lines", hint="next\n step"), 2, "error: two lines\nhint: next step\n"),
        (InputError("no hint"), 2, "error: no hint\n"),
        (
            OSError(errno.ENOSPC, "No space", "/some/file"),
            2,
            "error: the disk is full: /some/file was not written\nhint: free some space\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; finished work is kept, run the same command to go on\n"),
    ],
)
def test_errors_while_running(
    run: Run, plant: Callable[..., None], error: BaseException, code: int, line: str
) -> None:
    def plan(*_: Any, **__: Any) -> Plan:
        raise error

    plant("running.plan", Plan=Plan, plan=plan)
    assert run("run", "--methods", "bt", "--dataset", "simulated") == (code, "", line)


def test_a_defect_keeps_its_traceback(run: Run, plant: Callable[..., None]) -> None:
    def plan(*_: Any, **__: Any) -> Plan:
        raise ZeroDivisionError

    plant("running.plan", Plan=Plan, plan=plan)
    with pytest.raises(ZeroDivisionError):
        run("run", "--methods", "bt", "--dataset", "simulated")


def test_check_names_what_failed(run: Run, plant: Callable[..., None], mine: Path) -> None:
    checked = []

    def check(entry: Any) -> SimpleNamespace:
        checked.append(entry.name)
        return SimpleNamespace(table=lambda: f"checks of {entry.name}", passed=entry.name != "mine")

    plant("contract", check=check)
    assert run("check", "bt") == (0, "checks of bt\n", "")
    done = run("check", "bt,mine", "--registry", mine)
    assert (done.code, done.err) == (1, "1 of 2 failed: mine\n")
    checked.clear()
    run("check", "all")
    assert checked == registry.names("methods")


def test_report_prints_what_was_written(
    run: Run, plant: Callable[..., None], mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_report.py").write_text(
        "from prbench.reporting import report\n@report\ndef make(results, out, *, alpha):\n    return [out / f'{results}-{alpha}.csv']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plant("results", load=lambda runs: runs.name)
    runs = tmp_path / "runs"
    done = run("report", "mine-report", "--runs", runs, "--out", "o", "--registry", mine)
    assert (done.code, done.out) == (0, "o/runs-0.1.csv\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("alhpa = 0.1", "options.alhpa: there is no such option; did you mean alpha?"),
        ('alpha = "0.1"', "options.alpha: input should be a valid number, not '0.1'"),
        ("alpha = nan", "options.alpha: nan is not a finite number"),
        ("alpha = 0.1\nnames = [1]", "options.names: input should be a valid string, not [1]"),
        ("alpha = 0.1\nconsole = 'x'", "options.console: an entry cannot give a Console | None"),
        ("names = []", "options: a value is needed for alpha"),
    ],
)
def test_a_reports_options_are_checked_before_anything_is_read(
    run: Run, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: str
) -> None:
    (tmp_path / "checked_report.py").write_text(
        "from __future__ import annotations\nfrom prbench.reporting import report\n"
        "@report\ndef make(results: Results, out: Path, *, alpha: float, names: Sequence[str] = (), console: Console | None = None): ...\n"
        "@report\ndef one(results): ...\ndef unmarked(results, out): ...\nnumber = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = mine / "reports" / "mine-report.toml"
    text = REPORT.replace("my_report", "checked_report").replace("alpha = 0.1", line)
    entry.write_text(text)
    words = ("report", "mine-report", "--runs", tmp_path / "none", "--out", tmp_path / "out", "--registry", mine)
    assert f"error: {entry}: {expected}" in refused(run(*words))
    entry.write_text(text.replace(":make", ":one"))
    assert "cannot be called with 2 arguments" in refused(run(*words))
    for target in ("unmarked", "number"):
        entry.write_text(text.replace(":make", f":{target}"))
        assert "is not marked as a report" in refused(run(*words))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["leaderboard", "paper"])
def test_the_options_of_prbenchs_reports_are_checked(run: Run, mine: Path, name: str) -> None:
    for option, value in (("baseline", "1"), ("alpha", '"x"'), ("resamples", "1.5")):
        (mine / "reports" / "other.toml").write_text(f'extends = "{name}"\n[options]\n{option} = {value}\n')
        said = refused(run("report", "other", "--runs", mine / "none", "--registry", mine))
        assert f"other.toml: options.{option}: input should be a valid" in said


def test_data_info_and_get_describe_the_data(run: Run) -> None:
    info = json.loads(run("data", "info", "simulated", "--json").out)
    assert info["users"] == 60
    assert "60" in run("data", "get", "simulated").out
    assert json.loads(run("embed", "--dataset", "simulated", "--dry-run", "--json").out)["missing"] == 0


def test_import_and_then_info(run: Run, tmp_path: Path) -> None:
    lines = [
        {"user_id": f"worker-{user}", "prompt": f"question {i}", "chosen": "yes", "rejected": f"no {user}"}
        for user in "ab"
        for i in range(3)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("data", "import", file, "--name", "my-votes")
    assert done.code == 0
    assert Path(done.out.strip()).name == "my-votes.toml"
    assert "--dataset my-votes" in done.err
    assert json.loads(run("data", "info", "my-votes", "--json").out)["users"] == 2
    assert "my-votes" in refused(run("data", "import", file, "--name", "my-votes"))


def test_verify_finds_a_broken_store_and_goes_on(run: Run, plant: Callable[..., None], tmp_path: Path) -> None:
    assert run("data", "verify").code == 0

    class EmbeddingStore:
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        @classmethod
        def open(cls, folder: Path) -> EmbeddingStore:
            if folder.name == "broken":
                raise InputError("its manifest is broken")
            return cls(folder)

        def verify(self) -> list[str]:
            return ["shard 3 differs"] if self.folder.name == "flipped" else []

    folders = [tmp_path / name for name in ("broken", "flipped", "good")]
    for folder in folders:
        folder.mkdir()
    plant("embedding.store", EmbeddingStore=EmbeddingStore, stores=lambda: folders)
    done = run("data", "verify")
    assert done.code == 1
    assert [line.rpartition("/")[2] for line in done.out.splitlines()] == [
        "broken: its manifest is broken",
        "flipped: shard 3 differs",
        "good: ok",
    ]
    assert run("data", "verify", folders[2]).code == 0


def test_user_commands_pass_on(run: Run, plant: Callable[..., None], tmp_path: Path) -> None:
    seen: list[Any] = []

    def record(*arguments: Any, **options: Any) -> Any:
        seen.append((arguments, options))
        return [{"response": "a", "score": 0.5}] if len(arguments) == 2 else {"bytes": 40}

    plant("user.files", adapt=record, score=record, rank=record)
    file = tmp_path / "file"
    file.write_text("x")
    adapted = run("user", "adapt", "--run", tmp_path, "--method", "mrm", "--pairs", file, "--out", "me", "--json")
    assert json.loads(adapted.out) == {"bytes": 40}
    assert seen[0][0] == (tmp_path, "mrm", file, Path("me"))
    assert seen[0][1] == {"dataset": None, "encoder": None, "split": 0, "selection": None, "device": "auto"}
    for command in ("score", "rank"):
        done = run("user", command, "--state", file, "--texts", file, "--device", "cpu", "--json")
        assert json.loads(done.out) == [{"response": "a", "score": 0.5}]
        assert seen[-1] == ((file, file), {"run": None, "encoder": None, "device": "cpu"})


def test_bench_passes_on(run: Run, plant: Callable[..., None]) -> None:
    plant("timing.fit", fit=lambda *arguments, **options: {"arguments": arguments, **options})
    done = run("bench", "fit", "--method", "lore", "--shape", "sim-prism", "--splits", "4", "--json")
    passed = {"full": False, "device": "auto", "precision": "highest"}
    assert json.loads(done.out) == {"arguments": ["lore", "sim-prism", 4], **passed}


def test_doctor_finds_nothing_wrong_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRBENCH_DATA", raising=False)
    # A folder of packages may hold Hugging Face's own `datasets`, which trl brings.
    places = {entry: Path(entry or ".") / "datasets" for entry in sys.path}
    plain = [entry for entry, place in places.items() if place.is_dir() and not (place / "__init__.py").is_file()]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in plain])
    done = run("doctor", "--json")
    found = json.loads(done.out)
    assert found["problems"] == []
    assert done.code == 0
    assert found["entries"] == {kind: len(registry.names(kind)) for kind in registry.KINDS}
    assert found["packages"]["torch"] != "not installed"
    assert "PRBENCH_HOME" in run("doctor").out


def test_doctor_finds_what_is_wrong(run: Run, mine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRBENCH_DATA", str(tmp_path / "absent"))
    (mine / "methods" / "gone.toml").write_text(METHOD.replace("bt_ridge:BTRidge", "bt_ridge:Gone"))
    shadow = tmp_path / "checkout"
    (shadow / "datasets").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(shadow)])
    # Where trl is installed the real package is on the path, and no folder is taken for it.
    inner = doctor.shadowing_folders
    monkeypatch.setattr(doctor, "shadowing_folders", lambda path: inner([str(shadow)] if str(shadow) in path else []))
    done = run("doctor", "--json", "--registry", mine)
    assert done.code == 1
    problems = json.loads(done.out)["problems"]
    for expected in (str(tmp_path / "absent"), "has no Gone", str(shadow / "datasets")):
        assert any(expected in problem for problem in problems), (expected, problems)


def test_doctor_says_why_the_caches_have_no_place(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def problems() -> list[str]:
        found: list[str] = json.loads(run("doctor", "--json").out)["problems"]
        return [problem for problem in found if "PRBENCH_HOME" in problem]

    file = tmp_path / "file"
    file.touch()
    for home in (file, file / "below"):
        monkeypatch.setenv("PRBENCH_HOME", str(home))
        said = (
            f"PRBENCH_HOME {home}: cannot write to {home}: {file} is not a folder: set PRBENCH_HOME to another folder"
        )
        assert problems() == [said]
    monkeypatch.setenv("PRBENCH_HOME", str(tmp_path))
    with monkeypatch.context() as proc:
        proc.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, free=0))
        said = f"PRBENCH_HOME {tmp_path} is where no files can be kept: set PRBENCH_HOME to another folder"
        assert problems() == [said]
    monkeypatch.setattr(doctor, "LITTLE_SPACE_GB", 1e9)
    [said] = problems()
    assert said.endswith(f"GB are free in PRBENCH_HOME {tmp_path}")


def test_shadowing_folders(tmp_path: Path) -> None:
    for name in ("checkout", "site"):
        (tmp_path / name / "datasets").mkdir(parents=True)
    path = [str(tmp_path / "checkout"), str(tmp_path / "empty"), str(tmp_path / "site")]
    assert doctor.shadowing_folders(path) == [tmp_path / "checkout" / "datasets", tmp_path / "site" / "datasets"]
    (tmp_path / "site" / "datasets" / "__init__.py").touch()
    assert doctor.shadowing_folders(path) == []


@pytest.mark.parametrize("words", [["list", "methods"], ["list", "methods", "--json"], ["--help"]])
def test_a_reader_who_stops_early_sees_no_traceback_and_no_code_for_failed_cells(words: list[str]) -> None:
    code = f"import os, sys; os.dup2(int(sys.argv[1]), 1); from prbench.cli import main; sys.exit(main({words!r}))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code, str(writing)], stderr=subprocess.PIPE, text=True, pass_fds=[writing], check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_gpu_that_is_not_there_is_refused_even_where_nothing_is_encoded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def none(*_: Any, **__: Any) -> None:
        raise RuntimeError("no GPU")

    monkeypatch.setattr(torch, "empty", none)
    assert "a build for CPUs alone" in refused(run("embed", "--dataset", "simulated", "--device", "cuda"))


def test_an_entry_with_a_wrong_parameter_is_one_line_for_check(run: Run, mine: Path) -> None:
    entry = mine / "methods" / "mine.toml"
    entry.write_text(METHOD.replace("[style]", "[params]\nwrong = 1\n[style]"))
    assert f"{entry}: params.wrong: BTRidge has no parameter 'wrong'" in refused(
        run("check", "mine", "--registry", mine)
    )


def test_results_of_another_version_are_refused_before_a_run(run: Run, tmp_path: Path) -> None:
    cell = tmp_path / "runs" / "simulated" / "own" / "bt" / "split-0-abc" / "cell.json"
    cell.parent.mkdir(parents=True)
    cell.write_text('{"format": 7}')
    words = ["run", "--methods", "bt", "--dataset", "simulated", "--splits", "1", "--out", tmp_path / "runs"]
    assert f"{cell} has results format 7" in refused(run(*words))
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_place_that_cannot_hold_results_is_refused_before_the_work(run: Run, tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    words = ["run", "--methods", "bt", "--dataset", "simulated", "--splits", "1", "--out", file / "runs"]
    if command == "report":
        words = ["report", "leaderboard", "--runs", tmp_path, "--out", file / "out"]
    assert f"cannot write to {file}/" in refused(run(*words))
    assert file.read_text() == "mine"


def test_a_file_that_the_system_refuses_is_named(run: Run, plant: Callable[..., None]) -> None:
    def plan(*_: Any, **__: Any) -> Plan:
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")

    plant("running.plan", Plan=Plan, plan=plan)
    assert refused(run("run", "--methods", "bt", "--dataset", "simulated")).startswith(
        "error: /some/file: Permission denied\n"
    )
