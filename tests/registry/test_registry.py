"""Entries: finding, inheritance, what is wrong with them in one line, targets and parameters."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prbench import registry
from prbench.base.errors import InputError
from prbench.registry import methods, set_options, targets, toml_files
from prbench.registry.schema import DatasetEntry, Marker, MethodEntry
from prbench.reporting import looks

METHOD = """
title = "Toy"
target = "toy_methods:Toy"
family = "personalised parameters"
paper = "none"
summary = "one line"
default = false
[params]
bases = 2
[params.crowd]
bases = 3
[params.votes]
bases = 4
rate = 0.5
[search]
rate = { low = 0.1, high = 1.0, log = true }
[style]
colour = "#112233"
marker = "s"
"""

DATASET = """
title = "Votes"
loader = "toy_methods:Votes"
family = "crowd"
licence = "MIT"
homepage = ""
citation = ""
summary = "one line"
encoder = "own"
"""

CODE = """
from prbench.method import Method

class Toy(Method):
    def __init__(self, *, bases: int = 1, rate: float = 0.1, rule: str = "last", sizes: tuple[int, ...] = ()):
        self.bases, self.rate, self.rule, self.sizes = bases, rate, rule, sizes
    def fit_seen(self, train, validation, *, rng, device="cpu"): ...
    def seen_users(self): ...
    def adapt_unseen(self, support, *, users=None, rng): ...
    def score_features(self, states, position, features): ...
    def parameter_count(self): ...
    def learned(self): ...
    def restore(self, tensors): ...

class Strict(Toy):
    def __init__(self, *, needed: int, bases: int = 1):
        self.needed, self.bases = needed, bases

class Votes:
    def load(self, raw, name): ...
def function(): ...
"""


class Folder:
    """A registry folder of a test's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, where: str, text: str) -> Path:
        file = self.path / where
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file


@pytest.fixture
def folder(tmp_path: Path, prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """A registry folder in use, holding the method `toy` and the data set `votes`, and the code they name."""
    made = Folder(tmp_path / "mine")
    made.write("methods/toy.toml", METHOD)
    made.write("datasets/votes.toml", DATASET)
    made.write("code/toy_methods.py", CODE)
    monkeypatch.syspath_prepend(made.path / "code")
    registry.reset()
    registry.use([made.path])
    yield made
    registry.reset()
    sys.modules.pop("toy_methods", None)


def refusal(call: Any, *arguments: Any) -> str:
    """The one line with which a call refuses its input."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_own_entries_and_those_of_a_folder_are_found(folder: Folder) -> None:
    assert "toy" in registry.names("methods")
    assert "mrm" in registry.names("methods")
    assert registry.names("methods") == sorted(registry.names("methods"))
    assert registry.source("methods", "toy") == (folder.path / "methods/toy.toml").resolve()
    assert registry.get("methods", "toy").params["bases"] == 2
    registry.use([])
    assert "toy" not in registry.names("methods")


def test_every_entry_of_prbench_is_valid() -> None:
    registry.reset()
    for kind in registry.KINDS:
        for entry in registry.load_all(kind):
            assert entry.name == registry.source(kind, entry.name).stem


def test_every_target_of_prbench_resolves() -> None:
    registry.reset()
    for kind in ("datasets", "encoders", "reports"):
        for entry in registry.load_all(kind):  # type: ignore[call-overload]
            assert callable(targets.load_target(kind, entry)), entry.name  # type: ignore[arg-type]
    for method in registry.load_all("methods"):
        made = methods.make_method(method, None, {})
        params = methods.params_for(method, None, {})
        assert {key: made.hyper_parameters[key] for key in params} == params


def test_imported_data_sets_are_found(folder: Folder, prbench_home: Path) -> None:
    file = prbench_home / "imported" / "datasets" / "mine.toml"
    assert "mine" not in registry.names("datasets")
    file.parent.mkdir(parents=True)
    file.write_text(DATASET)
    assert registry.source("datasets", "mine") == file.resolve()


def test_a_folder_that_is_no_registry_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "absent") in refusal(registry.use, [tmp_path / "absent"])
    assert "without a methods" in refusal(registry.use, [tmp_path])


def test_a_folder_given_twice_is_one_folder(folder: Folder) -> None:
    checkout = Path(registry.__file__).parents[1]
    registry.use([folder.path, folder.path / ".." / "mine", checkout])
    assert registry.get("methods", "toy").title == "Toy"
    assert registry.get("methods", "mrm").name == "mrm"


def test_the_same_name_twice_names_both_files(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    second = other.write("methods/toy.toml", METHOD)
    registry.use([folder.path, other.path])
    message = refusal(registry.names, "methods")
    assert str(second.resolve()) in message
    assert str((folder.path / "methods/toy.toml").resolve()) in message


def test_a_clash_with_an_own_entry_is_an_error(folder: Folder) -> None:
    folder.write("methods/mrm.toml", METHOD)
    assert "two methods are called 'mrm'" in refusal(registry.get, "methods", "mrm")


def test_an_entry_point_adds_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Folder(tmp_path / "site")
    site.write("their_package/__init__.py", "raise RuntimeError('finding entries must not import')")
    site.write("their_package/methods/theirs.toml", METHOD)
    site.write("theirs-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = site.write("theirs-1.0.dist-info/entry_points.txt", "[prbench.registry]\ntheirs = their_package\n")
    monkeypatch.syspath_prepend(site.path)
    registry.reset()
    assert registry.source("methods", "theirs") == (site.path / "their_package/methods/theirs.toml").resolve()
    points.write_text("[prbench.registry]\ntheirs = no_such_package\n")
    importlib.invalidate_caches()
    registry.reset()
    assert "theirs = no_such_package" in refusal(registry.names, "methods")
    monkeypatch.undo()
    registry.reset()
    assert "theirs" not in registry.names("methods")


def test_unknown_names_get_the_nearest(folder: Folder) -> None:
    message = refusal(registry.get, "methods", "tyo")
    assert "unknown method 'tyo'; did you mean toy" in message
    assert "prbench list methods" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('title = "Toy\n', "line 1: malformed TOML"),
        ("a = 1\nb = 2\nc d = 3\n", "line 3: malformed TOML"),
        ("a = 1\na = 2\n", "malformed TOML"),
    ],
)
def test_malformed_toml_names_file_and_line(folder: Folder, text: str, expected: str) -> None:
    file = folder.write("methods/bad.toml", text)
    message = refusal(registry.get, "methods", "bad")
    assert f"{file.resolve()}" in message
    assert expected in message


def test_bytes_that_are_no_utf8_name_the_file(folder: Folder) -> None:
    file = folder.path / "methods/bad.toml"
    file.write_bytes(b'title = "caf\xe9"\n')
    assert f"{file.resolve()}: byte 12 is not UTF-8" in refusal(registry.get, "methods", "bad")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('summary = "one line"', 'summry = "one line"', "unknown key 'summry'; did you mean summary?"),
        ('summary = "one line"', "", "the key 'summary' is missing"),
        ('marker = "s"', 'markers = "s"', "unknown key 'style.markers'; did you mean marker?"),
        ("low = 0.1", "lo = 0.1", "unknown key 'search.rate.lo'"),
        ('marker = "s"', 'marker = "square"', "style.marker: input should be 'o', 's', 'D'"),
        ('"#112233"', '"red"', "style.colour: expected \"#rrggbb\", not 'red'"),
        ('"toy_methods:Toy"', '"toy_methods.Toy"', "target: expected \"module:Name\", not 'toy_methods.Toy'"),
        ("default = false", 'default = "no"', "default: input should be a valid boolean, not 'no'"),
        ('"personalised parameters"', '"personal"', "family: input should be 'reference'"),
        ("[params]", "[[params]]", "params: input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_with_a_key_is_said_in_one_line(folder: Folder, old: str, new: str, expected: str) -> None:
    assert old in METHOD
    text = METHOD.replace(old, new)
    if new == "[[params]]":
        text = text.replace("[params.crowd]\nbases = 3\n[params.votes]\nbases = 4\nrate = 0.5\n", "")
    file = folder.write("methods/bad.toml", text)
    message = refusal(registry.get, "methods", "bad")
    assert message.startswith(f"{file.resolve()}: ")
    assert expected in message


def test_a_marker_is_one_that_the_page_can_draw() -> None:
    assert set(get_args(Marker)) == set(looks.SYMBOLS)


def test_many_mistakes_are_counted(folder: Folder) -> None:
    folder.write("methods/bad.toml", "a = 1\n")
    assert "(and " in refusal(registry.get, "methods", "bad")


def test_a_name_may_be_given_but_not_another(folder: Folder) -> None:
    folder.write("methods/good.toml", 'name = "good"\n' + METHOD)
    folder.write("methods/bad.toml", 'name = "good"\n' + METHOD)
    assert registry.get("methods", "good").name == "good"
    assert "name is 'good', but the file is called bad.toml" in refusal(registry.get, "methods", "bad")


@pytest.mark.parametrize("name", ["all", "a.b", "with space", "-dash"])
def test_names_that_the_command_line_could_not_tell_are_refused(folder: Folder, name: str) -> None:
    folder.write(f"methods/{name}.toml", METHOD)
    assert "cannot be a name" in refusal(registry.names, "methods")


def test_a_child_inherits_all_but_name_title_and_default(folder: Folder) -> None:
    folder.write(
        "methods/child.toml", 'extends = "toy"\ntitle = "Child"\n[params]\nrate = 0.2\n[style]\nmarker = "x"\n'
    )
    parent, child = registry.get("methods", "toy"), registry.get("methods", "child")
    assert (child.name, child.title, child.extends, child.default) == ("child", "Child", "toy", True)
    assert parent.default is False
    assert (child.target, child.family, child.search) == (parent.target, parent.family, parent.search)
    assert child.params == {"bases": 2, "rate": 0.2, "crowd": {"bases": 3}, "votes": {"bases": 4, "rate": 0.5}}
    assert (child.style.colour, child.style.marker) == ("#112233", "x")


def test_a_variant_without_a_title_is_called_by_its_name(folder: Folder) -> None:
    folder.write("methods/toy-b4.toml", 'extends = "toy"\n[params]\nbases = 4\n')
    folder.write("datasets/votes-2.toml", 'extends = "votes"\n')
    assert registry.get("methods", "toy-b4").title == "toy-b4"
    assert registry.get("datasets", "votes-2").title == "votes-2"
    folder.write("methods/untitled.toml", METHOD.replace('title = "Toy"\n', ""))
    message = refusal(registry.get, "methods", "untitled")
    assert message.endswith(
        "the key 'title' is missing (add it; a variant has all but its differences from extends = \"NAME\")"
    )


def test_inheritance_goes_on_over_generations_and_folders(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    folder.write("methods/child.toml", 'extends = "toy"\ntitle = "Child"\n[params.votes]\nrate = 0.7\n')
    other.write("methods/grandchild.toml", 'extends = "child"\ntitle = "G"\n[params.votes]\nbases = 9\n')
    registry.use([folder.path, other.path])
    assert registry.get("methods", "grandchild").params["votes"] == {"bases": 9, "rate": 0.7}
    assert registry.get("methods", "toy").params["votes"] == {"bases": 4, "rate": 0.5}


def test_a_search_range_is_replaced_as_a_whole(folder: Folder) -> None:
    folder.write("methods/child.toml", 'extends = "toy"\ntitle = "C"\n[search]\nrate = { choices = [1, 2] }\n')
    found = registry.get("methods", "child").search["rate"]
    assert (found.low, found.high, found.choices) == (None, None, [1, 2])


def test_pieces_of_a_report_merge_by_name() -> None:
    parent = {"options": {"pieces": [{"name": "a", "methods": ["x"], "title": "A"}, {"name": "b", "methods": ["y"]}]}}
    child = {"options": {"pieces": [{"name": "b", "methods": ["z"]}, {"name": "c", "methods": ["w"]}]}}
    assert toml_files.merge(parent, child)["options"]["pieces"] == [
        {"name": "a", "methods": ["x"], "title": "A"},
        {"name": "b", "methods": ["z"]},
        {"name": "c", "methods": ["w"]},
    ]
    # What cannot be told apart by name replaces the parent's list, and is found wrong where it is read.
    twice = {"options": {"pieces": [{"name": "b"}, {"name": "b"}]}}
    assert toml_files.merge(parent, twice)["options"]["pieces"] == [{"name": "b"}, {"name": "b"}]


def test_inheritance_that_does_not_work_is_refused(folder: Folder) -> None:
    folder.write("methods/orphan.toml", 'extends = "tow"\ntitle = "O"\n')
    folder.write("methods/a.toml", 'extends = "b"\ntitle = "A"\n')
    folder.write("methods/b.toml", 'extends = "a"\ntitle = "B"\n')
    folder.write("methods/self.toml", 'extends = "self"\ntitle = "S"\n')
    assert "there is no method 'tow'; did you mean toy" in refusal(registry.get, "methods", "orphan")
    assert "circle: a -> b -> a" in refusal(registry.get, "methods", "a")
    assert "circle: self -> self" in refusal(registry.get, "methods", "self")


def test_a_mistake_in_a_parent_names_the_parents_file(folder: Folder) -> None:
    bad = folder.write("methods/bad.toml", METHOD.replace("summary", "summry"))
    folder.write("methods/child.toml", 'extends = "bad"\ntitle = "C"\n')
    assert refusal(registry.get, "methods", "child").startswith(str(bad.resolve()))


def test_a_changed_file_is_read_anew(folder: Folder) -> None:
    file = folder.path / "methods/toy.toml"
    assert registry.get("methods", "toy").params["bases"] == 2
    file.write_text(METHOD.replace("bases = 2", "bases = 7"))
    os.utime(file, ns=(1, 1))
    assert registry.get("methods", "toy").params["bases"] == 7


def test_changing_an_entrys_tables_changes_no_later_entry(folder: Folder) -> None:
    registry.get("methods", "toy").params["crowd"]["bases"] = 99
    assert registry.get("methods", "toy").params["crowd"]["bases"] == 3


def test_select_takes_names_patterns_and_all(folder: Folder) -> None:
    folder.write("methods/toy-b.toml", METHOD.replace("default = false\n", ""))
    assert registry.select("methods", "toy-b,toy") == ["toy-b", "toy"]
    assert registry.select("methods", " toy , toy* ") == ["toy", "toy-b"]
    assert "toy-b" in registry.select("methods", "all")
    assert "toy" not in registry.select("methods", "all")
    assert "no method fits 'x*'" in refusal(registry.select, "methods", "x*")
    assert "unknown method 'tpy'" in refusal(registry.select, "methods", "toy,tpy")
    assert "no method named" in refusal(registry.select, "methods", " , ")


def test_the_kind_of_a_name(folder: Folder) -> None:
    folder.write("reports/votes.toml", 'title = "V"\ntarget = "toy_methods:function"\nsummary = "s"\n')
    assert registry.kind_of("toy") == "methods"
    assert registry.kind_of("votes", "reports") == "reports"
    assert "datasets and the reports" in refusal(registry.kind_of, "votes")
    assert "did you mean toy" in refusal(registry.kind_of, "tooy")


def test_resolving_a_target(folder: Folder) -> None:
    assert targets.resolve("toy_methods:Votes", "datasets").__name__ == "Votes"
    entry = registry.get("methods", "toy")
    assert targets.load_target("methods", entry).__name__ == "Toy"
    assert targets.load_target("datasets", registry.get("datasets", "votes")).__name__ == "Votes"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("no_such_module:Toy", "there is no module no_such_module"),
        ("toy_methods.deeper:Toy", "there is no module toy_methods.deeper"),
        ("toy_methods:Tyo", "toy_methods has no Tyo; did you mean Toy"),
        ("toy_needs:Toy", "toy_needs needs the module not_installed_anywhere"),
    ],
)
def test_a_target_that_does_not_resolve_names_the_entrys_file(folder: Folder, target: str, expected: str) -> None:
    folder.write("code/toy_needs.py", "import not_installed_anywhere\n")
    file = folder.write("methods/bad.toml", METHOD.replace("toy_methods:Toy", target))
    message = refusal(methods.make_method, registry.get("methods", "bad"), None, {})
    assert message.startswith(f"{file.resolve()}: target {target!r}")
    assert expected in message


def test_what_an_encoder_needs_is_the_hint(folder: Folder) -> None:
    message = refusal(lambda: targets.resolve("no_such_module:E", "encoders", needs="prbench[minilm]"))
    assert "pip install 'prbench[minilm]'" in message


def test_params_are_overridden_by_family_then_data_set_then_set(folder: Folder) -> None:
    entry, votes = registry.get("methods", "toy"), registry.get("datasets", "votes")
    assert methods.params_for(entry, None, {}) == {"bases": 2}
    assert methods.params_for(entry, votes, {}) == {"bases": 4, "rate": 0.5}
    other = votes.model_copy(update={"name": "other"})
    assert methods.params_for(entry, other, {}) == {"bases": 3}
    assert methods.params_for(entry, votes, {"bases": 8}) == {"bases": 8, "rate": 0.5}
    method = methods.make_method(entry, votes, {"bases": 8})
    assert method.hyper_parameters == {"bases": 8, "rate": 0.5, "rule": "last", "sizes": ()}


def made(entry: MethodEntry, overrides: Mapping[str, Any], dataset: DatasetEntry | None = None) -> dict[str, Any]:
    return methods.make_method(entry, dataset, overrides).hyper_parameters


def test_values_are_checked_against_the_constructors_types(folder: Folder) -> None:
    entry = registry.get("methods", "toy")
    assert made(entry, {"rate": 1})["rate"] == 1.0
    assert made(entry, {"sizes": [1, 2]})["sizes"] == (1, 2)
    for value in ("nan", "inf", "-inf"):
        message = refusal(made, entry, {"rate": float(value)})
        assert message == f"--set toy.rate: {value} is not a number that a method can have"
    message = refusal(made, entry, {"bases": "four"})
    assert message == "--set toy.bases: input should be a valid integer, not 'four'"
    for wrong in (1.5, "4", True, [1]):
        assert "valid integer" in refusal(made, entry, {"bases": wrong})
    folder.write("methods/toy.toml", METHOD.replace("bases = 2", 'bases = "two"'))
    assert "toy.toml: params.bases: input should be a valid integer" in refusal(
        made, registry.get("methods", "toy"), {}
    )


def test_unknown_parameters_get_the_nearest(folder: Folder) -> None:
    entry = registry.get("methods", "toy")
    assert "--set toy.basis: toy has no parameter 'basis'; did you mean bases" in refusal(made, entry, {"basis": 1})
    folder.write("methods/toy.toml", METHOD.replace("bases = 2", "base = 2"))
    assert "params.base: Toy has no parameter 'base'; did you mean bases" in refusal(
        made, registry.get("methods", "toy"), {}
    )
    folder.write("methods/toy.toml", METHOD.replace("bases = 3", "base = 3"))
    assert "params.crowd.base: Toy has no" in refusal(made, registry.get("methods", "toy"), {})


def test_a_missing_parameter_and_a_target_that_is_no_method_are_refused(folder: Folder) -> None:
    folder.write("methods/strict.toml", METHOD.replace("methods:Toy", "methods:Strict").replace("rate = 0.5", ""))
    assert "Strict needs a value for needed" in refusal(made, registry.get("methods", "strict"), {})
    assert made(registry.get("methods", "strict"), {"needed": 1}) == {"needed": 1, "bases": 2}
    folder.write("methods/wrong.toml", METHOD.replace("methods:Toy", "methods:Votes"))
    assert "is not a subclass of prbench.method.Method" in refusal(made, registry.get("methods", "wrong"), {})


def test_tables_that_nothing_reads_are_told(folder: Folder) -> None:
    assert methods.unused_tables(registry.get("methods", "toy")) == []
    folder.write("methods/toy.toml", METHOD.replace("params.votes", "params.vote"))
    assert methods.unused_tables(registry.get("methods", "toy")) == ["vote"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("mrm.bases=4", 4),
        ("mrm.rate = 1e-3", 0.001),
        ("mrm.robust=false", False),
        ("mrm.rule=test-oracle", "test-oracle"),
        ('mrm.rule="two words"', "two words"),
        ("mrm.sizes=[1, 2]", [1, 2]),
        ("mrm.path=a/b=c", None),
    ],
)
def test_parse_set(text: str, value: Any) -> None:
    if value is None:
        assert "is not a TOML value" in refusal(set_options.parse_set, text)
    else:
        setting = set_options.parse_set(text)
        assert (setting.method, setting.value) == ("mrm", value)
        assert type(setting.value) is type(value)


@pytest.mark.parametrize(
    "text", ["mrm", "mrm.bases", "bases=4", "mrm.bases=", "mrm.bases=[1,", "=4", ".a=4", "m.b=1\nc=2"]
)
def test_what_is_no_setting_is_refused(text: str) -> None:
    assert "--set" in refusal(set_options.parse_set, text)


def test_settings_are_gathered_by_method(folder: Folder) -> None:
    assert set_options.parse_sets(["toy.bases=1", "toy.rate=2"]) == {"toy": {"bases": 1, "rate": 2}}
    twice = refusal(set_options.parse_sets, ["toy.bases=1", "toy.rate=2", "toy.bases=3"])
    assert twice == "--set toy.bases=3: toy.bases is set twice (leave one out)"
    assert "unknown method 'tyo'" in refusal(set_options.parse_sets, ["tyo.bases=1"])


keys = st.sampled_from("abc")
flat = st.dictionaries(keys, st.integers(0, 9), max_size=3)
nested = st.dictionaries(keys, st.integers(0, 9) | flat, max_size=3)
tables = st.dictionaries(keys, st.integers(0, 9) | nested, max_size=3)


def leaves(table: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(table, dict):
        return {place: leaf for key, value in table.items() for place, leaf in leaves(value, (*path, key)).items()}
    return {path: table}


@settings(deadline=None, max_examples=200)
@given(parent=tables, child=tables)
def test_a_merged_table_has_the_childs_values_and_the_parents_where_the_child_is_silent(
    parent: dict[str, Any], child: dict[str, Any]
) -> None:
    merged = leaves(toml_files.merge(parent, child))
    assert leaves(child).items() <= merged.items()
    for path, value in merged.items():
        assert path in leaves(child) or leaves(parent)[path] == value
    assert toml_files.merge(parent, {}) == parent
    assert toml_files.merge({}, child) == child


def test_a_target_may_lie_in_the_registrys_folder_but_shadows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("methods/__init__.py", "datasets/x.toml", "beside_the_entries.py", "json.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("class Here:\n    def load(self, raw, name): ...\n")
    with pytest.raises(InputError, match=r"put beside_the_entries\.py into the folder that --registry names"):
        targets.resolve("beside_the_entries:Here", "datasets")
    registry.use([tmp_path])
    try:
        assert targets.resolve("beside_the_entries:Here", "datasets").__module__ == "beside_the_entries"
        assert importlib.import_module("json") is json
        # The folders of entries are no packages, whatever lies in them.
        found = importlib.util.find_spec("methods")
        assert found is None or str(tmp_path) not in map(str, found.submodule_search_locations or ())
        assert str(tmp_path) not in sys.path
    finally:
        sys.modules.pop("beside_the_entries", None)
        registry.reset()
