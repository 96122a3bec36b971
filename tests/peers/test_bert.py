"""Our encoder computes what Hugging Face's BERT computes, with its weights: dense, upcycled, and packed.

Against recorded answers: of a small random BERT everywhere, of MiniLM itself where its files are at hand (in the
cache, or in minilm/ of MOEJAX_DATA_DIR).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from peer_answers import load

from moejax.config import make_config
from moejax.data import find, minilm
from moejax.errors import UserError
from moejax.models import build_model
from moejax.models.bert import weights as bert_weights
from moejax.router_updates import moe_layers

DENSE = {"layer": "dense", "num_experts": 1}
LAYERS = {
    "dense": DENSE,
    "grouped": {"layer": "sparse", "num_experts": 4, "k": 2, "dispatch": "grouped"},
    "gather": {"layer": "sparse", "num_experts": 4, "k": 3, "dispatch": "gather", "eval_capacity_factor": None},
}


def config_of(theirs, **moe):
    return make_config(
        data=dict(name="mrpc_pieces", vocabulary=theirs["vocab_size"]),
        model=dict(
            name="encoder",
            width=theirs["hidden_size"],
            depth=theirs["num_hidden_layers"],
            heads=theirs["num_attention_heads"],
            moe_every=2,
        ),
        moe=dict(hidden=theirs["intermediate_size"], **moe),
    )


def model_of(config, weights):
    weights = bert_weights.select(weights, config)
    return jax.jit(lambda key, weights: build_model(config, 2, nnx.Rngs(key), weights))(jax.random.key(0), weights)


@partial(jax.jit, static_argnames="train")
def answer(model, pieces, second, train=False):
    with jax.default_matmul_precision("highest"):
        y, routings = model.encoder(pieces, second, train=train)
        return y, jnp.tanh(model.pooler(y[:, 0])), routings


def check(case, y, pooled):
    real = case["pieces"] != 0
    np.testing.assert_allclose(np.asarray(y)[real], case["y"][real], atol=1e-5, rtol=0)
    np.testing.assert_allclose(pooled, case["pooled"], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def bert():
    return load("bert_pytorch")


@pytest.mark.parametrize("name", LAYERS)
def test_equals_bert(bert, name):
    model = model_of(config_of(bert["config"], **LAYERS[name]), bert["weights"])
    y, pooled, routings = answer(model, jnp.asarray(bert["pieces"]), jnp.asarray(bert["second"]))
    check(bert, y, pooled)
    assert [block.moe is not None for block in model.encoder.blocks] == [True, False, True]
    assert len(routings) == len(moe_layers(model)) == 2
    if name != "dense":
        assert [int(routing.mask.sum()) for routing in routings] == [20, 20]


def test_packed_equals_bert(bert):
    model = model_of(config_of(bert["config"], **LAYERS["grouped"]), bert["weights"])
    model.encoder.room = 11  # a place a pair more than the 20 pieces of two need
    y, pooled, routings = answer(model, jnp.asarray(bert["pieces"]), jnp.asarray(bert["second"]), train=True)
    check(bert, y, pooled)
    assert [int(routing.mask.sum()) for routing in routings] == [20, 20]


def test_bfloat16_products_are_close(bert):
    config = config_of(bert["config"], **LAYERS["grouped"])
    narrow = config.replace(train=dict(dtype="bfloat16"))
    y, pooled, _ = answer(model_of(narrow, bert["weights"]), jnp.asarray(bert["pieces"]), jnp.asarray(bert["second"]))
    assert y.dtype == pooled.dtype == jnp.float32
    real = bert["pieces"] != 0
    error = np.asarray(y)[real] - bert["y"][real]
    assert 1e-5 < np.sqrt(np.mean(error**2)) < 0.02  # of numbers of deviation 1, rounded to 8 bits


def test_other_weights_are_one_sentence(bert):
    config = config_of(bert["config"] | {"hidden_size": 12}, **DENSE)
    with pytest.raises(UserError, match=r"word_embeddings.weight of shape \(50, 16\) where this .* needs \(50, 12\)"):
        bert_weights.select(bert["weights"], config)
    whole = bert["weights"] | {"pooler.dense.bias": np.zeros(16, np.int32)}
    with pytest.raises(UserError, match=r"have pooler.dense.bias of type int32, expected floats"):
        bert_weights.select(whole, config_of(bert["config"], **DENSE))
    without = {name: value for name, value in bert["weights"].items() if name != "pooler.dense.bias"}
    with pytest.raises(UserError, match=r"have pooler.dense.bias of shape None"):
        bert_weights.select(without, config_of(bert["config"], **DENSE))


def test_equals_minilm():
    try:
        if minilm.in_data_folder(None):
            weights = minilm.load_weights(None, None)
        else:
            content = find.cached(minilm.NAME, [minilm.WEIGHTS]).values[minilm.WEIGHTS.name]
            weights = minilm.read_weights(content, minilm.WEIGHTS.name)
    except find.UnavailableError:
        pytest.skip("MiniLM is not in the cache: one run of a preset that uses it fetches it")
    case = load("minilm_pytorch")
    theirs = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
    model = model_of(config_of(theirs | {"intermediate_size": 1536}, **LAYERS["grouped"]), weights)
    y, pooled, _ = answer(model, jnp.asarray(case["pieces"]), jnp.asarray(case["second"]))
    check(case, y, pooled)
