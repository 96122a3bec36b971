"""How a run spreads over devices: one alone, one program over a mesh, or the same program on each device.

    one device   the step as it is
    jit          the same step over a mesh (data, expert): stacked experts, and what the optimiser keeps of them, are
                 sharded over `expert`, all else is replicated; each batch is sharded over all devices
    pmap         each device takes its share of a batch (`moejax.training.pmap`)

Losses, metrics and dropped tokens are those of the whole batch in each case, and a checkpoint of one serves the others.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from moejax.config import Config, data_devices, mesh_problems
from moejax.data.dataset import Examples
from moejax.errors import UserError
from moejax.sharding import DEFAULT_AXES, REPLICATED, make_mesh
from moejax.training import pmap
from moejax.training.feed import Feed, Shares, from_all, from_shares
from moejax.training.objective import Batch, Objective, make_objective


def available_devices() -> Sequence[jax.Device]:
    """All devices of all processes; where JAX was told of a default device, that one."""
    default = jax.config.jax_default_device
    return jax.devices() if default is None else [default]


@dataclass(frozen=True)
class Parallel:
    """A strategy on its devices."""

    strategy: str
    mesh: Mesh | None  # None: one device
    reads_shares: bool = False  # each process brings what its devices take of a batch; else each holds all examples
    unused: int = 0  # devices beyond those that share a batch evenly

    @classmethod
    def of(cls, config: Config, image_shape: tuple[int, ...] | None = None) -> "Parallel":
        """What the configuration asks for on the devices there are; UserError if it does not fit them.

        `image_shape`: of the data, if they are images other than MNIST's.
        """
        devices, p = available_devices(), config.parallel
        if problems := mesh_problems(config, len(devices)):
            raise UserError(*problems)
        if p.strategy == "pmap" and jax.process_count() > 1:
            raise UserError(f"parallel.strategy is pmap, but there are {jax.process_count()} processes; use jit.")
        shares = p.reads == "share" or (p.reads == "auto" and jax.process_count() > 1)
        data = data_devices(config, len(devices), partial(pmap.keeps_groups, config, image_shape=image_shape))
        used = data * p.expert
        if used < len(devices) and jax.process_count() > 1:
            raise UserError(
                f"train.batch_size is {config.train.batch_size}, which the {len(devices)} devices of"
                f" {jax.process_count()} processes cannot share evenly; choose a multiple of {len(devices)}."
            )
        if not pmap.keeps_groups(config, used, image_shape):
            raise UserError(pmap.broken_groups(config, used, image_shape))
        mesh = None if used == 1 else make_mesh(data, p.expert, devices[:used])
        return cls("jit" if mesh is None else p.strategy, mesh, shares, unused=len(devices) - used)

    @property
    def note(self) -> str | None:
        """What to tell about devices that have nothing to do."""
        if not self.unused:
            return None
        used = 1 if self.mesh is None else self.mesh.size
        return (
            f"{used} of {used + self.unused} devices share a batch evenly, in whole groups of tokens under pmap; the"
            " others are left alone (another train.batch_size or parallel.strategy may use them)."
        )

    def objective(self, config: Config) -> Objective:
        """The objective of a step, on a share of a batch where the strategy gives a device one."""
        alone = self.strategy != "pmap" or self.mesh is None
        return make_objective(config) if alone else pmap.make_objective(config, self.mesh.size)

    @property
    def splits_experts(self) -> bool:
        """Whether a device holds only some of the experts."""
        return self.mesh is not None and self.mesh.devices.shape[1] > 1

    def in_use(self) -> contextlib.AbstractContextManager:
        """Inside, layers lay out their arrays over the mesh."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def place(self, tree: PyTree) -> PyTree[Array]:
        """Onto the devices."""
        return jax.device_put(tree, available_devices()[0] if self.mesh is None else self._shardings(tree))

    def feed(
        self, host: Examples, key: Array, batch_size: int, length: int
    ) -> tuple[Feed, Callable[[int, int], Batch]]:
        """The feed of chunks of up to `length` steps, and what gets its data for steps `first` ≤ s < `stop`."""
        if not self.reads_shares:
            held = self.place(host)
            return from_all(batch_size), lambda first, stop: held
        where = SingleDeviceSharding(available_devices()[0])
        if self.mesh is not None:
            where = NamedSharding(self.mesh, DEFAULT_AXES.spec(P(None, "tokens")))  # steps, batch, ...
        return from_shares(length), Shares(host, key, batch_size, length, where)

    def made(self, make: Callable[[int], PyTree[Any]], seed: int) -> PyTree[Any]:
        """What is made from a seed, on every device of every process."""
        if self.mesh is None:
            return make(seed)
        return jax.jit(lambda: make(seed), out_shardings=NamedSharding(self.mesh, REPLICATED))()

    def shapes(self, tree: PyTree) -> PyTree:
        """Shapes and types of a state, and where it will lie."""
        if self.mesh is None:
            return tree
        return jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            tree,
            self._shardings(tree),
        )

    def over_devices(self, init: Callable, state: PyTree) -> Callable:
        """A compiled `init`, made to leave its state, of these shapes, where it belongs."""
        return init if self.mesh is None else jax.jit(init, out_shardings=self._shardings(state))

    def compile(self, chunk: Callable, state: PyTree, *others: Any) -> Callable:
        """Compile `chunk(state, *others)` → (state, metrics) for arguments of these shapes; the state is donated."""
        if self.mesh is None:
            return chunk.lower(state, *others).compile()
        if self.strategy == "pmap":
            return pmap.compile_chunk(chunk, self.mesh.devices.ravel().tolist(), state, *others)
        with self.in_use():
            shardings = self._shardings(state), NamedSharding(self.mesh, REPLICATED)
            return jax.jit(chunk, donate_argnums=0, out_shardings=shardings).lower(state, *others).compile()

    def _shardings(self, tree: PyTree) -> PyTree[NamedSharding]:
        """Experts, and what an optimiser keeps of them, by their partition metadata; all else replicated."""

        def fitting(leaf: Any, where: NamedSharding) -> NamedSharding:
            # What Adafactor keeps of an expert has not its shape.
            return where if len(where.spec) == leaf.ndim or not where.spec else NamedSharding(self.mesh, REPLICATED)

        def place(part: Any) -> PyTree[NamedSharding]:
            # Of a frozen parameter an optimiser keeps a variable without arrays.
            leaves = jax.tree.leaves(part)
            return jax.tree.map(fitting, part, nnx.get_named_sharding(part, self.mesh)) if leaves else part

        return jax.tree.map(place, tree, is_leaf=lambda part: isinstance(part, nnx.Variable))
