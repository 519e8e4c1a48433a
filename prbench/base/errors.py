"""The one exception that reaches a user as a single line."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(Exception):
    """Something the user gave is wrong: a file, a line of it, an option or a name.

    The message is one line that names what is wrong and where; `hint` is the next command or step to try.
    The command line prints both and exits with code 2.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.hint = " ".join(hint.split()) if hint else None

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message} ({self.hint})" if self.hint else message


def near(name: str, known: Sequence[str]) -> str:
    """ "; did you mean X or Y?" where something known is near to `name`, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


# So many choices are named in a message about one of them; of more, where they are listed.
FEW = 10


def nearest(name: str, known: Sequence[str], *, noun: str, listing: str) -> InputError:
    """An error for an unknown `name`: the nearest `known` ones, and all where they are few, or what lists them."""
    choices = f"one of {', '.join(known)}; see `{listing}`" if len(known) <= FEW else f"see `{listing}`"
    return InputError(f"unknown {noun} {name!r}{near(name, known)}", hint=choices)
