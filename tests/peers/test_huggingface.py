"""Our sparse layer computes what Hugging Face's MoE blocks compute: forward, and the gradient by the input.

Against recorded answers everywhere; against live blocks where torch is installed, in the slow tests at the shapes of
real models. All in float32: max |Δ|, as a share of the largest value where that is above 1, is at most 1e-6, in large
blocks 5e-6.
"""

import itertools
import json
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from peer_answers import GOLDEN, TOLERANCE, answer_fast, errors, load
from safetensors.numpy import save_file
from seldom import slow_but_for

from moejax.experts import GLU, MLP
from moejax.huggingface import FAMILIES, PublishedFiles, from_huggingface, to_huggingface
from moejax.huggingface.families import Family
from moejax.layers import DenseMoE, SparseMoE
from moejax.routers.top_k import SoftmaxTopK

NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz") if not path.stem.endswith("_pytorch"))
SMALL_TOLERANCE = 1e-6
LARGE = {"d": 1024, "h": 2816, "experts": 64}


def layer_of(case, **options):
    return from_huggingface(case["weights"], case["config"], **options)


def family_of(case):
    return case["config"]["model_type"]


def test_every_family_is_recorded():
    assert {family_of(load(name)) for name in NAMES} == set(FAMILIES)


DISPATCHES = ("einsum", "gather", "grouped")
IN_TURN = zip(NAMES, itertools.cycle(DISPATCHES))


@pytest.mark.parametrize(("name", "dispatch"), slow_but_for(itertools.product(NAMES, DISPATCHES), *IN_TURN))
def test_equals_recorded(name, dispatch):
    case = load(name)
    [(forward, backward, routing)] = errors(case, layer_of(case, dispatch=dispatch))
    assert forward <= SMALL_TOLERANCE
    assert backward <= SMALL_TOLERANCE
    # The recorded Switch drops, under every dispatch and in each sequence by itself; none other does.
    assert bool(routing.kept.all()) == (family_of(case) != "switch_transformers")


@pytest.mark.parametrize("name", NAMES)
def test_equals_live(live, name):
    case = live.huggingface_case(name)
    [(forward, backward, _)] = errors(case, layer_of(case))
    assert forward <= SMALL_TOLERANCE
    assert backward <= SMALL_TOLERANCE


def test_a_renormalised_single_choice_by_sigmoid_equals_live(live):
    """The block's one weight is the scale; our own router keeps the sigmoid, which has a gradient."""
    block, config = live.huggingface_block("deepseek_v3", 1, live.NORM | live.GROUPS, **live.TINY)
    case = {"config": config, "weights": live.weights_of(block)}
    case |= live.answer(block, live.tokens(block, (2, 10, live.TINY["d"])))
    [(forward, backward, routing)] = errors(case, layer_of(case))
    assert max(forward, backward) <= SMALL_TOLERANCE
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
        ("gpt_oss", 4, {}),
        (
            *("deepseek_v2", 6),
            {"n_group": 8, "topk_group": 3, "topk_method": "group_limited_greedy"}
            | {"routed_scaling_factor": 16.0, "n_shared_experts": 2},
        ),
        # Not ReLU: among 11 million hidden numbers some are 0 but for rounding, and its derivative jumps there.
        ("switch_transformers", 1, {"expert_capacity": 4096, "dense_act_fn": "gelu"}),
    ],
    ids=["mixtral", "qwen2_moe", "deepseek_v3", "olmoe", "granitemoe", "gpt_oss", "deepseek_v2", "switch"],
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


def assert_same(ours, theirs):
    """Names, types, shapes and bits; `theirs`: PyTorch's."""
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert f"torch.{array.dtype}" == str(theirs[name].dtype), name
        np.testing.assert_array_equal(array.astype(np.float32), theirs[name].float().numpy(), err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_any_layer_of_a_whole_model_in_bfloat16_in_memory_and_as_published(live, family, tmp_path):
    model, blocks = live.huggingface_model(family)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    published, config = PublishedFiles(tmp_path), json.loads((tmp_path / "config.json").read_text())
    for name, block in blocks.items():
        # Switch has an encoder and a decoder, whose layers have the same numbers.
        number = name.removesuffix(".mlp") if family == "switch_transformers" else int(re.search(r"\d+", name)[0])
        for weights, entries in ((model.state_dict(), model.config), (published, config)):
            layer = from_huggingface(weights, entries, layer=number)
            assert_same(to_huggingface(layer, family), block.state_dict())


def test_a_block_by_published_names_with_or_without_a_prefix():
    case = load("mixtral")
    gate_up, down = (case["weights"].pop(f"experts.{name}_proj") for name in ("gate_up", "down"))
    for e in range(8):
        case["weights"] |= {f"experts.{e}.w1.weight": gate_up[e, :12], f"experts.{e}.w3.weight": gate_up[e, 12:]}
        case["weights"] |= {f"experts.{e}.w2.weight": down[e]}
    for prefix in ("", "block_sparse_moe.", "model.layers.12.block_sparse_moe."):
        weights = {prefix + name: array for name, array in case["weights"].items()} | {"lm_head.weight": down}
        weights = weights if prefix else case["weights"]
        back = to_huggingface(from_huggingface(weights, case["config"]), "mixtral")
        np.testing.assert_array_equal(back["experts.gate_up_proj"], gate_up)
        np.testing.assert_array_equal(back["experts.down_proj"], down)
        np.testing.assert_array_equal(back["gate.weight"], case["weights"]["gate.weight"])


def test_a_new_family_is_one_entry(monkeypatch):
    case = load("mixtral")
    monkeypatch.setitem(FAMILIES, "mine", Family(SoftmaxTopK, {"renormalize": True}, hidden="intermediate_size"))
    case["config"]["model_type"] = "mine"
    [(forward, backward, _)] = errors(case, layer_of(case))
    assert max(forward, backward) <= SMALL_TOLERANCE


def test_neither_torch_nor_transformers_is_imported():
    code = """
import sys
sys.path.insert(0, "tests/peers")
from peer_answers import load
from moejax import from_huggingface
case = load("gpt_oss")
from_huggingface(case["weights"], case["config"])
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("prefixes", "layer", "sentence"),
    [
        (["l.1.", "l.2.", "l.3."], None, "layer is None, but the weights have several MoE layers: 1 to 3; pick one."),
        (["l.3.", "l.1."], 2, "layer is 2; the MoE layers of these weights are 1, 3."),
        (["l.3."], "l.1", "layer is 'l.1'; the MoE layers of these weights are 3."),
        ([""], 2, "layer is 2; the MoE layers of these weights are one without a number."),
        (["a.1.", "b.1."], 1, "layer is 1, which could be a.1 or b.1; pass one of these."),
        (["a.1.", "b.1."], 2, "layer is 2; the MoE layers of these weights are a.1, b.1."),
    ],
)
def test_a_layer_that_is_not_there_or_not_the_only_one_is_named(prefixes, layer, sentence):
    case = load("mixtral")
    weights = {prefix + name: array for prefix in prefixes for name, array in case["weights"].items()}
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        from_huggingface(weights, case["config"], layer=layer)


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


def test_deepseek_v2_without_a_method_of_choice_has_no_groups():
    case = load("deepseek_v2")
    assert layer_of(case).router.num_expert_groups == 4
    del case["config"]["topk_method"]
    assert layer_of(case).router.num_expert_groups == 1  # the default of transformers' configuration is greedy


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
        (
            {"weights": {"experts.gate_up_proj_blocks": np.zeros(8)}},
            "the weights are quantised, as experts.gate_up_proj_blocks shows; dequantise them first.",
        ),
        (
            {"weights": {"gate.weight": np.zeros((8, 8), np.int8)}},
            "the weights are quantised, as gate.weight of int8 shows; dequantise them first.",
        ),
        (
            {"weights": {"gate.weight": np.zeros((8, 8), jnp.float8_e4m3fn)}},
            "the weights are quantised, as gate.weight of float8_e4m3fn shows; dequantise them first.",
        ),
        ({"config": {"hidden_act": ["silu"]}}, "hidden_act is ['silu']; the names are silu,"),
        (
            {"config": {"model_type": "deepseek_v3", "topk_method": "greedy"}},
            "config's topk_method is 'greedy'; a deepseek_v3 block is computed here for 'noaux_tc' alone.",
        ),
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


def test_options_that_the_configuration_says_are_named():
    with pytest.raises(ValueError, match=r"^make_shared, shared_gate: the configuration says that; leave it out"):
        layer_of(load("qwen2_moe"), make_shared=lambda rngs: MLP(4, 5, rngs=rngs), shared_gate=False)
    with pytest.raises(ValueError, match=r"^d, make_expert, num_experts: the configuration says that; leave it out"):
        layer_of(load("mixtral"), d=8, num_experts=3, make_expert=None)


@pytest.mark.parametrize("config", [None, "mixtral", ["mixtral"]])
def test_a_configuration_that_is_none_is_named(config):
    with pytest.raises(ValueError, match=f"^config is {re.escape(repr(config))}; pass transformers' configuration"):
        from_huggingface(load("mixtral")["weights"], config)


def test_published_files_that_are_not_there_broken_or_there_twice_are_named(tmp_path):
    with pytest.raises(ValueError, match="which holds no"):
        PublishedFiles(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as safetensors \(.*; fetch it again"):
        PublishedFiles(tmp_path)
    for path in (file, tmp_path / "other.safetensors"):
        save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match=r"has a in model\.safetensors and in other\.safetensors; keep one of them"):
        PublishedFiles(tmp_path)


def test_a_layer_that_is_not_made_like_the_block_is_named():
    layer = jax.eval_shape(lambda: SparseMoE(4, 3, lambda rngs: MLP(4, 5, rngs=rngs), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=re.escape("have no experts.gate_up.kernel, which a mixtral")):
        to_huggingface(layer, "mixtral")
    with pytest.raises(
        ValueError, match=re.escape("have experts.down.bias, experts.up.bias, for which a switch_transformers")
    ):
        to_huggingface(layer, "switch_transformers")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (DenseMoE, "a mixtral block is a SparseMoE, and not a DenseMoE; export it as another model, or as it is."),
        (
            partial(SparseMoE, router="top_k_softmax"),
            "a mixtral block has the router SoftmaxTopK, and not TopKSoftmax;",
        ),
        (partial(SparseMoE, renormalize=False), "a mixtral block has renormalize True, and not False;"),
        (partial(SparseMoE, zero_experts=2), "a mixtral block has no experts that compute nothing, of which the layer"),
    ],
)
def test_a_layer_that_computes_something_else_is_named(make, sentence):
    layer = jax.eval_shape(lambda: make(4, 3, lambda rngs: GLU(4, 5, rngs=rngs), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=re.escape(sentence)):
        to_huggingface(layer, "mixtral")


def test_numbers_of_eight_bits_are_said_to_be_quantised_before_they_are_read():
    case = load("mixtral")
    with pytest.raises(ValueError, match=r"quantised, as gate\.weight_scale_inv shows; dequantise them first"):
        layer_of(case | {"weights": {"gate.weight": object(), "gate.weight_scale_inv": object()}})
