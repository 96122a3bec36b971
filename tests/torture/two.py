"""Two processes of one run, in forks of a process that has imported moejax: they start in no time, and JAX anew."""

import multiprocessing
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Mapping
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.torture.lab import RUN, finished

SHORTER = {"moejax.training.lifeline.WAIT": 40.0}  # seconds for one that does not come, in place of 120
SECONDS = 60  # within which the other process has to end
WAITS = re.compile("seconds (at most|more)$")  # what is said by one that waits
LONGEST = 300  # seconds of a whole run on a busy machine
_FORKS = multiprocessing.get_context("forkserver")
_IMPORTED = ["moejax.report", "moejax.training.fit", "moejax.run", "moejax.runs.checkpoint"]


class WrongError(Exception):
    """Something was not as it has to be."""


class Two:
    """The processes of a run: what they were started with, and what they said."""

    def __init__(self, place: Path, programs: Path):
        place.mkdir(parents=True)
        self.place, self.run, self.programs = place, place / "run", programs
        self.port, self.begun = _free_port(), 0.0
        self.started: dict[int, BaseProcess] = {}

    def __enter__(self) -> "Two":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started.values():
            process.kill()  # also one that is stopped
            process.join()

    def start(
        self,
        process: int,
        *words: object,
        begins: bool = False,
        tweaks: Mapping[str, Any] | None = None,
        within: Path | None = None,
        **other: object,
    ) -> None:
        """Start one, which begins the run or goes on with it.

        Args:
          process: which one.
          words: of the command line, in place of the usual ones.
          begins: even where there is a run.
          tweaks: attributes that it has in place of the usual ones, by dotted name.
          within: the folder it is started in.
          other: values of `coordinator` and `processes`.
        """
        if (self.run / "config.json").exists() and not begins:
            own = ["--resume", str(self.run)]
        else:
            own = [*RUN, "--out", str(self.run)]
        own = dict(zip(own[::2], own[1::2], strict=True)) | dict(zip(words[::2], words[1::2], strict=True))
        where = {"coordinator": f"localhost:{self.port}", "processes": 2, "process": process} | other
        options = [word for name, value in where.items() for word in (f"--{name}", value)]
        self._said(process).unlink(missing_ok=True)
        line = [str(word) for word in (*chain(*own.items()), *options)]
        tweaks = SHORTER | dict(tweaks or {})
        self.started[process] = _forked(_run, line, self._said(process), self.programs, tweaks, within or self.place)
        self.begun = time.monotonic()

    def both(self) -> None:
        """Start both, at another port than before."""
        self.port = _free_port()
        for process in (0, 1):
            self.start(process)

    def send(self, process: int, number: int) -> bool:
        """Send it a signal; whether it was still there."""
        there = self.started[process].exitcode is None
        if there:
            os.kill(self.started[process].pid, number)
        return there

    def hit(self, process: int, number: int) -> None:
        """Send it a signal; WrongError if it had ended before the run was finished."""
        if not self.send(process, number) and not (self.run / "summary.json").exists():
            raise WrongError(f"process {process} had ended before it got a signal")

    def wait_for(self, moment: Callable[["Two"], bool], seconds: float = LONGEST) -> None:
        """Until it is true; WrongError if all processes end without it."""
        end = time.monotonic() + seconds
        while not moment(self) and any(process.exitcode is None for process in self.started.values()):
            if time.monotonic() > end:
                raise WrongError(f"nothing happened in {seconds:.0f} s")
            time.sleep(0.002)
        if not moment(self):
            raise WrongError("they ended before the moment that was waited for")

    def ended(self, process: int, seconds: float = SECONDS) -> int:
        """Its exit code; WrongError if it has not ended in time."""
        self.started[process].join(seconds)
        if self.started[process].exitcode is None:
            self.started[process].kill()
            raise WrongError(f"process {process} hangs for {seconds:.0f} s")
        return self.started[process].exitcode

    def says(self, process: int, codes: Collection[int], *patterns: str, seconds: float = SECONDS) -> None:
        """WrongError unless it ends in time, with such a code and a sentence or more, each with a pattern of
        its own: who is told to stop as the run ends says first that it will, then that the run is finished.
        """
        code, said = self.ended(process, seconds), self.said(process)
        sentences = [line for line in said.splitlines() if line.startswith("moejax: ") and not WAITS.search(line)]
        if code not in codes:
            raise WrongError(f"process {process} ended with exit code {code}")
        fits = [pattern for pattern in patterns if any(re.search(pattern, sentence) for sentence in sentences)]
        if code and (not sentences or len(fits) != len(sentences)):
            raise WrongError(f"process {process} said {sentences}")
        if "Traceback" in said:
            raise WrongError(f"process {process} said a traceback")

    def go_on(self) -> dict[str, Any]:
        """Both begin or go on by the ordinary command; what the finished run is. WrongError if it is not."""
        self.both()
        codes = [self.ended(process, LONGEST) for process in (0, 1)]
        if codes != [0, 0]:
            raise WrongError(f"both went on, and ended with exit codes {codes}")
        _forked(_digest, self.run, self.place / "digest").join()
        return finished(self.run, (self.place / "digest").read_text(encoding="utf-8"))

    def said(self, process: int) -> str:
        """What it has said so far."""
        file = self._said(process)
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _said(self, process: int) -> Path:
        return self.place / f"said{process}"


def _forked(what: Callable, *given: object) -> BaseProcess:
    _FORKS.set_forkserver_preload(_IMPORTED)
    process = _FORKS.Process(target=what, args=given)
    process.start()
    return process


def _run(words: list[str], said: Path, programs: Path, tweaks: Mapping[str, Any], within: Path) -> None:
    """The ordinary command, in this process."""
    import atexit

    os.chdir(within)
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    from moejax import entry

    entry.compile_quickly()  # the second process keeps no programs
    import jax

    import moejax.report
    from moejax import run

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    moejax.report.render = lambda path: path / "report.html"  # it only reads the run, and takes as long
    for name, value in tweaks.items():
        _set(name, value)
    code = run.main(words)
    atexit._run_exitfuncs()
    os._exit(code)


def _set(name: str, value: object) -> None:
    import importlib

    module, _, attribute = name.rpartition(".")
    setattr(importlib.import_module(module), attribute, value)


def _digest(run: Path, file: Path) -> None:
    import jax

    from tests.torture.server import digest

    jax.config.update("jax_platforms", "cpu")
    file.write_text(digest(run), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]
