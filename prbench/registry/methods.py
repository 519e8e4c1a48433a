"""Makes methods from their entries: parameters by data set, family and `--set`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prbench.base.errors import InputError, near
from prbench.registry import _files, load_all
from prbench.registry.arguments import argument_types, checked, finite
from prbench.registry.schema import DatasetEntry, MethodEntry
from prbench.registry.targets import _broken, load_target

if TYPE_CHECKING:
    from prbench.method import Method


def params_for(entry: MethodEntry, dataset: DatasetEntry | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A method's constructor arguments on a data set.

    The plain values of [params], then those of the table named like the data set's family, then those of the
    table named like the data set, then `overrides`.
    """
    merged = {key: value for key, value in entry.params.items() if not isinstance(value, dict)}
    # A data set that was opened with a limit is called NAME[limit=N].
    for table in (dataset.family, dataset.name.partition("[")[0]) if dataset else ():
        merged.update(entry.params.get(table, {}))
    return {**merged, **overrides}


def make_method(entry: MethodEntry, dataset: DatasetEntry | None, overrides: Mapping[str, Any]) -> Method:
    """The unfitted method of an entry, with its parameters on a data set.

    Raises InputError for a target that is not a Method, for a parameter that its constructor does not have (with
    the nearest it has, also in tables for other data sets) or of the wrong type, and for one that is missing.
    """
    import inspect

    file = _files("methods").get(entry.name)
    where = str(file or entry.name)
    target = load_target("methods", entry)
    signature = inspect.signature(target).parameters
    known = list(signature)
    for key in overrides:
        if key not in signature:
            raise InputError(
                f"--set {entry.name}.{key}: {entry.name} has no parameter {key!r}{near(key, known)}",
                hint=f"it has {', '.join(known) or 'none'}",
            )
    for key, value in entry.params.items():
        path = (
            {f"params.{key}.{inner}": inner for inner in value} if isinstance(value, dict) else {f"params.{key}": key}
        )
        for shown, name in path.items():
            if name not in signature:
                raise InputError(
                    f"{where}: {shown}: {target.__name__} has no parameter {name!r}{near(name, known)}",
                    hint=f"it has {', '.join(known) or 'none'}",
                )
    params = params_for(entry, dataset, overrides)
    for key, value in {**entry.params, **overrides}.items():
        if not finite(value):
            shown = f"--set {entry.name}.{key}" if key in overrides else f"{where}: params.{key}"
            raise InputError(f"{shown}: {value} is not a number that a method can have")
    missing = [name for name, p in signature.items() if p.default is p.empty and name not in params]
    if missing:
        raise InputError(f"{where}: params: {target.__name__} needs a value for {', '.join(missing)}")
    types = argument_types(target)
    for key, value in params.items():
        if key in types:
            shown = f"--set {entry.name}.{key}" if key in overrides else f"{where}: params.{key}"
            params[key] = checked(value, types[key], shown)
    try:
        method: Method = target(**params)
    except InputError:
        raise
    except Exception as error:
        if target.__module__.partition(".")[0] == "prbench":
            raise
        raise _broken(where, f"making {target.__name__}", target.__module__, error) from error
    if unkept := [name for name in signature if not hasattr(method, name)]:
        lost = ", ".join(unkept)
        raise InputError(
            f"{where}: {target.__name__} does not keep its hyper-parameter {lost}",
            hint=f"say self.{unkept[0]} = {unkept[0]} in its constructor",
        )
    return method


def unused_tables(entry: MethodEntry) -> list[str]:
    """The tables inside [params] that are named like no known data set or family, so that nothing reads them."""
    datasets = load_all("datasets")
    known = {entry.name for entry in datasets} | {entry.family for entry in datasets}
    return [key for key, value in entry.params.items() if isinstance(value, dict) and key not in known]
