"""Shares of an embedding as jobs: described, handed over and done elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from planted_encoder import entry, texts_data

from prbench import registry
from prbench.embedding import stage
from prbench.running import embedding_jobs
from prbench.running.cluster.batch import Task
from prbench.running.execution import Execution
from prbench.running.request import EmbedDescription


def test_shares_are_jobs_that_slurm_can_do(
    monkeypatch: pytest.MonkeyPatch, prbench_home: Path, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    handed: list[Task] = []

    def take(folder: Path, tasks: list[Task], needs: Any, execution: Any) -> list[str]:
        handed.extend(tasks)
        return [f"{n + 1}-1" for n in range(len(tasks))]

    monkeypatch.setattr("prbench.running.cluster.slurm.submit", take)
    monkeypatch.chdir(tmp_path)
    dataset, made = registry.get("datasets", "sim-text"), entry()
    texts = texts_data([f"reply {i}" for i in range(30)])
    monkeypatch.setattr(embedding_jobs.datasets, "load", lambda entry: texts)
    where = Execution(executor="slurm", slurm=(("cluster", "local"),))
    listener = embedding_jobs.embed(texts, dataset, made, where, shares=2)
    assert listener is not None
    assert embedding_jobs.summary(listener) == {"shares_handed_over": 2}
    for task in handed:
        job = EmbedDescription.model_validate_json(task.description)
        assert (job.dataset, job.count, list(job.code)) == ("sim-text", 2, [made.target])
        task()
    assert embedding_jobs.embed(texts, dataset, made, where) is None
    assert stage.plan_embedding(texts, made, family=dataset.family).missing == 0
