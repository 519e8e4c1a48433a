"""What the environment says of the network, checked before anything is downloaded."""

from __future__ import annotations

import os
from importlib.util import find_spec
from urllib.parse import urlsplit

from prbench.base.errors import InputError

PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
SOCKS = ("socks4", "socks4a", "socks5", "socks5h")


def require_usable_network_settings() -> None:
    """Raise InputError, naming the variable, for a proxy or a hub address that no download can use."""
    for name in (variable for upper in PROXIES for variable in (upper, upper.lower())):
        value = os.environ.get(name, "")
        scheme = _scheme(value)
        if not value or scheme in ("http", "https"):
            continue
        if scheme not in SOCKS:
            found = f"{scheme}://" if scheme else "no scheme"
            raise InputError(
                f"{name} names a proxy with {found}, which no download here understands",
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


def _scheme(address: str) -> str:
    """The scheme of an address, "" without one: in "host:8080" the first part is not a scheme."""
    if "://" not in address:
        return ""
    try:
        return urlsplit(address).scheme.lower()
    except ValueError:
        return address.partition("://")[0].lower()
