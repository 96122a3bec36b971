"""Strict by default: four CPU devices, rank promotion and warnings are errors, array shapes are checked at run time."""

import os
import tempfile

# Tests compile far longer than they compute, so LLVM need not optimise.
FLAGS = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"

from jaxtyping import install_import_hook

install_import_hook("moejax", "beartype.beartype")

import jax

from small_run import config, dataset  # noqa: F401  (fixtures)

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests that start the same small run compile its programs once.
_programs = tempfile.TemporaryDirectory(prefix="moejax-programs-")
jax.config.update("jax_compilation_cache_dir", _programs.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
