"""What the stored embeddings of a data set tell of it: texts that the encoder left out, and replies it sees alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from prbench.base.errors import InputError
from prbench.comparisons import PreferenceData
from prbench.embedding.stage import embed, plan_embedding
from prbench.encoders import OWN, encoder_entry_for
from prbench.registry.schema import DatasetEntry


def stored(data: PreferenceData, entry: DatasetEntry) -> dict[str, Any]:
    """What the store of the entry's encoder says, without encoding anything.

    `missing` are the distinct texts still to be encoded. Where there are none, `texts` and `vectors` are the distinct
    texts and the distinct embeddings of them, `equal_vectors` the comparisons whose two replies have the same one,
    and `template_loss` is "allow" where the chat template may leave out part of a text. `problem` is there instead
    where the encoder cannot be asked.
    """
    encoder = encoder_entry_for(OWN if data.embedded is not None else entry.encoder)
    found: dict[str, Any] = {"encoder": encoder.name}
    try:
        plan = plan_embedding(data, encoder, family=entry.family)
        if plan.missing:
            return found | {"missing": plan.missing}
        items = embed(data, encoder, family=entry.family)
    except InputError as error:
        return found | {"problem": str(error.args[0])}
    bits = items.embedding.contiguous().view(torch.uint8).numpy()
    distinct = len(np.unique(bits.view(np.dtype((np.void, bits.shape[1])))))
    return found | {
        "missing": 0,
        "texts": plan.texts,
        "vectors": distinct,
        "equal_vectors": int(data.comparisons(items).equal_vectors.sum()),
        "template_loss": plan.settings.get("template_loss") or "refuse",
    }
