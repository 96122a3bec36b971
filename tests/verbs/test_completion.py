"""What a shell offers after `moejax`, asked of a real bash."""

import shutil
import subprocess
import sys

import pytest

from moejax.__main__ import main
from moejax.config.training import ParallelOptions

PARALLEL = {f"parallel.{name}" for name in ParallelOptions.model_fields}
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_moejax
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    pytest.importorskip("shtab", reason="it makes the programs")
    if not shutil.which("bash"):
        pytest.skip("no bash to ask")
    file = tmp_path_factory.mktemp("completion") / "moejax.bash"
    done = subprocess.run([sys.executable, "-m", "moejax", "completion", "bash"], capture_output=True, check=True)
    file.write_bytes(done.stdout)
    return str(file)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["pre"], {"presets", "predict"}),
        (["run", "--moe.rou"], {"--moe.router", "--moe.routed_scaling_factor"}),
        (["run", "--moe.router", "exp"], {"expert_choice"}),
        (["run", "--config", "mnist_l"], {"mnist_lstm"}),
        (["run", "--config", "mnist_soft", "--train.schedule", ""], {"cosine", "constant"}),
        (["run", "--train.activations", ""], {"true", "false"}),
        (["sweep", "--jobs", "2", "--moe.num_exp"], {"--moe.num_experts", "--moe.num_expert_groups"}),
        (["completion", "z"], {"zsh"}),
        (["data", "fetch", "mrpc"], {"mrpc", "mrpc_pieces"}),
        (["run", "--help", "moe.rou"], {"moe.router", "moe.routed_scaling_factor"}),
        (["run", "--help", "moe.router", "par"], {"parallel", *PARALLEL}),
        (["run", "--config", "=", "mnist_l"], {"mnist_lstm"}),
        (["run", "--config", "=", "mnist_soft", "--train.schedule", "="], {"cosine", "constant"}),
    ],
)
def test_bash_offers(program, typed, offered):
    words = ["bash", "-c", ASK, "bash", program, "moejax", *typed]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


def test_bash_offers_folders_for_runs(program, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "rules").write_text("")
    words = ["bash", "-c", ASK, "bash", program, "moejax", "report", "ru"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split() == ["runs"]


def test_zsh_has_presets_names_and_meanings(capsys):
    pytest.importorskip("shtab", reason="it makes the programs")
    assert main(["completion", "zsh"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("#compdef moejax")
    assert "--moe.router[How experts are chosen.]" in said
    assert "(mnist_soft " in said
    assert "doctor:'versions, devices" in said


def test_without_shtab_or_a_shell_it_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == (
        "moejax: Completion is made by shtab, which is not installed: pip install shtab.\n"
    )
    assert main(["completion", "fish"]) == 2
    assert "invalid choice: 'fish'" in capsys.readouterr().err
