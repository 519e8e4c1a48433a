"""What the stored embeddings of a data set tell of it: texts that the encoder left out, and replies it sees alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData
from prbench.embedding.job import EmbeddingJob, open_job
from prbench.embedding.stage import embed
from prbench.encoders import OWN, encoder_entry_for
from prbench.encoders.base import TextError
from prbench.registry.schema import DatasetEntry


def stored(data: PreferenceData, entry: DatasetEntry, encoder: str = "") -> dict[str, Any]:
    """What the store of `encoder` (default: the data set's own) says, without encoding anything.

    `lost_texts` are the distinct texts of which the model's chat template leaves something out; it is there where
    the model's files are. `missing` are the distinct texts still to be encoded. Where there are none, `texts` and
    `vectors` are the distinct texts and the distinct embeddings of them, `equal_vectors` the comparisons whose two
    replies have the same one, and `template_loss` is "allow" where the chat template may leave out part of a text.
    `problem` is there instead where the encoder cannot be asked. Raises InputError for an encoder that is not known.
    """
    chosen = encoder_entry_for(OWN if data.embedded is not None and not encoder else encoder or entry.encoder)
    record: dict[str, Any] = {"encoder": chosen.name}
    texts, loss = data.n_items, "refuse"
    try:
        if data.embedded is None and chosen.name != OWN:
            job = open_job(data, chosen, entry.family, "cpu")
            texts, missing = len(set(job.keys)), len(job.missing())
            loss = str(job.settings.get("template_loss") or loss)
            if job.encoder is not None:
                record["lost_texts"] = _lost(job)
            if missing:
                return record | {"missing": missing}
        items = embed(data, chosen, family=entry.family)
    except InputError as error:
        return record | {"problem": str(error.args[0])}
    bits = items.embedding.contiguous().view(torch.uint8).numpy()
    distinct = len(np.unique(bits.view(np.dtype((np.void, bits.shape[1])))))
    return record | {
        "missing": 0,
        "texts": texts,
        "vectors": distinct,
        "equal_vectors": int(data.comparisons(items).equal_vectors.sum()),
        "template_loss": loss,
    }


def _lost(job: EmbeddingJob) -> int:
    """The distinct texts of which the encoder leaves something out. Raises InputError for one it cannot write."""
    rows = job.first_rows()
    try:
        return job.require_encoder().lost_texts([job.text(row) for row in rows])
    except TextError as error:
        raise job.cannot_encode(rows[error.row], error.why) from error
