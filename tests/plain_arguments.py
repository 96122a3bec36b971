"""What a user meets who gives an argument that makes no sense: one sentence with its name and value.

Run by `test_plain_process.py` in a process of its own, where no shape check comes first.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moejax import data, losses, routing
from moejax.config import make_config
from moejax.dispatch import grouped_dispatch
from moejax.errors import UserError
from moejax.experts import GLU, MLP, stack_experts
from moejax.huggingface import from_huggingface
from moejax.layers import DenseMoE, SoftMoE, SparseMoE
from moejax.multi_gate import MultiGateMoE
from moejax.routers import ROUTERS, DenseRouter, SoftRouter
from moejax.run import train
from moejax.runs import generate

D, E = 4, 3


def mlp(rngs):
    return MLP(D, 5, rngs=rngs)


def layer(kind=SparseMoE, *args, experts=E, make=mlp, **options):
    return partial(kind, D, experts, make, *args, rngs=nnx.Rngs(0), **options)


def router(name, k=2, **options):
    return partial(ROUTERS[name], D, E, k, **options, rngs=nnx.Rngs(0))


soft, dense = partial(layer, SoftMoE), partial(layer, DenseMoE)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(from_huggingface, "folder", {}), r"weights is 'folder'; pass a state dict, or PublishedFiles\(folder"),
        (router("vmoe", priority="probs"), "priority is probs; it must be one of position, weight"),
        (router("vmoe", jitter=-1), "jitter is -1; it must be a number of at least 0 and below 1"),
        (router("vmoe", jitter=float("nan")), "jitter is nan; it must be a number"),
        (router("sigmoid", routed_scaling_factor=float("nan")), "routed_scaling_factor is nan; it must be a number"),
        (router("sigmoid", routed_scaling_factor=0), "routed_scaling_factor is 0; it must be a number above 0"),
        (router("sigmoid", renormalize="no"), "renormalize is no; it must be true or false"),
        (router("uniform", raw_weights=1), "raw_weights is 1; it must be true or false"),
        (router("uniform", eval_noise=None), "eval_noise is none; it must be true or false"),
        (router("sigmoid", bias_update_rate=-0.1), "bias_update_rate is -0.1; it must be a number of at least 0"),
        (router("relu", l1_reg_coeff_init=0), "l1_reg_coeff_init is 0; it must be a number from 1e-16 to 10000"),
        (
            router("relu", l1_reg_coeff_multiplier=0.9),
            "l1_reg_coeff_multiplier is 0.9; it must be a number from 1 to 100",
        ),
        (router("expert_choice", score_function="relu"), "score_function is relu; it must be one of softmax, sigmoid"),
        (
            layer(experts=1, k=1, router="expert_choice"),
            "num_experts is 1, over which the softmax of the router expert_choice .*; use score_function sigmoid",
        ),
        (router("sigmoid", num_expert_groups=2.0), "num_expert_groups is 2.0; it must be a whole number"),
        (router("sigmoid", topk_group=2), "topk_group is 2; it must be from 1 to 1"),
        (layer(k=2.0), "k is 2.0; it must be a whole number"),
        (layer(k=True), "k is true; it must be a whole number"),
        (layer(experts=0), "num_experts is 0; it must be a whole number from 1 to 65,536"),
        (layer(experts="8"), "num_experts is '8'; it must be a whole number"),
        (
            layer(capacity_factor=float("inf")),
            "capacity_factor is inf; it must be a number above 0 and of at most 65,536, or none",
        ),
        (
            layer(eval_capacity_factor="2"),
            "eval_capacity_factor is '2'; it must be a number above 0 and of at most 65,536, or none",
        ),
        (
            layer(eval_capacity_factor=float("nan")),
            "eval_capacity_factor is nan; it must be a number above 0 and of at most 65,536, or none",
        ),
        (layer(group_size=4.5), "group_size is 4.5; it must be a whole number from 0 to 16,777,216, or none"),
        (layer(zero_experts=-1), "zero_experts is -1; it must be a whole number from 0 to 65,536"),
        (layer(zero_computation_tau=0), "zero_computation_tau is 0; it must be a number above 0"),
        (layer(zero_computation_tau=0.75), "zero_computation_tau is 0.75, but all experts compute; set zero_experts"),
        (
            layer(copy_experts=2, router="expert_choice"),
            "2 experts compute nothing .zero_experts and its like., but with router expert_choice a token cannot",
        ),
        (
            layer(copy_experts=2, router="sigmoid", zero_computation_tau=0.5),
            "zero_computation_tau is 0.5, but the router by itself gives all experts the same load; leave it at 1",
        ),
        (layer(null_experts=2, router="hash"), "null_experts is 2, which are balanced together, but the router by its"),
        (layer(k=6, zero_experts=2), "k is 6, but there are only 5 experts .num_experts."),
        (
            layer(zero_experts=1, router=ROUTERS["vmoe"](D, E, 2, rngs=nnx.Rngs(0))),
            "num_experts of the layer is 4, but the router was made for 3",
        ),
        (layer(k=1, router=ROUTERS["vmoe"](D, E, 2, rngs=nnx.Rngs(0))), "k of the layer is 1, but the router was made"),
        (layer(dispatch="grouped", priority="weight"), "priority is weight, but dispatch is grouped; it has an effect"),
        (
            layer(dispatch="grouped", router=ROUTERS["vmoe"](D, E, 2, priority="weight", rngs=nnx.Rngs(0))),
            "priority is weight, but dispatch is grouped; it has an effect only where dispatch is einsum or gather",
        ),
        (layer(dispatch=5), "dispatch is 5; it must be one of einsum, gather, grouped"),
        (layer(dispatch=None), "dispatch is none; it must be one of einsum, gather, grouped"),
        (layer(router=5), "router is 5; it must be one of .*, random or a subclass of Router or a Router"),
        (layer(router=int, dispatch="grouped"), "router is <class 'int'>; it must be one of"),
        (partial(MLP, D, 5, activation=5, rngs=nnx.Rngs(0)), "activation is 5; it must be a function"),
        (partial(GLU, D, 5, activation=None, rngs=nnx.Rngs(0)), "activation is none; it must be a function"),
        (layer(shared_gate=True), "shared_gate is True, but make_shared is None"),
        (layer(shared_gate="yes"), "shared_gate is yes; it must be true or false"),
        (partial(SparseMoE, 0, E, mlp, rngs=nnx.Rngs(0)), "d is 0; it must be a whole number from 1"),
        (soft(slots=0), "slots is 0; it must be a whole number from 1"),
        (soft(slots=1.5), "slots is 1.5; it must be a whole number"),
        (soft(slots=2, scale=0.0), "scale is 0.0; it must be a number above 0"),
        (soft(slots=2, experts=0), "num_experts is 0; it must be a whole number from 1 to 65,536"),
        (dense(temperature=0), "temperature is 0; it must be a number above 0"),
        (dense(temperature=float("inf")), "temperature is inf; it must be a number"),
        (dense(final_temperature=-1.0), "final_temperature is -1.0; it must be a number above 0"),
        (dense(final_temperature=1.0, learn_temperature=True), "a temperature is either annealed or learnt"),
        (dense(experts=-1), "num_experts is -1; it must be a whole number from 1"),
        (router("softmax_top_k", k=4), "k is 4, but there are only 3 experts"),
        (router("switch"), "k is 2, but the router switch chooses 1 expert"),
        (
            router("vmoe", num_expert_groups=3, topk_group=2),
            "num_expert_groups is no option of VmoeTopK, which has jitter, priority",
        ),
        (layer(router="vmoe", capacity=2), "capacity is no option of VmoeTopK, .*; did you mean capacity_factor?"),
        (router("sigmoid", num_expert_groups=2), "num_expert_groups is 2, which does not divide the 3 experts"),
        (partial(DenseRouter, D, 2.0, rngs=nnx.Rngs(0)), "num_experts is 2.0; it must be a whole number"),
        (partial(SoftRouter, D, E, 0, rngs=nnx.Rngs(0)), "slots is 0; it must be a whole number from 1"),
        (partial(stack_experts, mlp, 0, nnx.Rngs(0)), "num_experts is 0; it must be a whole number from 1 to 65,536"),
        (
            layer(make=mlp(nnx.Rngs(0))),
            "make_expert is a MLP itself; give a function that makes one, such as",
        ),
        (layer(make=None), "make_expert is None; give a function that makes one"),
        (layer(make=MLP), "make_expert must be a function of rngs alone, .*; MLP needs more"),
        (layer(make=int), "make_expert is int; give a function that makes one"),
        (layer(make=partial(dict, a=1)), "make_expert is functools.partial.* a=1.; give a function that makes one"),
        (layer(make=max), "make_expert must be a function of rngs alone, .*; max needs more"),
        (
            layer(make=lambda rngs: {"rngs": rngs}),
            r"make_expert made {'rngs': Rngs\(.*… \(\d+ characters\), which is no f",
        ),
        (layer(make=lambda rngs: 3), "make_expert made 3, which is no flax.nnx.Module"),
        (layer(make_shared=mlp(nnx.Rngs(0))), "make_shared is a MLP itself"),
        (dense(make_gate=3), "make_gate is 3; give a function"),
    ],
)
def test_constructors_refuse(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(tokens=2.5), "tokens is 2.5; give a whole number."),
        (dict(seed="5"), "seed is '5'; give a whole number."),
        (dict(samples=True), "samples is True; give a whole number."),
        (dict(temperature=None), "temperature is None; give a number."),
    ],
)
def test_numbers_of_a_text_to_write_that_are_none(options, sentence):
    given = dict(tokens=1, temperature=1.0, top_p=1.0, seed=0, samples=1) | options
    with pytest.raises(UserError, match=sentence):
        generate._check(**given)


def test_experts_are_made_by_any_function_of_rngs():
    def by_name(*, rngs):
        return mlp(rngs)

    makers = (mlp, by_name, partial(MLP, D, 5), partial(MLP, D, h=5), lambda r: mlp(r), lambda *args: mlp(*args))
    for make in makers:
        shapes = jax.eval_shape(lambda make=make: stack_experts(make, E, nnx.Rngs(0)))
        assert shapes.up.kernel.shape == (E, D, 5)


LOGITS = jnp.linspace(-1, 1, 2 * 5 * E).reshape(2, 5, E)
CHOSEN = routing.softmax_top_k(LOGITS, 2)
KEY = jax.random.key(0)
MASK = jnp.ones((1, 5), bool)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        *(
            (call, f"k is {k}; it must be a whole number" + " from 1 to 3" * isinstance(k, int))
            for k in (0, 4, 2.0)
            for call in (
                partial(routing.softmax_top_k, LOGITS, k),
                partial(routing.top_k_softmax, LOGITS, k),
                partial(routing.noisy_top_k, LOGITS, LOGITS, k, KEY),
                partial(routing.vmoe_top_k, LOGITS, k, KEY),
                partial(routing.uniform_top_k, LOGITS, k, KEY),
                partial(routing.sigmoid_top_k, LOGITS, k),
                partial(routing.sinkhorn_top_k, LOGITS, k),
                partial(routing.hash_routing, jnp.zeros((2, 5), int), E, k),
                partial(routing.random_routing, KEY, 2, 5, E, k),
            )
        ),
        (
            partial(routing.softmax_top_k, LOGITS, 1, num_expert_groups=2),
            "num_expert_groups is 2, which does not divide",
        ),
        (partial(routing.limit_to_groups, LOGITS, 3, 4), "topk_group is 4; it must be a whole number from 1 to 3"),
        (partial(routing.sigmoid_top_k, LOGITS, 1, scale=float("nan")), "scale is nan; it must be a number above 0"),
        (
            partial(routing.sigmoid_top_k, LOGITS, 1, score_function="tanh"),
            "score_function is tanh; it must be one of sigmoid, sqrtsoftplus",
        ),
        (partial(routing.noisy_top_k, LOGITS, LOGITS[:1], 2, KEY), "spread has the shape"),
        (partial(routing.expert_choice, LOGITS, 2, score_function="max"), "score_function is max; it must be one of"),
        (partial(routing.expert_choice, LOGITS, 0), "capacity is 0; it must be a whole number from 1 to 5"),
        (partial(routing.expert_choice, LOGITS, 6), "capacity is 6; it must be a whole number from 1 to 5"),
        (partial(routing.assign, CHOSEN, 0), "capacity is 0; it must be a whole number of at least 1"),
        (partial(routing.assign, CHOSEN, 1.5), "capacity is 1.5; it must be a whole number"),
        (partial(routing.assign, CHOSEN, 2, jnp.ones(5)), r"priority has the shape \(5,\); the tokens' is \(2, 5\)"),
        (
            partial(routing.expert_capacity, 8, 0, 1, 1.0),
            "num_experts is 0; it must be a whole number from 1 to 65,536",
        ),
        (
            partial(routing.expert_capacity, 8, 2, 1, float("inf")),
            "capacity_factor is inf; it must be a number above 0 and of at most",
        ),
        (partial(routing.expert_capacity, 8, 2, 0, 1.0), "k is 0; it must be a whole number from 1 to 65,536"),
        (partial(routing.jitter, KEY, LOGITS, -1), "amount is -1; it must be a number of at least 0 and below 1"),
        (partial(routing.update_bias, jnp.zeros(E), jnp.ones(E), -1), "rate is -1; it must be a number of at least 0"),
        (partial(routing.update_coefficient, jnp.ones(()), jnp.ones(()), 1, 0.5), "multiplier is 0.5; it must be a n"),
        (partial(routing.dense_routing, LOGITS, 0), "temperature is 0; it must be a number above 0"),
        (partial(routing.anneal, 1.0, 0.0, 0.5), "end is 0.0; it must be a number above 0"),
        (partial(routing.assigned_experts, 3, 0), "num_experts is 0; it must be a whole number from 1 to 65,536"),
        (partial(routing.guided_weights, LOGITS[..., :1], jnp.zeros((2, 5), int), 0.5), "probs are of 1 expert"),
        (partial(routing.guided_weights, LOGITS, jnp.zeros(5, int), 0.5), r"assigned has the shape \(5,\)"),
        (
            partial(routing.guided_weights, LOGITS, jnp.full((2, 5), 3), 0.5),
            "assigned holds the expert 3; give each token one from 0 to 2",
        ),
        (
            partial(losses.load_balance_loss, CHOSEN, global_load=jnp.ones((E, 1))),
            r"global_load has the shape \(3, 1\); a number for each expert makes it \(3,\)",
        ),
        (
            partial(routing.sinkhorn, LOGITS, max_iterations=0),
            "max_iterations is 0; it must be a whole number",
        ),
        *(
            (call, r"mask has the shape \(1, 5\); the tokens' is \(2, 5\)")
            for call in (
                partial(routing.mask_tokens, CHOSEN, MASK),
                partial(routing.dense_routing, LOGITS, 1.0, MASK),
                partial(routing.soft_routing, LOGITS[..., None], MASK),
                partial(routing.expert_choice, LOGITS, 2, MASK),
                partial(routing.sinkhorn, LOGITS, MASK),
            )
        ),
    ],
)
def test_pure_functions_refuse(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_experts_that_choose_cannot_be_sorted_by_choice():
    with pytest.raises(
        TypeError, match=r"^grouped_dispatch is of a TopKRouting, not of a ExpertChoiceRouting; use gat"
    ):
        grouped_dispatch(lambda rows, groups: rows, jnp.ones((2, 5, D)), routing.expert_choice(LOGITS, 2))


NOISY = SparseMoE(D, E, mlp, router="vmoe", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (partial(MLP, D, 5, rngs=0), r"rngs is a int; give flax.nnx.Rngs\(0\)"),
        (partial(GLU, D, 5, rngs=jax.random.key(0)), "rngs is a PRNGKeyArray; give flax.nnx.Rngs"),
        (partial(GLU, D, 0, rngs=nnx.Rngs(0)), "h is 0; it must be a whole number from 1 to 1,048,576"),
        *(
            (partial(kind, D, E, mlp, rngs=0), "rngs is a int; give flax.nnx.Rngs")
            for kind in (DenseMoE, SparseMoE, SoftMoE)
        ),
        (partial(stack_experts, mlp, E, None), "rngs is a NoneType; give flax.nnx.Rngs"),
        (
            partial(DenseMoE, D, E, mlp, rngs=nnx.Rngs(dropout=0)),
            r"rngs has the streams dropout; it needs params or default, as in nnx.Rngs\(0\)",
        ),
        (
            lambda: SparseMoE(
                D, E, mlp, router=ROUTERS["softmax_top_k"](D + 1, E, 2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)
            ),
            "d of the layer is 4, but the router was made for 5",
        ),
        (partial(NOISY, jnp.ones((2, D)), rngs=0), r"rngs is a int; give a flax.nnx.Rngs, or key="),
        (partial(NOISY, jnp.ones((2, D)), key=0), r"key is a int; give one key, such as jax.random.key\(0\)"),
        (partial(NOISY, jnp.ones((2, D)), key=jax.random.split(KEY)), r"key is key<fry>\[2\]; give one key, such as"),
        (
            partial(NOISY, jnp.ones((2, D)), key=jax.random.split(jax.random.PRNGKey(0))),
            r"key is uint32\[2, 2\]; give one key, such as",
        ),
        (partial(NOISY, jnp.ones((2, D)), key=jnp.ones(2)), r"key is float32\[2\]; give one key, such as"),
        (partial(NOISY, jnp.ones((2, D)), key=KEY, rngs=nnx.Rngs(0)), "key and rngs are both given; give one of them"),
        (
            partial(NOISY, jnp.ones((2, D)), train=True, rngs=nnx.Rngs(params=0)),
            "rngs has the streams params; it needs dropout or default",
        ),
    ],
)
def test_random_streams_that_are_none_are_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("kind", [DenseMoE, SparseMoE, SoftMoE, partial(MultiGateMoE, num_tasks=2)])
@pytest.mark.parametrize("dtype", ["bf16", "int32", jnp.int8, 3, "float8_e4m3fn"])
def test_a_dtype_that_layers_cannot_compute_in_is_refused_where_they_are_made(kind, dtype):
    with pytest.raises(ValueError, match=r"^dtype is .*; it must be a floating-point type of at least 16 bits such as"):
        kind(D, E, mlp, dtype=dtype, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kind", [DenseMoE, SparseMoE, SoftMoE])
def test_tokens_of_eight_bits_are_refused(kind):
    with pytest.raises(ValueError, match=r"^x has the dtype float8_e4m3fn; it must be floating-point numbers of at le"):
        kind(D, E, mlp, rngs=nnx.Rngs(0))(jnp.ones((2, D), jnp.float8_e4m3fn))


def test_an_expert_that_was_made_before_is_refused():
    ready = mlp(nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"^make_expert gives a module that was made before, so that all experts wou"):
        stack_experts(lambda rngs: ready, E, nnx.Rngs(0))


def test_given_experts_beyond_int32_are_no_other_ones():
    with jax.enable_x64(True):
        moe, x = SparseMoE(D, E, mlp, rngs=nnx.Rngs(0)), jnp.ones((1, 2, D))
        beyond = jnp.array([[[2**32, 1], [0, 1]]])
        assert beyond.dtype == jnp.int64
        with pytest.raises(ValueError, match=r"given holds the experts .* give different ones from 0 to 2"):
            moe(x, given=beyond)
        np.testing.assert_array_equal(moe(x, given=beyond.at[0, 0, 0].set(-(2**32)))[1].experts[0, 0], [-1, 1])


def test_a_configuration_begins_from_another_one_and_not_from_a_mapping():
    with pytest.raises(UserError, match=r"^make_config got \{'moe': .*\}; give a configuration, and sections by name"):
        make_config({"moe": {"layer": "soft"}})


def test_a_run_s_folder_is_a_path():
    with pytest.raises(UserError, match=r"^out is b'x'; give the path of a folder\.$"):
        train("--config mnist_tiny", b"x")


def test_a_data_set_has_one_name():
    with pytest.raises(UserError, match=r"^--data\.name=\['mnist'\] is unknown: choose one of mnist, "):
        data.load(["mnist"])


def test_an_argument_that_a_constructor_has_not_is_said_of_that_constructor():
    with pytest.raises(TypeError, match=r"SoftMoE.__init__\(\) got an unexpected keyword argument 'slot'"):
        SoftMoE(D, E, mlp, slot=2, rngs=nnx.Rngs(0))
