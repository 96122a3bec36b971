"""Several processes: who joins, and whole runs of two and of four that equal one, stop, die and go on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from moejax.errors import UserError
from moejax.training.processes import connect, on_a_cluster

SMALL = [
    *("--config", "mnist_tiny", "--data.source", "embedded", "--data.limit", "320"),
    *("--train.batch_size", "16", "--train.epochs", "3", "--train.chunk", "5"),
    *("--moe.layer", "sparse", "--moe.k", "2", "--moe.group_size", "16", "--moe.capacity_factor", "0.75"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("here", "2", "0"),
            "--coordinator is here, --processes 2, --process 0; give all three",
        ),
        ((None, "2", "0"), "--coordinator is None, --processes 2"),
        (("here:1", "2", None), "--process None; give all three"),
        (("here:1", "2", "2"), "--process is 2 of --processes 2; give how many"),
        (("here:1", "two", "0"), "--process is 0 of --processes two; give how many"),
    ],
)
def test_an_incomplete_address_is_one_sentence(arguments, sentence):
    with pytest.raises(UserError) as raised:
        connect(*arguments)
    assert sentence in raised.value.sentences[0]


def test_only_one_of_several_looks_for_others():
    assert not on_a_cluster({})
    assert not on_a_cluster({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"})
    assert not on_a_cluster({"TPU_WORKER_HOSTNAMES": "localhost"})
    assert on_a_cluster({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"})
    assert on_a_cluster({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"})


def launch(count: int, *words: str, devices: int = 2) -> list[subprocess.Popen]:
    """So many processes of one run, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    programs = jax.config.jax_compilation_cache_dir
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": programs,
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(jax.config.jax_compilation_cache_max_size),
        "JAX_PLATFORMS": "cpu",
    }
    place = ("--coordinator", address, "--processes", str(count), "--process")
    return [
        subprocess.Popen(
            [sys.executable, "-m", "moejax.run", *words, *((*place, str(i)) if count > 1 else ())],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def finish(started: list[subprocess.Popen], seconds: float = 280) -> list[tuple[int, str, str]]:
    done = [(*process.communicate(timeout=seconds), process.returncode) for process in started]
    return [(code, out, err) for out, err, code in done]


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def wait_for(condition, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def parameters(path: Path) -> dict[str, np.ndarray]:
    manager = ocp.CheckpointManager((path / "checkpoints").absolute(), item_handlers=ocp.StandardCheckpointHandler())
    step, here = max(manager.all_steps()), jax.numpy.zeros(()).sharding
    saved = manager.item_metadata(step).tree
    like = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here) for name, a in saved.items()}
    arrays = manager.restore(step, args=ocp.args.StandardRestore(like))
    return {name: np.asarray(array) for name, array in arrays.items() if name.startswith(".model")}


def assert_same(path: Path, other: Path) -> None:
    ours, theirs = parameters(path), parameters(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-5, err_msg=name)
    for a, b in zip(records(path), records(other), strict=True):
        assert (a["kind"], a["step"]) == (b["kind"], b["step"])
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
        np.testing.assert_allclose(a["load"], b["load"], atol=2e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "run"
    [(code, _, err)] = finish(launch(1, *SMALL, "--out", str(path), devices=1))
    assert code == 0, err
    return path


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_are_one_run_and_go_on_where_they_stopped(alone, tmp_path, count):
    path = tmp_path / "run"
    started = launch(count, *SMALL, "--parallel.expert", "2", "--out", str(path))
    wait_for(lambda: (path / "metrics.jsonl").exists() and len(records(path)) > 1)
    started[1].send_signal(signal.SIGTERM)  # one is told; both stop
    for code, _, err in finish(started):
        assert code == 128 + signal.SIGTERM, err
    assert not (path / "summary.json").exists()
    results = finish(launch(count, "--resume", str(path)))
    assert [code for code, _, _ in results] == [0] * count, results
    assert ["report:" in out for _, out, _ in results] == [True] + [False] * (count - 1)  # the first alone reports
    assert_same(path, alone)


@pytest.mark.slow
def test_when_one_process_dies_the_other_ends_and_the_run_goes_on(alone, tmp_path):
    path = tmp_path / "run"
    started = launch(2, *SMALL, "--parallel.expert", "2", "--out", str(path))
    wait_for(lambda: any((path / "checkpoints").glob("*/sha256.json")))
    started[1].kill()
    killed = time.monotonic()
    [(code, out, err), _] = finish(started)
    assert time.monotonic() - killed < 60
    assert code != 0
    # In the middle of an exchange it says so itself; between two, JAX ends it, and what to do was said at the start.
    assert f"--resume {path}" in out
    assert f"start all of them again with --resume {path}" in err or "another task died" in err
    [(code, _, err)] = finish(launch(1, "--resume", str(path), "--parallel.expert", "1", devices=1))
    assert code == 0, err
    assert_same(path, alone)
