"""Every command, where output is no UTF-8, nobody reads it, or no figure can be shown: plain processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from report.synthetic import write_run

ROOT = Path(__file__).parent.parent
ENCODINGS = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
HELP = (
    ["-m", "moejax.run", "--help"],
    ["-m", "moejax", "report", "--help"],
    ["-m", "benchmarks", "--help"],
    ["-m", "benchmarks", "compare", "--help"],
    ["-m", "experiments", "--help"],
    ["-m", "experiments", "dense_sparse_soft", "--help"],
    ["-m", "experiments", "understanding_moe", "--help"],
)
WATCH = """
import sys
import numpy as np
from moejax import entry
from moejax.training.progress import Progress, Status
def main():
    progress = Progress()
    with progress.live():
        progress.update(Status(1, 1, 1, 1, 1.0, 1.0, 1.0, 0.0, np.array([[0.0, 1.0]])))
        progress.message("l\\u00e4uft \\u00d7 \\u2026")
sys.exit(entry.run(main))
"""


def start(arguments: list[str], **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | more, capture_output=True, check=False, timeout=120
    )


@pytest.mark.parametrize(("arguments", "name"), [(HELP[0], "cp1252"), *((words, "C locale") for words in HELP[:3])])
def test_help_is_readable_in_every_encoding(arguments, name):
    done = start(arguments, **ENCODINGS[name])
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert len(done.stdout + done.stderr) > 40
    assert name == "cp1252" or (done.stdout + done.stderr).isascii()


@pytest.mark.parametrize("name", ENCODINGS)
def test_progress_is_readable_in_every_encoding(name):
    done = start(["-c", WATCH], **ENCODINGS[name])
    assert done.returncode == 0, done.stderr
    assert b"load 18" in done.stdout  # of eight steps, the lowest and the highest
    assert (b"l\xe4uft \xd7 \x85" if name == "cp1252" else b"l\\xe4uft x ...") in done.stdout


def test_a_report_is_drawn_in_the_c_locale_and_where_the_inherited_backend_is_not_installed(tmp_path):
    run = write_run(tmp_path / "läuft", finished=False)
    for backend in ("nonsense", "module://not_installed"):
        (run / "report.html").unlink(missing_ok=True)
        done = start(["-m", "moejax", "report", str(run)], MPLBACKEND=backend, **ENCODINGS["C locale"])
        assert done.returncode == 0, done.stderr
        assert (run / "report.html").exists()


def test_benchmarks_and_studies_draw_where_the_inherited_backend_is_not_installed():
    for arguments in (["-m", "benchmarks", "draw", "nowhere/layers.json"], ["-m", "experiments", "lstm_moe", "--help"]):
        done = start(arguments, MPLBACKEND="nonsense")
        assert b"Traceback" not in done.stderr, done.stderr


def test_a_tokenizer_is_read_in_the_c_locale(tmp_path):
    """Its file is UTF-8 whatever the terminal speaks."""
    code = (
        "import sys; from moejax.data import tokens; t = tokens.trained('t', [chr(228) * 3, chr(8364)] * 9, 50);"
        "t = tokens.of_folder(sys.argv[1], 50); print(len(t))"
    )
    text = '{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"[UNK]","single_word":'
    text += 'false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":'
    text += 'null,"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"[UNK]":0,"[PAD]":1,"ä€":2}'
    (tmp_path / "tokenizer.json").write_text(text + ',"unk_token":"[UNK]"}}', encoding="utf-8")
    for _ in range(2):  # trained, then out of the cache
        done = start(["-c", code, str(tmp_path)], MOEJAX_CACHE_DIR=str(tmp_path / "cache"), **ENCODINGS["C locale"])
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_output_that_cannot_be_written_is_one_sentence_and_a_closed_pipe_none():
    command = [sys.executable, "-m", "moejax.run", "--help"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"moejax: No space left on device.\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_streams_that_a_process_was_started_without_are_nowhere():
    for words in (["-m", "moejax", "presets"], ["-m", "moejax.run", "--help"], ["-m", "benchmarks", "--help"]):
        done = start_in_shell('exec "$0" "$@" <&- >&-', words)
        assert (done.returncode, done.stderr) == (0, b"")
    assert start_in_shell('exec "$0" "$@" 2>&-', ["-m", "moejax", "reprot"]).returncode == 2


def start_in_shell(line: str, words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(["sh", "-c", line, sys.executable, *words], cwd=ROOT, capture_output=True, check=False)
