"""Python functions that compiled programs on CPUs call by name, with the programs' own arrays.

    @called_by_name("moejax_sums")
    def sums(x: ndarray, out: ndarray) -> None:
        x.sum(-1, out=out)

    jax.jit(lambda x: numpy_call(sums, jax.ShapeDtypeStruct(x.shape[:-1], x.dtype), x))

`jax.experimental.buffer_callback` does the same, but of a program with the address of a Python object JAX keeps no copy
on disk, so that each process compiles it anew, for seconds. A name means the same in all processes.

A function is registered as XLA's own interface for C is used from C: the structures below are the parts of
`xla/ffi/api/c_api.h`, a file of jaxlib, that are read here. XLA appends to them, and says its version.
"""

import ctypes
import math
import re
from collections.abc import Callable
from functools import cache

import jax
import numpy as np
from jaxtyping import Array, Shaped
from numpy import ndarray

Fill = Callable[..., None]

_MAJOR = 0  # version of the interface whose structures these are
_METADATA = 1  # the extension of a call that only asks for the handler's version
_UNKNOWN_ERROR = 2
_INTEGERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
_NAMES = ["bool", *_INTEGERS, "float16", "float32", "float64"]
_TYPES = {number: np.dtype(name) for number, name in enumerate(_NAMES, start=1)}


class _Sized(ctypes.Structure):
    """What most structures begin with."""

    _fields_ = [("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p)]


class _Version(_Sized):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32)]


class _Extension(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(_Metadata)),  # if it is of that type
    ]


class _Error(_Sized):
    _fields_ = [("message", ctypes.c_char_p), ("code", ctypes.c_int)]


class _Api(_Sized):
    _fields_ = [
        ("version", _Version),
        ("internal", ctypes.c_void_p),
        ("create_error", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Error))),
    ]


class _Buffer(_Sized):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
    ]


class _Buffers(_Sized):
    _fields_ = [
        ("number", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", ctypes.POINTER(_Api)),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
    ]


_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Call))

# By name. Programs keep the address of a handler, so that it lives on as this module is reloaded.
_HANDLERS: dict = globals().get("_HANDLERS", {})
_FUNCTIONS: dict[str, Fill] = globals().get("_FUNCTIONS", {})


def called_by_name(name: str) -> Callable[[Fill], Fill]:
    """Let programs call a function by this name, whose arguments are NumPy arrays: those given, then the result's.

    None of them is copied; it fills the last and must not write to the others.
    """

    def named(f: Fill) -> Fill:
        _FUNCTIONS[name] = f
        f.called_by_name = name  # type: ignore[attr-defined]
        return f

    return named


def numpy_call(
    f: Fill, result: jax.ShapeDtypeStruct, *arguments: Shaped[Array, "..."], flops: int = 0
) -> Shaped[Array, "..."]:
    """In a program on CPU, the array of `result`'s shape and type that `f` fills, a function with a name.

    `flops`: what it computes, for `flops` below.
    """
    name = f.called_by_name  # type: ignore[attr-defined]
    _register(name)
    with jax.named_scope(f"numpy_flops_{flops}"):
        return jax.ffi.ffi_call(name, result)(*arguments)


@cache
def works() -> bool:
    """Whether this version of JAX calls functions as is written here."""
    try:
        _register("moejax_nothing")  # which nobody calls
    except jax.errors.JaxRuntimeError:
        return False
    return True


def flops(compiled: jax.stages.Compiled) -> float:
    """FLOPs of a program: those that XLA counts, and those that its calls of NumPy say of themselves."""
    calls = re.findall(r'custom_call_target="moejax_.*numpy_flops_(\d+)', compiled.as_text())
    return compiled.cost_analysis()["flops"] + sum(map(int, calls))


def _register(name: str) -> None:
    if name not in _HANDLERS:
        handler = _Handler(lambda call: _answer(name, call.contents))
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
        _HANDLERS[name] = handler


def _answer(name: str, call: _Call) -> int | None:
    """None, or the address of an error."""
    try:
        if call.extension and call.extension.contents.type == _METADATA:
            return _say_version(call)
        _FUNCTIONS[name](*_arrays(call.arguments), *_arrays(call.results))
    except BaseException as error:  # the caller is no Python
        return _error(call, f"{type(error).__name__}: {error}")
    return None


def _say_version(call: _Call) -> int | None:
    version = call.api.contents.version
    if version.major != _MAJOR:
        return _error(call, f"XLA's interface has version {version.major}, and moejax knows {_MAJOR}")
    ours = call.extension.contents.metadata.contents.version
    ours.major, ours.minor = version.major, version.minor
    return None


def _error(call: _Call, message: str) -> int:
    said = _Error(ctypes.sizeof(_Error), None, message.encode(), _UNKNOWN_ERROR)
    return call.api.contents.create_error(ctypes.byref(said))


def _arrays(buffers: _Buffers) -> list[ndarray]:
    return [_array(buffers.buffers[i].contents) for i in range(buffers.number)]


def _array(buffer: _Buffer) -> ndarray:
    shape, dtype = buffer.shape[: buffer.rank], _TYPES[buffer.dtype]
    if not (size := math.prod(shape) * dtype.itemsize):
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, (ctypes.c_char * size).from_address(buffer.data))
