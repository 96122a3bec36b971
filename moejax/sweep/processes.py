"""The runs of a sweep, each in a process of its own, and what a signal does to them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from moejax.interrupt import SIGNALS
from moejax.sweep.plan import Planned

MAIN_JOB = (sys.executable, "-m", "moejax.run")
_LOOK = 0.1  # seconds between two looks at the processes


class Outcome(NamedTuple):
    """What became of the runs that were not finished before."""

    failed: tuple[Planned, ...]
    signal: int | None  # that stopped the sweep


def run_all(
    runs: Sequence[Planned],
    jobs: int = 1,
    *,
    quiet: bool = False,
    say: Callable[[str], None] = print,
    program: Sequence[str] = MAIN_JOB,
) -> Outcome:
    """Make the runs that are not finished, so many at a time; one that fails does not keep the others from theirs.

    Args:
      quiet: what a run prints goes to a file beside its folder, as it does where several run at once.
      program: what makes a run, given `Planned.command`.

    A first signal has each run save what it has and stop, a second one ends them; no other run is begun.
    """
    waiting = [run for run in runs if not run.is_finished]
    count, begun, failed = len(waiting), 0, []
    to_file = quiet or jobs > 1
    running: dict[subprocess.Popen, Planned] = {}
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        for process in list(running):
            process.terminate()  # as any signal, and one that is quiet also before a run heeds it

    with _heeding(stop), _ended_with(running):
        while running or (waiting and not came):
            while waiting and len(running) < jobs and not came:
                run, begun = waiting.pop(0), begun + 1
                say(f"--- {run.name} ({begun} of {count})")
                process = _start([*program, *run.command], jobs, _log(run) if to_file else None)
                running[process] = run
                if came:  # as it was started
                    process.terminate()
            time.sleep(_LOOK)
            for process, run in [(p, r) for p, r in running.items() if p.poll() is not None]:
                del running[process]
                if process.returncode and not came:
                    failed.append(run)
                    say(f"--- {run.name} failed: {_reason(process.returncode, run, to_file)}")
    return Outcome(tuple(failed), came[0] if came else None)


def _start(command: Sequence[str], jobs: int, log: Path | None) -> subprocess.Popen:
    # In a session of its own: the terminal's Ctrl-C comes to it from here, once.
    if log is None:
        return subprocess.Popen(command, start_new_session=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=_shares(jobs)
        )


def _shares(jobs: int) -> dict[str, str]:
    """JAX takes three quarters of a GPU's memory at once; of several runs, each its share."""
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / jobs:.3f}"} if jobs > 1 else {}
    return share | os.environ


def _log(run: Planned) -> Path:
    return run.folder.with_name(f"{run.folder.name}.log")


def _reason(code: int, run: Planned, to_file: bool) -> str:
    """Why it ended: a signal that nobody here sent, or what it said last."""
    if code < 0:
        return f"it was killed by signal {-code}"
    if not to_file:
        return "see above"
    with open(_log(run), encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return f"{lines[-1].removeprefix('moejax: ') if lines else 'without a word'} ({_log(run)})"


@contextmanager
def _ended_with(running: Iterable[subprocess.Popen]) -> Iterator[None]:
    """Whatever ends what is inside, such as output that nobody reads, has the processes save and stop."""
    try:
        yield
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise


@contextmanager
def _heeding(stop: Callable[[int, object], None]) -> Iterator[None]:
    """Inside, signals call it; those that the process was told to ignore, as by nohup, stay ignored."""
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
