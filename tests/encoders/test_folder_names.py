"""What a model that was given as a folder is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from prbench.encoders import encoder_entry_for, variant
from prbench.encoders.folder_names import plain_names


@pytest.mark.parametrize(
    ("titles", "called"),
    [
        ({"rm-0123abcd": "rm"}, {"rm-0123abcd": "rm"}),
        ({"my-rm-0123abcd": "my rm"}, {"my-rm-0123abcd": "my-rm"}),
        ({"rm-0123abcd@mean": "rm"}, {"rm-0123abcd@mean": "rm@mean"}),
        # Two folders of one name, and a model whose own name ends like a mark.
        ({"rm-0123abcd": "rm", "rm-4567abcd": "rm"}, {"rm-0123abcd": "rm-0123abcd", "rm-4567abcd": "rm-4567abcd"}),
        ({"rm-0123abcd": "rm", "rm": "another"}, {"rm-0123abcd": "rm-0123abcd", "rm": "rm"}),
        ({"rm-0123abcd": "A model"}, {"rm-0123abcd": "rm-0123abcd"}),
        ({"minilm": "MiniLM"}, {"minilm": "minilm"}),
    ],
)
def test_a_folder_is_called_by_its_own_name_where_that_is_unique(
    titles: dict[str, str], called: dict[str, str]
) -> None:
    assert plain_names(titles) == called


def test_a_folder_called_as_an_entry_is_not_taken_for_it(tmp_path: Path) -> None:
    for name in ("minilm", "my reward"):
        (tmp_path / name).mkdir()
    taken, own = (encoder_entry_for(str(tmp_path / name)) for name in ("minilm", "my reward"))
    names = plain_names({entry.name: entry.title for entry in (taken, own, variant(own, pooling="mean"))})
    assert names == {taken.name: taken.name, own.name: "my-reward", f"{own.name}@mean": "my-reward@mean"}
