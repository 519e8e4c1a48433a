"""The endpoints: scores and ranks of responses to a prompt, for the one person whose state was loaded.

    POST /score   {"prompt": text or messages, "responses": [text, ...]}   {"scores": [number, ...]}
    POST /rank    the same                                    {"ranking": [{"rank", "score", "index"}, ...]}
    GET /health   {"status": "ok", ...}

Every error is {"error": {"code", "message", "field"}}. No text of a request is logged, stored or sent back.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from prbench import __version__
from prbench.base.console import stderr
from prbench.base.errors import InputError
from prbench.encoders.base import SURROGATE
from prbench.serving.limits import Gate, Limits, RefusedError
from prbench.user.model import UserModel, ranked

if TYPE_CHECKING:
    from prbench.method import UserStates


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)
    role: str
    content: str


class Candidates(BaseModel):
    """Responses to one prompt; a prompt is a text or a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: str | list[ChatMessage]
    responses: list[str]


class Scores(BaseModel):
    """A score for each response, in the order of the request. Higher is preferred; scores of one person compare."""

    scores: list[float]


class Place(BaseModel):
    """A response's place: `index` is its number in the request, from 0; equal scores share a rank."""

    rank: int
    score: float
    index: int


class Ranking(BaseModel):
    """The responses of a request, best first."""

    ranking: list[Place]


class Health(BaseModel):
    """What serves, and how many requests wait or are computed."""

    status: str
    version: str
    method: str
    dataset: str
    encoder: str
    busy: int


class Scorer:
    """The loaded model and the person's state; one request is computed at a time, in a thread of its own."""

    def __init__(self, model: UserModel, state: UserStates, limits: Limits) -> None:
        self.model = model
        self.state = state
        self.limits = limits
        self.busy = 0
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="scores")

    async def scores(self, candidates: Candidates) -> list[float]:
        """The scores of a request. Raises RefusedError where it is too large or cannot be scored."""
        _require_within(candidates, self.limits)
        if self.busy >= self.limits.waiting:
            raise RefusedError(503, "busy", f"{self.limits.waiting} requests wait already; try again in a moment")
        self.busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, self._computed, candidates)
        finally:
            self.busy -= 1

    def _computed(self, candidates: Candidates) -> list[float]:
        prompt = candidates.prompt
        given = prompt if isinstance(prompt, str) else [message.model_dump() for message in prompt]
        try:
            found: list[float] = self.model.score(self.state, given, candidates.responses).tolist()
        except InputError as error:
            raise RefusedError(422, "cannot_be_scored", str(error.args[0])) from error
        except Exception as error:
            # Its message may quote the request: the kind and the place tell enough.
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            stderr().print(f"a request failed: {type(error).__name__} at {where}", markup=False, soft_wrap=True)
            raise RefusedError(500, "failed", f"scoring failed ({type(error).__name__})") from None
        if not all(map(math.isfinite, found)):
            raise RefusedError(500, "not_finite", "a score is not a finite number")
        return found


def make_app(model: UserModel, state: UserStates, limits: Limits, hosts: Sequence[str] | None = None) -> FastAPI:
    """The application for one person. `hosts` as in `Gate`."""
    scorer = Scorer(model, state, limits)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        scorer.thread.shutdown(wait=False, cancel_futures=True)

    # The pages that FastAPI makes of its schema load scripts from elsewhere.
    app = FastAPI(title="prbench user serve", version=__version__, docs_url=None, redoc_url=None, lifespan=life)
    app.add_middleware(Gate, limits=limits, hosts=hosts)
    for kind, said in _HANDLERS.items():
        app.add_exception_handler(kind, said)

    @app.post("/score")
    async def score(candidates: Candidates) -> Scores:
        return Scores(scores=await scorer.scores(candidates))

    @app.post("/rank")
    async def rank(candidates: Candidates) -> Ranking:
        places = ranked(await scorer.scores(candidates), [str(i) for i in range(len(candidates.responses))])
        return Ranking(ranking=[Place(rank=p.rank, score=p.score, index=int(p.response)) for p in places])

    @app.get("/health")
    async def health() -> Health:
        names = {name: model.origin[name] for name in ("method", "dataset", "encoder")}
        return Health(status="ok", version=__version__, busy=scorer.busy, **names)

    return app


def _require_within(candidates: Candidates, limits: Limits) -> None:
    """Raise RefusedError for too many texts, none, a blank one, one that is too long or not valid Unicode."""
    prompt = candidates.prompt
    messages = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    for field, texts, most in (
        ("prompt", messages, limits.messages),
        ("responses", candidates.responses, limits.responses),
    ):
        if not texts:
            raise RefusedError(422, "nothing_given", f"{field} is empty", field)
        if len(texts) > most:
            raise RefusedError(422, "too_many", f"{field} has {len(texts):,} texts, {most:,} are the most", field)
        if any(len(text) > limits.text for text in texts):
            message = f"a text of {field} is longer than {limits.text:,} characters"
            raise RefusedError(422, "text_too_long", message, field)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            raise RefusedError(422, "not_unicode", f"{field}: {SURROGATE}", field) from None
    if any(not text.strip() for text in candidates.responses):
        raise RefusedError(422, "blank", "a response has no text", "responses")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return error.reply()


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The first fault of a body, named without what stands there."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body" and isinstance(part, int | str))
    if first["type"] == "json_invalid":
        return RefusedError(400, "not_json", "the body is not valid JSON").reply()
    return RefusedError(422, "invalid", str(first["msg"]).lower(), field[:200]).reply()


async def _unknown(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        # A body that the parser gives up on, such as one of very many brackets.
        return RefusedError(400, "not_json", "the body is not valid JSON").reply()
    known = {404: "not_found", 405: "not_allowed"}
    message = "POST /score, POST /rank and GET /health are here" if error.status_code in known else str(error.detail)
    return RefusedError(error.status_code, known.get(error.status_code, "refused"), message).reply()


_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    RefusedError: _refused,
    RequestValidationError: _invalid,
    HTTPException: _unknown,
}
