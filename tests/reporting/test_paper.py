"""The paper's report as a whole: its files, what it names as missing, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from paper_results import Store, files, piece
from small_runs import make_plan, registry_folder, short, without_digests

from prbench import cli, registry
from prbench.base.errors import InputError
from prbench.registry import set_options
from prbench.registry.pieces import read_pieces
from prbench.reporting import piece as mark_piece
from prbench.reporting.paper import paper
from prbench.reporting.paper.evidence import Evidence
from prbench.reporting.placing import placed
from prbench.running import probe as probes
from prbench.running import run
from prbench.running.report import needs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOUR = range(4)
TABLE: dict[str, Any] = {
    "name": "table",
    "target": "prbench.reporting.paper.tables:accuracy",
    "title": "A table",
    "shows": "Accuracy.",
    "methods": ["bt", "lore", "vpl"],
}
CURVE = TABLE | {"name": "curve", "target": "prbench.reporting.paper.curves:robustness", "title": "A figure"}
SHOTS = TABLE | {"name": "shots", "target": "prbench.reporting.paper.curves:few_shot", "shots": [0, 5]}


def two_methods(splits: int = 2, **options: Any) -> Store:
    store = Store()
    for split in range(splits):
        store.add("bt", dict.fromkeys(FOUR, 0.6), split=split, **options)
        store.add("lore", dict.fromkeys(FOUR, 0.7), split=split, **options)
    return store


def written(store: Store, out: Path, *pieces: dict[str, Any], **options: Any) -> dict[str, bytes]:
    paper(store.results(), out, pieces=list(pieces), resamples=199, **options)
    return files(out)


@pytest.fixture
def runs(prbench_home: Path, tmp_path: Path) -> Iterator[Path]:
    """Two splits of a small simulated data set, made and probed."""
    registry.reset()
    registry.use([registry_folder(tmp_path / "registry")])
    names = ["bt", "lore", "lore-early", "mrm"]
    out = tmp_path / "runs"
    plan = make_plan(names, ["tiny"], overrides=[], shots=[0, 2], out=out, splits=2)
    for job in plan.jobs:
        short_parameters = set_options.parse_sets(short(job.name)).get(job.name, {})
        make = job.make
        job.make = lambda make=make, changed=short_parameters: type(make())(**{**make().hyper_parameters, **changed})  # type: ignore[misc]
    run.execute(plan)
    probes.execute(probes.tasks(out, noise=[0.2], support=True))
    yield out
    registry.reset()


def test_every_piece_of_the_papers_report_is_made_or_named(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["report", "paper", "--runs", str(runs), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert sorted(said.out.split()) == sorted(str(path) for path in out.iterdir())
    index = (out / "index.md").read_text()
    pieces = read_pieces(registry.get("reports", "paper").options["pieces"], "paper")
    parts = dict(zip((p.name for p in pieces), re.split(r"^## ", index, flags=re.MULTILINE)[1:], strict=False))
    made = {p.name for p in pieces if (out / f"{p.name}.csv").is_file()}
    assert {name for name, text in parts.items() if "Not made" in text} == {p.name for p in pieces} - made
    assert made >= {
        "table-1",
        "table-2",
        "figure-3",
        "figure-6",
        "figure-7",
        "efficiency",
        "personalisation",
        "gains",
    }
    assert made >= {"overfitting", "calibration", "ranks", "label-noise"}
    assert not made & {"figure-4-rho", "figure-5", "oracle", "transfer"}
    for name in made:
        stem = out / name
        assert stem.with_suffix(".png").is_file() == stem.with_suffix(".pdf").is_file()
        assert stem.with_suffix(".md").is_file() == stem.with_suffix(".tex").is_file()
        assert stem.with_suffix(".png").is_file() or stem.with_suffix(".md").is_file()
    assert "tiny (own), not run: bt-ridge, gpo" in index
    assert "Cannot be: BT on prism" in index
    page = (out / "index.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == len(list(out.glob("*.png")))
    assert all(p.title in page for p in pieces if "&" not in p.title)


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (
        written(two_methods(), tmp_path / name, TABLE, CURVE, published=["mrm"]) for name in ("first", "second")
    )
    kinds = {name.rpartition(".")[2] for name in first}
    assert kinds == {"csv", "md", "tex", "png", "pdf", "html"}
    assert first == second


def test_what_is_missing_is_named_with_its_reason(tmp_path: Path) -> None:
    store = two_methods().cell("vpl", status="failed", reason="RuntimeError: no luck")
    store.cell("vpl", split=1, status="failed", reason="RuntimeError: no luck")
    store.add("mrm", dict.fromkeys(FOUR, 0.5), split=0)
    both = TABLE | {"methods": ["bt", "lore", "vpl", "mrm", "pal"]}
    index = written(store, tmp_path, both)["index.md"].decode()
    missing = [line for line in index.splitlines() if line.startswith("- convarg")]
    assert sorted(missing) == [
        "- convarg (minilm), 1 of 2 splits (not run): mrm",
        "- convarg (minilm), failed: RuntimeError: no luck: vpl",
        "- convarg (minilm), not run: pal",
    ]


def test_rows_that_lack_splits_are_in_no_figure() -> None:
    store = two_methods().add("mrm", dict.fromkeys(FOUR, 0.9), split=0)
    made = store.make(piece("curves:robustness", ["bt", "lore", "mrm"]))
    assert set(made.frame["method"]) == {"bt", "lore"}
    assert made.missing == ["convarg (minilm), 1 of 2 splits (not run): mrm"]


def test_a_piece_without_results_is_named_and_what_was_there_goes(tmp_path: Path) -> None:
    (tmp_path / "shots.png").write_text("of an earlier report")
    found = written(two_methods(), tmp_path, TABLE, SHOTS)
    assert not [name for name in found if name.startswith("shots")]
    index = found["index.md"].decode()
    assert "Not made: its results are not there." in index
    assert "- convarg (minilm): run with --shots 0,5,all" in index


def test_a_methods_other_rules_do_not_stand_for_its_own() -> None:
    store = two_methods()
    for split in range(2):
        # LoRe's recipe asks for its last step.
        store.add("lore", dict.fromkeys(FOUR, 0.9), split=split, selection="validation")
        store.add("lore", dict.fromkeys(FOUR, 1.0), split=split, selection="test-oracle")
    made = store.make(piece("tables:accuracy", ["bt", "lore"]))
    assert made.frame["overall"].tolist() == pytest.approx([0.7, 0.6])


def test_figures_can_be_read_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    store = two_methods()
    for part in (two_methods(dataset="crowdrag"), two_methods(dataset="other")):
        store.frames += part.frames
        store.cells += part.cells
    written(store, tmp_path, TABLE, CURVE)
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "index.html").as_uri())
    picture = page.locator(".picture")
    # Two panels of 3.3 inches at 96 pixels each.
    assert picture.locator("img").evaluate("e => e.clientWidth") == 634
    assert picture.evaluate("e => e.clientWidth") < 390
    picture.focus()
    page.keyboard.press("ArrowRight")
    assert picture.evaluate(
        "e => new Promise(done => { const look = () => e.scrollLeft > 0 ? done(true) : setTimeout(look, 20); look(); })"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 1366, "height": 844})
    assert picture.evaluate("e => e.scrollWidth <= e.clientWidth")
    context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_marks_and_captions_say_what_they_are(tmp_path: Path) -> None:
    found = written(two_methods(3), tmp_path, TABLE)
    markdown, latex = found["table.md"].decode(), found["table.tex"].decode()
    assert "Mean ± standard deviation over 3 splits" in markdown
    assert "Bold: best; underlined: second." in markdown
    assert "†: p &lt; 0.05 in a plain paired t-test" in markdown
    assert r"\label{table:convarg:minilm}" in latex
    assert r"\toprule" in latex


@pytest.mark.parametrize(
    "figure",
    ["curves:robustness", "personal:flips", "personal:gains", "personal:calibration",
     "ranks:ranks"],
)  # fmt: skip
def test_every_panel_names_data_encoder_and_splits(figure: str) -> None:
    store = two_methods()
    store.frames += two_methods(dataset="crowdrag").frames
    store.cells += two_methods(dataset="crowdrag").cells
    made = store.make(piece(figure, ["bt", "lore"]))
    assert made.figure is not None
    titles = [axes.get_title() for axes in made.figure.axes]
    assert [title.partition(", Friedman")[0] for title in titles] == [
        "convarg (minilm), 2 splits",
        "crowdrag (minilm), 2 splits",
    ]


def test_methods_are_told_apart_without_colour_and_keep_their_look() -> None:
    from prbench.reporting.figure import looks

    pieces = read_pieces(registry.get("reports", "paper").options["pieces"], "paper")
    evidence = Evidence(placed(two_methods().results()), "bt", 0.05, 199, pieces=pieces)
    shown = list(dict.fromkeys(m for p in pieces if not p.parameter for m in p.methods))
    found = looks(evidence, shown)
    markers = [(look["marker"], look["fillstyle"], look["markerfacecolor"] == "white") for look in found.values()]
    assert len(set(markers)) == len(markers)
    squares = {found[name]["marker"] for name in shown if evidence.family(name) == "personalised input"}
    triangles = {found[name]["marker"] for name in shown if evidence.family(name) == "personalised parameters"}
    assert squares <= set("sD")
    assert triangles <= set("^v<>")
    assert looks(evidence, ["mrm", "lore"])["mrm"] == found["mrm"]


# --- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "piece table: colour: extra inputs are not permitted"),
        ({"methods": "bt"}, "piece table: methods: input should be a valid list"),
        ({"methods": []}, "piece table names no methods"),
        ({"methods": ["bt", "lor"]}, "piece table: unknown method 'lor'; did you mean lore"),
        ({"ours": ["mmr"]}, "piece table: unknown method 'mmr'"),
        ({"parameter": "rho", "values": [1.0]}, "piece table: 1 values for 3 methods"),
        ({"parameter": "rho"}, "piece table: 0 values for 3 methods"),
        ({"target": "prbench.reporting.paper.tables:acuracy"}, "piece table: target .* has no acuracy"),
        ({"target": "prbench.reporting.nothing:x"}, "piece table: target .* there is no module"),
        ({"target": "tables"}, "piece table: target: string should match pattern"),
    ],
)
def test_malformed_pieces_are_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as refused:
        written(two_methods(), tmp_path, TABLE | change)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_pieces_have_names_of_their_own() -> None:
    with pytest.raises(InputError, match="two pieces are called 'table'"):
        read_pieces([TABLE, TABLE], "here")
    with pytest.raises(InputError, match="piece number 2: "):
        read_pieces([TABLE, 3], "here")


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"alpha": 1.5},
        {"alpha": "5%"},
        {"alpha": True},
        {"resamples": 10},
        {"resamples": 1e4},
        {"baseline": "nope"},
        {"baseline": ""},
        {"baseline": 3},
        {"baseline": ["bt"]},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    [(name, value)] = options.items()
    with pytest.raises(InputError, match=re.escape(f"{name} is {value!r}, ")) as refused:
        paper(two_methods().results(), tmp_path, pieces=[TABLE], **options)
    assert "[options] of the report's entry" in str(refused.value.hint)
    assert not list(tmp_path.iterdir())


def test_an_unknown_baseline_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'lor', which no row has; did you mean lore\?") as refused:
        paper(two_methods().results(), tmp_path, pieces=[TABLE], baseline="lor")
    assert refused.value.hint == "correct --baseline or [options] of the report's entry: there are bt, lore"


def test_a_piece_that_fails_leaves_no_files_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @mark_piece
    def breaks(*_: Any) -> None:
        raise InputError("it broke")

    monkeypatch.setattr("prbench.reporting.paper.tables.ablation", breaks)
    broken = TABLE | {"name": "broken", "target": "prbench.reporting.paper.tables:ablation"}
    with pytest.raises(InputError, match="it broke"):
        written(two_methods(), tmp_path, TABLE, broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_without_any_finished_cell_every_piece_says_why(tmp_path: Path, state: str) -> None:
    store = Store()
    for method in ("bt", "lore"):
        store.cell(method, status=state, reason="it cannot be")
    store.frames.append(two_methods().results().scores.iloc[:0])
    options = registry.get("reports", "paper").options
    found = written(store, tmp_path, *options["pieces"], published=options["published"])
    # One figure counts the parameters of methods, which needs no results.
    # Its panels and its legend are files of their own too, and splits.csv has a header and no line.
    kinds = ("csv", "md", "tex", "png", "pdf", "d-4-096.pdf", "stored-per-user.pdf", "legend.pdf")
    assert sorted(found) == sorted(["index.md", "splits.csv", *(f"figure-7.{kind}" for kind in kinds)])
    assert len(found["splits.csv"].splitlines()) == 1
    index = (tmp_path / "index.md").read_text()
    assert f"convarg (minilm), {state}: it cannot be: bt, lore" in index
    assert index.count("Not made: its results are not there.") == len(options["pieces"]) - 1


def test_results_of_two_fingerprints_share_no_report(tmp_path: Path) -> None:
    store = two_methods().add("vpl", dict.fromkeys(FOUR, 0.6), split=0, data_fingerprint="data2")
    with pytest.raises(InputError, match="differ in data: data2 and data1"):
        written(store, tmp_path, TABLE)
    assert not list(tmp_path.iterdir())


def test_broken_and_foreign_folders_are_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> str:
        assert cli.main(["report", "paper", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 2
        lines = capsys.readouterr().err.splitlines()
        error, *hint = [line for line in lines if "prbench kept digests" not in line]
        assert error.startswith("error: ")
        assert len(hint) <= 1
        return error

    probe = next(iter(runs.glob("*/*/lore/*/probe-noise-0.2.parquet")))
    without_digests(probe.parent)
    good = probe.read_bytes()
    probe.write_bytes(good[:100])
    assert f"{probe} is unreadable" in refused()
    probe.write_bytes(good)
    strange = probe.with_name("probe-noise-much.parquet")
    strange.write_bytes(good)
    assert "is not a probe of this prbench" in refused()
    strange.unlink()
    record = probe.parent / "cell.json"
    whole = record.read_text()
    keys = ("format", "dataset", "encoder", "method", "selection", "split", "status")
    record.write_text(json.dumps({key: json.loads(whole)[key] for key in keys}))
    assert f"{record} is not a record of a cell: it lacks encoder_entry, title" in refused()
    record.write_text("{")
    assert f"{record} is unreadable" in refused()
    record.write_text(whole)
    scores = record.with_name("scores-all.parquet")
    scores.write_bytes(b"PAR1 but nothing else")
    assert f"{scores} is unreadable" in refused()
    foreign = tmp_path / "foreign"
    (foreign / "a" / "b").mkdir(parents=True)
    (foreign / "a" / "b" / "results.json").write_text("{}")
    assert cli.main(["report", "paper", "--runs", str(foreign), "--out", str(tmp_path / "out")]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_a_method_can_be_added_and_one_that_no_piece_shows_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = two_methods()
    for split in range(2):
        store.add("mrm", dict.fromkeys(FOUR, 0.8), split=split)
    sweep = CURVE | {"name": "sweep", "parameter": "bases", "values": [1.0, 2.0, 3.0]}
    made = written(store, tmp_path / "plain", TABLE, sweep)
    assert "in no table or figure: mrm" in capsys.readouterr().err
    assert "in no table or figure: mrm" in made["index.md"].decode()
    assert b"mrm" not in made["table.csv"]
    made = written(store, tmp_path / "also", TABLE, sweep, also="mr*")
    assert "in no table or figure" not in capsys.readouterr().err
    assert b"mrm" in made["table.csv"]
    # A sweep shows the values of its parameter and nothing else.
    assert b"mrm" not in made["sweep.csv"]
    with pytest.raises(InputError, match="--also lroe: no row fits it"):
        paper(store.results(), tmp_path / "none", pieces=[TABLE], also="lroe")
    assert not (tmp_path / "none").exists()


def test_each_panel_is_a_file_without_its_title(tmp_path: Path) -> None:
    store = two_methods()
    for split in range(2):
        store.add("bt", dict.fromkeys(FOUR, 0.6), split=split, dataset="crowdrag")
    written(store, tmp_path, CURVE)
    panels = sorted(path.name for path in tmp_path.glob("curve.*.pdf"))
    assert panels == ["curve.convarg-minilm-2-splits.pdf", "curve.crowdrag-minilm-2-splits.pdf", "curve.legend.pdf"]
    # What an earlier report drew and this one does not is gone.
    written(two_methods(), tmp_path, CURVE)
    assert not list(tmp_path.glob("curve.crowdrag*"))


def test_a_piece_that_is_wrong_in_an_extended_report_names_that_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "own" / "reports"
    folder.mkdir(parents=True)
    file = folder / "mine.toml"
    file.write_text('extends = "paper"\n[[options.pieces]]\nname = "table-1"\nmethods = ["lroe"]\n')
    registry.use([tmp_path / "own"])
    entry = registry.get("reports", "mine")
    with pytest.raises(InputError, match=rf"{re.escape(str(file))}: piece table-1: .*lroe"):
        paper(two_methods().results(), tmp_path / "out", pieces=entry.options["pieces"])
    registry.reset()


# --- what a run must make


def test_needs_name_each_cell_and_probe_once() -> None:
    pieces = [
        piece("tables:accuracy", ["bt", "lore"]),
        piece("curves:few_shot", ["lore"], shots=[5, 0]),
        piece("curves:few_shot", ["lore", "mrm"], shots=[0, 10]),
        piece("optimism:oracle", ["lore"], selections=["published", "test-oracle"]),
        piece("curves:noise", ["lore"], noise=[0.2]),
        piece("curves:noise", ["lore", "mrm"], noise=[0.1, 0.2]),
        piece("personal:gap", ["mrm", "bt"], support=True),
        piece("transfer:transfer", ["bt"], transfer=True),
    ]
    found = needs(pieces, "bt-ridge")
    assert found.shots == {
        ("published", "bt-ridge"): (-1,),
        ("published", "bt"): (-1,),
        ("published", "lore"): (-1, 0, 5, 10),
        ("published", "mrm"): (-1, 0, 10),
        ("test-oracle", "lore"): (-1,),
    }
    assert found.methods("test-oracle") == ["lore"]
    assert found.noise == {"lore": (0.1, 0.2), "mrm": (0.1, 0.2)}
    assert found.support == ("mrm", "bt")
    assert found.transfer == ("bt",)
