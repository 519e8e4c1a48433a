"""Writing a conversation as a model's own chat template does, and tokenising it once."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prbench.base.console import progress, stderr
from prbench.base.errors import InputError
from prbench.base.files import digest
from prbench.comparisons import Context, Message
from prbench.encoders.base import Text, TextError, plain_context, quiet_transformers, require_unicode
from prbench.encoders.delivery import Delivery, Messages, folded, lost_messages
from prbench.encoders.trie import Tokens

# Some templates write today's date into the conversation. This is the date that Llama 3.1's writes by default.
DATE = datetime.date(2024, 7, 26)
TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
AT_ONCE = 512
# So many texts take long enough to show how far it is.
MANY = 4096
Form = Literal["auto", "template", "plain"]
System = Literal["apart", "folded"]
Loss = Literal["refuse", "allow"]
PLAIN_FORM = "context (one message: its content; several: lines of 'role: content'), line break, response"
PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class Chat:
    """The tokenizer and chat template of the model called `name`; `max_length` in tokens, 0 for no limit.

    `form` "template" writes conversations with the model's chat template, "plain" as plain text (the context, a
    line break, the response, between the tokenizer's own special tokens), "auto" takes the template where there is
    one. `system` "folded" puts a system message before the text of the user's message after it. What a template
    leaves out of a conversation is an error, or counted where `loss` is "allow".

    A conversation that is too long loses its oldest messages, then the beginning of the message before the
    response; a response is never cut. Raises InputError where a template is asked for that the model lacks, for one
    that depends on the day or writes the beginning-of-text token twice, and for an unreadable tokenizer.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        max_length: int,
        *,
        form: Form = "auto",
        system: System = "apart",
        loss: Loss = "refuse",
    ) -> None:
        self.name = name
        self.max_length = max_length
        self.system = system
        self.loss = loss
        self.tokenizer, self.template = _tokenizer(name, folder, form)
        self.lost: Counter[str] = Counter()
        self._delivery = Delivery(lambda messages: self._apply(0, messages))
        self._require_one_bos()

    @property
    def form(self) -> str:
        """ "template" or "plain"."""
        return "plain" if self.template is None else "template"

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the template and its date, or of the plain form."""
        return digest([PLAIN_FORM] if self.template is None else [self.template, DATE.isoformat()])

    def rendered(self, context: Context, response: str) -> tuple[str, list[str]]:
        """A conversation as it is written for the model, and its tokens, special ones included.

        Raises TextError as `read`.
        """
        [ids], _ = self.read([(context, response)])
        return self.tokenizer.decode(ids), self.tokenizer.convert_ids_to_tokens(ids.tolist())

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
        self.lost.clear()
        warned = dict(self._delivery.renamed)
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
        for old, new in self._delivery.renamed.items():
            if old not in warned:
                stderr().print(
                    f"note: the chat template of {self.name} does not know the role {old!r}: read as {new!r}"
                )
        if self.lost:
            parts = ", ".join(f"{count:,} of role {role!r}" for role, count in self.lost.items())
            stderr().print(
                f"warning: the chat template of {self.name} leaves out messages, or parts of them: {parts}",
                soft_wrap=True,
            )
        return tokens, cut

    def count_lost(self, texts: Sequence[Text]) -> int:
        """How many texts have a message that the chat template leaves out, wholly or in part; 0 for plain text.

        Raises TextError for a conversation that the template refuses.
        """
        if self.template is None:
            return 0
        count = 0
        with progress(unit="texts") if len(texts) >= MANY else nullcontext() as display:
            task = display.add_task(f"writing for {self.name}", total=len(texts)) if display else None
            for row, text in enumerate(texts):
                count += bool(self._written(row, conversation(*text))[2])
                if display and task is not None:
                    display.advance(task, 1)
        return count

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

    def _render(self, row: int, messages: Messages) -> list[int]:
        return self._tokenise(row, [self._write(row, messages)])[0]

    def _write(self, row: int, messages: Messages) -> str:
        """A conversation as text. Raises TextError where the template refuses it or leaves out text of it."""
        if self.template is None:
            messages = folded(messages) if self.system == "folded" else messages
            context = tuple(Message(**message) for message in messages[:-1])
            response = messages[-1]["content"]
            return f"{plain_context(context)}\n{response}" if context else response
        text, messages, lost, whole = self._written(row, messages)
        if lost and self.loss == "refuse":
            role = messages[lost[0]]["role"]
            raise TextError(
                row,
                f"the chat template of {self.name} leaves out {'the messages' if whole else 'a part of a message'} of"
                f" role {role!r}; --template-loss allow embeds the rest and marks every row,"
                " --form plain reads conversations as plain text",
            )
        self.lost.update(messages[place]["role"] for place in lost)
        return text

    def _written(self, row: int, messages: Messages) -> tuple[str, Messages, list[int], bool]:
        """What the template makes of a conversation, the messages as it got them, the places of those whose text is
        left out, and whether the first of these is left out whole. Raises TextError where the template refuses it.
        """
        if self.system == "folded":
            messages = folded(messages)
        reading = self._delivery.reading(tuple(message["role"] for message in messages))
        messages = [{**m, "role": role} for m, role in zip(messages, reading.roles, strict=True)]
        text = self._apply(row, messages)
        lost = sorted({*lost_messages(messages, text), *reading.lost})
        lost = [place for place in lost if messages[place]["content"].strip()]
        return text, messages, lost, bool(lost) and lost[0] in reading.lost

    def _apply(self, row: int, messages: Messages) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, date_string=DATE.strftime("%d %b %Y")
            )
        except TemplateError as error:
            fold = any(m["role"] == "system" for m in messages) and "system" in str(error).lower()
            more = "; --system folded puts the system's text into the user's message" if fold else ""
            raise TextError(row, f"the chat template of {self.name} refuses it: {error}{more}") from error
        return text

    def _tokenise(self, row: int, written: list[str]) -> list[list[int]]:
        """The tokens of written conversations, the first of which is text `row`: a template brings its own BOS."""
        plain = self.template is None
        tokens: list[list[int]] = self.tokenizer(written, add_special_tokens=plain, verbose=False)["input_ids"]
        if not all(tokens):
            maker = f"the tokenizer of {self.name}" if plain else f"the chat template of {self.name}"
            raise TextError(row + tokens.index([]), f"{maker} makes nothing of it")
        return tokens

    def _require_one_bos(self) -> None:
        bos = self.tokenizer.bos_token_id
        if self.template is None:
            return
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


def conversation(context: Context, response: str) -> Messages:
    """The messages of a context and the response to it."""
    return [*(message._asdict() for message in context), {"role": "assistant", "content": response}]


def _tokenizer(name: str, folder: Path, form: Form) -> tuple[Any, str | None]:
    """The tokenizer and its chat template, with a fixed date in place of today's; None for plain text."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise unreadable(name, "tokenizer", error) from error
    if form == "plain":
        return tokenizer, None
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template and form == "auto":
        return tokenizer, None
    if not template:
        raise InputError(
            f"{name} has no chat template, so there is no agreed way to write a conversation for it",
            hint="--form plain reads plain text; or put a chat_template.jinja into a folder with the model's files",
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
