"""A run's language model as a Mixtral or OLMoE of Hugging Face: transformers loads it, with the same logits."""

import json
import re

import jax
import numpy as np
import pytest
from seldom import slow_but_for
from small_run import saved_run

import moejax
from moejax.__main__ import main
from moejax.config import make_config
from moejax.data.dataset import Dataset
from moejax.data.text import windows
from moejax.models.decoder import Decoder

VOCABULARY, LENGTH = 11, 8
MIXTRAL = dict(layer="sparse", num_experts=4, hidden=8, k=2)
KINDS = {
    "mixtral": (dict(key_heads=2), MIXTRAL),
    "olmoe": (dict(normalize_queries=True, tied=False), MIXTRAL | dict(renormalize=False, dispatch="grouped")),
}


def exported(folder, model, moe, **sections) -> int:
    """The exit status of the export of a run that was not trained."""
    values = dict(name="decoder", width=16, depth=2, heads=4) | model
    config = make_config(name="text", data=dict(name="text", length=LENGTH), model=values, moe=moe, **sections)
    examples = windows(np.random.default_rng(0).integers(0, VOCABULARY, 81, np.uint8), LENGTH)
    lengths = np.ones(VOCABULARY, np.int32)
    data = Dataset("text", "dir", "here", {}, examples, examples, examples, VOCABULARY, token_bytes=lengths)
    saved_run(folder / "run", config, data, {1: None})
    return main(["export", str(folder / "run"), "--format", "hf", "--out", str(folder / "hf")])


def logits(model: Decoder, tokens):
    return jax.jit(lambda model, tokens: model({"tokens": tokens}, train=False)[0])(model, tokens)


@pytest.mark.parametrize("kind", slow_but_for(KINDS, "olmoe"))
def test_transformers_loads_it_with_the_same_logits(kind, tmp_path, capsys):
    assert exported(tmp_path, *KINDS[kind]) == 0
    assert f'AutoModelForCausalLM.from_pretrained("{tmp_path / "hf"}")' in capsys.readouterr().out
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == kind
    ours = moejax.runs.load(tmp_path / "run").module
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (2, LENGTH if kind == "olmoe" else 2 * LENGTH))
    np.testing.assert_allclose(
        logits(moejax.decoder_from_huggingface(tmp_path / "hf"), tokens), logits(ours, tokens), atol=1e-5
    )

    torch = pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval().requires_grad_(False)
    np.testing.assert_allclose(theirs(torch.tensor(tokens)).logits.numpy(), logits(ours, tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "moe", "sentence"),
    [
        ({}, dict(layer="dense", hidden=8), "The layers of this run are blocks of no family of Hugging Face; blocks"),
        pytest.param(
            *({}, MIXTRAL | dict(renormalize=False)),
            "This run is no language model of Hugging Face; a Mixtral has moe.layer",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *({}, MIXTRAL | dict(router="top_k_softmax")),
            "This run is no language model of Hugging Face; a Mixtral has",
            marks=pytest.mark.slow,
        ),
        (dict(moe_every=2), MIXTRAL, "This run is no mixtral of Hugging Face: the parameters of block 0 have mlp."),
        pytest.param(
            *({}, MIXTRAL | dict(zero_experts=1), "This run is no mixtral of Hugging Face: "), marks=pytest.mark.slow
        ),
        ({}, MIXTRAL | dict(k=1), "This run has options that a mixtral of Hugging Face has not; a Mixtral has moe"),
    ],
)
def test_what_is_no_such_model_is_one_sentence(model, moe, sentence, tmp_path, capsys):
    assert exported(tmp_path, model, moe) == 2
    said = capsys.readouterr().err.strip()
    assert re.match("moejax: " + re.escape(sentence), said)
    assert "\n" not in said
    assert not (tmp_path / "hf").exists()
