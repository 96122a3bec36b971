"""The command line as a user meets it: exit codes, sentences, and a run folder from start to report."""

import json
import subprocess
import sys

import pytest

from moejax import manifest, run
from moejax.config import make_config, to_json
from moejax.data.dataset import first
from moejax.errors import UserError


def words(text: str) -> list[str]:
    return text.split()


def test_everything_wrong_is_said_at_once_without_a_traceback(capsys):
    code = run.main(words("oops --config mnist_sof --train.epcohs 3 --moe.layer=spare --train.batch-size 1.5 --seed"))
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 6
    assert all(line.startswith("moejax: ") and line.endswith((".", "?")) for line in lines)
    assert "'oops' is not an option" in lines[0]
    assert "--seed needs a value" in lines[1]
    assert "--config mnist_sof is neither a config.json" in lines[2]
    assert "mnist_soft" in lines[2]


def test_values_are_checked_against_the_chosen_preset(capsys):
    assert run.main(words("--config mnist_sparse --moe.k 9 --moe.capacity_factor 0 --train.learning_rate -1")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_print_config_prints_what_would_run_and_can_be_run_again(capsys, tmp_path):
    assert run.main(words("--config mnist_soft --train.epochs 9 --seed 3 --print-config")) == 0
    text = capsys.readouterr().out
    assert (json.loads(text)["train"]["epochs"], json.loads(text)["seed"]) == (9, 3)
    (tmp_path / "c.json").write_text(text)
    assert run.main(["--config", str(tmp_path / "c.json"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_print_config_prints_with_what_a_run_would_go_on(capsys, tmp_path):
    assert run.main(words("--config mnist_soft --print-config")) == 0
    (tmp_path / "config.json").write_text(capsys.readouterr().out)
    resume = ["--resume", str(tmp_path), "--print-config"]
    assert run.main([*resume, "--parallel.expert", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["parallel"]["expert"] == 2
    assert run.main([*resume, "--seed", "1"]) == 2
    assert run.main(["--resume", str(tmp_path / "nothing"), "--print-config"]) == 2
    said = capsys.readouterr().err
    assert "takes no other argument than --parallel" in said
    assert "nothing is not a run folder" in said
    assert run.main(["--config", str(tmp_path), "--print-config"]) == 0
    manifest.write(tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"seed": 0', '"seed": 1'))
    capsys.readouterr()
    assert run.main(["--config", str(tmp_path), "--print-config"]) == 2
    assert "config.json is not what was written; if you have changed it on purpose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("mnist_soft", "mnist_soft is a preset; write --config mnist_soft."),
        ("--config mnist_sotf", "nor a preset; did you mean mnist_soft?"),
        (
            "--config mnist_soft --moe.k 3 --moe.router sigmoid",
            "moe.k has no effect with moe.layer soft; it belongs to",
        ),
        ("--config mnist_soft --halp", "There is no --halp; did you mean --help?"),
        ("--help moe.ruoter", "There is no option moe.ruoter; did you mean moe.router?"),
    ],
)
def test_what_was_meant_is_said(command, sentence, capsys):
    assert run.main(words(command)) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("command", ["mnist_soft", "--config mnist_sotf", "--epochs"])
def test_wrong_words_are_answered_before_jax_is_imported(command):
    code = f"import sys; from moejax import run; code = run.main({words(command)}); print(code, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"]


def test_a_preset_without_config_is_one_mistake(capsys):
    assert run.main(["mnist_soft"]) == 2
    assert capsys.readouterr().err == "moejax: mnist_soft is a preset; write --config mnist_soft.\n"


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("moe.router", ["one of softmax_top_k, ", "belongs to moe.layer sparse", "sigmoid "]),
        (
            "--moe.bias-update-rate",
            ["a number of at least 0 (default 0.001)", "moe.layer sparse with moe.router sigmoid"],
        ),
        ("--moe.router", ["one of softmax_top_k, ", "sigmoid "]),
        ("moe.score_function", ["sigmoid, sqrtsoftplus (default sigmoid)", "softmax, sigmoid (default softmax)"]),
        ("model", ["--model.name ", "model, with model.name image:", "--model.stride  a whole number from 1 to 14"]),
    ],
)
def test_help_on_one_thing(topic, said, capsys):
    assert run.main(["--help", topic]) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in said)
    assert not text.startswith("usage")


@pytest.mark.parametrize("topic", ["--print-config", "out", "--resume"])
def test_help_on_what_is_no_option_of_a_configuration_is_the_usage(topic, capsys):
    assert run.main(["--help", topic]) == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_help_lists_presets_and_fields(capsys):
    assert run.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("mnist_soft", "mnist_best", "--resume", "--train.epochs", "--moe.num_experts", "--data.dir"):
        assert word in text


def test_resume_wants_a_run_folder_and_nothing_else(capsys, tmp_path):
    assert run.main(["--resume", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert run.main(["--resume", str(tmp_path), "--seed", "1"]) == 2
    assert "takes no other argument" in capsys.readouterr().err


def test_bad_data_leaves_no_folder_behind(capsys, tmp_path):
    code = run.main(["--config", "mnist_tiny", "--data.dir", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")])
    assert code == 2
    assert "is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["--config", "mnist_tiny", "--seed", "1", "--seed=2"], "--seed is given twice; leave one out."),
        (
            ["--config", "mnist_tiny", "--train.batch-size", "1", "--train.batch_size", "2"],
            "--train.batch_size is given",
        ),
        (["--config", "mnist_tiny", "--config", "mnist_soft", "--print-config"], "--config is given twice"),
        (["--help=no"], "'--help=no' has a value, but --help takes none."),
        (["--config", "mnist_tiny", "--print-config=false"], "'--print-config=false' has a value"),
        (["--config", "mnist_tiny", "--", "x"], "'--' is not an option"),
        (["--config", "x" * 300], "--config is 'xxx"),
        (["--config", ""], "--config is ''"),
        (["--config", "mnist_tiny", "--out", "y" * 300], "--out is 'yyy"),
        (["--resume", "z" * 300], "--resume is 'zzz"),
        (["--config", "mnist_tiny", "--name", "x" * 300], "name is 'xxx"),
        (["--config", "mnist_tiny", "--train.epochs", "9" * 5000], "train.epochs is '999"),
        (["--config", "mnist_tiny", "--train.epochs", "9" * 4000], "train.epochs is 999"),
    ],
    ids=range(13),
)
def test_words_have_one_meaning_or_a_sentence(command, sentence, capsys):
    assert run.main(command) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if sentence in line]
    assert len(said) == 1
    assert len(said[0]) < 250


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("data.limit", "10", "train.batch_size is 15, but there are only 10 training examples; choose at most 10."),
        ("train.frozen", "nothing", "no parameter's path begins so"),
        ("train.epochs", "1000000", "which makes 6000000 steps; choose at most 333333."),
    ],
)
def test_a_run_that_cannot_work_leaves_no_folder_behind(
    field, value, sentence, monkeypatch, capsys, tmp_path, dataset, config
):
    monkeypatch.setattr(run, "_load", lambda config: first(dataset, config.data.limit, None))
    monkeypatch.setattr("moejax.training.sizes.STEPS", 2_000_000)
    (tmp_path / "small.json").write_text(to_json(config))
    command = ["--config", str(tmp_path / "small.json"), "--out", str(tmp_path / "run"), f"--{field}={value}"]
    assert run.main(command) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert run.main(["--config", "mnist_tiny", "--out", str(tmp_path)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"


@pytest.mark.parametrize("command", ["import moejax", "import moejax.run", "import moejax.presets, moejax.commandline"])
def test_imports_are_light(command):
    heavy = "{'jax', 'flax', 'matplotlib', 'datasets', 'tensorflow_datasets', 'transformers', 'orbax', 'tyro'}"
    code = f"{command}; import sys; sys.exit(' '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_small_run_from_start_to_report(monkeypatch, capsys, tmp_path, dataset, config):
    monkeypatch.setattr(run, "_load", lambda _: dataset)
    (tmp_path / "small.json").write_text(to_json(config))
    out = tmp_path / "run"
    assert run.main(["--config", str(tmp_path / "small.json"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "test accuracy" in said
    assert f"report: {out / 'report.html'}" in said
    assert {p.name for p in out.iterdir()} == {
        *("config.json", "env.json", "metrics.jsonl", "routing.npz", "summary.json", "checkpoints", "figures"),
        *("data.json", "predictions.npz", "sha256.json"),
        *("train_metrics.csv", "validation_metrics.csv", "test_metrics.csv"),
        *("report.html", ".lock"),
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["config"] == config.name
    assert summary["dataset"] == "bars"
    assert summary["data_source"] == "dir"
    assert (summary["train_examples"], summary["test_examples"]) == (90, 40)
    assert make_config() != config
    assert run.main(["--resume", str(out)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_in_python_a_run_returns_what_it_found(monkeypatch, tmp_path, dataset, config):
    monkeypatch.setattr(run, "_load", lambda _: dataset)
    monkeypatch.setattr(run, "_report", lambda path, stop: path / "report.html")
    summary = run.train(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary == written | {"run": str(tmp_path / "run")}
    assert run.train(["--resume", str(tmp_path / "run")]) == summary
    longer = run.train(f"--resume {tmp_path / 'run'} --train.epochs 3")
    assert longer["tested_step"] == 18


def test_in_python_what_is_wrong_is_raised(tmp_path):
    with pytest.raises(UserError, match="--help trains nothing; leave it out"):
        run.train("--help")
    with pytest.raises(UserError, match="nor a preset; did you mean mnist_soft"):
        run.train("--config mnist_sotf")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a run"):
        run.train("--config mnist_tiny", tmp_path)
    for out in ("", "a\0b"):
        with pytest.raises(UserError, match=r"^out is .+, which can be no path\.$"):
            run.train("--config mnist_tiny", out)
    with pytest.raises(UserError, match=r"^out is here, and --out is there; give one of the two\.$"):
        run.train("--config mnist_tiny --out there", "here")
    with pytest.raises(UserError, match="which makes no words: No closing quotation"):
        run.train('--config "mnist_tiny')
    with pytest.raises(UserError, match="train got the word 3; words of a command line are text"):
        run.train(["--config", 3])
    with pytest.raises(UserError, match="train got None; give a configuration, or the words of a command line"):
        run.train(None)
