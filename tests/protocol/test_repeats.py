"""What says the same stands on one side of every split; few different splits are counted once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prbench.base.errors import InputError
from prbench.base.texts import canonical_text
from prbench.comparisons import Context, Items, Message, PreferenceData
from prbench.protocol import repeats
from prbench.protocol.repeats import divide_pairs, join_repeats, repeats_note
from prbench.protocol.splits import draw_splits, make_split, repeated_draws
from prbench.registry.schema import ProtocolEntry

PAPER = ProtocolEntry()


def asked(*texts: str) -> Context:
    return tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))


def choices(*rows: tuple[int, Context, str, str, int], marks: list[int] | None = None) -> PreferenceData:
    """Data from rows of (user, context, chosen, rejected, group)."""
    contexts = list(dict.fromkeys(row[1] for row in rows))
    items = list(dict.fromkeys((contexts.index(c), text) for _, c, a, b, _ in rows for text in (a, b)))
    at = {item: i for i, item in enumerate(items)}

    def column(values: list[int]) -> np.ndarray:
        return np.array(values, dtype=np.int64)

    return PreferenceData(
        name="toy",
        contexts=tuple(contexts),
        item_context=column([c for c, _ in items]),
        responses=tuple(text for _, text in items),
        user=column([row[0] for row in rows]),
        chosen=column([at[contexts.index(c), a] for _, c, a, _, _ in rows]),
        rejected=column([at[contexts.index(c), b] for _, c, _, b, _ in rows]),
        group=column([row[4] for row in rows]),
        user_keys=tuple(f"worker-{u}" for u in range(max(row[0] for row in rows) + 1)),
        mark=None if marks is None else column(marks),
    )


TEA = asked("Tea?")
SAME = {
    "another conversation": (TEA, "yes", "no"),
    "the other side": (TEA, "no", "yes"),
    "white space": (asked(" Tea?\r\n"), "yes\n", "no "),
    "line ends": (TEA, "yes\r", "no\u2028"),
    "Unicode forms": (TEA, "\ufeffｙes", "no"),
    "another turn": (asked("Hello.", "Hi.", "Tea?"), "yes", "no"),
}


@pytest.mark.parametrize("case", SAME)
def test_comparisons_that_say_the_same_share_a_group(case: str) -> None:
    context, chosen, rejected = SAME[case]
    first, other = (0, TEA, "yes", "no", 0), (0, asked("Milk?"), "yes", "no", 1)
    stranger = (1, context, chosen, rejected, 5)
    data = choices(first, other, (0, context, chosen, rejected, 2), (0, asked("Rain?"), "a", "b", 2), stranger)
    joined = join_repeats(data)
    # Group 2 of the first user is its group 0 now, with all that is in it; nobody else's groups change.
    assert joined.group.tolist() == [0, 1, 0, 0, 5]
    opposite = case == "the other side"
    assert joined.counts == {repeats.REPEATS: 1 - opposite, repeats.OPPOSITE: int(opposite), repeats.JOINED: 1}
    assert joined.fingerprint != data.fingerprint
    assert "stand on one side of every split" in str(repeats_note(joined))


@pytest.mark.parametrize(
    ("context", "chosen", "rejected"),
    [(asked("Milk?"), "yes", "no"), (TEA, "Yes", "no"), (TEA, "yes!", "no"), (TEA, "yes", "perhaps")],
    ids=["another question", "a capital", "punctuation", "another reply"],
)
def test_comparisons_that_differ_stay_apart(context: Context, chosen: str, rejected: str) -> None:
    data = choices((0, TEA, "yes", "no", 0), (0, context, chosen, rejected, 1))
    assert join_repeats(data).group.tolist() == [0, 1]
    assert join_repeats(data).fingerprint == data.fingerprint
    assert repeats_note(join_repeats(data)) is None


def test_joining_passes_from_group_to_group() -> None:
    rows = [(0, asked(str(i)), "a", "b", group) for i, group in ((1, 7), (2, 7), (2, 3), (3, 3), (3, 9), (4, 4))]
    assert join_repeats(choices(*rows)).group.tolist() == [7, 7, 7, 7, 7, 4]


def test_equal_embeddings_are_equal_items() -> None:
    data = choices(*((0, asked(str(i)), "a", "b", i) for i in range(3)))
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [1.0, 2.0], [1.0, 2.5], [3.0, 4.0]])
    joined = join_repeats(replace(data, embedded=Items(rows.bfloat16())))
    assert joined.group.tolist() == [0, 0, 2]
    assert joined.counts[repeats.OPPOSITE] == 1


def test_text_in_canonical_form() -> None:
    assert canonical_text("\ufeff e\u0301t\u00ade \r\n\t x\u00a0y") == "\u00e9te x y"
    assert canonical_text("Straße") != canonical_text("STRASSE")


def coin_tossers(copies: int) -> PreferenceData:
    generator = np.random.default_rng(5)
    rows = []
    for user in range(8):
        for question in range(12):
            sides = [f"a{user}.{question}", f"b{user}.{question}"]
            for _ in range(copies):
                chosen, rejected = sides if generator.random() < 0.5 else sides[::-1]
                rows.append((user, asked(f"{question} of {user}?"), chosen, rejected, len(rows)))
    return choices(*rows)


def test_repeats_are_never_divided_and_undetected_ones_are_refused() -> None:
    data = coin_tossers(3)
    with pytest.raises(InputError, match=r"test comparisons of \d+ people are also among their training comparisons"):
        make_split(data, PAPER, index=0)
    joined = join_repeats(data)
    for index in range(5):
        split = make_split(joined, PAPER, index=index)
        # Half of 12 questions, three judgements of each.
        assert len(split.seen_test) == 4 * 6 * 3
        assert split.shared["test_pairs"] == 8 * 6
        assert split.shared["test_pairs_trained_on"] == 0
        assert split.shared["test_items_trained_on"] == 0


def test_what_others_trained_on_is_counted() -> None:
    # Both users judge the same four pairs; the first two share an item.
    questions = [("Q", "a", "b"), ("Q", "a", "c"), ("R", "d", "e"), ("S", "f", "g")]
    data = choices(*((user, asked(q), a, b, i) for user in (0, 1) for i, (q, a, b) in enumerate(questions)))
    split = make_split(data, PAPER, index=0)
    train = np.concatenate([split.seen_train, split.unseen_support])
    test = np.concatenate([split.seen_test, split.unseen_test])
    pairs = [{data.same_pair[row] for row in rows} for rows in (train, test)]
    items = [
        {data.same_item[i] for row in rows for i in (data.chosen[row], data.rejected[row])} for rows in (train, test)
    ]
    assert split.shared == {
        "test_items": len(items[1]),
        "test_items_trained_on": len(items[0] & items[1]),
        "test_pairs": len(pairs[1]),
        "test_pairs_trained_on": len(pairs[0] & pairs[1]),
    }


def test_marks_of_the_source_leave_repeats_of_test_out_of_train() -> None:
    rows = [(user, asked(f"{q}"), "a", "b", q) for user in range(4) for q in (0, 1, 2, 0)]
    data = join_repeats(choices(*rows, marks=[0, 0, 1, 1] * 4))
    for name in ("paper", "published-code"):
        split = make_split(data, ProtocolEntry(name=name, unit="mark"), index=0)
        assert sorted((split.seen_train % 4).tolist()) == [1, 1]
        assert split.dropped["train_rows_of_test_groups"] == 4


def test_people_with_one_group_are_divided_by_pairs() -> None:
    rows = [(user, TEA, f"a{i}", f"b{i}", 0) for user in range(4) for i in (0, 1, 2, 3, 0)]
    data = join_repeats(choices(*rows))
    with pytest.raises(InputError, match="0 of 4 users"):
        make_split(data, PAPER, index=0)
    divided = divide_pairs(data)
    assert divided.counts[repeats.PAIRS_AS_GROUPS] == 4
    assert divided.group.tolist() == [0, 1, 2, 3, 0] * 4
    assert len(make_split(divided, PAPER, index=0).seen_test) >= 4
    assert "so that pairs are divided" in str(repeats_note(divided))
    # One person with two groups is enough for the groups to stay.
    more = choices(*rows, (0, asked("Milk?"), "a", "b", 1))
    assert divide_pairs(more) is more


@pytest.mark.parametrize("name", ["paper", "published-code"])
def test_splits_that_repeat_are_drawn_again_and_counted_once(name: str) -> None:
    # Two users with two questions each: 2 ways to choose the seen one, 2 to divide either's questions.
    data = choices(*((user, asked(f"{q} of {user}"), "a", "b", q) for user in (0, 1) for q in (0, 1)))
    protocol = ProtocolEntry(name=name)
    drawn = draw_splits(data, protocol, 40)
    assert len(drawn) == 8
    assert [split.index for split in drawn] == list(range(8))
    assert len({split.same_division() for split in drawn}) == 8
    assert any(split.draw for split in drawn)
    said = repeated_draws("toy", drawn, 40)
    assert said is not None
    assert "40 splits were asked for, and 8 different ones were found" in said
    assert "were drawn again" in said
    # Fewer splits are the first of more, and a split is found again by its number of draws.
    assert [s.same_division() for s in draw_splits(data, protocol, 5)] == [s.same_division() for s in drawn[:5]]
    again = make_split(data, protocol, index=drawn[-1].index, draw=drawn[-1].draw)
    assert again.same_division() == drawn[-1].same_division()


def test_splits_without_repeats_are_those_of_their_numbers() -> None:
    data = join_repeats(coin_tossers(1))
    drawn = draw_splits(data, PAPER, 6)
    assert [split.draw for split in drawn] == [0] * 6
    for split in drawn:
        alone = make_split(data, PAPER, index=split.index)
        assert alone.seen_train.tolist() == split.seen_train.tolist()
    assert repeated_draws("toy", drawn, 6) is None
