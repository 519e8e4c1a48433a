"""A server with OpenAI's chat completions on loopback that fails as it is told to, and counts what it is asked."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler", dict[str, Any]], bool]
"""Is given the request; True where it has replied itself."""


class Server(ThreadingHTTPServer):
    """`answered` counts prompts that got a whole answer; each of `faults` is used up by one call."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: deque[Fault] = deque()
        self.always: list[Fault] = []
        self.answered: Counter[str] = Counter()
        self.payloads: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.wait = 0.0
        self.gives_logprobs = True
        self.content: Callable[[dict[str, Any]], str] | None = None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class Handler(BaseHTTPRequestHandler):
    """Answers with the letter that a hash of the prompt gives."""

    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.payloads.append(payload)
            self.server.headers.append(dict(self.headers))
            fault = self.server.faults.popleft() if self.server.faults else None
        time.sleep(self.server.wait)
        if fault and fault(self, payload):
            return
        for always in self.server.always:
            if always(self, payload):
                return
        self.answer(payload)

    def answer(self, payload: dict[str, Any], **changes: Any) -> None:
        text = json.dumps(payload["messages"])
        share = int(hashlib.sha256(text.encode()).hexdigest()[:4], 16) / 2**16
        letter = "A" if share > 0.5 else "B"
        choice: dict[str, Any] = {"message": {"content": letter}, "finish_reason": "stop"}
        if self.server.content is not None:
            choice["message"]["content"] = self.server.content(payload)
        if payload.get("logprobs") and self.server.gives_logprobs:
            top = [
                {"token": "A", "logprob": -1 - share},
                {"token": " a", "logprob": -5.0},
                {"token": "B", "logprob": -2 + share},
                {"token": "The", "logprob": -6.0},
            ]
            choice["logprobs"] = {"content": [{"token": letter, "logprob": -1.0, "top_logprobs": top}]}
        body = {
            "model": "tiny-1",
            "choices": [choice],
            "usage": {"prompt_tokens": 10, "completion_tokens": 1},
            **changes,
        }
        with self.server.lock:
            self.server.answered[text] += 1
        self.reply(200, body)

    def reply(self, code: int, body: Any, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)


def status(code: int, error: dict[str, Any] | None = None, **headers: str) -> Fault:
    """Reply with an error."""

    def fault(handler: Handler, payload: dict[str, Any]) -> bool:
        handler.reply(
            code, {"error": error or {"message": "planted"}}, {k.replace("_", "-"): v for k, v in headers.items()}
        )
        return True

    return fault


def dropped(handler: Handler, payload: dict[str, Any]) -> bool:
    """Hang up in the middle of an answer."""
    handler.reply(200, {"choices": [{"message": {"content": "A" * 500}}]}, cut=True)
    handler.connection.close()
    return True


def truncated(handler: Handler, payload: dict[str, Any]) -> bool:
    """JSON that ends too early, though HTTP is satisfied."""
    handler.reply(200, b'{"choices": [{"message": {"content": "A"')
    return True


def slow(seconds: float) -> Fault:
    """Answer late."""

    def fault(handler: Handler, payload: dict[str, Any]) -> bool:
        time.sleep(seconds)
        return False

    return fault


def rejects(field: str, message: str) -> Fault:
    """HTTP 400 wherever a field is given."""

    def fault(handler: Handler, payload: dict[str, Any]) -> bool:
        if field not in payload:
            return False
        handler.reply(400, {"error": {"message": message, "code": "unsupported_parameter"}})
        return True

    return fault


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
