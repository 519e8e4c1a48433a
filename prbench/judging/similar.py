"""How much texts have in common: cosine of word counts, rare words weighing more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from prbench.comparisons import FloatArray

WORD = re.compile(r"\w+")


def similarities(query: str, texts: Sequence[str]) -> FloatArray:
    """Cosine of the tf-idf vectors of `query` and of each text, [n], with idf = ln((1 + n) / (1 + df)) + 1 over the
    `texts` alone (Salton and Buckley 1988, smoothed). 0 where nothing is shared.
    """
    counts = [Counter(WORD.findall(text.lower())) for text in (*texts, query)]
    spread = Counter(word for count in counts[:-1] for word in count)

    def weights(count: Counter[str]) -> dict[str, float]:
        return {word: n * (np.log((1 + len(texts)) / (1 + spread[word])) + 1) for word, n in count.items()}

    asked = weights(counts[-1])
    size = np.sqrt(sum(value**2 for value in asked.values()))
    found = []
    for count in counts[:-1]:
        own = weights(count)
        shared = sum(value * asked[word] for word, value in own.items() if word in asked)
        norm = size * np.sqrt(sum(value**2 for value in own.values()))
        found.append(shared / norm if norm else 0.0)
    return np.array(found, dtype=np.float64)
