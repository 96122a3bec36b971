"""Strict: eight CPU devices, rank promotion and warnings are errors, array shapes are checked at run time."""

import gc
import os
import tempfile
from pathlib import Path

from moejax.entry import compile_quickly

compile_quickly()  # before JAX is there
FLAGS = os.environ["XLA_FLAGS"]
os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_force_host_platform_device_count=8"

from jaxtyping import install_import_hook

install_import_hook("moejax", "beartype.beartype")

import jax
import pytest
from hypothesis import settings

from chromium import browser  # noqa: F401  (a fixture)
from moejax.runs import programs
from small_run import config, dataset  # noqa: F401  (fixtures)

gc.set_threshold(100_000, 50, 100)  # what is compiled stays, and looking through it took a twentieth of the time
settings.register_profile("untimed", deadline=None)  # the first example compiles
settings.load_profile("untimed")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # lines of code in programs cost a twentieth of the time
jax.config.update("jax_default_device", jax.devices("cpu")[0])  # a run's one device, unless a test says otherwise
os.environ["XLA_FLAGS"] = FLAGS  # a program that a test starts has one anyway

# Tests that start the same small run compile its programs once, whichever worker they are in: workers have the
# variables from the process that starts them. A limit of size makes JAX lock the folder. Runs in a process of their own
# share another one, without a lock: one that is killed as it writes would leave half a pair of files to the others.
if "MOEJAX_TEST_PROGRAMS" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="moejax-programs-")
    os.environ["MOEJAX_TEST_PROGRAMS"] = _programs.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_programs.name}/of-runs"
jax.config.update("jax_compilation_cache_dir", os.environ["MOEJAX_TEST_PROGRAMS"])
jax.config.update("jax_compilation_cache_max_size", 2**33)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
programs.keep_programs = lambda: None  # what runs and verbs call, which have a place of the user's


def pytest_make_parametrize_id(val, argname):
    """Bytes are not a name: a gzip file holds the second it was made in, and workers must collect the same names."""
    return f"{argname} of {len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Each compiled program has memory maps; Linux gives a process 65,530, and XLA crashes where none is left."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
