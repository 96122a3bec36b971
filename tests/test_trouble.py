"""A run whose disk fills up, whose folder goes away or has another writer: a sentence, and what was saved stays."""

import asyncio
import collections
import gc
import json
import logging
import shutil
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from moejax import run
from moejax.config import make_config, to_json
from moejax.errors import UserError
from moejax.files import one_writer
from moejax.training import checkpoint
from moejax.training import folder as folders
from moejax.training.folder import RunFolder
from moejax.training.loop import TrainState
from moejax.training.progress import Progress

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from moejax.run import main
sys.exit(main(sys.argv[2:]))
"""
SMALL = [
    *("--config", "mnist_tiny", "--data.source", "embedded", "--data.limit", "320", "--train.epochs", "3"),
    *("--train.batch_size", "16", "--train.chunk", "5"),
]


@pytest.fixture
def begin(monkeypatch, tmp_path, dataset, config):
    """begin(): the small run, by its command line; the exit code."""
    monkeypatch.setattr(run, "_load", lambda _: dataset)
    (tmp_path / "small.json").write_text(to_json(config), encoding="utf-8")
    return lambda: run.main(["--config", str(tmp_path / "small.json"), "--out", str(tmp_path / "run")])


def after_updates(monkeypatch, count: int, action) -> None:
    """Do it when progress was reported so many times."""
    update, seen = Progress.update, []

    def counted(self, status):
        update(self, status)
        seen.append(status)
        if len(seen) == count:
            action()

    monkeypatch.setattr(Progress, "update", counted)


def test_a_disk_that_fills_up_is_said_and_the_run_goes_on_from_what_was_saved(begin, monkeypatch, capsys, tmp_path):
    path, usage = tmp_path / "run", shutil.disk_usage
    none_left = collections.namedtuple("Usage", "total used free")(10, 10, 0)
    after_updates(monkeypatch, 3, lambda: monkeypatch.setattr(shutil, "disk_usage", lambda _: none_left))
    assert begin() == 2  # chunks end at 3, 6, 9, 12; the first epoch at 6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "No space left on device: a checkpoint needs 1 MB" in said[0]
    assert said[1].startswith(f"moejax: What was saved stays in {path}, up to step 6; once that is mended, continue ")
    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert run.main(["--resume", str(path)]) == 0
    assert "resuming after step 6 of 12" in capsys.readouterr().out


def test_a_folder_that_is_gone_is_a_sentence_and_not_made_again(begin, monkeypatch, capsys, tmp_path):
    after_updates(monkeypatch, 1, lambda: shutil.rmtree(tmp_path / "run"))
    assert begin() == 2
    said = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'run'}" in said[0]
    assert said[1] == f"moejax: {tmp_path / 'run'} is gone, with all that was saved in it; begin the run again."
    assert not (tmp_path / "run").exists()


def test_a_run_of_which_a_part_is_deleted_does_not_end_as_if_it_were_whole(config, tmp_path):
    folder = RunFolder.create(tmp_path / "run", config)
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="No such file"):
        folder.write_summary({})
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_finished_run_whose_report_cannot_be_written_says_how_to_draw_it(begin, monkeypatch, capsys, tmp_path):
    after_updates(monkeypatch, 1, lambda: (tmp_path / "run" / "figures").write_text("in the way", encoding="utf-8"))
    assert begin() == 2
    said = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'run' / 'figures'}: File exists." in said[0]
    assert said[1].endswith(
        f"But the run is finished; draw its report with  python -m moejax report {tmp_path / 'run'}"
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["tested_step"] == 12


# As the folder is made; as orbax writes.
@pytest.mark.parametrize("limit", [pytest.param(900, marks=pytest.mark.slow), 20_000])
def test_files_that_may_not_grow_are_sentences_without_tracebacks(tmp_path, limit):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *SMALL, "--out", str(tmp_path / "run")],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()
    assert len(said) <= 2
    assert all(line.startswith("moejax: ") for line in said)
    assert "File too large." in said[0]


def test_writes_that_fail_after_one_was_said_say_nothing_more(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    hooked = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: hooked.append(str(unraisable.exc_value)))

    def unfinished(message):
        async def fail():
            raise ValueError(message)

        async def forget():
            asyncio.ensure_future(fail())  # noqa: RUF006
            await asyncio.sleep(0)

        asyncio.run(forget())
        gc.collect()
        return caplog.text

    full = "Failed to write 34171 bytes to file 19: File too large [os_error_code='27']"
    assert full in unfinished(full)
    caplog.clear()
    with pytest.raises(OSError, match="File too large"), checkpoint._errors_of_the_system(tmp_path):
        raise ValueError(full)
    assert unfinished(full) == ""
    assert "something else" in unfinished("something else")
    for message in ("Event loop is closed", "something else"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(message)))
    assert hooked == ["something else"]


@pytest.mark.parametrize(
    "message",
    [
        'NOT_FOUND: Error writing ".model.value/0.0" in OCDBT database: Error reading Byte range [10288, 12507)',
        "No ArrayMetadata found for process_index=0 in the checkpoint directory",
    ],
)
def test_what_orbax_says_of_a_folder_that_is_deleted_is_an_error_of_the_system(message, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)), checkpoint._errors_of_the_system(tmp_path):
        raise ValueError(message)
    with pytest.raises(ValueError, match="of its own"), checkpoint._errors_of_the_system(tmp_path):
        raise ValueError("a fault of its own")
    with pytest.raises(FileNotFoundError), checkpoint._errors_of_the_system(tmp_path / "gone"):
        raise ValueError("whatever it is called")


def test_a_checkpoint_does_not_make_the_folder_of_its_run_again(tmp_path):
    state = TrainState(jax.numpy.zeros((), "int32"), {}, {"a": jax.numpy.zeros(2)})
    with pytest.raises(FileNotFoundError):
        checkpoint.Checkpoints(tmp_path / "run" / "checkpoints").save(state, None)
    assert not (tmp_path / "run").exists()


def test_what_was_not_saved_to_its_end_is_not_in_the_way_of_a_new_run(config, tmp_path):
    partial = tmp_path / "run" / "checkpoints" / "4.partial"
    partial.mkdir(parents=True)
    RunFolder.check_free(tmp_path / "run")
    partial.rename(partial.with_name("4"))
    with pytest.raises(UserError, match="holds the checkpoints of a run"):
        RunFolder.create(tmp_path / "run", config)


HOLDS = """
import sys, time
from pathlib import Path
from moejax.training.folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_has_one_writer_and_its_lock_dies_with_its_process(begin, capsys, tmp_path):
    path = RunFolder.create(tmp_path / "run", make_config()).path
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert run.main(["--resume", str(path)]) == 2
        assert f"Another process is writing {path}; wait until it ends" in capsys.readouterr().err
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before
        other.kill()
    with RunFolder(path):
        pass


def test_one_who_only_looks_whether_a_folder_is_free_keeps_no_run_from_it(tmp_path):
    with ThreadPoolExecutor() as pool:
        with one_writer(tmp_path, "go on"):
            waits = pool.submit(RunFolder(tmp_path).__enter__)
            time.sleep(0.1)
            assert not waits.done()
        waits.result().__exit__()


def test_of_two_that_make_the_same_folder_one_is_refused(monkeypatch, config, tmp_path):
    environment = folders.environment

    def meanwhile():
        monkeypatch.setattr(folders, "environment", environment)
        with pytest.raises(UserError, match="Another process is writing"):
            RunFolder.create(tmp_path / "run", make_config())
        return environment()

    monkeypatch.setattr(folders, "environment", meanwhile)
    RunFolder.create(tmp_path / "run", config)
    assert RunFolder.open(tmp_path / "run")[1] == config


def test_a_folder_is_a_run_only_when_all_of_it_is_there(monkeypatch, config, tmp_path):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "environment", full)
    with pytest.raises(UserError, match=r"Cannot write to --out .*: No space left on device\."):
        RunFolder.create(tmp_path / "run", config)
    monkeypatch.undo()
    assert RunFolder.create(tmp_path / "run", config).path.exists()  # nothing is in the way


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "..", ".", "", "a\\b", "x" * 300])
def test_a_name_cannot_lead_out_of_the_runs(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--config", "mnist_tiny", f"--name={name}", "--data.dir", str(tmp_path / "nowhere")]) == 2
    assert "name is " in capsys.readouterr().err
