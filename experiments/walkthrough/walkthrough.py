# # Mixture of Experts from zero, in 15 minutes
#
# Six tokens, three experts, and every array on the way, small enough to check by hand. Each chapter shows one idea,
# writes it in a line or two, and then holds that against the library's function. Each ends with an exercise:
# `exercises.check(n, yours)` says whether your function is right, and `answers.py` has ours.
#
# The same text is a script, `walkthrough.py`, and a notebook, `walkthrough.ipynb`, with all that it printed.

# +
import os
import re
import time

import jax

jax.config.update("jax_num_cpu_devices", 4)  # for the last chapter: four devices on one processor

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import answers
import exercises
import moejax
from moejax import metrics, routing

np.set_printoptions(precision=2, suppress=True)
print(f"jax {jax.__version__}, {os.cpu_count()} cores of {jax.devices()[0].device_kind}")


def show(**arrays):
    """Print arrays, each under its name and shape."""
    for name, array in arrays.items():
        print(f"{name} {np.shape(array)}\n{np.asarray(array)}")


# -

# ## 1. A router: which expert is each token for?
#
# Axis letters, here and in all of the library: **g** groups, **t** tokens of a group, **e** experts, **k** choices of a
# token, **c** slots of an expert (its capacity), **d** model width. We have one group of six tokens of width two.

x = jnp.array([[[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [2.0, 1.0], [-1.0, -1.0], [1.0, -0.4]]])
show(x=x)

# A router is one matrix: a column for each expert, which says what kind of token it is for. Its logits say how much a
# token is for each expert, and a softmax makes them probabilities.

# +
kernel = jnp.array([[2.0, 0.0, -2.0], [0.0, 2.0, -2.0]])
logits = x @ kernel
probs = jax.nn.softmax(logits)
show(logits=logits, probs=probs)
assert jnp.allclose(probs.sum(-1), 1)
# -

# Each token takes its k = 2 best experts. Their probabilities, scaled to sum to 1, will be the weights of their
# outputs. What a router decides is a small value that is passed from hand to hand: its `routing`.

# +
decided = routing.softmax_top_k(logits, k=2)
show(experts=decided.experts, weights=decided.weights)
assert (decided.experts == jnp.argsort(-logits)[..., :2]).all()
assert jnp.allclose(decided.weights.sum(-1), 1)
# -

# Four of six tokens like expert 0 best. Nothing so far keeps a router from that; chapter 5 does.
#
# **Exercise 1.** Write `top_2(logits)`, logits `[t, e]`: the two best experts of each token, best first, and their
# weights. With ours in its place the check says:

exercises.check(1, answers.top_2)

# ## 2. Dense, sparse, soft: the same two contractions
#
# Here an expert is a small matrix: the first one doubles a token, the second swaps its two numbers, the third changes
# the sign. Experts work on slots `[e, g, c, d]`, each expert on its own.

# +
matrices = jnp.array([[[2.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]], [[-1.0, 0.0], [0.0, -1.0]]])


def experts(slots):
    return jnp.einsum("egcd,edf->egcf", slots, matrices)


# -

# Every MoE layer is two contractions around them. `dispatch` fills the slots from the tokens, `combine` sums the slots'
# outputs for each token:


# +
def moe(x, dispatch, combine):
    slots = jnp.einsum("gtec,gtd->egcd", dispatch, x)
    return jnp.einsum("gtec,egcd->gtd", combine, experts(slots))


# -

# **Dense**: each expert has a slot for every token, and the probabilities are the weights.

# +
every_token = jnp.broadcast_to(jnp.eye(6)[None, :, None], (1, 6, 3, 6))
dense = moe(x, every_token, every_token * probs[..., None])
show(dense=dense)
by_hand = 0.87 * 2 * x[0, 0] + 0.12 * x[0, 0, ::-1] - 0.02 * x[0, 0]  # the first token, its probabilities rounded
assert jnp.allclose(dense[0, 0], by_hand, atol=0.02)
# -

# **Sparse**: a token sits in a slot or it does not, so `dispatch` is zeros and ones, and only k experts work for it.

# +
capacity = 6  # slots for all: nothing is dropped yet
decided = routing.assign(decided, capacity)
to_slots, from_slots = moejax.dispatch.sparse_masks(decided, capacity)
sparse = moe(x, to_slots, from_slots)
show(sparse=sparse)
assert set(np.unique(to_slots)) == {0, 1}
assert to_slots.sum() == 6 * 2
assert jnp.allclose(from_slots.sum((2, 3)), 1)
# -

# **Soft**: a slot takes a mixture of all tokens, and a token a mixture of all slots. With one slot an expert the logits
# are `[g, t, e, 1]`, and there is a softmax along either side (chapter 8).

# +
slot_logits = logits[..., None]
soft = moe(x, jax.nn.softmax(slot_logits, axis=1), jax.nn.softmax(slot_logits, axis=2))
show(soft=soft)
# -

# The library's layers are these two lines with a router before and any Flax module as the expert.
#
# **Exercise 2.** Write `sparse_loop(x, chosen, weights, matrices)` for tokens `[t, d]`, with loops and no einsum: it is
# what the two contractions have to equal. `exercises.check(2, sparse_loop)`

# ## 3. Capacity: shapes that do not depend on the choice
#
# A compiled program needs shapes that are known before. So each expert gets the same number of slots, *factor · k ·
# tokens / experts*. A choice takes the next free slot of its expert, first choices first; who comes too late is
# **dropped**.

# +
first = routing.switch(logits)  # k = 1
assert routing.expert_capacity(6, 3, k=1, capacity_factor=1.0) == 2
placed = routing.assign(first, capacity=2)
show(experts=placed.experts[0, :, 0], slots=placed.slots[0, :, 0])
assert placed.slots[0, :, 0].tolist() == [0, 1, 0, -1, 0, -1]
# -

# Tokens 3 and 5 found both slots of expert 0 taken. Their output is zeros: around an MoE layer there is always a
# residual connection, which carries them by.

# +
y = moejax.dispatch.einsum_dispatch(experts, x, placed, 2)
show(y=y)
assert not y[0, [3, 5]].any()
print(f"dropped: {metrics.dropped(placed):.0%}")
# -

# How many slots are enough depends on how evenly tokens choose. Ten thousand random tokens, eight experts, and logits
# that favour the first ones:

# +
many = jax.random.normal(jax.random.key(0), (1, 10_000, 8))
for skew in (0.0, 0.1, 0.3):
    uneven = routing.softmax_top_k(many - skew * jnp.arange(8.0), k=2)
    found = []
    for factor in (1.0, 1.25, 2.0):
        slots = routing.expert_capacity(10_000, 8, k=2, capacity_factor=factor)
        found.append(f"{factor}: {metrics.dropped(routing.assign(uneven, slots)):5.1%}")
    print(f"skew {skew}: the busiest expert has {1 + metrics.max_violation(uneven):.2f} × its share; dropped", *found)
# -

# **Exercise 3.** Write `slots_of(chosen, capacity)` for the one expert of each token, `[t]`: its slot there, or -1. A
# Python loop will do. `exercises.check(3, slots_of)`

# ## 4. One expert a token: why softmax comes first
#
# A choice has no gradient. A router learns by the *weight* of what it chose. If the softmax comes after the choice, the
# weight of one expert is always 1, and the router never learns:


# +
def weight_after(logits):
    return routing.top_k_softmax(logits, k=1).weights.sum()


def weight_before(logits):
    return routing.switch(logits).weights.sum()


show(weights_after=routing.top_k_softmax(logits, k=1).weights[0, :, 0], gradient=jax.grad(weight_after)(logits)[0])
show(weights_before=routing.switch(logits).weights[0, :, 0], gradient=jax.grad(weight_before)(logits)[0])
assert not jax.grad(weight_after)(logits).any()
assert jax.grad(weight_before)(logits).any()
# -

# That is Switch's rule, and the reason that `softmax_top_k` does not scale the weight of a single choice to 1.
#
# **Exercise 4.** Sometimes one wants the best of both: write `straight_through(p)`, which is 1 and has the gradient of
# p. `exercises.check(4, straight_through)`

# ## 5. Balance: what keeps experts from dying
#
# An expert that is chosen learns, so it becomes better, so it is chosen more. We train eight experts with a router that
# begins with a liking for two of them: once without, once with Switch's balance loss. (The last number of each token is
# 1, so that a router can like an expert whatever the token is.)

# +
tokens = jax.random.normal(jax.random.key(1), (8, 64, 16)).at[..., -1].set(1.0)
wanted = jnp.tanh(tokens @ jax.random.normal(jax.random.key(2), (16, 16)))
one_of_eight = dict(k=1, router="switch", capacity_factor=None)


def loads_in_training(balance, steps=300):
    """The load of each expert at every step, and the last error."""
    layer = moejax.SparseMoE(16, 8, lambda rngs: moejax.MLP(16, 16, rngs=rngs), **one_of_eight, rngs=nnx.Rngs(0))
    layer.router.kernel[...] = layer.router.kernel[...].at[-1, :2].add(1.0)
    optimizer = nnx.Optimizer(layer, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(layer, optimizer):
        def loss_of(layer):
            y, decided = layer(tokens, train=True)
            error = jnp.mean((y - wanted) ** 2)
            return error + balance * moejax.load_balance_loss(decided), (metrics.load(decided), error)

        gradient, found = nnx.grad(loss_of, has_aux=True)(layer)
        optimizer.update(layer, gradient)
        return found

    loads, errors = zip(*(step(layer, optimizer) for _ in range(steps)), strict=True)
    return np.array(loads), errors[-1]


free, free_error = loads_in_training(balance=0.0)
balanced, balanced_error = loads_in_training(balance=0.03)
show(start=free[0], without=free[-1], with_balance=balanced[-1])
of_both = [float(metrics.max_violation(loads[-1])) for loads in (free, balanced)]
print("MaxVio {:.2f} without, {:.2f} with;".format(*of_both), f"error {free_error:.3f}, {balanced_error:.3f}")
assert of_both[0] > 2 > 1 > of_both[1]
# -

# Without it one expert does most of the work for good, and six are paid for and hardly used.
#
# The loss is *E · Σ f · P*: f the share of choices that fell on an expert, which has no gradient, and P the router's
# mean probability of it, which has one. It is 1 where all experts are used alike.

# +
load = metrics.load(first)
loss = 3 * jnp.sum(load * probs.mean((0, 1)))
show(load=load, mean_probability=probs.mean((0, 1)), loss=loss)
assert jnp.allclose(loss, moejax.load_balance_loss(first))
# -

# **Exercise 5.** Write `balance_loss(probs, chosen)` for probabilities `[t, e]` and experts `[t, k]`, such that uniform
# routing gives 1 whatever k is. `exercises.check(5, balance_loss)`

# ## 6. Noise: try the second best
#
# Token 0 and token 5 prefer expert 0 clearly, token 1 less so. With noise on the logits a token tries its second best
# as often as the two are close; at evaluation there is none.

# +
spread = jnp.zeros_like(logits)  # learnt in a layer; softplus(0) is 0.69
counts = np.zeros((6, 3))
for n in range(200):
    noisy = routing.noisy_top_k(logits, spread, 1, jax.random.key(n))
    counts += np.asarray(noisy.choices[0])
show(share_of_choices=counts / 200, one_draw_of_probability=noisy.selection_probability[0])
assert counts[1, 1] > 10
assert counts[4, 2] == 200
# -

# The count of choices has no gradient. But the *probability* that a token chooses an expert, over the expert's own
# noise, has: it is a normal distribution's. Summed over tokens it is a smooth load, which Shazeer's loss evens out.


# +
def unevenness(logits):
    return moejax.load_loss(routing.noisy_top_k(logits, spread, 1, jax.random.key(0)))


slope = jax.grad(unevenness)(logits).sum((0, 1))
show(slope_by_expert=slope)
assert slope[0] > 0  # less of the busiest one makes the load more even
# -

# **Exercise 6.** Write `chance(clean, others_best, deviation)`: the probability that `clean` + normal noise of that
# deviation is above `others_best`. `exercises.check(6, chance)`

# ## 7. Expert choice, and how it looks into the future
#
# Turn it around: each *expert* takes its best tokens. Now the load is even by construction, and nothing needs a loss.
# But a token may be taken by nobody.

# +
taken = routing.expert_choice(logits, capacity=2)
show(tokens_of_each_expert=taken.tokens[0], experts_of_each_token=taken.choices[0])
assert (metrics.load(taken) == 1 / 3).all()
print(f"tokens that nobody took: {metrics.dropped(taken):.0%}")
# -

# And whether a token is taken depends on the tokens *after* it. In a language model that is cheating: change the last
# token, and the output of an earlier one changes.

# +
changed = x.at[0, 5].set(jnp.array([0.0, 2.0]))


def by_expert_choice(x):
    return moejax.dispatch.einsum_dispatch(experts, x, routing.expert_choice(x @ kernel, 2), 2)


def by_token_choice(x):
    return moejax.dispatch.einsum_dispatch(experts, x, routing.assign(routing.softmax_top_k(x @ kernel, 2), 6), 6)


before, after = by_expert_choice(x)[0, :5], by_expert_choice(changed)[0, :5]
show(before=before, after=after)
assert not jnp.allclose(before, after)
assert jnp.allclose(by_token_choice(x)[0, :5], by_token_choice(changed)[0, :5])
# -

# **Exercise 7.** Write `sees_the_future(layer, x)`: whether any output of `layer(x)`, tokens `[1, t, d]`, depends on a
# later token. `exercises.check(7, sees_the_future)`

# ## 8. Soft slots: no choice at all
#
# In Soft MoE each slot is a weighted mean of all tokens, and each token gets a weighted mean of all slots: two
# softmaxes of one array, along tokens and along slots. All is differentiable, nothing is dropped, and the cost is that
# of the slots.

# +
mixed = routing.soft_routing(jax.random.normal(jax.random.key(4), (1, 6, 3, 2)))  # two slots an expert
show(made_of=mixed.dispatch[0, :, :, 0], shares=mixed.gates[0])
assert jnp.allclose(mixed.dispatch.sum(1), 1)  # each slot: over tokens
assert jnp.allclose(mixed.combine.sum((2, 3)), 1)  # each token: over slots
# -

# A softmax over *one* token is always 1. So a soft layer that gets an image as one token does not route at all: it is a
# dense mixture, however one calls it. It needs several tokens.

# +
alone = routing.soft_routing(jax.random.normal(jax.random.key(5), (1, 1, 3, 2)))
assert (alone.dispatch == 1).all()
# -

# **Exercise 8.** Write `soft_moe(x, phi, matrices)`: tokens `[t, d]`, slots `phi [d, e, c]`, experts `[e, d, d]`; the
# logits are the products of tokens and slots. `exercises.check(8, soft_moe)`

# ## 9. Guided routing: say who is to do what
#
# Where examples have labels, one can want an expert for each. In training the weights are pulled towards the assigned
# expert; at evaluation the router is alone, and has to have learnt it.

# +
labels = jnp.array([[0, 0, 1, 0, 2, 0]])
assigned = jnp.asarray(routing.assigned_experts(num_labels=3, num_experts=3))[labels]
guided = routing.guided_weights(probs, assigned, share=0.3)
show(probs=probs[0], guided=guided[0])
assert jnp.allclose(guided[0, 2], 0.3 * probs[0, 2] + 0.7 * jnp.array([0.05, 0.9, 0.05]))
# -

# A router that follows is taught by a loss of its own, the cross-entropy of its probabilities and the assignment:

# +
blank = jnp.zeros_like(kernel)
for _ in range(100):
    teach = jax.grad(lambda kernel: moejax.assignment_loss(routing.dense_routing(x @ kernel), assigned))
    blank -= 2.0 * teach(blank)
learnt = jax.nn.softmax(x @ blank)
show(learnt=learnt[0])
assert (learnt.argmax(-1) == assigned).all()
# -

# **Exercise 9.** Write `assigned_experts(num_labels, num_experts)`: every expert gets consecutive labels, as many as
# the others, the first ones one more where it does not divide. `exercises.check(9, assigned_experts)`

# ## 10. Three dispatches, one answer
#
# Products with masks are the definition, but most of what they multiply are zeros. The same slots can be filled by
# index (`gather`); or tokens are sorted by expert and there are no slots at all (`grouped`), so nothing is dropped.

# +
crowd = jax.random.normal(jax.random.key(6), (1, 4096, 64))


def layer_by(name, **options):
    def make_expert(rngs):
        return moejax.MLP(64, 256, rngs=rngs)

    return moejax.SparseMoE(64, 16, make_expert, dispatch=name, **options, rngs=nnx.Rngs(0))


def milliseconds(call, *arguments):
    """The median of seven calls, after a first one, which compiles."""
    call(*arguments)
    took = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        took.append(1e3 * (time.perf_counter() - start))
    return np.median(took)


apply = jax.jit(lambda layer, x: layer(x)[0])
ways = {
    "einsum, one group": layer_by("einsum", group_size=0),
    "einsum, groups of 64": layer_by("einsum"),
    "gather": layer_by("gather", group_size=0),
    "grouped": layer_by("grouped"),
}
for name, layer in ways.items():
    print(f"{name:<22} {milliseconds(apply, layer, crowd):7.1f} ms")
outputs = [apply(ways[name], crowd) for name in ("einsum, one group", "gather", "grouped")]
assert all(jnp.allclose(y, outputs[0], atol=1e-4) for y in outputs)
# -

# With T tokens in groups of S, the two einsums cost 4 · factor · k · T · S · d, the experts 4 · factor · k · T · d · h:
# an overhead of S / h. That is why groups make the definition affordable: ours are chosen so that it is a quarter.
#
# **Exercise 10.** Write `group_size(hidden, overhead)`: how many tokens a group may have. `exercises.check(10,
# group_size)`

# ## 11. Gradients by gathers
#
# `x[index]` reads rows. Its derivative *adds into* rows, a scatter-add, which is slow on a GPU: several rows may meet
# in one place. But here we know both tables, which token each row holds and which rows each token has. So the
# derivative of reading by the one is reading by the other.

# +
rows = jnp.array([3, 0, 0, 1])  # which token each of four rows holds
row_of = jnp.array([[1, 2], [3, -1], [-1, -1], [0, -1], [-1, -1], [-1, -1]])  # which rows each token has; -1: none


def read(x):
    return x[rows]


back = jax.vjp(read, x[0])[1]
coming_back = jnp.arange(8.0).reshape(4, 2)
(by_scatter,) = back(coming_back)
with_zeros = jnp.concatenate([coming_back, jnp.zeros((1, 2))])  # row -1 is zeros
by_gather = with_zeros[row_of].sum(1)
show(by_scatter=by_scatter, by_gather=by_gather)
assert (by_scatter == by_gather).all()


def scatter_adds(call, x):
    """What the gradient's program adds into, by type and shape."""
    program = jax.make_jaxpr(jax.grad(lambda x: call(x).sum()))(x).pretty_print(use_color=False)
    return re.findall(r"(\S+) = scatter-add", program)


print("reading rows by an index:", scatter_adds(read, x[0]))
assert scatter_adds(read, x[0])[0].endswith("2]")
print("a layer by gather:       ", scatter_adds(lambda x: ways["gather"](x)[0], crowd))
assert not any(added.endswith("64]") for added in scatter_adds(lambda x: ways["gather"](x)[0], crowd))
# -

# What is left adds the weights' gradient into the probabilities, 16 numbers a token; no token of width 64 is added so.
#
# **Exercise 11.** Write `inverse(rows, tokens, k)`: the table `[tokens, k]` of the rows that each token has, in order,
# -1 where it has fewer. `exercises.check(11, inverse)`

# ## 12. Experts on several devices: count the bytes
#
# Each of four devices holds two of eight experts and a quarter of the tokens. A token has to travel to its experts and
# back: two **all-to-alls**. How much is sent does not depend on who chose whom, since slots have a fixed shape.

# +
mesh = jax.make_mesh((1, 4), ("data", "expert"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
by_gather = dict(dispatch="gather", group_size=32)
layer = moejax.SparseMoE(16, 8, lambda rngs: moejax.MLP(16, 32, rngs=rngs), **by_gather, rngs=nnx.Rngs(0))
batch = jax.random.normal(jax.random.key(7), (8, 32, 16))
alone = apply(layer, batch)
with jax.set_mesh(mesh):
    shared = jax.jit(lambda layer, x: layer(x)[0])
    program = shared.lower(layer, batch).compile()
    together = shared(layer, batch)
assert jnp.allclose(alone, together, atol=1e-5)

crossings = [line for line in program.as_text().splitlines() if " all-to-all(" in line]
parts = [re.findall(r"f32\[([\d,]+)\]", line.split(" all-to-all(")[0]) for line in crossings]
sent = sum(4 * 4 * np.prod([int(n) for n in shape.split(",")]) for part in parts for shape in part)  # four devices
slots = layer.capacity(32)
assert len(crossings) == 2  # there and back
assert sent == 2 * 8 * 8 * slots * 16 * 4  # experts · groups · slots · width · bytes of a number, twice
print(f"two all-to-alls of {slots} slots an expert and group: {sent:,} bytes,")
print(f"of which each device keeps a quarter: {sent * 3 // 4:,} bytes cross.")
# -

# **Exercise 12.** Write `bytes_that_cross(tokens, k, factor, width, devices, bytes_a_number)` for one layer, there and
# back. `exercises.check(12, bytes_that_cross)`

# ## Where to go from here
#
# You have now written a routing library. Ours is in the same order: `moejax/routing/decision.py`, `top_k.py`,
# `capacity.py`, `moejax/dispatch/einsum.py`, then `moejax/layers.py`. `experiments/` asks when experts help, and
# `benchmarks/` what they cost.

print("All that was asserted holds.")
