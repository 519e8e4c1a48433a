"""What a request may hold: bytes of its body, numbers of texts and their lengths, the hosts it may name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Limits:
    """The most that one request may hold, and how many requests may wait.

    `body` counts bytes, `text` the characters of one text, `messages` those of a prompt, `responses` the texts to be
    scored, `waiting` the requests that wait for the model or are being computed; a body must have come in within
    `seconds`.
    """

    body: int = 1 << 20
    responses: int = 64
    messages: int = 64
    text: int = 32_768
    waiting: int = 64
    seconds: float = 30.0


class RefusedError(Exception):
    """A request that is not computed: its HTTP status, a code for programs, the field at fault and a sentence."""

    def __init__(self, status: int, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field

    def reply(self) -> JSONResponse:
        """The error as every endpoint gives it; no text of the request is part of it."""
        headers = {"Retry-After": "1"} if self.status == 503 else None
        said = {"code": self.code, "message": self.message, "field": self.field}
        return JSONResponse({"error": said}, status_code=self.status, headers=headers)


class Gate:
    """Reads a request's body, as far as it may be long, before the application sees anything of it.

    `hosts` are the names by which the server may be called, where it serves this machine alone: a page in a browser
    that has turned its own name to this machine (DNS rebinding) is refused. None takes any name.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Sequence[str] | None) -> None:
        self.app = app
        self.limits = limits
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As in ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._require_host(scope)
            async with asyncio.timeout(self.limits.seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            message = f"the body did not come in within {self.limits.seconds:g} seconds"
            await RefusedError(408, "body_too_slow", message).reply()(scope, receive, send)
            return
        except RefusedError as refused:
            await refused.reply()(scope, receive, send)
            return
        if body is None:
            return
        unread = [body]

        async def replayed() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        await self.app(scope, replayed, send)

    def _require_host(self, scope: Scope) -> None:
        if self.hosts is None:
            return
        named = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        name = named if named.endswith("]") else named.rpartition(":")[0] or named
        if name not in self.hosts:
            raise RefusedError(421, "wrong_host", "this server answers to the names of its own machine alone")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or None where the client has gone. Raises RefusedError where it is too long."""
        most = self.limits.body
        said = dict(scope["headers"]).get(b"content-length", b"0")
        too_long = RefusedError(413, "body_too_large", f"the body is longer than {most:,} bytes")
        if said.isdigit() and int(said[:20]) > most:
            raise too_long
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size > most:
                raise too_long
            parts.append(part)
        return b"".join(parts)
