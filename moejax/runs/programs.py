"""Compiled programs, kept between processes."""

import os
import warnings

import jax

from moejax.data.find import cache_folder


def keep_programs() -> None:
    """Keep all of them in the cache, since the small ones of a run take a second to compile; called before the first.

    JAX's own variables, JAX_COMPILATION_CACHE_DIR and …_MIN_COMPILE_TIME_SECS, say otherwise.
    """
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder("xla"))
    jax.config.update("jax_compilation_cache_dir", programs)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    warnings.filterwarnings("ignore", "Error .* persistent compilation cache")  # it costs the next run's time only
