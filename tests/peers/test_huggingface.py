"""Our sparse layer computes what Hugging Face's MoE blocks compute: forward, and the gradient by the input.

Against recorded answers everywhere; against live blocks where torch is installed, in the slow tests at the shapes of
real models. All in float32, max |Δ| ≤ 5e-6, as a share of the largest value where that is above 1.
"""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from peer_answers import GOLDEN, TOLERANCE, answer_fast, errors, load

from moejax.experts import MLP
from moejax.huggingface import FAMILIES, from_huggingface, to_huggingface
from moejax.layers import SparseMoE

NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz") if not path.stem.endswith("_pytorch"))
LARGE = {"d": 1024, "h": 2816, "experts": 64}


@pytest.fixture
def live():
    pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    return importlib.import_module("live_peers")


def layer_of(case, **options):
    return from_huggingface(case["weights"], case["config"], **options)


def family_of(case):
    return case["config"]["model_type"]


def test_every_family_is_recorded():
    assert {family_of(load(name)) for name in NAMES} == set(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_equals_recorded(name):
    case = load(name)
    dispatches = ["einsum", "gather", "grouped"]
    answers = errors(case, *(layer_of(case, dispatch=dispatch) for dispatch in dispatches))
    for dispatch, (forward, backward, routing) in zip(dispatches, answers, strict=True):
        assert forward <= TOLERANCE, dispatch
        assert backward <= TOLERANCE, dispatch
        # The recorded Switch drops, under every dispatch and in each sequence by itself; none other does.
        assert bool(routing.kept.all()) == (family_of(case) != "switch_transformers"), dispatch


@pytest.mark.parametrize("name", NAMES)
def test_equals_live(live, name):
    case = live.huggingface_case(name)
    [(forward, backward, _)] = errors(case, layer_of(case))
    assert forward <= TOLERANCE
    assert backward <= TOLERANCE


def test_a_renormalised_single_choice_by_sigmoid_equals_live(live):
    """The block's one weight is the scale; our own router keeps the sigmoid, which has a gradient."""
    block, config = live.huggingface_block("deepseek_v3", 1, live.NORM | live.GROUPS, **live.TINY)
    case = {"config": config, "weights": live.weights_of(block)}
    case |= live.answer(block, live.tokens(block, (2, 10, live.TINY["d"])))
    [(forward, backward, routing)] = errors(case, layer_of(case))
    assert max(forward, backward) <= TOLERANCE
    np.testing.assert_array_equal(routing.weights, np.full((2, 10, 1), 2.5, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "k", "more"),
    [
        ("mixtral", 2, {}),
        ("qwen2_moe", 4, {"norm_topk_prob": True, "shared_expert_intermediate_size": 2816}),
        (
            *("deepseek_v3", 8),
            {"norm_topk_prob": True, "n_group": 8, "topk_group": 4}
            | {"routed_scaling_factor": 2.5, "n_shared_experts": 1},
        ),
        ("olmoe", 8, {"norm_topk_prob": False}),
        ("granitemoe", 8, {}),
        # Not ReLU: among 11 million hidden numbers some are 0 but for rounding, and its derivative jumps there.
        ("switch_transformers", 1, {"expert_capacity": 4096, "dense_act_fn": "gelu"}),
    ],
    ids=["mixtral", "qwen2_moe", "deepseek_v3", "olmoe", "granitemoe", "switch"],
)
def test_equals_live_large(live, kind, k, more):
    """4096 tokens, width 1024, 64 experts of width 2816: kernels may go other ways here than at small shapes."""
    block, config = live.huggingface_block(kind, k, more, **LARGE, bias=0.02)
    case = {"config": config, "weights": live.weights_of(block)}
    case |= live.answer(block, live.tokens(block, (1, 4096, LARGE["d"])))
    layer = layer_of(case, dispatch="grouped")
    del block, case["weights"]  # gigabytes
    scale = np.abs(case["y"]).max(), np.abs(case["x_gradient"]).max()
    [(forward, backward, routing)] = errors(case, layer, answer=answer_fast)
    print(f"{kind} grouped: y {forward:.1e} of {scale[0]:.1f}, gradient {backward:.1e} of {scale[1]:.1f}")
    assert max(forward, backward) <= TOLERANCE

    # As many slots as the fullest expert needs: room for all 4096 tokens in each of them would take too much memory.
    fullest = int(jnp.max(routing.choices.sum((0, 1))))
    layer.dispatch, layer.eval_capacity_factor = "gather", fullest * LARGE["experts"] / (k * 4096)
    [(forward, backward, routing)] = errors(case, layer, answer=answer_fast)
    print(f"{kind} gather, {fullest} slots: y {forward:.1e}, gradient {backward:.1e}")
    assert max(forward, backward) <= TOLERANCE
    assert routing.kept.all()


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact(name):
    case = load(name)
    back = to_huggingface(layer_of(case), family_of(case))
    assert back.keys() == case["weights"].keys()
    for key, value in case["weights"].items():
        assert back[key].dtype == value.dtype
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_the_layer_keeps_no_hold_of_the_arrays_it_was_given():
    case = load("deepseek_v3")
    layer = layer_of(case)
    for value in case["weights"].values():
        value[:] = 0
    assert all(value.any() for value in to_huggingface(layer, "deepseek_v3").values())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_weights_keep_their_dtype(dtype):
    case = load("qwen2_moe")
    case["weights"] = {name: value.astype(dtype) for name, value in case["weights"].items()}
    back = to_huggingface(layer_of(case), "qwen2_moe")
    for name, value in case["weights"].items():
        assert back[name].dtype == dtype
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_switch_with_a_capacity_factor_forgets_the_slots():
    layer = layer_of(load("switch"), dispatch="gather", capacity_factor=None, eval_capacity_factor=None)
    assert layer.capacity(10) == 10


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"config": {"model_type": "llama"}},
            "config's model_type is 'llama'; the names are mixtral, olmoe, qwen2_moe",
        ),
        ({"without": "gate.weight"}, "the weights have no gate.weight, which a mixtral block needs."),
        (
            {"weights": {"gate.bias": np.zeros(8)}},
            "the weights have gate.bias, for which a mixtral block has no place.",
        ),
        (
            {"weights": {"gate.weight": np.zeros((8, 7), np.float32)}},
            "gate.weight has the shape (8, 7); the configuration makes it (8, 8).",
        ),
        (
            {"config": {"num_local_experts": 4}},
            "gate.weight has the shape (8, 8); the configuration makes it (4, 8).",
        ),
        ({"config": {"hidden_act": "tanhh"}}, "hidden_act is 'tanhh'; the names are silu,"),
        ({"unset": "num_experts_per_tok"}, "config has no 'num_experts_per_tok', which a mixtral block needs."),
        ({"config": {"num_experts_per_tok": 9}}, "k is 9"),
    ],
)
def test_bad_input_is_named(change, sentence):
    case = load("mixtral")
    case["weights"] |= change.get("weights", {})
    case["config"] |= change.get("config", {})
    case["weights"].pop(change.get("without"), None)
    case["config"].pop(change.get("unset"), None)
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        layer_of(case)


def test_a_layer_that_is_not_made_like_the_block_is_named():
    layer = jax.eval_shape(lambda: SparseMoE(4, 3, lambda rngs: MLP(4, 5, rngs=rngs), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=re.escape("have no experts.gate_up.kernel, which a mixtral")):
        to_huggingface(layer, "mixtral")
    with pytest.raises(
        ValueError, match=re.escape("have experts.down.bias, experts.up.bias, for which a switch_transformers")
    ):
        to_huggingface(layer, "switch_transformers")
