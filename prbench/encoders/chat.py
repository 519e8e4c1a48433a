"""Writing a conversation as a model's own chat template does, and tokenising it once."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from prbench.base.console import progress
from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.comparisons import Context
from prbench.encoders.base import Text, TextError, quiet_transformers, require_unicode
from prbench.encoders.trie import Tokens

# Some templates write today's date into the conversation. This is the date that Llama 3.1's writes by default.
DATE = datetime.date(2024, 7, 26)
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
AT_ONCE = 512
# So many texts take long enough to show how far it is.
MANY = 4096
PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class Chat:
    """The tokenizer and chat template of the model called `name`; `max_length` in tokens, 0 for no limit.

    A conversation that is too long loses its oldest messages, then the beginning of the message before the
    response; a response is never cut. Raises InputError for a model without a chat template, for a template that
    depends on the day or writes the beginning-of-text token twice, and for an unreadable tokenizer.
    """

    def __init__(self, name: str, folder: Path, max_length: int) -> None:
        self.name = name
        self.max_length = max_length
        self.tokenizer, self.template = _tokenizer(name, folder)
        self._require_one_bos()

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the template and its date."""
        return digest([self.template, DATE.isoformat()])

    def require_end(self, end: str, pad: int | None) -> None:
        """Raise InputError unless conversations end with the token `end` and padding is none or another.

        transformers' own pooling of a reward model takes the last token that is not `pad`: the numbers that such
        a model is known for are then those of the last token.
        """
        wanted = self.tokenizer.convert_tokens_to_ids(end)
        last = self._render(0, PROBE)[-1]
        if last != wanted:
            raise InputError(
                f"the chat template of {self.name} ends a conversation with"
                f" {self.tokenizer.convert_ids_to_tokens(last)!r}, not with the end token {end!r}",
                hint=f"the model has changed since its entry was written; --encoder {self.name} takes it as it is",
            )
        if pad == wanted:
            raise InputError(
                f"the padding token of {self.name} is its end token {end!r}, so that its own scores would come from"
                " the token before the end",
                hint=f"the model has changed since its entry was written; --encoder {self.name} takes the last token",
            )

    @property
    def last_token(self) -> int | None:
        """The token that a conversation ends with, or None where the template does not take a short one."""
        try:
            return self._render(0, PROBE)[-1]
        except TextError:
            return None

    def read(self, texts: Sequence[Text]) -> tuple[list[Tokens], set[int]]:
        """The tokens of each text, and the rows of those whose context was cut to make room for the response.

        Raises TextError for a response that is too long, for a conversation that the template refuses and for a
        text that is not valid Unicode.
        """
        require_unicode(texts)
        tokens: list[Tokens] = []
        cut = set()
        with progress(unit="texts") if len(texts) >= MANY else nullcontext() as display:
            task = display.add_task(f"tokenising for {self.name}", total=len(texts)) if display else None
            for start in range(0, len(texts), AT_ONCE):
                some = texts[start : start + AT_ONCE]
                written = [self._write(start + i, conversation(*text)) for i, text in enumerate(some)]
                for i, ids in enumerate(self._tokenise(start, written)):
                    if self.max_length and len(ids) > self.max_length:
                        ids = self._shortened(start + i, *some[i])
                        cut.add(start + i)
                    tokens.append(np.array(ids, dtype=np.int32))
                if display and task is not None:
                    display.advance(task, len(some))
        return tokens, cut

    def _shortened(self, row: int, context: Context, response: str) -> list[int]:
        messages = conversation(context, response)
        messages, reply = messages[:-1], messages[-1]
        head = messages[:1] if messages and messages[0]["role"] == "system" else []
        rest = messages[len(head) :]
        while len(rest) > 1:
            rest = rest[1:]
            # A conversation begins with a user's message; many templates insist on it.
            if rest[0]["role"] == "assistant" and len(rest) > 1:
                continue
            tokens = self._render(row, [*head, *rest, reply])
            if len(tokens) <= self.max_length:
                return tokens
        content = rest[0]["content"] if rest else ""
        bare = [{**rest[0], "content": ""}] if rest else []
        shortest = self._render(row, [*head, *bare, reply])
        if len(shortest) > self.max_length and head:
            head, shortest = [], self._render(row, [*bare, reply])
        if len(shortest) > self.max_length:
            raise TextError(
                row, f"the response alone takes {len(shortest)} tokens, {self.name} reads at most {self.max_length}"
            )
        best, low, high = shortest, 0, len(content)
        while low < high:
            keep = (low + high + 1) // 2
            ending = [{**rest[0], "content": content[len(content) - keep :]}]
            tokens = self._render(row, [*head, *ending, reply])
            if len(tokens) <= self.max_length:
                best, low = tokens, keep
            else:
                high = keep - 1
        return best

    def _render(self, row: int, messages: list[dict[str, str]]) -> list[int]:
        return self._tokenise(row, [self._write(row, messages)])[0]

    def _write(self, row: int, messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, date_string=DATE.strftime("%d %b %Y")
            )
        except TemplateError as error:
            raise TextError(row, f"the chat template of {self.name} refuses it: {error}") from error
        return text

    def _tokenise(self, row: int, written: list[str]) -> list[list[int]]:
        """The tokens of written conversations, the first of which is text `row`: the template brings its own BOS."""
        found: list[list[int]] = self.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
        if not all(found):
            raise TextError(row + found.index([]), f"the chat template of {self.name} makes nothing of it")
        return found

    def _require_one_bos(self) -> None:
        bos = self.tokenizer.bos_token_id
        try:
            first = self._render(0, PROBE)[:2]
        except TextError:
            # A template may insist on another kind of conversation; the data will show which.
            return
        if bos is not None and first == [bos, bos]:
            raise InputError(
                f"the chat template of {self.name} writes the beginning-of-text token twice",
                hint="put a chat_template.jinja that writes it once into a folder with the model's files",
            )


def conversation(context: Context, response: str) -> list[dict[str, str]]:
    """The messages of a context and the response to it."""
    return [*(message._asdict() for message in context), {"role": "assistant", "content": response}]


def _tokenizer(name: str, folder: Path) -> tuple[Any, str]:
    """The tokenizer and its chat template, with a fixed date in place of today's."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise unreadable(name, "tokenizer", error) from error
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise InputError(
            f"{name} has no chat template, so there is no agreed way to write a conversation for it",
            hint="put a chat_template.jinja into a folder with the model's files and name that folder",
        )
    template = TODAY.sub(lambda match: repr(DATE.strftime(match[2])), template)
    if re.search(r"strftime_now\s*\(", template):
        raise InputError(
            f"the chat template of {name} writes today's date, so embeddings would change from day to day",
            hint="put a chat_template.jinja with a fixed date into a folder with the model's files",
        )
    return tokenizer, template


def unreadable(name: str, part: str, error: Exception) -> InputError:
    """One line for a part of a model that transformers cannot read."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"the {part} of {name} cannot be read by transformers: {first}")
