"""`prbench user serve`: a person's scores over HTTP."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import one_person
import pytest
from one_person import Place

from prbench import cli
from prbench.base.errors import InputError
from prbench.serving import server
from prbench.serving.app import make_app
from prbench.serving.limits import Limits
from prbench.user.model import UserModel, open_state

SECRET = "my secret question"
ASKED = {"prompt": "What about 7?", "responses": ["yes 7", "no 7", "maybe"]}
SMALL = Limits(body=2000, responses=3, messages=2, text=100, waiting=2, seconds=0.3)
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with one_person.made(tmp_path_factory.mktemp("served")) as place:
        yield place


@pytest.fixture(scope="module")
def served(place: Place) -> tuple[UserModel, Any]:
    return open_state(place.me)


def ask(app: Any, method: str, path: str, **request: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, **request)

    return asyncio.run(call())


def fault(reply: httpx.Response) -> tuple[int, str, str]:
    said = reply.json()
    assert set(said) == {"error"}
    assert set(said["error"]) == {"code", "message", "field"}
    assert SECRET not in reply.text
    return reply.status_code, said["error"]["code"], said["error"]["field"]


def test_scores_and_ranks_are_those_of_the_model(served: tuple[UserModel, Any]) -> None:
    model, me = served
    app = make_app(model, me, Limits())
    expected = model.score(me, ASKED["prompt"], ASKED["responses"]).tolist()
    assert len(set(expected)) == 3
    assert ask(app, "POST", "/score", json=ASKED).json() == {"scores": pytest.approx(expected)}
    chat = [{"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Green?"}]
    of_chat = ask(app, "POST", "/score", json={"prompt": chat, "responses": ["yes"]}).json()
    assert of_chat == {"scores": pytest.approx(model.score(me, chat, ["yes"]).tolist())}

    order = sorted(range(3), key=lambda i: -expected[i])
    twice = {**ASKED, "responses": [*ASKED["responses"], ASKED["responses"][order[0]]]}
    ranking = ask(app, "POST", "/rank", json=twice).json()["ranking"]
    assert [(p["rank"], p["index"]) for p in ranking] == [(1, order[0]), (1, 3), (3, order[1]), (4, order[2])]
    assert [p["score"] for p in ranking] == pytest.approx(sorted([*expected, max(expected)], reverse=True))

    health = ask(app, "GET", "/health").json()
    assert (health["status"], health["method"], health["encoder"]) == ("ok", one_person.METHOD, "planted")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "not_json", ""),
        (b"[" * 1900, 400, "not_json", ""),
        (b"x" * 2001, 413, "body_too_large", ""),
        ({"prompt": SECRET}, 422, "invalid", "responses"),
        ({"prompt": SECRET, "responses": "one text"}, 422, "invalid", "responses"),
        ({"prompt": SECRET, "responses": ["a", 3]}, 422, "invalid", "responses.1"),
        ({"prompt": SECRET, "responses": ["a"], "user": SECRET}, 422, "invalid", "user"),
        ({"prompt": [{"role": "user"}], "responses": ["a"]}, 422, "invalid", "prompt"),
        ({"prompt": SECRET, "responses": ["half \ud800"]}, 422, "not_unicode", "responses"),
        ({"prompt": SECRET, "responses": []}, 422, "nothing_given", "responses"),
        ({"prompt": [], "responses": ["a"]}, 422, "nothing_given", "prompt"),
        ({"prompt": SECRET, "responses": ["a"] * 4}, 422, "too_many", "responses"),
        ({"prompt": [{"role": "user", "content": "a"}] * 3, "responses": ["a"]}, 422, "too_many", "prompt"),
        ({"prompt": SECRET, "responses": ["a" * 101]}, 422, "text_too_long", "responses"),
        ({"prompt": "a" * 101, "responses": ["a"]}, 422, "text_too_long", "prompt"),
        ({"prompt": SECRET, "responses": ["a", " \n"]}, 422, "blank", "responses"),
    ],
)
def test_a_wrong_request_is_refused_by_name(
    served: tuple[UserModel, Any], body: Any, status: int, code: str, field: str
) -> None:
    app = make_app(*served, SMALL)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = fault(ask(app, "POST", "/score", content=content, headers={"content-type": "application/json"}))
    assert found[:2] == (status, code)
    assert found[2] == field or (field == "prompt" and found[2].startswith("prompt"))


def test_what_is_not_there_and_who_does_not_ask_in_json(served: tuple[UserModel, Any]) -> None:
    app = make_app(*served, Limits(), server.LOOPBACK)
    assert fault(ask(app, "GET", "/docs"))[:2] == (404, "not_found")
    assert fault(ask(app, "GET", "/score"))[:2] == (405, "not_allowed")
    # What a page of another site may send without asking first.
    simple = {"content-type": "text/plain"}
    assert fault(ask(app, "POST", "/score", content=json.dumps(ASKED).encode(), headers=simple))[0] == 422
    for name, status in (
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("[::1]:8000", 200),
        ("LOCALHOST:1", 200),
    ):
        reply = ask(app, "POST", "/score", json=ASKED, headers={"host": name})
        assert reply.status_code == status
    assert ask(make_app(*served, Limits()), "POST", "/score", json=ASKED, headers={"host": "a.b"}).status_code == 200


def test_a_body_without_a_length_is_counted_and_must_come_in(served: tuple[UserModel, Any]) -> None:
    app = make_app(*served, SMALL)

    async def long() -> Any:
        for _ in range(30):
            yield b" " * 100

    async def slow() -> Any:
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    assert fault(ask(app, "POST", "/score", content=long()))[:2] == (413, "body_too_large")
    assert fault(ask(app, "POST", "/score", content=slow()))[:2] == (408, "body_too_slow")


def test_a_failure_tells_nothing_of_the_texts(
    served: tuple[UserModel, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    app = make_app(*served, Limits())
    caplog.set_level(logging.DEBUG)
    request = {"prompt": SECRET, "responses": ["a"]}

    def broken(*_: Any) -> Any:
        raise RuntimeError(f"cannot read {SECRET}")

    monkeypatch.setattr(UserModel, "score", broken)
    assert fault(ask(app, "POST", "/score", json=request))[:2] == (500, "failed")
    monkeypatch.setattr(UserModel, "score", lambda *_: __import__("torch").tensor([float("nan")]))
    assert fault(ask(app, "POST", "/score", json=request))[:2] == (500, "not_finite")

    def refuses(*_: Any) -> Any:
        raise InputError("text 1 cannot be encoded: too long")

    monkeypatch.setattr(UserModel, "score", refuses)
    assert fault(ask(app, "POST", "/score", json=request))[:2] == (422, "cannot_be_scored")
    out, err = capfd.readouterr()
    assert "a request failed: RuntimeError at test_serving.py" in err
    assert SECRET not in out + err + caplog.text


def test_requests_wait_for_one_another_up_to_a_limit(
    served: tuple[UserModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two may wait: of three at once one is told to come again, and health answers meanwhile."""
    app = make_app(*served, SMALL)
    inner, inside, most, go = UserModel.score, [], [], threading.Event()

    def slow(*args: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        go.wait(5)
        found = inner(*args)
        inside.pop()
        return found

    monkeypatch.setattr(UserModel, "score", slow)

    async def three() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            calls = [asyncio.create_task(client.post("/score", json=ASKED)) for _ in range(3)]
            while not any(call.done() for call in calls):
                await asyncio.sleep(0.01)
            assert (await client.get("/health")).json()["busy"] == 2
            go.set()
            return await asyncio.gather(*calls)

    replies = asyncio.run(three())
    assert sorted(reply.status_code for reply in replies) == [200, 200, 503]
    assert [r.headers["retry-after"] for r in replies if r.status_code == 503] == ["1"]
    assert most == [1, 1]


def started(place: Place, *more: str) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and its address."""
    command = [sys.executable, "-m", "prbench", "--registry", str(place.registry), "user", "serve", "--state"]
    environment = {**os.environ, "PRBENCH_HOME": str(place.home), "PYTHONPATH": str(TESTS)}
    process = subprocess.Popen(
        [*command, str(place.me), "--port", "0", "--json", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while lines[-1] not in ("}\n", ""):
        lines.append(process.stdout.readline())
    assert lines[-1], process.communicate()[1]
    return process, json.loads("".join(lines))["url"]


def test_a_real_process_answers_eight_at_once_and_ends_with_ctrl_c(
    place: Place, served: tuple[UserModel, Any]
) -> None:
    model, me = served
    process, url = started(place)
    assert url.startswith("http://127.0.0.1:")
    try:
        expected = [model.score(me, SECRET, [f"yes {i}", "no"]).tolist() for i in range(24)]
        with httpx.Client(timeout=30) as client, ThreadPoolExecutor(8) as threads:
            asked = [{"prompt": SECRET, "responses": [f"yes {i}", "no"]} for i in range(24)]
            replies = list(threads.map(lambda each: client.post(f"{url}/score", json=each), asked))
            assert [reply.json()["scores"] for reply in replies] == [pytest.approx(each) for each in expected]
            assert client.get(f"{url}/health").json()["busy"] == 0
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out == ""
    assert err.splitlines() == [f"serving me.safetensors ({one_person.METHOD}, planted) at {url}; Ctrl-C ends it"]


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2
    return err


def test_a_port_in_use_and_a_file_that_is_no_state(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(capsys, "user", "serve", "--state", place.me, "--port", str(port))
    assert f"error: 127.0.0.1:{port} cannot be taken: " in said
    assert "cannot be taken" in refusal(capsys, "user", "serve", "--state", place.me, "--host", "not a host")
    (tmp_path / "x").write_text("x")
    assert "is not a readable safetensors file" in refusal(capsys, "user", "serve", "--state", tmp_path / "x")

    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "uvicorn":
            raise ModuleNotFoundError("no", name="uvicorn")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    said = refusal(capsys, "user", "serve", "--state", place.me, "--port", "0")
    assert "serving needs the package uvicorn" in said
    assert "pip install 'prbench[serve]'" in said


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="IPv6 is switched off on this machine, as in many containers")


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        pytest.param("::1", True, marks=IPV6),
        ("localhost", True),
        ("0.0.0.0", False),
        pytest.param("::", False, marks=IPV6),
    ],
)
def test_whoever_serves_others_is_warned(
    place: Place,
    served: tuple[UserModel, Any],
    host: str,
    alone: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import uvicorn

    given: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: given.append(self.config.app))
    urls: list[str] = []
    server.serve(*served, host=host, port=0, ready=urls.append)
    (app,) = given
    other = ask(app, "POST", "/score", json=ASKED, headers={"host": "example.org"})
    assert other.status_code == (421 if alone else 200)
    assert ask(app, "POST", "/score", json=ASKED, headers={"host": urls[0].removeprefix("http://")}).is_success
    err = capfd.readouterr().err
    assert (err == "") is alone
    assert alone or ("no password" in err and urls[0] in err)
