"""Compiled programs, kept between processes."""

import os
import warnings

import jax

from moejax.data.find import cache_folder


def keep_programs(seconds: float) -> None:
    """Keep what takes longer than this to compile, in the cache; before anything is compiled.

    JAX's own variables, JAX_COMPILATION_CACHE_DIR and …_MIN_COMPILE_TIME_SECS, say otherwise.
    """
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder("xla"))
    jax.config.update("jax_compilation_cache_dir", programs)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    warnings.filterwarnings("ignore", "Error .* persistent compilation cache")  # it costs the next run's time only
