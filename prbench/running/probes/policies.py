"""Whether a reward reaches a policy: log-probabilities of a language model beside a method's rewards.

Policy accuracy is prbench's own version of the idea in arXiv 2512.23067: a choice is predicted from the policy's own
difference of log-probabilities and the reward's difference, each in units of its spread on the seen users' training
pairs. The table keeps both differences; the report weighs them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from prbench.comparisons import Comparisons, FloatArray, PreferenceData
from prbench.method import Method, UserStates
from prbench.policy.log_probabilities import ResponseLogs, response_logs
from prbench.protocol.splits import Split
from prbench.running.open_dataset import OpenDataset, adapt_rng
from prbench.running.skipping import NotApplicableError

MODEL = "smollm2-135m"
"""The language model where none is named: small enough for any CPU."""


def logs_of(setting: OpenDataset, model: str) -> ResponseLogs:
    """The log-probabilities of a data set's items under a language model, read once a process."""
    return _logs(setting.data, model, setting.entry.family, setting.device)


@lru_cache(maxsize=2)
def _logs(data: PreferenceData, model: str, family: str, device: str) -> ResponseLogs:
    return response_logs(data, model, family=family, device=device)


def policy(method: Method, setting: OpenDataset, split: Split, model: str) -> dict[str, Any]:
    """The columns of the table: unseen users' test choices, with the policy's and the reward's differences.

    Each difference is chosen minus rejected, divided by its standard deviation over the seen users' training pairs;
    for the reward these users adapt on their training choices as unseen ones do on their support. Raises
    NotApplicableError for data without texts, and where a difference is the same on all training pairs.
    """
    if setting.data.embedded is not None:
        raise NotApplicableError(f"{setting.data.name} has no texts for a language model to read")
    logs = logs_of(setting, model)
    comparisons = setting.comparisons()
    rng = adapt_rng(setting, split)
    train, test = comparisons.take(split.seen_train), comparisons.take(split.unseen_test)
    support = comparisons.take(split.unseen_support)
    adapted = method.adapt_unseen(support, users=split.unseen, rng=rng)
    cold = method.cold_start(split.unseen, comparisons.items, rng=rng)
    seen = method.adapt_unseen(train, users=split.seen, rng=rng)
    of_reward = _spread(_margins(method, seen, train), "its rewards")
    return {
        "user": test.user,
        "comparison": test.row,
        "model": np.full(len(test), logs.model, dtype=object),
        **{
            name: (_differences(values, test) / _spread(_differences(values, train), said)).astype(np.float32)
            for name, values, said in (
                ("summed", logs.summed, "the log-probabilities"),
                ("per_token", logs.per_token, "the log-probabilities per token"),
            )
        },
        **{
            name: (_margins(method, states, test) / of_reward).astype(np.float32)
            for name, states in (("reward", adapted), ("cold", cold))
        },
    }


def _differences(values: FloatArray, comparisons: Comparisons) -> FloatArray:
    return np.asarray(values[comparisons.chosen] - values[comparisons.rejected])


def _margins(method: Method, states: UserStates, comparisons: Comparisons) -> FloatArray:
    margins = method.margins(states, comparisons).double().numpy()
    if not np.isfinite(margins).all():
        raise FloatingPointError(f"{int((~np.isfinite(margins)).sum())} margins are not finite")
    return np.asarray(margins)


def _spread(differences: FloatArray, said: str) -> float:
    found = float(np.std(differences)) if len(differences) else 0.0
    if not found > 0:
        raise NotApplicableError(f"{said} differ by the same on all training pairs")
    return found
