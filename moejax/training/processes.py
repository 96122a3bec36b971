"""One run of several processes, on JAX's own runtime: how they find each other, and what must be the same in all.

Every process runs the same program on the same configuration and data set; its devices take their share of each batch.
The first one alone writes and reports. If one fails or dies, the others end as well, with a sentence (`lifeline`). On a
cluster that JAX knows by itself they end when an exchange fails or when JAX's coordinator has not heard of the process
for a while. The run goes on with --resume.
"""

import atexit
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import moejax
from moejax.config import Config, flatten
from moejax.data.dataset import Dataset, digest, rows
from moejax.errors import UserError, quoted
from moejax.training import lifeline

_SECONDS = 30  # on a cluster: without a sign of life for so long, a process counts as dead to JAX
_PATIENCE = (
    300  # the same beside a lifeline, which notices earlier; and how long others wait for the first one's report
)
_OF_A_MACHINE = ("data.dir", "data.source", "data.tokenizer")  # may differ, since the data themselves are compared


def connect(coordinator: str | None, processes: str | None, process: str | None) -> None:
    """Join the other processes, if there are any; must come before any other use of JAX.

    Args:
      coordinator: host:port of the first process; "auto": JAX asks Slurm, Kubernetes, Open MPI or the TPU's metadata
        for all three; None: several processes only in a Slurm step of several tasks or a slice of several TPU hosts.
      processes: how many there are.
      process: which one this is, from 0.

    UserError if they are incomplete or no numbers, if JAX knows no cluster, or if a process does not come.
    """
    alive = {"heartbeat_timeout_seconds": _SECONDS, "shutdown_timeout_seconds": _PATIENCE}
    if coordinator is None and processes is None and process is None:
        if on_a_cluster(os.environ):
            jax.distributed.initialize(**alive)
        return
    if coordinator == "auto" and processes is None and process is None:
        try:
            jax.distributed.initialize(**alive)
        except ValueError:
            raise UserError(
                "--coordinator is auto, but JAX knows no cluster here; give host:port, --processes and --process."
            ) from None
        return
    if coordinator is None or processes is None or process is None:
        given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
        raise UserError(
            f"{' and '.join(name for name, value in given.items() if value is None)} not given; give all three, the"
            " first as host:port, or --coordinator auto alone."
        )
    if not (processes.isdecimal() and process.isdecimal() and int(process) < int(processes)):
        raise UserError(
            f"--process is {process} of --processes {processes}; give how many there are, and one from 0 to below it."
        )
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"--coordinator is {coordinator}; give host:port, the port a number from 1 to 65535.")
    _meet(host.strip("[]"), int(port), int(process), int(processes))


def _meet(host: str, port: int, process: int, count: int) -> None:
    """Join the other processes at the first one's address, and stay in touch."""
    where = f"for the first one at {host}:{port}" if process else f"for the others at port {port}"
    print(
        f"moejax: process {process} of {count} waits {where}, {lifeline.WAIT:.0f} seconds at most",
        file=sys.stderr,
        flush=True,
    )
    if process == 0:
        line, jax_port = lifeline.listen(port, count)
        address = f"localhost:{jax_port}"
    else:
        line, jax_port = lifeline.call(host, port, process, count)
        address = f"127.0.0.1:{lifeline.relay(host, jax_port)}"
    jax.distributed.initialize(
        address, count, process, heartbeat_timeout_seconds=_PATIENCE, shutdown_timeout_seconds=_PATIENCE
    )
    atexit.register(line.say, {"bye": True})  # runs before JAX's own farewell
    lifeline.current = line


def on_a_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this process was started as one of several."""
    slurm = int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment
    return slurm or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return jax.process_index() == 0


@contextmanager
def together(path: Path) -> Iterator[None]:
    """Inside, a failed exchange with the others ends this process with a sentence; `path` is the run's folder."""
    again = f"; start all of them again with --resume {quoted(path)}"
    if lifeline.current is not None:
        lifeline.current.advice = again
    try:
        with lifeline.told():
            yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"moejax: process {jax.process_index()} of {jax.process_count()} stops, most likely since another one is"
            f" gone ({lifeline.first_line(error)}){again}.",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # JAX's own farewell would wait for the process that is gone


def part() -> None:
    """Let the other processes end: what is left to do, the first one does alone. All have to call it."""
    if jax.process_count() > 1:
        if lifeline.current is not None:
            lifeline.current.say({"bye": True})
        jax.distributed.shutdown()


def any_of(value: bool) -> bool:
    """Whether it is true in any process; all must call this."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(value)).any())


def from_all(text: str) -> list[str]:
    """The texts of all processes, in their order; all must call this."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    letters = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(letters)))
    gathered = multihost_utils.process_allgather(np.pad(letters, (0, max(sizes) - len(letters))))
    return [bytes(row[:size]).decode() for row, size in zip(gathered, sizes, strict=True)]


def from_first(text: str) -> str:
    """The first process's text in all of them."""
    return from_all(text)[0]


def agree(config: Config, data: Dataset) -> None:
    """UserError, the same in every process, unless all have the same configuration, data and versions.

    Called before anything is compiled or written.
    """
    if jax.process_count() > 1:
        same(_facts(config, data))


def see(folder: Path) -> None:
    """UserError, the same in every process, unless all see the run's folder, which the first one has made."""
    if jax.process_count() == 1:
        return
    from_first(str(folder))  # only now it is there
    file = folder / "config.json"
    content = hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else "missing"
    same({str(file): content}, "in one folder, which all of them see")


def same(facts: Mapping[str, Any], together: str = "with the same configuration, data and versions") -> None:
    """UserError, the same in every process, unless all have the same facts; all must call this.

    `together`: how all processes are to be started.
    """
    first, *others = map(json.loads, from_all(json.dumps(facts)))
    for process, theirs in enumerate(others, start=1):
        for name in first | theirs:
            if first.get(name) != theirs.get(name):
                raise UserError(
                    f"{name} is {first.get(name)} in process 0 and {theirs.get(name)} in process {process}; start all"
                    f" processes {together}."
                )


def _facts(config: Config, data: Dataset) -> dict[str, Any]:
    """All that a result depends on, by name."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        **{name: value for name, value in flatten(config).items() if name not in _OF_A_MACHINE},
        **{f"The {name} split": f"{rows(split)} examples ({digest(split)[:12]})" for name, split in splits.items()},
        **{f"The version of {package}": version(package) for package in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "The version of moejax": moejax.__version__,
    }
