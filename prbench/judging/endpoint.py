"""Any server with OpenAI's chat completions as judge model, called with retries of prbench's own.

What a server can do is found out from its first answers and remembered (`Abilities`), never guessed per call.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import requests
from pydantic import Field

from prbench.base.errors import InputError, near
from prbench.base.files import digest, home, write_json
from prbench.base.reading import read_json
from prbench.hyperparameters import Count, Natural, Positive
from prbench.judging.backend import Answer, Backend, Request, Tell
from prbench.judging.chat_replies import alternatives, asked_wait, choice_schema, count, label_logprobs, named_label

TOP = 20
"""The most alternatives that OpenAI's interface gives per token."""
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
LONGEST_ASKED = 600.0
"""Seconds; a server that asks to wait longer is waited for this long."""
ROOM = 64
"""Tokens for a verdict as a text, beside hidden reasoning."""
HIDDEN = 4096
"""Tokens more for servers whose hidden reasoning uses up a small limit."""
SAID = 200
Way = Literal["", "logprobs", "schema", "text"]


class TryAgainError(Exception):
    """A call failed in a way that may pass; `wait` are the seconds that the server asks for, if it does."""

    def __init__(self, said: str, wait: float | None = None) -> None:
        super().__init__(said)
        self.wait = wait


@dataclass(frozen=True)
class Abilities:
    """What a server was found to do.

    `limit` is the field that it takes the limit of tokens in, `temperature` whether it takes one, `way` how verdicts
    are read ("" until the first one: then log-probabilities are asked for), `hidden` the tokens added for reasoning
    that it does not show.
    """

    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    seed: bool = True
    way: Way = ""
    hidden: int = 0


class Endpoint(Backend):
    """`model` at `url` (up to "/v1"), with the key in the environment variable `key` ("" for none).

    `timeout` in seconds covers connecting and each wait for data; `concurrency` calls are under way at once; a call
    that fails in a way that may pass is made again up to `retries` times, after waits that double or that the server
    asks for (Retry-After). `verdicts` "auto" reads log-probabilities where the server gives them, else a structured
    answer, else a text; an answer that cannot be read is asked for again up to `repeats` times. `context` in tokens,
    0 where it is not known. `label` names the server in what its answers are stored under, by default its host.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key: str = "OPENAI_API_KEY",
        label: str = "",
        context: Natural = 0,
        timeout: Positive = 120.0,
        concurrency: Annotated[int, Field(ge=1, le=256)] = 8,
        retries: Natural = 6,
        repeats: Natural = 2,
        verdicts: Literal["auto", "logprobs", "schema", "text"] = "auto",
        chars_per_token: Count = 4,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"url {url!r} is not an address", hint="for example https://api.openai.com/v1")
        if parts.username or parts.password:
            raise InputError("the url of a judge model holds a password", hint="put the key into the environment")
        self.url = url.rstrip("/")
        self.model = model
        self.key = key
        self.label = label or parts.hostname
        self.timeout = timeout
        self.concurrency = concurrency
        self.retries = retries
        self.repeats = repeats
        self.verdicts = verdicts
        self.chars_per_token = chars_per_token
        self._room = context
        self._lock = threading.Lock()
        self._local = threading.local()
        self._stop = threading.Event()
        self._abilities: Abilities | None = None

    def identity(self) -> dict[str, Any]:
        """Server, model and the way in which verdicts are to be read."""
        return {"kind": "endpoint", "server": self.label, "model": self.model, "verdicts": self.verdicts}

    @property
    def context(self) -> int | None:
        """What the entry says."""
        return self._room or None

    def prepare(self) -> None:
        """See whether the server is there, takes the key and has the model. No answer is asked for."""
        self._secret()
        try:
            reply = self._session().get(f"{self.url}/models", timeout=self.timeout)
        except requests.RequestException as error:
            raise InputError(
                f"there is no server at {self.url}: {self._plain(error)}", hint="start it, or correct options.url"
            ) from error
        if reply.status_code in (401, 403):
            raise self._refused(reply)
        try:
            known = [str(each["id"]) for each in reply.json()["data"]] if reply.ok else []
        except (ValueError, KeyError, TypeError):
            # A server without a list of models says with the first call whether it has this one.
            return
        if known and self.model not in known:
            raise InputError(
                f"{self.url} has no model {self.model!r}{near(self.model, known)}",
                hint=f"it has {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}",
            )

    def answer(self, requests_: Sequence[Request], tell: Tell) -> None:
        """As in `Backend`, `concurrency` calls at once. The first verdict shows what the server can do."""
        self._stop.clear()
        left = list(range(len(requests_)))
        if left and self._known().way == "":
            # By itself, so that all others are asked in one way.
            first = next((i for i in left if requests_[i].labels), None)
            if first is not None:
                tell(first, self._one(requests_[first]))
                left.remove(first)
        with ThreadPoolExecutor(self.concurrency) as pool:
            futures: dict[Future[Answer], int] = {}
            waiting = iter(left)
            try:
                for number in waiting:
                    futures[pool.submit(self._one, requests_[number])] = number
                    if len(futures) == self.concurrency:
                        break
                while futures:
                    done, _ = wait(futures, return_when=FIRST_COMPLETED)
                    for future in done:
                        tell(futures.pop(future), future.result())
                        # No further call goes out before the answers that are there are stored.
                        if (following := next(waiting, None)) is not None:
                            futures[pool.submit(self._one, requests_[following])] = following
            except BaseException:
                self._stop.set()
                for future, number in futures.items():
                    # What was answered meanwhile was paid for.
                    if future.done() and not future.cancel() and future.exception() is None:
                        tell(number, future.result())
                raise

    def _one(self, request: Request) -> Answer:
        """The answer to a request, asked for again where it cannot be read."""
        spent = Answer()
        for attempt in range(self.repeats + 1):
            answer = self._asked(request, attempt)
            spent = replace(
                answer,
                tokens_in=spent.tokens_in + answer.tokens_in,
                tokens_out=spent.tokens_out + answer.tokens_out,
                seconds=spent.seconds + answer.seconds,
            )
            if answer.failure != "unparsable":
                break
        return spent

    def _asked(self, request: Request, attempt: int) -> Answer:
        """One answer, over all that may pass."""
        began = time.perf_counter()
        for tries in range(self.retries + 1):
            try:
                reply, way = self._call(request, attempt)
            except TryAgainError as error:
                if tries == self.retries or self._stop.is_set():
                    return Answer(failure="lost", seconds=time.perf_counter() - began)
                pause = min(LONGEST_WAIT, FIRST_WAIT * 2**tries) * (0.5 + random.random() / 2)
                self._stop.wait(pause if error.wait is None else min(error.wait, LONGEST_ASKED))
                continue
            answer = self._read(request, reply, way)
            return replace(answer, seconds=time.perf_counter() - began)
        raise AssertionError("the last try returns")

    def _call(self, request: Request, attempt: int) -> tuple[dict[str, Any], Way]:
        """What the server replies, and the way in which it was asked. Learns from a refusal of a field."""
        while True:
            known = self._known()
            payload, way = self._payload(request, known, attempt)
            try:
                reply = self._session().post(f"{self.url}/chat/completions", json=payload, timeout=self.timeout)
                content = reply.content
            except requests.RequestException as error:
                raise TryAgainError(self._plain(error)) from error
            if reply.status_code == 400 and self._learn_from(reply, known, way):
                continue
            self._raise_for(reply)
            try:
                found = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise TryAgainError("an answer that is cut off") from error
            if not isinstance(found, dict) or not isinstance(found.get("choices"), list) or not found["choices"]:
                raise TryAgainError("an answer without choices")
            if self._learn_hidden(found, known):
                continue
            if way == "logprobs" and known.way == "" and request.labels:
                gives = bool(alternatives(found))
                self._learn(replace(known, way="logprobs" if gives else "schema"))
                if not gives:
                    continue
            return found, way

    def _payload(self, request: Request, known: Abilities, attempt: int) -> tuple[dict[str, Any], Way]:
        payload: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
        }
        way: Way = ""
        limit = request.limit
        if request.labels:
            way = known.way or ("logprobs" if self.verdicts == "auto" else self.verdicts)
            limit = 1 if way == "logprobs" else ROOM
            if way == "logprobs":
                payload |= {"logprobs": True, "top_logprobs": TOP}
            elif way == "schema":
                payload["response_format"] = choice_schema(request.labels)
        payload[known.limit] = limit + known.hidden
        if known.temperature:
            # The same question at temperature 0 has the same unreadable answer.
            payload["temperature"] = request.temperature if attempt == 0 else max(request.temperature, 0.5)
        if known.seed:
            payload["seed"] = int(digest([request.content(), attempt], length=7), 16)
        return payload, way

    def _learn_from(self, reply: requests.Response, known: Abilities, way: Way) -> bool:
        """Whether a refusal names a field that the server does not take, and can be done without."""
        said = self._said(reply).lower()
        changed = known
        if known.limit in said and "max_completion_tokens" in said and known.limit == "max_tokens":
            changed = replace(known, limit="max_completion_tokens")
        elif "temperature" in said and known.temperature:
            changed = replace(known, temperature=False)
        elif "logprobs" in said and way == "logprobs":
            changed = replace(known, way="schema")
        elif ("response_format" in said or "json_schema" in said or "schema" in said) and way == "schema":
            changed = replace(known, way="text")
        elif "seed" in said and known.seed:
            changed = replace(known, seed=False)
        if changed == known:
            return False
        if changed.way != known.way and self.verdicts != "auto":
            raise InputError(
                f"{self.url} does not give verdicts as {self.verdicts}: {self._said(reply)}",
                hint='leave options.verdicts at "auto"',
            )
        self._learn(changed)
        return True

    def _learn_hidden(self, found: Mapping[str, Any], known: Abilities) -> bool:
        """Whether hidden reasoning used up the limit, for the first time."""
        choice = found["choices"][0]
        message = choice.get("message") or {}
        hidden = ((found.get("usage") or {}).get("completion_tokens_details") or {}).get("reasoning_tokens")
        empty = not message.get("content") and (
            hidden or message.get("reasoning_content") or message.get("reasoning")
        )
        if known.hidden or choice.get("finish_reason") != "length" or not empty:
            return False
        self._learn(replace(known, hidden=HIDDEN))
        return True

    def _read(self, request: Request, found: Mapping[str, Any], way: Way) -> Answer:
        """The answer in a reply."""
        choice = found["choices"][0]
        message = choice.get("message") or {}
        text = message.get("content") or ""
        usage = found.get("usage") or {}
        answer = Answer(
            text=text if isinstance(text, str) else "",
            tokens_in=count(usage.get("prompt_tokens"), self.tokens(request.messages)),
            tokens_out=count(usage.get("completion_tokens"), len(str(text)) // self.chars_per_token + 1),
            model=str(found.get("model") or self.model)[:SAID],
            system=str(found.get("system_fingerprint") or "")[:SAID],
        )
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            return replace(answer, failure="refused")
        if not request.labels:
            return answer if answer.text.strip() else replace(answer, failure="unparsable")
        if way == "logprobs":
            values = label_logprobs(alternatives(found), request.labels)
            return replace(answer, logprobs=values) if values else replace(answer, failure="unparsable")
        named = named_label(answer.text, request.labels)
        # One shape of texts, so that what reads them need not know how they were asked for.
        return replace(answer, text=named) if named else replace(answer, failure="unparsable")

    def _raise_for(self, reply: requests.Response) -> None:
        """Raise TryAgainError for what may pass, InputError for what cannot."""
        if reply.ok:
            return
        said = self._said(reply)
        if reply.status_code in (401, 403):
            raise self._refused(reply)
        if reply.status_code == 429 and re.search(r"insufficient_quota|exceeded your current quota|billing", said):
            raise InputError(f"{self.url}: the quota is used up: {said}", hint="run again when there is more")
        if reply.status_code in AGAIN or reply.status_code >= 500:
            raise TryAgainError(f"HTTP {reply.status_code}", asked_wait(reply.headers))
        raise InputError(
            f"{self.url} refuses a call with HTTP {reply.status_code}: {said}",
            hint="correct the options of the judge model's entry; what was answered is stored",
        )

    def _refused(self, reply: requests.Response) -> InputError:
        where = f"the environment variable {self.key}" if self.key else "options.key, which names none"
        return InputError(
            f"{self.url} does not accept the key (HTTP {reply.status_code}): {self._said(reply)}",
            hint=f"the key is read from {where}",
        )

    def _secret(self) -> str:
        if not self.key:
            return ""
        secret = os.environ.get(self.key, "")
        if not secret:
            raise InputError(
                f"the environment variable {self.key} is not set: it holds the key for {self.url}",
                hint='set it, or say key = "" in the options of the judge model\'s entry where the server needs none',
            )
        return secret

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            if secret := self._secret():
                session.headers["Authorization"] = f"Bearer {secret}"
        return session

    def _said(self, reply: requests.Response) -> str:
        """What a server says of an error, short and without the key."""
        try:
            found = reply.json()
            error = found.get("error", found) if isinstance(found, dict) else found
            said = str(error.get("message", error) if isinstance(error, dict) else error)
            code = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
            said = f"{said} ({code})" if code else said
        except ValueError:
            said = reply.text
        return self._clean(said)

    def _plain(self, error: Exception) -> str:
        reason = getattr(error, "args", None)
        return self._clean(f"{type(error).__name__}: {reason[0] if reason else error}")

    def _clean(self, said: str) -> str:
        secret = os.environ.get(self.key, "") if self.key else ""
        said = said.replace(secret, "[key]") if secret else said
        return " ".join(said.split())[:SAID]

    def _known(self) -> Abilities:
        """What is remembered of this server."""
        with self._lock:
            if self._abilities is None:
                self._abilities = self._remembered()
            return self._abilities

    def _remembered(self) -> Abilities:
        start: Way = "" if self.verdicts == "auto" else self.verdicts
        try:
            found = read_json(self._memory())
            known = Abilities(**found)
            ways = ("", "logprobs", "schema", "text")
            limits = ("max_tokens", "max_completion_tokens")
            if known.way in ways and known.limit in limits and isinstance(known.hidden, int):
                return known
        except (InputError, TypeError):
            # Nothing is remembered, or nothing that can be read: it is found out anew.
            pass
        return Abilities(way=start)

    def _learn(self, found: Abilities) -> None:
        with self._lock:
            self._abilities = found
            write_json(self._memory(), asdict(found))

    def _memory(self) -> Path:
        return home() / "answers" / "servers" / f"{digest(self.identity(), length=16)}.json"
