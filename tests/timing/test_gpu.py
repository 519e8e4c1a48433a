"""`prbench bench gpu` without a GPU: every part at a tiny size, what it imports, and what it says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prbench import cli
from prbench.base.errors import InputError
from prbench.encoders.engines import NOISE
from prbench.timing import embed, fit
from prbench.timing.gpu import agreement, fits, page, reading, run
from prbench.timing.gpu.choosing import TABLE_1, TABLE_2, entries
from prbench.timing.gpu.part import SIZES, Clock, Setting

CHECKOUT = Path(__file__).parents[2]

ALONE = '''
import sys

ALLOWED = {"torch", "numpy", "scipy", "psutil", "threadpoolctl", "pydantic", "safetensors", "typing_extensions"}
BLOCKED = {
    "typer", "rich", "jinja2", "pandas", "matplotlib", "seaborn", "pyarrow", "huggingface_hub", "requests", "pooch",
    "platformdirs", "filelock", "optuna", "plotly", "networkx", "yaml", "defusedxml", "transformers", "tokenizers",
}
asked = set()


class Watch:
    """Refuses what a bare machine lacks, and whatever else prbench itself asks for."""

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        by = frame.f_globals.get("__name__", "") if frame is not None else ""
        own = by.partition(".")[0] == "prbench"
        if own and top not in ALLOWED and top not in sys.stdlib_module_names and top != "prbench":
            asked.add(top)
        if top in BLOCKED:
            raise ImportError(f"{name} is not on this machine")
        return None


sys.meta_path.insert(0, Watch())
sys.argv[1:] = ["--device", "cpu", "--methods", "bt-ridge,length", "--out", sys.argv[1]]
import runpy

try:
    runpy.run_module("prbench.timing.gpu", run_name="__main__")
except SystemExit as end:
    print(sorted(asked), file=sys.stderr)
    sys.exit(end.code or (3 if asked - {"transformers"} else 0))
'''
"""A program that measures on a machine with nothing but the few packages that are promised."""


def setting(*methods: str) -> Setting:
    return Setting("cpu", SIZES["tiny"], methods, lambda _: None)


def test_a_bare_machine_measures_and_says_what_it_left_out(tmp_path: Path) -> None:
    out = tmp_path / "gpu"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(out)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / run.JSON).read_text(encoding="utf-8"))
    assert not found["on_gpu"]
    assert "not a measurement of a GPU" in found["what"]
    parts = found["parts"]
    assert list(parts) == ["machine", "reading", "memory", "fits", "agreement"]
    assert not any("traceback" in part for part in parts.values())
    assert parts["reading"]["left_out"] == [reading.NO_TRANSFORMERS]
    assert [row["method"] for row in parts["fits"]["rows"]] == ["bt-ridge", "length"]
    assert {row["method"]: row["verdict"] for row in parts["agreement"]["rows"]} == {
        "bt-ridge": "identical",
        "length": "identical",
    }
    html = (out / run.PAGE).read_text(encoding="utf-8")
    assert run.NO_GPU in html
    assert reading.NO_TRANSFORMERS in html
    assert "<script" not in html
    assert "http" not in html


def test_a_machine_without_a_gpu_is_refused_unless_the_cpu_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "gpu", "--out", str(tmp_path / "gpu")]) == 2
    said = capsys.readouterr().err
    assert "no GPU" in said
    assert "--device cpu" in said
    assert not (tmp_path / "gpu").exists()
    with pytest.raises(InputError, match="no such size"):
        run.measure(tmp_path, device="cpu", size="huge")


def test_engines_are_timed_and_compared_with_texts_read_alone() -> None:
    with_model = setting()
    outcome = reading.measure(with_model, Clock(60))
    rows = {(row["engine"], row["texts_like"]): row for row in outcome.rows}
    assert {name for name, _ in rows} == {"batch1", "trie", "padded"}
    for row in outcome.rows:
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["share_of_product_rate"] < 2
        assert row["within_noise"]
    prism = embed.conversations(embed.SIZES["tiny"].conversations, embed.SIZES["tiny"].scale)
    assert rows["batch1", "prism"]["tokens"] == sum(map(len, prism.sequences))
    assert rows["batch1", "prism"]["largest_difference"] == 0
    assert 0 < rows["trie", "prism"]["largest_difference"] < NOISE[torch.float32]
    assert rows["trie", "prism"]["tokens"] < rows["batch1", "prism"]["tokens"]
    exhausted = reading.exhaust(with_model, Clock(60))
    assert exhausted.facts["halved_to"] == sorted(exhausted.facts["halved_to"], reverse=True)
    assert len(exhausted.facts["halved_to"]) >= 1
    assert exhausted.goals[0].met


def test_a_state_that_comes_out_wrong_is_a_goal_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reading._pass

    def wrong(*args: object) -> tuple[torch.Tensor, int]:
        states, tokens = whole(*args)  # type: ignore[arg-type]
        return (states * 1.01 if args[2] == "trie" else states), tokens

    monkeypatch.setattr(reading, "_pass", wrong)
    outcome = reading.measure(setting(), Clock(60))
    assert outcome.goals[1].met is False
    assert {row["engine"] for row in outcome.rows if not row["within_noise"]} == {"trie"}


def test_no_time_leaves_everything_out_by_name() -> None:
    outcome = fits.measure(setting("bt", "mrm"), Clock(0))
    assert outcome.rows == []
    assert outcome.left_out == ["simulated: bt, mrm (the time was up)"]
    assert [goal.met for goal in outcome.goals] == [None, None]
    assert reading.measure(setting(), Clock(0)).rows == []


def test_a_fit_is_projected_from_its_updates() -> None:
    outcome = fits.measure(setting("mrm"), Clock(60))
    (row,) = outcome.rows
    assert row["fit_seconds"] == pytest.approx(row["setup_seconds"] + row["updates"] * row["seconds_per_update"])
    assert row["ratio_to_loop"] == pytest.approx(row["loop_seconds"] / row["seconds_per_update"])
    assert row["rest_seconds"] > 0
    # The grid is projected from all its methods or not at all; MRM's ratio is known.
    assert [goal.met is None for goal in outcome.goals] == [True, False]


def test_the_grid_counts_both_reddit_shapes() -> None:
    rows = [{"shape": s, "method": m, "fit_seconds": 10.0, "rest_seconds": 1.0} for s in ("a", "b") for m in TABLE_1]
    size = SIZES["real"]
    for row in rows:
        row["shape"] = size.shapes["ab".index(str(row["shape"]))]
    goal = fits._goals(Setting("cuda", size, None, lambda _: None), rows)[0]
    assert goal.measured == pytest.approx(11 * 3 * len(TABLE_1))
    assert goal.met
    assert fits._goals(Setting("cuda", size, None, lambda _: None), rows[1:])[0].measured is None


def side(device: str, margin: list[float], accuracy: float) -> agreement.Fitted:
    return agreement.Fitted("lore", device, 1.0, [np.array(margin)], [accuracy])


def test_the_rule_of_agreement() -> None:
    many = np.linspace(-1, 1, 200).tolist()
    cpu = side("cpu", many, 0.6)
    assert agreement.compared(cpu, side("cuda", many, 0.6), None)["verdict"] == "identical"
    nearly = agreement.compared(cpu, side("cuda", [m + 1e-4 for m in many], 0.6), None)
    assert nearly["verdict"] == "agrees"
    assert nearly["largest_margin_difference"] == pytest.approx(1e-4)
    # Four of 200 decisions are more than 1%.
    moved = [-m if 98 <= i < 102 else m for i, m in enumerate(many)]
    differs = agreement.compared(cpu, side("cuda", moved, 0.6), None)
    assert (differs["verdict"], differs["decisions_that_differ"]) == ("differs", 0.02)
    assert agreement.compared(cpu, side("cuda", [*many[:-1], 2.0], 0.606), None)["verdict"] == "differs"
    # Where random starts are worth 1.25 points, one split's mean may differ by twice 1.77.
    assert agreement.compared(cpu, side("cuda", moved, 0.63), 1.25)["verdict"] == "agrees within random starts"
    assert agreement.compared(cpu, side("cuda", moved, 0.64), 1.25)["verdict"] == "differs"


def test_every_method_without_a_judge_is_measured_and_the_papers_come_first() -> None:
    names = [entry.name for entry in entries(Setting("cpu", SIZES["tiny"], None, lambda _: None))]
    assert tuple(names[: len(TABLE_1) + len(TABLE_2)]) == (*TABLE_1, *TABLE_2)
    assert {"copl", "micro", "pal-b", "spl", "bt-ridge", "mrm-steps-20"} < set(names)
    assert not {"judge", "synthesizeme", "persrm"} & set(names)
    assert names.index("spl") < names.index("mrm-steps-20")


def test_items_have_their_prompts_mean() -> None:
    items = fit.shape_of("simulated", 1).comparisons.items
    prompt = np.arange(len(items)) // 4
    means = agreement.prompt_means(items, prompt)
    torch.testing.assert_close(means[5], items.embedding[4:8].mean(0))
    assert torch.equal(means[4], means[7])


def test_the_page_escapes_and_names_what_is_missing() -> None:
    part = {
        "facts": {},
        "rows": [{"method": "<b>", "error": "a & b"}],
        "goals": [],
        "left_out": ["<i>"],
        "seconds": 1,
    }
    html = page.render(
        {"parts": {"fits": part}, "on_gpu": True, "what": "", "prbench": "1", "commit": "", "begun": "", "seconds": 1.0,
         "minutes_allowed": 9, "size": "real"}
    )  # fmt: skip
    assert "&lt;b&gt;" in html
    assert "a &amp; b" in html
    assert "<li>&lt;i&gt;</li>" in html


@pytest.mark.extras
def test_processes_share_the_fits(tmp_path: Path) -> None:
    shared = Setting("cpu", SIZES["tiny"], ("bt-ridge", "length", "drm"), lambda _: None, workers=2)
    outcome = agreement.measure(shared, Clock(120))
    assert {row["method"]: row["verdict"] for row in outcome.rows}["bt-ridge"] == "identical"
    stopped = agreement.measure(shared, Clock(0))
    assert stopped.rows == []
    assert len(stopped.left_out) == 3
