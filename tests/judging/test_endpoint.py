"""A judge model behind a server: every fault passes or is named, and no answer is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_server import Fault, Server, dropped, rejects, serving, slow, status, truncated
from judged_runs import judge_entry, registry_folder

from prbench.base.errors import InputError
from prbench.comparisons import Message
from prbench.judging.backend import Answer, Pair, Request
from prbench.judging.endpoint import HIDDEN, Endpoint
from prbench.judging.prompts import rating, verdict
from prbench.judging.reader import Reader
from prbench.registry.schema import JudgeEntry

ENTRY = JudgeEntry(name="server", title="", target="x:y", licence="", homepage="", summary="")
ASK = (Message("user", "Q"),)
SECRET = "sk-planted-secret-0123456789"


@pytest.fixture
def server(prbench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("prbench.judging.endpoint.FIRST_WAIT", 0.01)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as made:
        yield made


def endpoint(server: Server, **options: Any) -> Endpoint:
    return Endpoint(**{"url": server.url, "model": "tiny", "key": "", "timeout": 5.0, **options})


def questions(count: int) -> list[Request]:
    return [verdict(Pair(ASK, f"reply {i}", "another")) for i in range(count)]


def answers(server: Server, count: int = 12, **options: Any) -> list[Answer]:
    return Reader(ENTRY, endpoint(server, **options)).ask(questions(count))


def told(answer: Answer) -> tuple[Any, ...]:
    return answer.text, answer.logprobs, answer.failure


def test_forms_of_a_label_are_summed_and_missing_ones_bounded(server: Server) -> None:
    [first, *_] = answers(server, 1)
    assert first.logprobs is not None
    assert first.failure == ""
    assert server.payloads[0]["max_tokens"] == 1
    assert server.payloads[0]["top_logprobs"] == 20
    assert first.model == "tiny-1"
    # "A" at −1 − s and " a" at −5 together: more than either, by less than log 2.
    [only] = Reader(ENTRY, endpoint(server)).ask([rating(ASK, "r")])
    # None of 1 to 10 is among the alternatives.
    assert only.failure == "unparsable"


@pytest.mark.parametrize(
    "faults",
    [
        [status(429, Retry_After="0"), status(429, retry_after_ms="5"), status(500), status(503)],
        [dropped, dropped],
        [truncated],
        [status(429, Retry_After="Sat, 28 Nov 2020 10:00:00 GMT")],
        [slow(1.5)],
    ],
    ids=["busy", "dropped", "truncated", "date", "late"],
)
def test_results_equal_those_without_faults(faults: list[Fault], server: Server, prbench_home: Path) -> None:
    expected = [told(answer) for answer in answers(server)]
    asked = set(server.answered)
    server.answered.clear()
    for path in (prbench_home / "answers").glob("server-*"):
        path.unlink()
    server.faults.extend(faults)
    assert [told(answer) for answer in answers(server, timeout=1.0 if len(faults) == 1 else 5.0)] == expected
    assert set(server.answered) == asked
    again = len(server.payloads)
    assert [told(answer) for answer in answers(server)] == expected
    assert len(server.payloads) == again


def test_a_server_that_asks_to_wait_is_waited_for(server: Server) -> None:
    server.faults.append(status(429, Retry_After="1"))
    began = time.perf_counter()
    answers(server, 1)
    assert time.perf_counter() - began >= 1


def test_lost_calls_are_counted_and_made_again_later(server: Server) -> None:
    server.always.append(status(500))
    reader = Reader(ENTRY, endpoint(server, retries=1))
    assert {answer.failure for answer in reader.ask(questions(3))} == {"lost"}
    assert reader.tally.failures == {"lost": 3}
    server.always.clear()
    assert {answer.failure for answer in answers(server, 3)} == {""}


@pytest.mark.parametrize(
    ("field", "message", "changed"),
    [
        ("max_tokens", "Unsupported parameter: 'max_tokens', use 'max_completion_tokens'", "max_completion_tokens"),
        ("temperature", "Unsupported value: 'temperature' does not support 0 with this model", None),
        ("seed", "unknown field seed", None),
        ("logprobs", "logprobs are not supported by this model", "response_format"),
    ],
)
def test_a_difference_is_learnt_once(field: str, message: str, changed: str | None, server: Server) -> None:
    server.always.append(rejects(field, message))
    assert {answer.failure for answer in answers(server, 8)} == {""}
    assert sum(field in payload for payload in server.payloads) == 1
    assert changed is None or changed in server.payloads[-1]
    # Another process remembers it.
    before = len(server.payloads)
    Reader(ENTRY, endpoint(server)).ask(questions(9))
    assert not any(field in payload for payload in server.payloads[before:])


def test_ignored_logprobs_are_noticed_once(server: Server) -> None:
    server.gives_logprobs = False
    found = answers(server, 6)
    assert {answer.text for answer in found} <= {"A", "B"}
    assert all(answer.logprobs is None for answer in found)
    assert sum("logprobs" in payload for payload in server.payloads) == 1


def test_a_server_without_schemas_is_asked_for_a_text(server: Server) -> None:
    server.gives_logprobs = False
    server.always.append(rejects("response_format", "response_format is not supported"))
    assert {answer.text for answer in answers(server, 6)} <= {"A", "B"}
    assert sum("response_format" in payload for payload in server.payloads) == 1


@pytest.mark.parametrize(
    ("content", "expected", "calls"),
    [
        ('{"choice": "B"}', ("B", ""), 1),
        ("Sure: <choice>A</choice>", ("A", ""), 1),
        ("I like both A and B", ("", "unparsable"), 3),
        ("", ("", "unparsable"), 3),
    ],
)
def test_texts_are_read_strictly(content: str, expected: tuple[str, str], calls: int, server: Server) -> None:
    server.content = lambda payload: content
    [answer] = answers(server, 1, verdicts="text")
    assert (answer.text if not answer.failure else "", answer.failure) == expected
    assert len(server.payloads) == calls
    # What is asked again is asked otherwise, and paid for.
    assert len({payload["temperature"] for payload in server.payloads}) == min(calls, 2)
    assert answer.tokens_in == 10 * calls


def test_hidden_reasoning_gets_room_once(server: Server) -> None:
    def reasons(handler: Any, payload: dict[str, Any]) -> bool:
        if payload["max_tokens"] > HIDDEN:
            return False
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 1}}
        handler.reply(200, {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": usage})
        return True

    server.always.append(reasons)
    assert {answer.failure for answer in answers(server, 4)} == {""}
    assert sum(payload["max_tokens"] <= HIDDEN for payload in server.payloads) == 1


def test_a_refusal_is_counted(server: Server) -> None:
    def refuses(handler: Any, payload: dict[str, Any]) -> bool:
        handler.reply(200, {"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]})
        return True

    server.always.append(refuses)
    assert {answer.failure for answer in answers(server, 3, verdicts="schema")} == {"refused"}


def test_no_call_can_succeed_is_one_line_before_any_call(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PLANTED_KEY", raising=False)
    for options, message in (
        ({"key": "PLANTED_KEY"}, "the environment variable PLANTED_KEY is not set"),
        ({"model": "tini"}, "has no model 'tini'; did you mean tiny?"),
        ({"url": "http://127.0.0.1:9/v1"}, "there is no server at http://127.0.0.1:9/v1"),
    ):
        with pytest.raises(InputError) as caught:
            answers(server, 2, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert server.payloads == []
    for url, message in (("ftp://x/v1", "is not an address"), ("https://me:pw@host/v1", "holds a password")):
        with pytest.raises(InputError, match=message):
            Endpoint(url=url, model="tiny")


def test_a_used_up_quota_ends_at_once(server: Server) -> None:
    server.always.append(status(429, {"message": "quota", "code": "insufficient_quota"}))
    with pytest.raises(InputError, match="the quota is used up"):
        answers(server, 5)
    assert len(server.payloads) == 1


def test_the_key_goes_to_the_server_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, prbench_home: Path
) -> None:
    monkeypatch.setenv("PLANTED_KEY", SECRET)
    answers(server, 2, key="PLANTED_KEY")
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
    server.always.append(status(401, {"message": f"Incorrect API key provided: {SECRET}"}))
    with pytest.raises(InputError) as caught:
        answers(server, 5, key="PLANTED_KEY")
    assert "does not accept the key" in str(caught.value)
    assert SECRET not in str(caught.value)
    kept = [path for path in prbench_home.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def test_a_killed_run_makes_no_stored_call_again(server: Server, prbench_home: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of calls: at most the one under way is lost, and the resumed run has the same results."""
    folder = registry_folder(tmp_path / "registry", users=4, splits=1)
    rest = f'[options]\nurl = "{server.url}"\nmodel = "tiny"\nkey = ""\nconcurrency = 1\n'
    judge_entry(folder, "served", "prbench.judging.endpoint:Endpoint", rest)
    command = [sys.executable, "-m", "prbench", "--registry", str(folder), "run", "--dataset", "taste-text",
               "--methods", "judge", "--judge", "served", "--out", str(tmp_path / "runs")]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    server.wait = 0.02
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(server.answered.values()) < 25 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not list((tmp_path / "runs").rglob("DONE"))
    before = sum(server.answered.values())
    assert before >= 25
    server.wait = 0.0
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sum(server.answered.values()) - len(server.answered) <= 1
    record = json.loads(next((tmp_path / "runs").rglob("cell.json")).read_text())
    asked = record["judging"]["test"]
    # 120 of 240 choices are tested in two orders; the cold start asks the same, and users share pairs.
    assert asked["asked"] == 480
    assert before < len(server.answered) <= 160
    assert asked["calls"] in (len(server.answered) - before, len(server.answered) - before + 1)
