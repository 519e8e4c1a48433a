"""What the environment says of the network, and whether an address answers: asked before anything is downloaded."""

from __future__ import annotations

import os
import socket
import threading
from functools import lru_cache
from importlib.util import find_spec
from urllib.parse import urlsplit

from prbench.base.errors import InputError

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
SOCKS = ("socks4", "socks4a", "socks5", "socks5h")
HUB = "https://huggingface.co"
PATIENCE = 5.0
"""Seconds that an address has to answer."""
SOON = 1.0
PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


def require_usable_network_settings() -> None:
    """Raise InputError, naming the variable, for a proxy or a hub address that no download can use."""
    for name in (variable for upper in PROXIES for variable in (upper, upper.lower())):
        value = os.environ.get(name, "")
        scheme = _scheme(value)
        if not value or scheme in ("http", "https"):
            continue
        if scheme not in SOCKS:
            shown_scheme = f"{scheme}://" if scheme else "no scheme"
            raise InputError(
                f"{name} names a proxy with {shown_scheme}, which no download here understands",
                hint=f"write {name}=http://HOST:PORT or socks5://HOST:PORT, or unset {name}",
            )
        if find_spec("socksio") is None or find_spec("socks") is None:
            raise InputError(
                f"{name} names a SOCKS proxy, and the packages for it are not installed",
                hint=f"pip install httpx[socks] pysocks, or unset {name}",
            )
    endpoint = os.environ.get("HF_ENDPOINT", "")
    if endpoint and _scheme(endpoint) not in ("http", "https"):
        raise InputError(
            "HF_ENDPOINT is not an address with http:// or https://",
            hint="write HF_ENDPOINT=https://huggingface.co, or unset HF_ENDPOINT",
        )


def hub_address() -> str:
    """Where the Hugging Face hub is asked."""
    return os.environ.get("HF_ENDPOINT") or HUB


def reachable(address: str) -> bool:
    """Whether the server of an address, or the proxy before it, takes a connection within `PATIENCE` seconds.

    Tried once for each server in a process. What takes longer than a second is said on stderr. Raises InputError as
    `require_usable_network_settings`.
    """
    require_usable_network_settings()
    parts = urlsplit(address)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") and address == hub_address():
        return False
    return _answers(*_first_stop(parts.scheme, parts.hostname or "", parts.port))


def _first_stop(scheme: str, host: str, port: int | None) -> tuple[str, int]:
    """Host and port that a connection is opened to: the server's, or its proxy's."""
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy and not proxy_bypass(host):
        parts = urlsplit(proxy)
        return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 80)
    return host, port or PORTS.get(scheme, 443)


@lru_cache(maxsize=64)
def _answers(host: str, port: int) -> bool:
    from prbench.base.console import stderr

    answered: list[bool] = []

    def ask() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
        except OSError:
            answered.append(False)
        else:
            answered.append(True)

    # Looking a name up has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SOON)
    if asking.is_alive():
        stderr().print(f"waiting for {host}, {PATIENCE:.0f} seconds at most", markup=False)
        asking.join(PATIENCE - SOON)
    return answered == [True]


def _scheme(address: str) -> str:
    """The scheme of an address, "" without one: in "host:8080" the first part is not a scheme."""
    if "://" not in address:
        return ""
    try:
        return urlsplit(address).scheme.lower()
    except ValueError:
        return address.partition("://")[0].lower()
