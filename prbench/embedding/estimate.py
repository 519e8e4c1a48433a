"""What embedding a data set would take, counted and estimated before anything starts."""

from __future__ import annotations

import math
import time
from typing import Any

import psutil

from prbench.base.console import stderr
from prbench.comparisons import PreferenceData
from prbench.embedding.job import EmbeddingJob, open_job
from prbench.embedding.stage import plan_embedding, sections_of
from prbench.embedding.store import KEY_BYTES, SHARD_ROWS
from prbench.encoders import OWN
from prbench.encoders.base import Encoder, EncodingWork
from prbench.registry.schema import EncoderEntry

# Seconds that measuring the rate takes, about, and the share of the free memory that weights may take for it.
MEASURED_SECONDS = 3.0
MEMORY_SHARE = 0.6


def account(
    data: PreferenceData,
    entry: EncoderEntry,
    *,
    family: str | None = None,
    device: str = "cpu",
    token_budget: int = 0,
) -> dict[str, Any]:
    """What `embed` would do, as plain values; needs the tokenizer and the data, and the weights only for the time.

    `example` is the first chosen reply as the model reads it. `texts` are both sides of every comparison, as the
    published scripts read them, and `tokens` theirs;
    `distinct_texts` and `distinct_tokens` count equal ones once. Of these, `missing` texts have no embedding yet:
    `packed_tokens` go through the model for them, padding included, and `shards` of `bytes` are written.
    `estimated_seconds` is the rate, measured on a sample with the weights at hand, times what is missing; where it
    cannot be measured both are None and `rate` says why. Raises InputError as `embed` does.
    """
    plan = plan_embedding(data, entry, family=family, device=device)
    record: dict[str, Any] = {
        "data": data.name,
        "encoder": entry.name,
        **plan.settings,
        "comparisons": len(data),
        "texts": 2 * len(data),
        "distinct_texts": plan.texts,
        "missing": plan.missing,
    }
    if entry.name != OWN:
        job = open_job(data, entry, family, device, token_budget)
        record |= _counts(job, data, device)
        if job.encoder is not None and len(data):
            # After the counts: a text that cannot be encoded has been named by its row.
            record["example"] = job.encoder.example(job.text(int(data.chosen[0])))
    return {**record, "fingerprint": plan.fingerprint, "folder": str(plan.folder or "")}


def _counts(job: EmbeddingJob, data: PreferenceData, device: str) -> dict[str, Any]:
    missing = job.missing()
    if job.encoder is None and not missing:
        return {"rate": f"nothing to encode; {job.unavailable}"}
    encoder = job.require_encoder()
    rows = job.first_rows()
    first = {job.keys[row]: row for row in rows}
    sections = sections_of(job)
    works = [section.work for section in sections]
    whole = len(sections) == 1 and sections[0].rows == rows
    every = works[0] if whole else job.plan(rows)
    tokens = distinct = None
    if every.lengths is not None:
        length = dict(zip(rows, every.lengths.tolist(), strict=True))
        of_item = [length[first[key]] for key in job.keys]
        tokens = sum(of_item[i] for side in (data.chosen, data.rejected) for i in side.tolist())
        distinct = sum(length.values())
    speed, basis = _rate(encoder, works[0], device) if works else (None, "nothing to encode")
    seconds = 0.0 if not works else sum(work.total for work in works) / speed if speed else None
    return {
        "tokens": tokens,
        **({} if every.different is None else {"different_token_sequences": every.different}),
        "distinct_tokens": distinct,
        "packed_tokens": sum(work.packed or 0 for work in works) if every.packed is not None else None,
        "shards": math.ceil(len(missing) / SHARD_ROWS),
        "bytes": len(missing) * _row_bytes(encoder, job),
        f"{every.unit}_per_second": speed,
        "rate": basis,
        "estimated_seconds": seconds,
        "estimated_time": "unknown" if seconds is None else _time(seconds),
    }


def _row_bytes(encoder: Encoder, job: EmbeddingJob) -> int:
    width = 4 if job.settings.get("dtype", "float32") == "float32" else 2
    return encoder.dim * width + KEY_BYTES + (4 if encoder.has_reward else 0)


def _rate(encoder: Encoder, work: EncodingWork, device: str) -> tuple[float | None, str]:
    """What of `work.total` is done in a second, measured on a sample of it, and what that was measured on."""
    size = encoder.weights_size()
    if size is None:
        return None, "unknown: the weights are not on this machine"
    free = _free_memory(device)
    if size > MEMORY_SHARE * free:
        return None, f"unknown: weights of {size / 1e9:.1f} GB in {free / 1e9:.1f} GB of free memory"
    stderr().print("measuring the rate on a sample")
    encoder.prepare(device)
    done = [(time.perf_counter(), 0)]
    for part in work.sample().run(device):
        done.append((time.perf_counter(), part.done))
        if done[-1][0] - done[0][0] > MEASURED_SECONDS and len(done) > 2:
            break
    # The first pass is slower than the others, where there are any.
    start = done[1][0] if len(done) > 2 else done[0][0]
    counted = sum(count for _, count in done[2 if len(done) > 2 else 1 :])
    seconds = done[-1][0] - start
    return counted / seconds, f"measured on {counted:,} {work.unit} with these weights on {device}"


def _free_memory(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _time(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {math.ceil(seconds)} seconds"
