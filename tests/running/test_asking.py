"""Asking users: rules by hand, labels that no rule sees, and the table of accuracies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from counting_method import Counts, opened, split

from prbench.method import ParameterCount, UserStates
from prbench.protocol.metrics import ALL_SHOTS
from prbench.protocol.questions import RULES, inverse_norms, next_question
from prbench.running.probes import asking
from prbench.running.skipping import NotApplicableError


def test_inverse_norms_are_those_of_the_matrix_itself() -> None:
    draw = np.random.default_rng(0)
    x, weight, asked = draw.normal(size=(6, 3)), draw.uniform(0.05, 0.25, 6), np.array([4, 1])
    hessian = np.eye(3) + sum(weight[i] * np.outer(x[i], x[i]) for i in asked)
    by_hand = np.einsum("nd,de,ne->n", x, np.linalg.inv(hessian), x)
    np.testing.assert_allclose(inverse_norms(x @ x.T, weight, asked), by_hand)
    np.testing.assert_allclose(inverse_norms(x @ x.T, weight, asked[:0]), (x**2).sum(1))


def test_rules_by_hand() -> None:
    # Three pairs at right angles, of lengths 1, 2 and 3; the method is least sure of the first, surest of the third.
    gram, margin, order = np.diag([1.0, 4.0, 9.0]), np.array([0.1, -1.0, 6.0]), np.array([1, 2, 0])
    none = np.array([], dtype=np.int64)
    assert next_question("random", gram, margin, order, none) == 1
    assert next_question("random", gram, margin, order, np.array([1, 2])) == 0
    assert next_question("margin", gram, margin, order, none) == 0
    assert next_question("margin", gram, margin, order, np.array([0])) == 1
    assert next_question("inverse-hessian", gram, margin, order, none) == 2
    # p(1 − p) is 0.25, 0.197 and 0.0025: 0.25 · 1, 0.197 · 4 and 0.0025 · 9.
    assert next_question("d-optimal", gram, margin, order, none) == 1
    # A pair like one that was asked tells little more: 9 / (1 + 0.25 · 9) = 2.8 < 4.
    same = np.array([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 4.0]])
    assert next_question("inverse-hessian", same, np.zeros(3), order, np.array([0])) == 2
    # Ties go by the order, and the sign of a margin has no meaning.
    assert next_question("margin", gram, np.array([1.0, -1.0, 1.0]), order, none) == 1


class Personal(Counts):
    """As `Counts`, and says that it keeps numbers of a user."""

    def parameter_count(self) -> ParameterCount:
        return ParameterCount(0, 4)


def rows(users: int, each: int) -> list[tuple[int, int, int]]:
    draw = np.random.default_rng(3)
    found = []
    for user in range(users):
        for _ in range(each):
            a, b = sorted(draw.permutation(4)[:2].tolist())
            found.append((user, a, b))
    return found


def test_the_table_ends_where_all_were_asked_and_starts_at_the_cold_start() -> None:
    setting, _ = opened(rows(6, 12))
    place = np.tile(np.arange(12), 6)
    where = split(np.flatnonzero(place < 7).tolist(), np.flatnonzero(place >= 7).tolist(), list(range(6)))
    made = asking.asking(Personal(), setting, where)
    assert (made["cold"] == 0.5).all()
    last = made["questions"] == 7
    whole = made["questions"] == ALL_SHOTS
    assert whole.sum() == 6
    for number in range(len(RULES)):
        # With all seven asked, in whatever order, a method that counts is where the whole support leads.
        mine = last & (made["rule"] == number)
        assert made["accuracy"][mine].tolist() == made["accuracy"][whole].tolist()
    assert set(made["questions"].tolist()) == {ALL_SHOTS, 1, 2, 3, 4, 5, 6, 7}


def test_labels_of_pairs_that_were_not_asked_change_no_question() -> None:
    setting, _ = opened(rows(5, 14))
    place = np.tile(np.arange(14), 5)
    support = np.flatnonzero(place < 10)
    where = split(support.tolist(), np.flatnonzero(place >= 10).tolist(), list(range(5)))
    seen: list[list[int]] = []

    class Watching(Personal):
        def adapt_unseen(self, support, *, users=None, rng):  # type: ignore[no-untyped-def]
            seen.append(support.row.tolist())
            return super().adapt_unseen(support, users=users, rng=rng)

    asking.asking(Watching(), setting, where)
    first = [list(rows_) for rows_ in seen]
    # The pair that each user is asked last under each rule: nothing was chosen by its label.
    data = setting.data
    lasts = [asked for asked in first if len(asked) == 5 * 10][1:]
    before = [asked for asked in first if len(asked) == 5 * 9]
    assert len(lasts) == len(before) == len(RULES)
    for number, rule in enumerate(RULES):
        unasked = np.array(sorted(set(support.tolist()) - set(before[number])))
        turned = replace(
            data,
            chosen=np.where(np.isin(np.arange(len(data)), unasked), data.rejected, data.chosen),
            rejected=np.where(np.isin(np.arange(len(data)), unasked), data.chosen, data.rejected),
        )
        seen.clear()
        again, _ = opened(
            list(zip(turned.user.tolist(), turned.chosen.tolist(), turned.rejected.tolist(), strict=True))
        )
        asking.asking(Watching(), again, where)
        assert [asked for asked in seen if len(asked) == 5 * 9][number] == before[number], rule
        assert [asked for asked in seen if len(asked) == 5 * 10][1:][number] == lasts[number], rule


def test_users_with_few_choices_are_left_out_and_methods_without_state_are_skipped() -> None:
    assert asking.number_of_questions(np.array([30] * 9 + [4])) == 20
    assert asking.number_of_questions(np.array([30] * 8 + [4, 5])) == 5
    assert asking.number_of_questions(np.array([0, 3])) == 0
    setting, _ = opened(rows(2, 4))
    setting.entry.name = "planted"  # type: ignore[misc]

    class Impersonal(Counts):
        def adapt_unseen(self, support, *, users=None, rng):  # type: ignore[no-untyped-def]
            return UserStates(support.users if users is None else users)

    with pytest.raises(NotApplicableError, match="nothing of a user"):
        asking.asking(Impersonal(), setting, split([0, 4], [1, 5], [0, 1]))
