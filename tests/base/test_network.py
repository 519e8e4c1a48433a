"""Environment variables that no download can use are named in one line."""

from __future__ import annotations

import pytest

from prbench.base import network
from prbench.base.errors import InputError


@pytest.fixture(autouse=True)
def no_network_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", *network.PROXIES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:1080", "ALL_PROXY names a proxy with socks://"),
        ("https_proxy", "proxy.example:8080", "https_proxy names a proxy with no scheme"),
        ("HTTP_PROXY", "http//proxy", "HTTP_PROXY names a proxy with no scheme"),
        ("HF_ENDPOINT", "hub.example", "HF_ENDPOINT is not an address"),
        ("HF_ENDPOINT", "ftp://hub.example", "HF_ENDPOINT is not an address"),
    ],
)
def test_the_variable_is_named(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said) as refused:
        network.require_usable_network_settings()
    assert name in str(refused.value.hint)


def test_usable_settings_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    network.require_usable_network_settings()
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:8080")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    network.require_usable_network_settings()
