"""Python, the packages that moejax needs, and the variables that change what they do."""

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import moejax
from moejax.doctor.finding import Finding

SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
ASKED = ("moejax", "jax", "flax", "orbax-checkpoint")  # whose requirements are looked at
PREFIXES = ("JAX_", "XLA_", "OMP_", "OPENBLAS_", "MKL_", "CUDA_VISIBLE", "MOEJAX_", "HF_HUB_OFFLINE")
TROUBLE = {
    "JAX_DISABLE_JIT": "nothing is compiled, so everything is many times slower",
    "JAX_DEBUG_NANS": "every operation waits to be looked at, so everything is slower",
    "JAX_ENABLE_X64": "numbers may have 64 bits, so runs are slower and give other numbers",
}


def python() -> Iterator[Finding]:
    """Its version, and that of moejax."""
    from packaging.specifiers import SpecifierSet

    here, needed = platform.python_version(), _python_needed()
    fits = SpecifierSet(needed).contains(here, prereleases=True)
    yield Finding("python", here, "" if fits else f"moejax needs Python {needed}: make an environment with one.")
    yield Finding("moejax", f"{moejax.__version__} in {os.path.dirname(moejax.__file__)}")


def packages() -> Iterator[Finding]:
    """Those that figures depend on, and all others that are not as they should be."""
    problems = {name: sentence for package in ASKED for name, sentence in unmet(package)}
    for name in SHOWN:
        yield Finding(name, _version(name) or "not installed", problems.pop(name, ""))
    for name, sentence in problems.items():
        yield Finding(name, _version(name) or "not installed", sentence)


def unmet(package: str) -> Iterator[tuple[str, str]]:
    """Name and sentence of each package that this one needs and that is not there, or not in a version that will do."""
    from packaging.requirements import Requirement

    try:
        needed = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return  # not installed: its code is read from a folder
    for text in needed:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            yield requirement.name, f"{package} needs {wanted}: pip install '{wanted}'."


_OFF = ("", "0", "false", "off", "no", "n", "f")  # as JAX reads them


def variables() -> Iterator[Finding]:
    """The environment's variables that change what JAX, its threads and moejax do."""
    for name in sorted(os.environ):
        if name.startswith(PREFIXES):
            does = TROUBLE.get(name, "") if os.environ[name].lower() not in _OFF else ""
            yield Finding(name, os.environ[name], f"With it {does}: unset it, unless that is meant." if does else "")


def _python_needed() -> str:
    try:
        return str(metadata.metadata("moejax").json.get("requires_python") or "")
    except metadata.PackageNotFoundError:
        return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
