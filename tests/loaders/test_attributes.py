"""Attributes of people from a file beside their choices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prbench import cli, data, registry
from prbench.base.errors import InputError
from prbench.loaders.attributes import AttributeTable, read_attributes

PEOPLE = [f"p{number}" for number in range(24)]


def people(path: Path, header: str = "user_id,device,born", rows: list[str] | None = None) -> Path:
    """Twelve people with a phone and twelve with a laptop, everybody born in another year."""
    lines = rows or [f"{p},{'phone' if i < 12 else 'laptop'},{1950 + i}" for i, p in enumerate(PEOPLE)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def read(path: Path, users: list[str] = PEOPLE) -> AttributeTable:
    return read_attributes(path, users)


def test_groups_are_kept_and_what_tells_one_person_from_all_others_is_not(tmp_path: Path) -> None:
    table = read(people(tmp_path / "a.csv"))
    assert list(table.values) == ["device"]
    assert table.values["device"]["p11"] == "phone"
    assert table.values["device"]["p12"] == "laptop"
    assert table.sentences == ["born left out: it has no two groups of 10 and more people"]


def test_people_without_a_row_or_a_value_are_a_group_of_their_own(tmp_path: Path) -> None:
    rows = [f"{p},{'phone' if i < 12 else ''},1" for i, p in enumerate(PEOPLE[:20])] + ["stranger,phone,1"]
    table = read(people(tmp_path / "a.csv", rows=rows))
    assert list(table.values["device"].values()) == ["phone"] * 12 + ["not given"] * 12
    assert table.sentences[:2] == [
        "4 of 24 people have no row: not given",
        "rows of people who chose nothing, left out: 1",
    ]


def test_numbers_are_ids_and_categories_as_in_the_choices(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"user_id": float(i), "level": i % 2}) + "\n" for i in range(24)))
    table = read_attributes(path, [str(i) for i in range(24)])
    assert table.values["level"]["7"] == "1"
    path.write_text("".join(json.dumps({"judge": f"p{i}", "level": 0.5 + i % 2}) + "\n" for i in range(24)))
    assert read_attributes(path, PEOPLE, column="judge").values["level"]["p3"] == "1.5"


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("who,device", ["p0,phone"], "has no column user_id"),
        ("user_id", ["p0"], "has 0 columns beside user_id"),
        ("user_id,device", ["p0,phone", "p1,phone", "p0,laptop"], r"line 4: a second row of one person"),
        ("user_id,device", ["q0,phone"], "has a row of none of the 24 people who chose"),
        ("user_id,device", ["p0,phone", f"p1,{'x' * 101}"], "line 3: device is not a category"),
        ("user_id,device", ["1e+17,phone"], "line 2: user_id is 1e.17: this number has gone through a float"),
    ],
)
def test_what_is_no_table_of_people_is_one_line(header: str, rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(people(tmp_path / "a.csv", header, rows))


def test_the_import_keeps_them_in_the_cache_and_they_change_no_key(
    tmp_path: Path, prbench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = tmp_path / "c.jsonl"
    choices.write_text(
        "".join(
            json.dumps({"user_id": p, "prompt": f"q{n} {p}", "chosen": f"a{n} {p}", "rejected": f"b{n} {p}"}) + "\n"
            for p in PEOPLE
            for n in range(2)
        )
    )
    words = ["data", "import", str(choices), "--name"]
    assert cli.main([*words, "mine", "--attributes", str(people(tmp_path / "a.csv"))]) == 0
    assert "a.csv: attributes: device" in capsys.readouterr().err
    assert cli.main([*words, "plain"]) == 0
    registry.reset()
    mine, plain = (data.load(registry.get("datasets", name)) for name in ("mine", "plain"))
    assert mine.attributes == {"device": ("phone",) * 12 + ("laptop",) * 12}
    assert plain.attributes == {}
    assert mine.fingerprint == plain.fingerprint
    file = prbench_home / "imported/mine/attributes.json"
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text().replace("phone", "Phone"))
    registry.reset()
    assert cli.main(["data", "info", "mine"]) == 2
    assert "attributes.json" in capsys.readouterr().err
    gone = [*words, "other", "--attributes", str(tmp_path / "none.csv")]
    assert cli.main(gone) == 2
    assert "there is no file" in capsys.readouterr().err
    assert "other" not in registry.names("datasets")
