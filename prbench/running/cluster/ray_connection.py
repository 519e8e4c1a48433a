"""Reaching a Ray cluster, and what its machines have. Nothing is reported to its makers, and no dashboard starts."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from prbench.base.errors import InputError
from prbench.running.needs import Needs

AUTO, LOCAL, CLIENT = "auto", "local", "ray://"
REACHED_WITHIN = 5.0
HINT = (
    "start one with `ray start --head --disable-usage-stats --include-dashboard=false`, or leave it to prbench for"
    " this machine alone with --address local"
)


class Machine(NamedTuple):
    """What a node of the cluster offers in all: cores, GPUs, and bytes for programs and for shared objects."""

    cpus: float
    gpus: float
    memory: float
    objects: float


def imported() -> Any:
    """Ray, with its reporting off. Raises InputError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Jobs say themselves where they compute; and Ray's word about a later change of this is not for users.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise InputError(
            "--executor ray needs ray, which is not installed", hint="pip install 'prbench[ray]'"
        ) from None
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, and parted from it in the end.

    Raises InputError, in one line, where nothing answers there.
    """
    ray = imported()
    _require_answer(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options["include_dashboard"] = False
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _unreachable(address, " ".join(str(error).split())) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray itself waits a minute for a machine that does not answer, and may end the process then."""
    if address in (AUTO, LOCAL):
        return
    match = re.fullmatch(r"(?:ray://)?(?P<host>[^/\s:]+|\[[^]]+\]):(?P<port>\d{1,5})", address)
    if match is None:
        raise InputError(
            f"--address {address}: expected auto, local, HOST:PORT or ray://HOST:PORT",
            hint="a cluster's own port is 6379, that for ray:// 10001, where nothing else was chosen",
        )
    try:
        with socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=REACHED_WITHIN):
            return
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from error


def _unreachable(address: str, why: str) -> InputError:
    return InputError(f"--address {address}: a Ray cluster does not answer there: {why[:200]}", hint=HINT)


def machines(ray: Any) -> list[Machine]:
    """The nodes of the cluster that are alive."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            names = ("CPU", "GPU", "memory", "object_store_memory")
            found.append(Machine(*(float(has.get(name, 0.0)) for name in names)))
    return found


def within(needs: Needs, nodes: list[Machine]) -> Needs:
    """Needs that one of the nodes can meet: of cores and memory no more than the largest has.

    Raises InputError where a GPU is needed and none of them has one.
    """
    able = [node for node in nodes if node.cpus >= 1 and node.gpus >= min(needs.gpus, 1.0)]
    if needs.gpus and not able:
        raise InputError("a job needs a GPU, and no machine of the cluster has one", hint="--device cpu")
    if not able:
        raise InputError("no machine of the cluster offers a core to jobs", hint="start one with `ray start`")
    cpus = min(needs.cpus, int(max(node.cpus for node in able)))
    # Ray counts whole bytes, and a job that asks for all that there is would never find it free again.
    memory = min(needs.memory, int(max(node.memory for node in able)))
    return needs._replace(cpus=cpus, memory=memory)
