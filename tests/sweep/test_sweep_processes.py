"""The runs of a sweep as processes: one after the other or several, failures, Ctrl-C, going on; with a stand-in."""

import functools
import json
import os
import signal
import sys
import threading
import time

import pytest

from moejax import manifest
from moejax.__main__ import main
from moejax.files import one_writer
from moejax.presets import PRESETS
from moejax.sweep import plan, results, run_all
from moejax.sweep.plot import plot

# Makes a folder as the main job does; seed 3 fails, seed 8 is killed, seed 5 waits for a signal and keeps what it has.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(words.get("--resume") or words["--out"])
folder.mkdir(parents=True, exist_ok=True)
seed = json.loads((folder / "config.json").read_text())["seed"] if "--resume" in words else int(words["--seed"])
if seed == 3:
    sys.exit("moejax: it went wrong.")
if seed == 8:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 5 and "--resume" not in words:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit((folder / "stopped").write_text("") + 143))
    Path(folder / "part").write_text(json.dumps(CONFIG | {"seed": seed}))
    Path(folder / "part").rename(folder / "config.json")  # whole, when the signal comes
    while True:
        time.sleep(0.01)
(folder / "config.json").write_text(json.dumps(CONFIG | {"seed": seed}))
(folder / "summary.json").write_text(json.dumps({"test_accuracy": 0.9 + seed / 100, "parameters": 7, "seed": seed}))
"""
WORDS = ["--config", "mnist_tiny", "--seed"]


@pytest.fixture
def stand_in(tmp_path):
    from moejax.config import to_json

    config = to_json(PRESETS["mnist_tiny"].config)
    file = tmp_path / "stand_in.py"
    file.write_text(STAND_IN.replace("CONFIG", f"json.loads({config!r})"))
    return sys.executable, str(file)


@pytest.mark.parametrize("jobs", [1, 3])
def test_each_run_is_made_once(stand_in, tmp_path, jobs):
    said, out = [], str(tmp_path / "sweep")
    sweep = plan([*WORDS, "0..2"], out)
    assert run_all(sweep.runs, jobs, say=said.append, program=stand_in) == ((), None)
    assert [run.is_finished for run in sweep.runs] == [True] * 3
    assert said[0] == "--- seed=0 (1 of 3)"
    again = []
    run_all(plan([*WORDS, "0..3"], out).runs, jobs, quiet=True, say=again.append, program=stand_in)
    log = tmp_path / "sweep" / "seed=3.log"
    assert again == ["--- seed=3 (1 of 1)", f"--- seed=3 failed: it went wrong. ({log})"]


def test_a_run_that_fails_keeps_no_other_from_its_own(stand_in, tmp_path):
    sweep = plan([*WORDS, "2..4"], str(tmp_path / "sweep"))
    failed, came = run_all(sweep.runs, quiet=True, say=lambda text: None, program=stand_in)
    assert [run.values["seed"] for run in failed] == ["3"]
    assert came is None
    assert results.tabulate(sweep)[1][0][:2] == ["2 of 3", "93.00 ± 1.41 %"]


def test_language_models_are_judged_by_bits_a_byte(tmp_path):
    sweep = plan(["--config", "text_dense,text_sparse", "--seed", "0..1"], str(tmp_path / "sweep"))
    for n, run in enumerate(sweep.runs):
        run.folder.mkdir(parents=True)
        (run.folder / "summary.json").write_text(json.dumps({"test_accuracy": 0.5, "test_bits_per_byte": 2 + n / 4}))
    header, lines = results.tabulate(sweep)
    assert header[:4] == ["config", "runs", "bits a byte", "test accuracy"]  # nothing was validated
    assert [line[2] for line in lines] == ["2.125 ± 0.177", "2.625 ± 0.177"]
    of_one = {"test_accuracy": 0.5, "validation_accuracy": 0.6, "validation_bits_per_byte": 2.5}
    (sweep.runs[0].folder / "summary.json").write_text(json.dumps(of_one))
    assert results.tabulate(sweep)[0][2:4] == ["validation, bits a byte", "validation accuracy"]
    figure = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moejax.sweep.plot.png", lambda made, title: figure.update(title=title, axes=made.axes[0]))
        plot(sweep)
    assert (figure["title"], figure["axes"].get_ylabel()) == ("Bits a byte on test by config", "bits a byte on test")


def test_a_run_that_the_system_kills_is_said(stand_in, tmp_path):
    said: list[str] = []
    sweep = plan([*WORDS, "8"], str(tmp_path / "sweep"))
    run_all(sweep.runs, quiet=True, say=said.append, program=stand_in)
    assert said[-1] == "--- one run failed: it was killed by signal 9"


def test_where_nobody_reads_on_no_run_is_left_behind(stand_in, tmp_path):
    waits = tmp_path / "sweep" / "seed=5" / "config.json"

    def say(text: str) -> None:
        if "2 of 2" in text:
            while not waits.exists():
                time.sleep(0.01)
            raise BrokenPipeError

    sweep = plan([*WORDS, "5..6"], str(tmp_path / "sweep"))
    with pytest.raises(BrokenPipeError):
        run_all(sweep.runs, 2, say=say, program=stand_in)
    assert waits.with_name("stopped").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_and_the_same_sweep_goes_on(stand_in, tmp_path, number):
    out = tmp_path / "sweep"
    sweep = plan([*WORDS, "4..6"], str(out))
    waits = out / "seed=5" / "config.json"
    waiting = threading.Event()

    def interrupt():
        while not waits.exists() and not waiting.wait(0.01):
            pass
        os.kill(os.getpid(), number)

    before = signal.signal(number, signal.default_int_handler)  # it may be ignored, as in a shell's background
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        outcome = run_all(sweep.runs, quiet=True, say=lambda text: None, program=stand_in)
    finally:
        waiting.set()
        thread.join()
        signal.signal(number, before)
    assert outcome == ((), number)
    assert [run.is_finished for run in sweep.runs] == [True, False, False]
    assert sweep.runs[1].command == ("--resume", str(out / "seed=5"))
    run_all(sweep.runs, quiet=True, say=lambda text: None, program=stand_in)
    assert all(run.is_finished for run in sweep.runs)


def test_the_verb_tells_tabulates_and_draws(stand_in, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("moejax.sweep.run_all", functools.partial(run_all, program=stand_in))
    out = tmp_path / "sweep"
    words = ["sweep", "--config", "mnist_tiny", "--seed", "0..1", "--moe.num_experts", "2,4", "--out", str(out)]
    assert main([*words, "--print"]) == 0
    assert capsys.readouterr().out.count("python -m moejax.run --config mnist_tiny --seed 0 --moe.num_experts ") == 2
    assert main([*words, "--print", "--json"]) == 0
    left = json.loads(capsys.readouterr().out)
    assert left[0]["values"] == {"seed": "0", "moe.num_experts": "2"}
    assert [run["command"][-2:] for run in left] == [["--out", run["folder"]] for run in left]
    assert main([*words, "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "moe.num_experts    runs   test accuracy" in said
    assert "2  2 of 2  90.50 ± 0.71 %" in said
    assert {file.name for file in out.iterdir() if file.is_file() and file.suffix != ".log"} == {
        *("results.json", "table.md", "plot.png", ".lock")
    }
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_summary_that_is_not_what_was_written_is_said_and_in_no_table(stand_in, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("moejax.sweep.run_all", functools.partial(run_all, program=stand_in))
    words = ["sweep", *WORDS, "0..1", "--out", str(tmp_path)]
    assert main(words) == 0
    lost = tmp_path / "seed=1" / "summary.json"
    for content in ("{", lost.read_text().replace("0.91", "0.99")):
        lost.write_text(content)
        assert main(words) == 1
        said = capsys.readouterr()
        assert "1 of 2" in said.out
        assert f"{lost} is not what was written; delete it, and the same command writes it again." in said.err
        manifest.write(tmp_path / "seed=1")
    (tmp_path / "seed=1" / manifest.NAME).unlink()
    lost.unlink()
    assert main(words) == 0


def test_a_sweep_that_another_process_makes_is_a_sentence(capsys, tmp_path):
    with one_writer(tmp_path, "give the same command again"):
        assert main(["sweep", *WORDS, "0..1", "--out", str(tmp_path)]) == 2
    assert f"moejax: Another process is writing {tmp_path}; wait until it ends" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
