"""Signals: what a run has is saved, a second one does not wait, and each is answered with a sentence."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from small_run import StopAfter

from moejax.interrupt import SIGNALS, StopSignal
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Progress


def start(code: str) -> subprocess.Popen:
    """A process of its own, whose signals are as a shell's foreground job has them."""
    heeded = (
        "import signal; [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]\n"
    )
    return subprocess.Popen(
        [sys.executable, "-u", "-c", heeded + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


WAITS = """
    import hashlib
    from moejax.interrupt import StopSignal
    with StopSignal() as stop:
        {first}
        print("ready")
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # as a compiled program: no handler runs meanwhile
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_before_training_a_signal_ends_the_process_at_once_with_a_sentence(number):
    with start(WAITS.format(first="stop.ends_with('nothing was saved.')")) as process:
        process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (128 + number, "moejax: nothing was saved.\n")


def test_a_first_signal_says_that_the_run_is_stopping_and_a_second_one_ends_it():
    with start(WAITS.format(first="stop.asks('stopped at once.')")) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert "stopping as soon as" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "moejax: stopped at once.\n")


def test_a_first_signal_asks_and_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_verb_ends_at_once_and_leaves_no_half_a_file(tmp_path, number):
    code = f"""
        import os, sys, time, types
        from pathlib import Path
        from moejax import verbs
        from moejax.__main__ import main
        from moejax.files import write_whole
        def fsync(_):
            print("ready")
            time.sleep(60)
        os.fsync = fsync
        sys.modules["slow"] = types.SimpleNamespace(main=lambda _: write_whole(Path({str(tmp_path)!r}, "file"), "new"))
        verbs.VERBS["slow"] = "slow"
        main(["slow"])
    """
    (tmp_path / "file").write_text("old")
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (128 + number, "moejax: interrupted\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_signal_that_came_before_the_last_chance_to_stop_is_not_forgotten():
    code = """
        import signal
        from moejax.interrupt import StopSignal
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGTERM)
            stop.ends_with("not forgotten.")
    """
    with start(code) as process:
        _, said = process.communicate(timeout=10)
    assert process.returncode == 143
    assert said.endswith("moejax: not forgotten.\n")


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_when_all_is_done_changes_nothing(number):
    code = f"""
        import atexit, signal
        from moejax import entry
        atexit.register(lambda: signal.raise_signal({int(number)}))  # as JAX goes
        entry.end(0)
    """
    with start(code) as process:
        _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "")


class OneLook(StopAfter):
    """Says no when first asked in a turn, and yes ever after: a signal between two looks."""

    def __init__(self):
        super().__init__(looks=1)


def test_a_signal_that_comes_right_after_it_was_asked_for_does_not_end_the_run_unsaved(config, dataset, tmp_path):
    fit = Fit(config, dataset, RunFolder.create(tmp_path / "run", config), Progress())
    assert not fit.train(OneLook())
    assert fit.checkpoints.latest() == int(fit.state.step)


@pytest.mark.parametrize("seconds", [0.03, 0.3, 1.0])
def test_a_signal_while_libraries_are_imported_is_one_sentence(seconds):
    code = """
        import sys
        from moejax.run import main
        print("ready")
        sys.exit(main(["--config", "mnist_tiny", "--data.dir", "/nowhere", "--out", "/nowhere/run"]))
    """
    with start(code) as process:
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    if "/nowhere" not in said:  # on a fast machine the missing folder was noticed before, and the run was over
        assert (process.returncode, said) == (130, "moejax: interrupted before anything was saved.\n")


def test_the_run_is_finished_when_a_signal_comes_as_its_report_is_drawn(tmp_path):
    code = f"""
        import os, time
        import moejax.report
        from pathlib import Path
        from moejax.run import StopSignal, _report
        moejax.report.render = lambda path: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(10)
        with StopSignal() as stop:
            _report(Path({str(tmp_path)!r}), stop)
    """
    with start(code) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert said == f"moejax: the run is finished; draw its report with  python -m moejax report {tmp_path}\n"


def test_a_run_goes_on_when_nobody_watches_it_any_more():
    """`| head -1`, a closed terminal, a full disk behind stdout: the run goes on, and into its folder."""
    code = """
        import sys
        import numpy as np
        from moejax.training.progress import Progress, Status
        progress = Progress()
        print("ready", flush=True)
        sys.stdin.readline()
        status = Status(1, 1, 1, 1, 1.0, 1.0, 1.0, 0.0, np.ones((1, 2)))
        with progress.live():
            for _ in range(3):
                progress.message("x" * 9999)
                progress.update(status)
        print("went on", file=sys.stderr)
    """
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    with open(reading, "rb") as first_lines:
        assert first_lines.readline() == b"ready\n"
    _, said = process.communicate(b"\n", timeout=30)
    assert process.returncode == 0, said
    assert said.decode().splitlines() == ["moejax: nothing more is shown: Broken pipe. The run goes on.", "went on"]
