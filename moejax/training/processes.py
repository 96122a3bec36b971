"""Several processes as one run: how they find each other, and what they agree on. JAX's own runtime does the work.

Every process runs the same program on the same configuration and data set; its devices take their share of each batch.
The first one alone writes and reports. Where one dies the others end as well: at once if they notice in the middle of
an exchange, else when JAX's coordinator has not heard of it for a while. The run goes on with --resume.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from moejax.errors import UserError

_SECONDS = 30  # without a sign of life, until a process counts as dead


def connect(coordinator: str | None, processes: str | None, process: str | None) -> None:
    """Join the other processes, if there are any; before anything else of JAX.

    `coordinator` is host:port of the first of so many `processes`, of which this is number `process`; "auto" leaves all
    three to JAX, which asks Slurm, Kubernetes, Open MPI or the TPU's metadata. Without one, only a Slurm step of
    several tasks or a slice of several TPU hosts makes several processes.

    Raises:
      UserError: the three are incomplete or no numbers, or there is nobody to ask.
    """
    alive = {"heartbeat_timeout_seconds": _SECONDS, "shutdown_timeout_seconds": _SECONDS}
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
    if coordinator is None or ":" not in coordinator or processes is None or process is None:
        raise UserError(
            f"--coordinator is {coordinator}, --processes {processes}, --process {process}; give all three, the first"
            " as host:port, or --coordinator auto alone."
        )
    if not (processes.isdecimal() and process.isdecimal() and int(process) < int(processes)):
        raise UserError(
            f"--process is {process} of --processes {processes}; give how many there are, and one from 0 to below it."
        )
    jax.distributed.initialize(coordinator, int(processes), int(process), **alive)


def on_a_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this process was started as one of several."""
    slurm = int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment
    return slurm or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def is_first() -> bool:
    """Whether this process is the one that writes and reports."""
    return jax.process_index() == 0


@contextmanager
def together(path: Path) -> Iterator[None]:
    """Inside, end this process with a sentence where an exchange with the others fails; `path` is the run's folder."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = (str(error).splitlines() or [""])[0]
        print(
            f"moejax: process {jax.process_index()} of {jax.process_count()} stops, most likely since another one is"
            f" gone ({reason}); start all of them again with --resume {path}.",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # not by way of JAX's own farewell, which waits for the one that is gone


def any_of(value: bool) -> bool:
    """Whether it holds in any process; all have to ask."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(value)).any())


def from_first(text: str) -> str:
    """The first process's text, of at most 4096 bytes, in all of them."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    letters = np.frombuffer(text.encode().ljust(4096, b"\0"), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(letters)).rstrip(b"\0").decode()
