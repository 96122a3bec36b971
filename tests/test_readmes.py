"""What the READMEs say is so: their links lead somewhere, their commands are understood, their code runs."""

import argparse
import importlib
import re
import shlex
import sys

import jax
import pytest
from flax import nnx

from experiments.readmes import readmes
from experiments.study import ROOT
from moejax import run
from moejax.__main__ import main

READMES = {str(file.relative_to(ROOT)): file.read_text() for file in readmes(ROOT)}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
WHATEVER = {"PRESET": "mnist_soft", "N": "2", "M": "2", "I": "0", "DIR": "."}


def code_blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text) if kind == language]


def commands(text: str) -> list[list[str]]:
    """Words after `python -m` of every command, with something in place of what a reader puts in."""
    lines = [line for block in code_blocks(text, "sh") for line in block.splitlines()]
    lines += [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
    found = [re.split(r"\s#|&&", line)[0].split("python -m ", 1)[1] for line in lines if "python -m " in line]
    return [[WHATEVER.get(word, word) for word in shlex.split(line)] for line in found if "$" not in line]


COMMANDS = {" ".join(words): words for text in READMES.values() for words in commands(text)}


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_readme_is_short():
    assert len(READMES["README.md"].encode()) <= 10_000


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name):
    for link in LINK.findall(READMES[name]):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("name", READMES)
def test_files_that_are_named_exist(name):
    rooms = ("moejax/", "experiments/", "benchmarks/", "tests/")
    for word in SPAN.findall(READMES[name]):
        if word.startswith(rooms) and "…" not in word:
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch, capsys):
    """Each is parsed as it would be; nothing is trained or measured."""
    program, *words = COMMANDS[command]
    if program == "moejax.run":
        assert understood_by_run(words, capsys), command
    elif program == "moejax" and words[:1] == ["sweep"]:
        assert main([*words, "--print"]) == 0, capsys.readouterr().err
    elif program == "venv":
        assert words
    else:
        parsed_by(program, words, monkeypatch)


class ParsedError(Exception):
    pass


def parsed_by(program: str, words: list[str], monkeypatch) -> None:
    """A command that uses argparse; where it is handed on to another one, that one's arguments count."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, arguments=None, namespace=None):
        parse(parser, arguments, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [program, *words])
    main = importlib.import_module(f"{program}.__main__").main
    with pytest.raises((ParsedError, SystemExit)) as ended:
        main()
    assert isinstance(ended.value, ParsedError) or (ended.value.code == 0 and "--help" in words)


def understood_by_run(words: list[str], capsys) -> bool:
    if any("…" in word for word in words):
        if words[0] == "--config":
            return True  # a preset whose name is cut short, or a file
        words = ["--config", "mnist_soft", *words[2:]]  # which run is resumed
    more = [] if "--help" in words else ["--print-config"]
    status = run.main([*words, *more])
    assert status == 0, capsys.readouterr().err
    return True


def test_fields_that_are_named_exist(capsys):
    assert run.main(["--help"]) == 0
    said = capsys.readouterr().out
    pages = (text for name, text in READMES.items() if "/adding/" not in name)  # which add fields
    fields = {field for text in pages for field in re.findall(r"--(\w+\.\w+)", text)}
    assert len(fields) > 10
    assert {field for field in fields if field not in said} == set()


def test_the_code_of_the_first_readme_runs():
    block, way = code_blocks(READMES["README.md"], "python")
    assert sum(bool(line) for line in block.splitlines()) <= 26
    names: dict = {}
    exec(block, names)
    assert names["losses"][-1] < 0.1 * names["losses"][0]
    assert names["block"].moe.router.bias[...].any()
    moejax, x = names["moejax"], names["x"]
    mlp = lambda rngs: moejax.MLP(64, 256, rngs=rngs)  # noqa: E731
    layer = jax.jit(lambda: moejax.SparseMoE(64, 8, mlp, group_size=0, rngs=nnx.Rngs(0)))()
    dispatch = importlib.import_module("moejax.dispatch")
    experts = importlib.import_module("moejax.experts")
    names |= {"kernel": layer.router.kernel[...], "capacity": layer.capacity(32)}
    names |= {
        "softmax_top_k": moejax.routing.softmax_top_k,
        "assign": moejax.routing.assign,
        "einsum_dispatch": dispatch.einsum_dispatch,
    }
    names["experts"] = lambda slots: experts.apply_experts(layer.experts, slots)

    @jax.jit
    def both(x):
        inside = names | {"x": x}
        exec(way, inside)
        return inside["y"], layer(x)[0]

    assert jax.numpy.allclose(*both(x), atol=1e-5)


@pytest.mark.parametrize("study", sorted(file.parent.name for file in (ROOT / "experiments").glob("*/run.py")))
def test_a_study_s_readme_gives_its_commands(study):
    """Those of its own description, which --help prints."""
    text = READMES[f"experiments/{study}/README.md"]
    said = importlib.import_module(f"experiments.{study}.run").__doc__
    assert {tuple(words) for words in commands(f"```sh\n{of_docstring(said)}```\n")} <= {
        tuple(words) for words in commands(text)
    }
    assert f"({study}/README.md)" in READMES["experiments/README.md"]


def of_docstring(text: str) -> str:
    """Its commands, what follows two spaces made a comment."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("    python -m")]
    return "".join(re.sub(r"\s{2,}", "  # ", line) + "\n" for line in lines)
