"""Base classes for methods that learn: all splits of a method are trained together.

A method of your own may start from any of these; a plain `prbench.method.Method` needs none of them.

    GradientMethod (gradient)       any training that yields snapshots to choose from: write `train_splits`
    FullBatch (full_batch)          linear base functions, the whole training set in each step (BT, LoRe)
    EpisodicMethod (episodes)       updates of a few users with support and query choices (MRM, MAML)
    NetworkMethod (networks)        a network per split in mini-batches of choices, stacked over splits
    ContextMethod (context_method)  networks that read a user's choices as input (GPO, NP)
    LatentMethod (context_method)   the same with one latent vector a user (VPL)
    SplitBySplit (split_by_split)   any fit that gains nothing from other splits beside it: write `fit_problem`
    ConvexMethod, OnePenalty (convex)   convex problems whose penalty is chosen from a grid (ridge BT, BT + offset)
    LinearBases (linear_bases)      the adapted state and scores of score = e·Vᵀ·w, for any way of fitting it
    Factorisation (factorisation)   bases from users' own fits (PReF, RFM)
    Prototypes (prototypes)         users as mixtures of prototypes (PAL)
    WeightedHeads (reweighting)     ready-made heads weighed by generalised Bayes (HyRe, DRM, mixtures by EM)

How a fit runs: `running.run` -> `GradientMethod.fit_splits` -> `train`, which gives each thread some of the splits
(`side_by_side`) -> `train_splits` of the method, which trains a `SplitBatch` and yields a `Snapshot` at each
candidate -> `_choose` keeps the best on validation choices -> trains again on all training choices up to the chosen
moment.

`prbench bench` asks a method for `bytes_per_update` and `plain_loop`; both may stay as the base class has them.
"""

from prbench.training.compute import Precision, computing
from prbench.training.gradient import (
    CANDIDATES,
    GradientMethod,
    Snapshot,
    SplitBatch,
    candidates,
    seen_states,
    validation_accuracy,
)
from prbench.training.optimiser import StackedAdam, clip_per_split, warmup_cosine
from prbench.training.tables import DifferenceTable, Gather, PairTable, without_residue

Work = SplitBatch
"""The earlier name of `SplitBatch`."""

__all__ = [
    "CANDIDATES",
    "DifferenceTable",
    "Gather",
    "GradientMethod",
    "PairTable",
    "Precision",
    "Snapshot",
    "SplitBatch",
    "StackedAdam",
    "Work",
    "candidates",
    "clip_per_split",
    "computing",
    "seen_states",
    "validation_accuracy",
    "warmup_cosine",
    "without_residue",
]
