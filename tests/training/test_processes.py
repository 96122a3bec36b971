"""Several processes: who joins, and whole runs of two and of four that equal one, stop, die and go on."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from moejax.errors import UserError
from moejax.training import lifeline, processes
from moejax.training.processes import connect, on_a_cluster

SMALL = [
    *("--config", "mnist_tiny", "--data.source", "embedded", "--data.limit", "320"),
    *("--train.batch_size", "16", "--train.epochs", "3", "--train.chunk", "5"),
    *("--moe.layer", "sparse", "--moe.k", "2", "--moe.group_size", "16", "--moe.capacity_factor", "0.75"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("here", "2", "0"), "--coordinator is here; give host:port"),
        ((None, "2", "0"), "--coordinator not given; give all three"),
        (("here:1", None, None), "--processes and --process not given; give all three"),
        (("here:1", "2", "2"), "--process is 2 of --processes 2; give how many"),
        (("here:port", "2", "1"), "--coordinator is here:port; give host:port, the port a number"),
        (("here:99999", "2", "1"), "--coordinator is here:99999; give host:port, the port a number"),
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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c, d: (c.replace(seed=4), d), r"seed is 0 in process 0 and 4 in process 1; start all"),
        (
            lambda c, d: (c, dataclasses.replace(d, validation=d.test)),
            r"The validation split is 30 examples \(\w+\) in",
        ),
        (lambda c, d: (c, dataclasses.replace(d, train=turned(d.train))), r"The train split is 90 examples \(\w+\) in"),
    ],
)
def test_processes_that_differ_are_one_sentence_in_each(config, dataset, monkeypatch, change, sentence):
    raised = []
    for mine in (config, dataset), change(config, dataset):
        facts = [json.dumps(processes._facts(*pair)) for pair in ((config, dataset), change(config, dataset))]
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(processes, "from_all", lambda text, facts=facts: facts)
        with pytest.raises(UserError, match=sentence) as error:
            processes.agree(*mine)
        raised.append(str(error.value))
    assert raised[0] == raised[1]


def turned(examples):
    return {name: array[::-1] for name, array in examples.items()}


def test_where_a_machine_keeps_its_data_may_differ(config, dataset, monkeypatch):
    elsewhere = config.replace(data=dict(dir="/elsewhere", source="dir"))
    facts = [json.dumps(processes._facts(c, dataset)) for c in (config, elsewhere)]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "from_all", lambda text: facts)
    processes.agree(config, dataset)


@pytest.mark.parametrize("theirs", ["missing", "0123"])
def test_a_folder_that_not_all_see_is_one_sentence(tmp_path, monkeypatch, theirs):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "from_first", lambda text: text)
    monkeypatch.setattr(processes, "from_all", lambda text: [text, json.dumps({str(tmp_path / "config.json"): theirs})])
    with pytest.raises(UserError, match=rf"and {theirs} in process 1; start all processes in one folder, which all of"):
        processes.see(tmp_path)


def test_processes_with_other_words_are_one_sentence(monkeypatch):
    theirs = json.dumps({"--resume": True})
    monkeypatch.setattr(processes, "from_all", lambda text: [text, theirs])
    with pytest.raises(UserError, match=r"--resume is False in process 0 and True in process 1; .* the same words"):
        processes.same({"--resume": False}, "with the same words")


def launch(count: int, *words: str, devices: int = 2, own: Sequence[tuple[str, ...]] = ()) -> list[subprocess.Popen]:
    """So many processes of one run, each with so many devices; `own`: the words of each alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    place = ("--coordinator", address, "--processes", str(count), "--process")
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "moejax.run",
                *words,
                *(own[i] if own else ()),
                *((*place, str(i)) if count > 1 else ()),
            ],
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
    steps = [int(folder.name) for folder in (path / "checkpoints").iterdir() if folder.name.isdecimal()]
    folder, here = (path / "checkpoints" / str(max(steps)) / "state").absolute(), jax.numpy.zeros(()).sharding
    checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    saved = checkpointer.metadata(folder).item_metadata.tree
    like = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here) for name, a in saved.items()}
    arrays = checkpointer.restore(folder, args=ocp.args.StandardRestore(like))
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


@pytest.mark.parametrize("count", [1, 2])
def test_when_the_run_is_finished_the_others_need_not_wait_for_its_report(monkeypatch, count):
    done, line = [], SimpleNamespace(say=lambda message: done.append(message))
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(lifeline, "current", line)
    processes.part()
    assert done == ([{"bye": True}, "shutdown"] if count > 1 else [])


@pytest.mark.slow
def test_two_processes_are_one_run_of_a_language_model(tmp_path):
    letters = np.random.default_rng(0).choice(list("abc \n"), 8000)
    (tmp_path / "text.txt").write_text("".join(letters))
    words = [
        *("--config", "text_sparse", "--data.name", "text", "--data.dir", str(tmp_path / "text.txt")),
        *("--data.length", "8", "--data.limit", "160", "--model.width", "16", "--model.depth", "1"),
        *("--moe.num_experts", "4", "--moe.hidden", "8", "--train.batch_size", "16", "--train.evaluation_batch", "16"),
        *("--train.epochs", "2", "--train.chunk", "5"),
    ]
    [(code, _, err)] = finish(launch(1, *words, "--out", str(tmp_path / "one"), devices=1))
    assert code == 0, err
    results = finish(launch(2, *words, "--parallel.expert", "2", "--out", str(tmp_path / "two")))
    assert [code for code, _, _ in results] == [0, 0], results
    assert_same(tmp_path / "two", tmp_path / "one")


def test_a_difference_ends_both_processes_before_anything_is_made(tmp_path):
    path = tmp_path / "run"
    rates = ("1e-3", "2e-3")
    started = launch(2, *SMALL, "--out", str(path), own=[("--train.learning_rate", rate) for rate in rates])
    for code, out, err in finish(started):
        assert code == 2, err
        assert "train.learning_rate is 0.001 in process 0 and 0.002 in process 1; start all processes" in err
        assert "Traceback" not in err
        assert "compiling" not in out
    assert not path.exists()


@pytest.mark.slow
def test_what_fails_in_one_process_is_said_by_both_at_once(tmp_path):
    path = tmp_path / "run"
    own = [("--data.source", "embedded"), ("--data.source", "dir", "--data.dir", str(tmp_path))]
    started = launch(2, *SMALL[:2], *SMALL[4:], "--out", str(path), own=own)
    start = time.monotonic()
    [(code, _, err), (other_code, _, other_err)] = finish(started)
    assert code == other_code == 2
    assert f"moejax: process 1 of 2 stopped: --data.dir={tmp_path} has no folder mnist/" in err
    assert f"moejax: --data.dir={tmp_path} has no folder mnist/" in other_err
    assert "Traceback" not in err + other_err
    assert time.monotonic() - start < 30


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_when_one_process_dies_the_other_ends_and_the_run_goes_on(alone, tmp_path, who):
    path = tmp_path / "run"
    started = launch(2, *SMALL, "--parallel.expert", "2", "--out", str(path))
    wait_for(lambda: any((path / "checkpoints").glob("*/sha256.json")))
    started[who].kill()
    killed = time.monotonic()
    code, _, err = finish(started)[1 - who]
    assert time.monotonic() - killed < 20
    assert code == 1
    assert f"process {who} of 2 is gone, so this one stops as well; start all of them again with --resume {path}" in err
    assert "Traceback" not in err
    [(code, _, err)] = finish(launch(1, "--resume", str(path), "--parallel.expert", "1", devices=1))
    assert code == 0, err
    assert_same(path, alone)
