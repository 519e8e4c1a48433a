"""Programs of prbench as copies of this process: started at once, stopped at any moment, looked at afterwards.

A copy has torch imported already, so that its first moment is the first of the command's own work. Used by campaigns
that run as programs of their own, never inside pytest's threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch

from prbench import __main__, cli, registry
from prbench.running import plan, probe, report, run, tune  # noqa: F401  (what a copy need not import again)

torch.set_num_threads(1)
CAPABILITIES_3 = 0x20080522
DIE_WITH_PARENT = 1


class Ended(NamedTuple):
    """How a program ended: its exit code, negative for a signal, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def traceback(self) -> bool:
        """Whether a person saw a traceback."""
        return "Traceback" in self.err or "Traceback" in self.out


class Program:
    """A running `prbench WORDS` with its own PRBENCH_HOME; `before` is called in it first."""

    def __init__(
        self, words: Sequence[str], folder: Path, *, before: Callable[[], None] | None = None, name: str = "program"
    ) -> None:
        self.files = folder / f"{name}.out", folder / f"{name}.err"
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(words, folder, before)

    def _run(self, words: Sequence[str], folder: Path, before: Callable[[], None] | None) -> NoReturn:
        code = 1
        try:
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.environ["PRBENCH_HOME"] = str(folder / "home")
            for number, file in enumerate(self.files, start=1):
                handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
                os.dup2(handle, number)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            os.chdir(folder)
            sys.argv = ["prbench", *words]
            if before:
                before()
            code = __main__.main()
        except SystemExit as error:
            code = int(error.code or 0) if isinstance(error.code, int | None) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def runs(self) -> bool:
        """Whether it has not ended yet; its end is taken by `end`."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self, timeout: float = 300.0) -> Ended:
        """Wait for its end; after `timeout` seconds it is killed, which is a hang."""
        last = time.monotonic() + timeout
        while self.runs() and time.monotonic() < last:
            time.sleep(0.005)
        hangs = self.runs()
        if hangs:
            self.send(signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        out, err = (file.read_text(errors="replace") if file.exists() else "" for file in self.files)
        return Ended(os.waitstatus_to_exitcode(status), out, err + ("\nTraceback: it hung" if hangs else ""))


def without_privileges() -> None:
    """Let this process write only where permissions let its user: root may write everywhere."""
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def done(words: Sequence[str], folder: Path, *, before: Callable[[], None] | None = None) -> Ended:
    """Run `prbench WORDS` to its end."""
    return Program(words, folder, before=before).end()


def here(words: Sequence[str]) -> int:
    """Run `prbench WORDS` in this process, quietly."""
    try:
        return cli.main([str(word) for word in words])
    finally:
        registry.reset()
