"""A share of the texts of a data set, encoded beside the others by processes that know nothing of one another."""

from __future__ import annotations

from collections.abc import Callable

from prbench.embedding.job import EmbeddingJob
from prbench.embedding.stage import Pending, Section, checked_parts, those


def sections_of_share(job: EmbeddingJob, index: int, count: int) -> list[Section]:
    """The texts of share `index` of `count` that have no embedding yet, in the packing that all have together.

    The share is one of everything that had to be read at first, so it does not depend on how far the others are.
    Raises InputError as `EmbeddingJob.plan`.
    """
    missing = set(job.missing())
    before = job.store.stored_before(job.fingerprint)
    first = job.first_rows()
    sections = []
    for earlier in (False, True):
        rows = [row for row in first if (job.keys[row] in before) is earlier]
        # Of what was there before, only what has been lost since is read.
        if lacking := missing.intersection(rows):
            work = job.plan(rows).share(index, count)
            work = work.only([place for place, row in enumerate(rows) if row in lacking])
            sections.append(Section(rows, lacking, work))
    return sections


def encode_share(job: EmbeddingJob, index: int, count: int, device: str, watch: Callable[[float], None]) -> None:
    """Encode what share `index` of `count` lacks and store it, a shard at a time; `watch` hears of shares of that.

    Whoever divided the work has called `EmbeddingStore.begin`. Raises InputError as `prbench.embedding.stage.embed`.
    """
    encoder = job.require_encoder()
    job.store.reload()
    sections = sections_of_share(job, index, count)
    total = sum(section.work.total for section in sections)
    with job.store.writer(follows=True) as store:
        if total:
            encoder.prepare(device)
        pending = Pending(store, encoder)
        try:
            for section in sections:
                for part in checked_parts(job, section, device):
                    rows = [section.rows[row] for row in part.rows]
                    new = [place for place, row in enumerate(rows) if row in section.missing]
                    pending.add([job.keys[rows[place]] for place in new], those(part.encoded, new))
                    watch(part.done / total)
        except KeyboardInterrupt:
            pending.flush()
            raise
        pending.flush()
        job.store.reload()
        if not job.missing():
            store.note_data(job.data.name, job.data.fingerprint)
