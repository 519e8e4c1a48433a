"""The items of simulated data: embeddings in a space like that of real encoders, and replies' lengths."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from prbench.base.seeds import Rng
from prbench.comparisons import IntArray

Float32 = NDArray[np.float32]

# The offset that all embeddings of an encoder have in common, as a share of their mean square.
OFFSET_SHARE = 0.3
# Correlation of a response's log length with the shared reward.
LENGTH_CORRELATION = 0.3
PROMPTS_AT_ONCE = 64


class ItemSpace:
    """The space of an encoder's embeddings: a basis, an offset, and the standard deviation of each direction.

    The variance along direction j falls as j ** -`spectrum`; the mean square of a coordinate is 1, of which
    `OFFSET_SHARE` is the offset; `context_share` of the rest is common to the responses of a prompt. The basis is a
    product of cosine transforms and random signs: orthogonal, and applied in d log d.
    """

    def __init__(self, rng: Rng, *, dim: int, spectrum: float, context_share: float) -> None:
        self.dim = dim
        self._signs = rng.child("basis").numpy().choice(np.array([-1, 1], dtype=np.float32), (3, dim))
        self._offset = rng.child("offset").numpy().standard_normal(dim, dtype=np.float32)
        self._offset *= np.float32(np.sqrt(OFFSET_SHARE * dim)) / np.linalg.norm(self._offset)
        variance = np.arange(1, dim + 1, dtype=np.float64) ** -spectrum
        self._deviation = np.sqrt(variance * (1 - OFFSET_SHARE) * dim / variance.sum())
        # Of a latent coordinate, the part common to a prompt's responses and the response's own.
        self._common, self._individual = np.sqrt(context_share), np.sqrt(1 - context_share)

    def items(
        self, rng: Rng, sizes: IntArray, reach: int, *, other_directions: bool = False
    ) -> tuple[Float32, Float32]:
        """Embeddings [m, d] of the responses to prompts with `sizes` of them, and their `reach` leading latent
        coordinates [m, reach], in which rewards are linear.

        With `other_directions` these leading directions have one another's variances in reverse.
        """
        d, end = self.dim, np.cumsum(sizes)
        scale = self._deviation.astype(np.float32)
        stretch = np.ones(d, dtype=np.float32)
        if other_directions:
            stretch[:reach] = scale[:reach][::-1] / scale[:reach]
        embedding = np.empty((int(end[-1]), d), dtype=np.float32)
        latent = np.empty((len(embedding), reach), dtype=np.float32)

        def fill(at: int) -> None:
            """Prompts `at`, at + 1, ...: each chunk has a stream of its own, so threads change nothing."""
            size = sizes[at : at + PROMPTS_AT_ONCE]
            where = slice(int(end[at] - size[0]), int(end[at] - size[0] + size.sum()))
            generator = rng.child("prompts", at).numpy()
            context = generator.standard_normal((len(size), d), dtype=np.float32)
            context *= np.float32(self._common)
            z = generator.standard_normal((int(size.sum()), d), dtype=np.float32)
            z *= np.float32(self._individual)
            z += np.repeat(context, size, axis=0)
            if other_directions:
                z *= stretch
            latent[where] = z[:, :reach] / np.float32(self._individual)
            z *= scale
            np.add(self._rotated(z), self._offset, out=embedding[where])

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(fill, range(0, len(end), PROMPTS_AT_ONCE)))
        return embedding, latent

    def head(self, weights: Float32) -> Float32:
        """The vector [d] whose product with an embedding is, up to a constant, the reward of latent `weights` [r]."""
        head = np.zeros((1, self.dim), dtype=np.float32)
        head[0, : len(weights)] = weights / (self._individual * self._deviation[: len(weights)])
        vector: Float32 = self._rotated(head)[0]
        return vector

    def _rotated(self, x: Float32) -> Float32:
        """Rows [n, d] in the embedding's coordinates; `x` is overwritten."""
        from scipy.fft import dct

        x *= self._signs[0]
        x = dct(x, axis=1, norm="ortho", overwrite_x=True)
        x *= self._signs[1]
        x = dct(x, axis=1, norm="ortho", overwrite_x=True)
        x *= self._signs[2]
        return x


def lengths(rng: Rng, shared: Float32) -> IntArray:
    """Response lengths in characters, log-normal around 250; they lean to the shared rewards [m]."""
    shared = (shared - shared.mean()) / shared.std()
    noise = rng.numpy().standard_normal(len(shared))
    log_length = LENGTH_CORRELATION * shared + np.sqrt(1 - LENGTH_CORRELATION**2) * noise
    length: IntArray = np.maximum(1, np.rint(250 * np.exp(0.5 * log_length))).astype(np.int64)
    return length
