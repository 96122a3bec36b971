"""Strict by default: four CPU devices, rank promotion and warnings are errors, array shapes are checked at run time."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

from jaxtyping import install_import_hook

install_import_hook("moejax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
