"""Serving one person's scores until Ctrl-C."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prbench.base.console import stderr
from prbench.base.errors import InputError

if TYPE_CHECKING:
    from prbench.method import UserStates
    from prbench.user.model import UserModel

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
GRACE = 5
"""Seconds that requests in progress have left after Ctrl-C."""


def serve(
    model: UserModel,
    state: UserStates,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Mapping[str, int] | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until the process is interrupted; port 0 takes any free one.

    `limits` are those fields of `prbench.serving.limits.Limits` that are not its defaults.
    `ready` is told the address once requests are taken; the weights are in memory then. Raises InputError where the
    packages of `prbench[serve]` are missing, the model cannot be had or the port cannot be taken.
    """
    try:
        import uvicorn

        from prbench.serving.app import make_app
        from prbench.serving.limits import Limits
    except ModuleNotFoundError as error:
        raise InputError(
            f"serving needs the package {error.name}, which is not here", hint="pip install 'prbench[serve]'"
        ) from error
    with contextlib.closing(_listening(host, port)) as listener:
        # Whatever is wrong with the model shows now, not at the first request.
        model.score(
            state, "Are you there?", ["Yes, I am here.", "No, I am not."] if model.method.pairwise else ["Yes."]
        )
        alone = is_loopback(host)
        address = f"[{host}]" if ":" in host else host
        url = f"http://{address}:{listener.getsockname()[1]}"
        if not alone:
            stderr().print(
                f"warning: whoever reaches {url} can ask what this person prefers: there is no password and no "
                "encryption; put a proxy that has both before it",
                markup=False,
                soft_wrap=True,
            )
        app = make_app(model, state, Limits(**(limits or {})), (*LOOPBACK, address.lower()) if alone else None)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE, ws="none"
        )
        ready(url)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{host}:{port} cannot be taken: {said}", hint="--port 0 takes any free port of this machine"
        ) from error
