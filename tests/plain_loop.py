"""The scanned loop against a plain loop of steps, as a user's own programs are compiled.

Run by `test_plain_process.py` in a process of its own.
"""

import jax
import numpy as np
from small_run import config, dataset  # noqa: F401  (fixtures)

from moejax.models import build_model
from moejax.training.feed import epoch_order, from_all
from moejax.training.loop import make_chunk, make_init, make_keys, make_update, parameter_key
from moejax.training.objective import make_objective
from moejax.training.optimizer import make_optimizer

STEPS = 6  # of 15 examples: one epoch of 90


def test_a_scan_gives_the_bits_of_a_plain_step_loop(config, dataset):  # noqa: F811
    optimizer = make_optimizer(config.train, 2 * STEPS)
    init = make_init(lambda rngs: build_model(config, dataset.num_classes, rngs), optimizer)
    update = make_update(make_objective(config), optimizer)
    chunk, data = make_chunk(update, from_all(15), STEPS), jax.device_put(dataset.train)
    scanned, metrics = chunk(init(parameter_key(0)), data, make_keys(0), STEPS)

    step, keys, state, losses = jax.jit(update), make_keys(0), init(parameter_key(0)), []
    order = np.asarray(epoch_order(keys.order, 0, 90))
    for i in range(STEPS):
        rows = order[15 * i : 15 * (i + 1)]
        batch = {name: np.asarray(array)[rows] for name, array in data.items()}
        state, m = step(state, batch, jax.random.fold_in(keys.augment, i))
        losses.append(m.loss)

    jax.tree.map(np.testing.assert_array_equal, scanned, state)
    np.testing.assert_array_equal(metrics.loss, np.array(losses))
