"""Runs of moejax in forks of a process that has imported it: each is a process of its own, and starts in no time.

A line of JSON asks for one (`Lab.run` in lab.py makes it), or for another program; a line says how it ended.
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from moejax.errors import UserError


def main() -> None:
    """Answer until standard input ends."""
    import moejax.report
    import moejax.training.fit
    from moejax import run
    from moejax.runs import load  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "command" in asked:
            print(subprocess.run(asked["command"], stderr=subprocess.DEVNULL).returncode, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            for number, name in ((1, "out"), (2, "err")):
                with open(asked[name], "wb") as said:
                    os.dup2(said.fileno(), number)
            for name, value in asked["environment"].items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            warnings.simplefilter("default", UserWarning)  # which the server itself does not show
            if not asked["reports"]:
                moejax.report.render = lambda path: path / "report.html"
            _arm(**asked["arm"])
            code = run.main(asked["words"])
            logging.disable(logging.CRITICAL)  # from here on the run is over
            with contextlib.suppress(UserError, FileNotFoundError):  # its checkpoints may have been deleted
                if code == 0:
                    Path(asked["digest"]).write_text(digest(Path(asked["folder"])), encoding="utf-8")
            os._exit(code)
        print(json.dumps(_ended(pid, asked["seconds"])), flush=True)


def _arm(folder: str, number: int, half: bool, error: int, list_to: str) -> None:
    file = os.open(list_to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    ctypes.CDLL(None).arm(folder.encode(), ctypes.c_long(number), int(half), error, file)


def _ended(pid: int, seconds: float) -> int:
    """The exit code; a process that takes longer than this is killed, as one is that hangs."""
    end = time.monotonic() + seconds
    while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(found[1])


def digest(folder: Path) -> str:
    """The sha256 of all arrays of the last checkpoint, parameters and the optimiser's alike."""
    import hashlib

    import numpy as np

    from moejax.runs import checkpoint

    arrays = checkpoint.arrays(checkpoint.chosen(folder.absolute() / "checkpoints", "last"))
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(name.encode() + np.asarray(arrays[name]).tobytes())
    return whole.hexdigest()


if __name__ == "__main__":
    main()
