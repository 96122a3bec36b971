"""The benchmarks' own arithmetic, and that what they measure is what they say."""

import json
import platform
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from benchmarks.harness import measure
from benchmarks.suite import startup
from benchmarks.suite.cases import Case, layers, program, sparse, tokens
from benchmarks.suite.limit import Limit, unavoidable, unavoidable_of_mlp
from moejax.errors import UserError

ROOT = Path(__file__).parent.parent
FAULTS = """
import resource
from benchmarks.harness import memory
print(memory.keep_freed())
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    len(b"x" * 2**27)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SMALL = Case(tokens=64, d=8, h=16, experts=4, k=2)


def test_of_few_tokens_only_the_experts_that_they_chose_are_read():
    few = SMALL._replace(tokens=1, experts=64, k=2)
    expert, token = 2 * few.d * few.h * 4, 2 * few.d * 4
    assert unavoidable(few, "forward") == (4 * 2 * few.d * few.h, 2 * expert + token)
    assert unavoidable(few, "forward_backward")[1] == (2 * 2 + 64) * expert + 2 * token
    assert unavoidable(few, "forward", 1, 1) == (4 * few.d * few.h, expert + token)
    assert unavoidable_of_mlp(few, "forward_backward")[1] == 3 * 2 * expert + 2 * token


def test_unavoidable_work_by_hand():
    flops = 2 * 64 * 2 * (8 * 16 + 16 * 8)  # tokens, experts of a token, two products of 2 d h
    weights, activations = 4 * 2 * 8 * 16 * 4, 64 * 8 * 4
    assert unavoidable(SMALL, "forward") == (flops, weights + 2 * activations)
    assert unavoidable(SMALL, "forward_backward") == (3 * flops, 3 * weights + 4 * activations)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_a_process_that_keeps_what_it_frees_asks_for_no_fresh_pages():
    result = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True)
    known, faults = result.stdout.split()
    assert known == "True"
    assert int(faults) < 2**27 / 4096 / 10  # of 32,768 pages


def test_the_limit_is_the_slower_of_the_two():
    limit = Limit(flops=100.0, bandwidth=10.0)
    assert limit.seconds(1000, 10) == 10
    assert limit.seconds(1000, 200) == 20


def test_the_mlp_has_the_flops_of_a_token_s_experts():
    def flops(name: str) -> float:
        module = layers(SMALL)[name]
        return jax.jit(lambda m, x: m(x)).lower(module, tokens(SMALL)[0]).compile().cost_analysis()["flops"]

    assert flops("mlp") == pytest.approx(unavoidable(SMALL, "forward")[0], rel=0.3)  # and its activation


def test_skew_makes_experts_unevenly_popular():
    def load(skew: float) -> list[float]:
        case = SMALL._replace(tokens=512, skew=skew)
        routing = sparse(case, "gather")(tokens(case)[0], train=True)[1]
        return routing.choices.mean((0, 1)).tolist()

    assert max(load(0.0)) < 0.7
    assert load(3.0)[0] > 0.9


def test_a_program_says_its_peak():
    a = jax.numpy.ones((256, 256))
    assert program(lambda a: a + 1, a).peak_bytes >= 2 * a.nbytes


def test_an_unknown_benchmark_is_one_sentence():
    result = subprocess.run([sys.executable, "-m", "benchmarks", "layer"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "there is no benchmark layer; choose of limit," in result.stderr


@pytest.mark.parametrize("options", [[], ["--quick"]])
def test_without_names_there_is_the_plan_and_nothing_is_measured(options):
    command = [sys.executable, "-m", "benchmarks", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "  convergence      11 min  seconds to 98.5 % on MNIST" in result.stdout
    assert result.stdout.endswith("Name some of them, or all, which takes about 64 minutes on two CPU cores.\n")


def test_results_are_kept_once_they_are_whole(tmp_path, monkeypatch, capsys):
    def run(quick):
        yield from rows
        if stopped:
            raise stopped

    benchmark = types.SimpleNamespace(__doc__="What it asks.", run=run, table=lambda rows: f"{len(rows)} rows", TURNS=1)
    monkeypatch.setitem(sys.modules, "benchmarks.suite.whole", benchmark)
    monkeypatch.setattr(measure.results, "RESULTS", tmp_path)
    monkeypatch.setattr(measure.results, "machine", lambda: {"device": "this one"})
    monkeypatch.setattr(measure.results.readmes, "write", lambda _: None)
    rows, stopped = [{"ms": 1.0}, {"ms": 2.0}], None
    assert not measure.failed("whole", quick=True)
    assert not [*tmp_path.iterdir()]
    assert not measure.failed("whole")
    (file,) = tmp_path.rglob("whole.json")
    assert json.loads(file.read_text())["rows"] == rows
    kept = {file: file.read_bytes() for file in file.parent.iterdir()}
    rows, stopped = rows[:1], UserError("It is stopped.")
    assert measure.failed("whole")
    stopped = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        measure.failed("whole")
    assert {file: file.read_bytes() for file in file.parent.iterdir()} == kept
    said = capsys.readouterr()
    assert said.out.count("What it asks.\n\n2 rows") == said.out.count("What it asks.\n\n1 rows") == 2
    assert said.err == "It is stopped.\n"


def test_a_run_that_fails_has_no_start(tmp_path, capfd):
    with pytest.raises(UserError, match=r"^The run of mnist_tine ended before its first line of progress; what it"):
        startup.first_progress_seconds("mnist_tine", str(tmp_path))
    assert "mnist_tiny" in capfd.readouterr().err
