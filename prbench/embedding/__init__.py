"""From texts to vectors: each distinct (context, response) is embedded once and stored by its content.

What a model is and how it reads a batch belongs to `prbench.encoders`.
"""

from prbench.embedding.stage import embed, plan_embedding

__all__ = ["embed", "plan_embedding"]
