"""What holds on a GPU: methods decide as on the CPU, engines agree, and `prbench bench gpu` measures them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import refuse_to_lack

from prbench.timing.gpu import agreement, reading, run
from prbench.timing.gpu.part import SIZES, Clock, Setting


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        refuse_to_lack("gpu")
        pytest.skip("computes on a GPU, and torch finds none here")


def setting(*methods: str) -> Setting:
    return Setting("cuda", SIZES["tiny"], methods, lambda _: None)


@pytest.mark.parametrize("method", ["bt-ridge", "em-k", "length", "drm", "item-bt", "pref"])
def test_a_method_decides_on_the_gpu_as_on_the_cpu(method: str) -> None:
    outcome = agreement.measure(setting(method), Clock(300))
    (row,) = outcome.rows
    assert row["verdict"] in agreement.AGREEING, row
    assert row["accuracy_device"] > 0.55


def test_engines_agree_and_memory_that_runs_out_halves_the_budget() -> None:
    gpu = setting()
    outcome = reading.measure(gpu, Clock(120))
    assert {row["engine"] for row in outcome.rows} == {"batch1", "trie", "padded"}
    assert all(row["within_noise"] for row in outcome.rows)


def test_the_command_says_that_it_measured_a_gpu(tmp_path: Path) -> None:
    run.measure(tmp_path, size="tiny", methods=["bt-ridge"], say=lambda _: None)
    found = json.loads((tmp_path / run.JSON).read_text(encoding="utf-8"))
    assert found["on_gpu"]
    assert found["parts"]["machine"]["facts"]["gpu"] == torch.cuda.get_device_name()
    assert [row["verdict"] for row in found["parts"]["agreement"]["rows"]] != ["failed"]
