"""Our decoder computes what whole language models of Hugging Face compute, and writes what they write.

Against recorded answers everywhere; against live models where torch is installed. In float32: max |Δ| of the logits is
at most 1e-5.
"""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peer_answers import GOLDEN, load
from seldom import slow_but_for

from moejax.config import make_config
from moejax.huggingface.decoder import decoder_from_huggingface, decoder_to_huggingface
from moejax.huggingface.families import FAMILIES
from moejax.models import build_model

NAMES = sorted(path.stem for path in GOLDEN.glob("*_model_pytorch.npz"))
TOLERANCE = 1e-5


def model_of(case, **options):
    return decoder_from_huggingface(case["weights"], case["config"], **options)


def once(program, *arguments):
    """Most of the time of a small program that runs once is compilation, which takes half as long so."""
    return jax.jit(program, compiler_options={"xla_backend_optimization_level": 0})(*arguments)


def read(model, tokens):
    return once(lambda model, tokens: model({"tokens": tokens}, train=False)[0], model, jnp.asarray(tokens))


def written(model, prompts, length):
    """The prompts, then the most probable tokens, each read from the cache; and the logits at every place."""

    def step(state, token_of_prompt):
        cache, token = state
        token = jnp.where(token_of_prompt < 0, token, token_of_prompt)
        logits, _, cache = model.go_on(token[:, None], cache)
        return (cache, logits[:, 0].argmax(-1).astype(jnp.int32)), (token, logits[:, 0])

    rest = jnp.full((len(prompts), length - prompts.shape[1]), -1, jnp.int32)
    fed = jnp.concatenate([jnp.asarray(prompts), rest], axis=1)
    first = model.cache(len(prompts)), jnp.zeros(len(prompts), jnp.int32)
    _, (tokens, logits) = jax.lax.scan(step, first, fed.T)
    return tokens.T, logits.swapaxes(0, 1)


def assert_equal_models(case):
    model = model_of(case)
    assert np.abs(read(model, case["tokens"]) - case["logits"]).max() <= TOLERANCE
    length = case["written"].shape[1]
    tokens, logits = once(lambda model, prompts: written(model, prompts, length), model, case["written"][:, :5])
    np.testing.assert_array_equal(tokens, case["written"])
    assert np.abs(logits[:, :5] - case["logits"][:, :5]).max() <= TOLERANCE


@pytest.mark.parametrize("name", slow_but_for(NAMES, "mixtral_tied_model_pytorch", "olmoe_model_pytorch"))
def test_equals_recorded(name):
    assert_equal_models(load(name))


@pytest.mark.parametrize("name", [name.removesuffix("_model_pytorch") for name in NAMES])
def test_equals_live_and_comes_from_its_folder(live, name, tmp_path):
    assert_equal_models(live.whole_case(name))
    theirs, config = live.whole_model(name)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    in_memory, published = decoder_from_huggingface(theirs.state_dict(), config), decoder_from_huggingface(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(in_memory), jax.tree.leaves(published))


def test_whole_families_are_recorded():
    assert {load(name)["config"]["model_type"] for name in NAMES} == {
        name for name, family in FAMILIES.items() if family.in_layer
    }


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact(name):
    case = load(name)
    back = decoder_to_huggingface(model_of(case), case["config"]["model_type"])
    tied = case["config"]["tie_word_embeddings"]
    assert case["weights"].keys() - back.keys() == ({"lm_head.weight"} if tied else set())
    for key, array in back.items():
        np.testing.assert_array_equal(array, case["weights"][key], err_msg=key)


def test_a_shorter_window_and_other_types():
    case = load("mixtral_model_pytorch")
    assert model_of(case).cache(1).keys[0].shape == (1, 16, 2, 4)
    assert model_of(case, length=6).cache(1).keys[0].shape == (1, 6, 2, 4)
    case["weights"] = {name: array.astype(jnp.bfloat16) for name, array in case["weights"].items()}
    model = model_of(case, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(jnp.bfloat16)}
    logits = read(model, case["tokens"])
    assert logits.dtype == np.float32
    assert np.abs(logits - case["logits"]).mean() < 0.1


def test_older_configurations_have_the_rotary_base_beside_its_scaling():
    case = load("mixtral_model_pytorch")
    theta = case["config"].pop("rope_parameters")["rope_theta"]
    case["config"] |= {"rope_theta": theta, "rope_scaling": None}
    assert model_of(case).blocks[0].attention.theta == theta


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"config": {"model_type": "granitemoe"}},
            "config's model_type is 'granitemoe', of which from_huggingface loads the blocks; whole models are loaded"
            " of mixtral and olmoe.",
        ),
        ({"config": {"model_type": "llama"}}, "config's model_type is 'llama'; the names are mixtral,"),
        (
            {"config": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}},
            "config's rope_type is 'yarn'; a decoder's rotary positions are not scaled ('default').",
        ),
        (
            {"config": {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}},
            "config's rope_type is 'linear'; a decoder's",
        ),
        ({"config": {"rope_parameters": None}}, "config has no 'rope_theta', which a mixtral model needs."),
        (
            {"config": {"head_dim": 8}},
            "config's head_dim is 8; 4 heads of a decoder share hidden_size, 16, so that it is 4.",
        ),
        ({"config": {"num_attention_heads": 0}}, "num_attention_heads is 0; it must be a whole number from 1"),
        ({"config": {"hidden_size": "16"}}, "hidden_size is '16'; it must be a whole number from 1"),
        ({"options": {"dtype": "bf16"}}, "dtype is 'bf16'; it must be a floating-point type of at least 16 bits"),
        ({"config": {"num_attention_heads": 16}}, "this model is no decoder: model.width is 16, of which 16 heads"),
        ({"config": {"vocab_size": 25}}, "model.embed_tokens.weight has the shape (24, 16); the configuration makes"),
        ({"config": {"num_hidden_layers": 3}}, "layer is 2; the MoE layers of these weights are 0, 1."),
        ({"config": {"num_hidden_layers": 1}}, "the weights have model.layers.1.input_layernorm.weight, "),
        ({"config": {"tie_word_embeddings": None}, "without": "lm_head.weight"}, "the weights have no lm_head.weight,"),
        ({"unset": "rms_norm_eps"}, "config has no 'rms_norm_eps', which a mixtral model needs."),
        (
            {"weights": {"model.layers.0.self_attn.q_proj.bias": np.zeros(16)}},
            "the weights have model.layers.0.self_attn.q_proj.bias, for which a mixtral model has no place.",
        ),
        ({"without": "model.layers.0.mlp.gate.weight"}, "layer is 0; the MoE layers of these weights are 1."),
        ({"options": {"length": 17}}, "length is 17, but the model attends to 16 tokens; pass that or fewer."),
        ({"options": {"length": 1}}, "this model is no decoder: data.length is 1"),
        ({"options": {"dtype": "int8"}}, "dtype is 'int8'; it must be a floating-point type of at least"),
    ],
)
def test_what_is_no_such_model_is_one_sentence(change, sentence):
    case = load("mixtral_model_pytorch")
    case["weights"] |= change.get("weights", {})
    case["config"] |= change.get("config", {})
    case["weights"].pop(change.get("without"), None)
    case["config"].pop(change.get("unset"), None)
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        model_of(case, **change.get("options", {}))


@pytest.mark.parametrize(
    ("entry", "value"), [("attention_bias", True), ("clip_qkv", 8.0), ("sliding_window", 6), ("hidden_act", "tanhh")]
)
def test_what_olmoe_may_have_and_a_decoder_has_not(entry, value):
    case = load("olmoe_model_pytorch")
    case["config"][entry] = value
    with pytest.raises(ValueError, match=f"{entry} is {value!r}"):
        model_of(case)


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json; give a folder that has, or pass config\."):
        decoder_from_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(load("mixtral_model_pytorch")["config"]))
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        decoder_from_huggingface(tmp_path)
    with pytest.raises(ValueError, match="config is None; pass the configuration"):
        decoder_from_huggingface({})


@pytest.mark.parametrize("broken", [b'{"model_type": ', b"\xff\xfe", b"[" * 100_000])
def test_a_configuration_that_is_broken_is_one_sentence(tmp_path, broken):
    (tmp_path / "config.json").write_bytes(broken)
    with pytest.raises(ValueError, match=r"config\.json cannot be read \(.*\); fetch it again, whole\.$"):
        decoder_from_huggingface(tmp_path)


@pytest.mark.parametrize(
    ("family", "model", "sentence"),
    [
        ("llama", {}, "model_type is 'llama'; the names are mixtral, olmoe."),
        ("olmoe", {}, "the parameters of block 0 have no attention.key_norm.scale, attention.query_norm.scale, which"),
        ("mixtral", {"moe_every": 2}, "the parameters of block 0 have mlp.down.kernel, mlp.gate_up.kernel, for which"),
    ],
)
def test_a_decoder_that_is_no_model_of_theirs_is_one_sentence(family, model, sentence):
    from flax import nnx

    moe = dict(layer="sparse", num_experts=4, hidden=8)
    config = make_config(data=dict(name="text"), model=dict(name="decoder", width=16, depth=2) | model, moe=moe)
    decoder = jax.eval_shape(lambda: build_model(config, 11, nnx.Rngs(0)))
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        decoder_to_huggingface(decoder, family)
