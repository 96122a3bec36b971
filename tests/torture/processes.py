"""Runs of two processes: one is killed, stopped, late, missing or another one than it should be.

The other has to end with one sentence within a minute, and both have to go on to the bits of a run that nobody
disturbed.
"""

import json
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

from tests.torture.figure import Figure
from tests.torture.two import LONGEST, SECONDS, Two, WrongError

SEED = 23
AT_A_TIME = 3
STEPS = 12  # of the run

GONE = r"process \d of 2 (is gone|has not been heard of for 30 seconds), so this one stops as well"
ABSENT = r"number 1 did not come within \d+ seconds|Nobody answers at --coordinator|or went away again"
DIFFERENT = r"start all processes with the same configuration, data and versions"
SAME_WORDS = r"is False in process 0 and True in process 1; start all processes with the same words"
TOLD = r"stopping as soon as this chunk of steps is saved"

Attempt = Callable[[Two], None]
"""What is done to the two; WrongError if they do not take it as they have to."""

# When it happens to one of them.
MOMENTS: dict[str, Callable[[Two], bool]] = {
    "waits for the other": lambda two: "waits" in two.said(0) + two.said(1),
    "has met it": lambda two: "[Gloo]" in two.said(0),
    "compiles": lambda two: "compiling" in two.said(0),
    "trains": lambda two: "step 4/12" in two.said(0),
    "saves": lambda two: any((two.run / "checkpoints").glob("*.partial")),
    "has saved the last": lambda two: (two.run / "checkpoints" / f"{STEPS}").exists(),
    "is finished": lambda two: (two.run / "summary.json").exists(),
}


def torture(quick: bool) -> Iterator[Figure]:
    """Every group of cases; if `quick`, three that end before anything is compiled."""
    with tempfile.TemporaryDirectory(prefix="moejax-processes-") as folder:
        place = Path(folder)
        if quick:
            yield _figure(place, "one of two processes is killed, or another one", QUICK, {})
            return
        with Two(place / "undisturbed", place / "programs") as two:
            expected = two.go_on()
            begun = time.monotonic()
        with Two(place / "again", place / "programs") as two:
            _goes_on(two, expected)
        cases = _cases(time.monotonic() - begun)
        for number, (what, attempts) in enumerate(cases.items()):
            yield _figure(place / str(number), what, attempts, expected)


def _figure(place: Path, what: str, attempts: Mapping[str, Attempt], expected: Mapping[str, Any]) -> Figure:
    """What became of them; a few are tried at a time, as some only wait."""
    rooms = (Two(place / str(number), place.parent / "programs") for number in range(len(attempts)))
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        good = list(pool.map(partial(_tried, expected), rooms, attempts, attempts.values()))
    found = "a sentence within a minute" + (", then the same state, lines and files" if expected else "")
    return Figure(what, len(good), f"{good.count(False)} otherwise" if not all(good) else found, all(good))


def _tried(expected: Mapping[str, Any], two: Two, name: str, attempt: Attempt) -> bool:
    """Whether it went as it has to; says so if not."""
    with two:
        try:
            attempt(two)
            if two.run.exists():
                _goes_on(two, expected)
        except WrongError as error:
            said = "\n".join(f"  process {i}: {line}" for i in (0, 1) for line in two.said(i).splitlines()[-12:])
            print(f"  {name}: {error}\n{said}", flush=True)
            return False
    return True


def _goes_on(two: Two, expected: Mapping[str, Any]) -> None:
    found = two.go_on()
    if differs := [name for name, value in expected.items() if found[name] != value]:
        raise WrongError(f"both went on, to other {' and '.join(differs)}")


def _cases(seconds: float) -> dict[str, dict[str, Attempt]]:
    """All cases by what is done and by name; `seconds`: how long a run takes."""
    draw, both = random.Random(SEED), (0, 1)
    after = {
        f"has done {share:.0%} of its time": _after(share * seconds) for share in (draw.random() for _ in range(2))
    }
    phases = {name: MOMENTS[name] for name in ("compiles", "trains", "has saved the last")}
    return {
        "one of two processes is killed": {
            f"process {who} as it {name}": partial(_killed, who, moment)
            for who in both
            for name, moment in (MOMENTS | after).items()
        },
        "one has another configuration, data, version, words, folder or number of processes": {
            "configuration": partial(_other, DIFFERENT, ("--train.learning_rate", "0.5"), {}),
            "data": partial(_other, DIFFERENT, ("--data.dir", Path(__file__).parent / "README.md"), {}),
            "version": partial(_other, DIFFERENT, (), {"moejax.__version__": "0.0.1"}),
            "words": partial(_other, SAME_WORDS, ("--profile", "profile"), {}),
            "folder": _other_folder,
            "number of processes": _other_number,
            "one begins, one goes on": _begins_and_goes_on,
        },
        "one is told to stop (SIGTERM)": {
            f"process {who} as it {name}": partial(_told, who, moment)
            for who in both
            for name, moment in phases.items()
        },
        "one stands still (SIGSTOP)": {
            f"process {who} for {s} s": partial(_still, who, s) for who in both for s in (5, 45)
        },
        "one is late, or does not come": {
            f"process {who} {'never' if s is None else f'after {s} s'}": partial(_late, who, s)
            for who in both
            for s in (10, None)
        },
        "a port in use, and a wrong coordinator": {
            "a port in use": _port_in_use,
            "another server": _another_server,
            "no such host": partial(_wrong_coordinator, "no-such-host.invalid:1234"),
            "nobody listens": partial(_wrong_coordinator, "localhost:1"),
        },
    }


def _after(seconds: float) -> Callable[[Two], bool]:
    return lambda two: time.monotonic() - two.begun > seconds


def _killed(who: int, moment: Callable[[Two], bool], two: Two) -> None:
    two.both()
    two.wait_for(moment)
    two.hit(who, SIGKILL)
    if two.ended(1 - who):  # else it had all it needs
        two.says(1 - who, [1, 2], GONE, ABSENT)


def _told(who: int, moment: Callable[[Two], bool], two: Two) -> None:
    """Both save and stop, or are finished; where nothing was saved yet, one ends and is missed by the other."""
    two.both()
    two.wait_for(moment)
    two.hit(who, SIGTERM)
    if two.ended(who, LONGEST) == 128 + SIGTERM and "interrupted before anything was saved" in two.said(who):
        two.says(1 - who, [1], GONE)
        return
    codes = {two.ended(process, LONGEST) for process in (0, 1)}
    if not codes <= {0, 128 + SIGTERM} or (codes == {0, 128 + SIGTERM} and not (two.run / "summary.json").exists()):
        raise WrongError(f"they ended with exit codes {codes}")
    two.says(who, codes, TOLD, "the run is finished")
    if "Traceback" in two.said(1 - who):
        raise WrongError("the other one said a traceback")


def _still(who: int, seconds: int, two: Two) -> None:
    """For a short while: the run goes on. For longer than 30 seconds: the other ends, and then this one."""
    two.both()
    two.wait_for(MOMENTS["trains"])
    two.hit(who, SIGSTOP)
    if seconds > 30:
        two.says(1 - who, [1], GONE)
    else:
        time.sleep(seconds)
    two.send(who, SIGCONT)
    two.says(who, [1] if seconds > 30 else [0], GONE, seconds=LONGEST)


def _late(who: int, seconds: int | None, two: Two) -> None:
    two.start(1 - who)
    if seconds is None:
        _waits_in_vain(two, 1 - who, ABSENT)
        return
    time.sleep(seconds)
    two.start(who)
    for process in (0, 1):
        two.says(process, [0], seconds=LONGEST)


def _other(sentence: str, words: Sequence[object], tweaks: Mapping[str, Any], two: Two) -> None:
    two.start(0)
    two.start(1, *words, tweaks=tweaks)
    _both_say(two, sentence)
    _leaves_nothing(two)


def _other_folder(two: Two) -> None:
    elsewhere = two.place / "elsewhere"
    elsewhere.mkdir()
    two.start(0, "--out", "run")
    two.start(1, "--out", "run", within=elsewhere)
    _both_say(two, "and missing in process 1; start all processes in one folder")


def _other_number(two: Two) -> None:
    two.start(0)
    two.start(1, processes=3)
    _both_say(two, "--processes is 2 here, but 3 for process 1")
    _leaves_nothing(two)


def _begins_and_goes_on(two: Two) -> None:
    two.both()
    two.wait_for(MOMENTS["saves"])
    for process in (0, 1):
        two.send(process, SIGKILL)
        two.ended(process)
    two.start(0, "--out", two.place / "other", begins=True)
    two.start(1)
    _both_say(two, SAME_WORDS)


def _both_say(two: Two, sentence: str) -> None:
    for process in (0, 1):
        two.says(process, [2], sentence)


QUICK: dict[str, Attempt] = {
    "killed": partial(_killed, 0, MOMENTS["has met it"]),
    "configuration": partial(_other, DIFFERENT, ("--train.learning_rate", "0.5"), {}),
    "number of processes": _other_number,
}


def _port_in_use(two: Two) -> None:
    with socket.create_server(("", two.port)):
        two.start(0)
        two.says(0, [2], f"names port {two.port}, which this machine cannot listen at: another program uses it")


def _another_server(two: Two) -> None:
    with socket.create_server(("", two.port)) as server:
        two.start(1)
        with server.accept()[0] as caller:
            caller.sendall(json.dumps({"error": "unknown command"}).encode() + b"\n")
        two.says(1, [2], "is not the first process, or went away again")


def _wrong_coordinator(where: str, two: Two) -> None:
    two.start(1, coordinator=where)
    _waits_in_vain(two, 1, f"Nobody answers at --coordinator {where} ")


def _waits_in_vain(two: Two, process: int, sentence: str) -> None:
    """It says soon what it waits for, and in the end that it did not come."""
    two.wait_for(lambda two: "seconds more" in two.said(process), SECONDS)
    two.says(process, [2], sentence)
    if "seconds more" not in two.said(process):
        raise WrongError("it did not say what it waits for")


def _leaves_nothing(two: Two) -> None:
    if two.run.exists():
        raise WrongError("something was written")
