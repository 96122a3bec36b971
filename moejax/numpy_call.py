"""NumPy within a compiled program on CPU: a function of arrays that are the program's own, none of them copied.

`jax.pure_callback` copies all it takes and gives. XLA's foreign function interface hands over where the arrays lie, and
promises to keep its binary layout; read here is the part of it that such a function needs, named as in
`xla/ffi/api/c_api.h` below `jax.ffi.include_dir()`.
"""

import ctypes
import re
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Shaped

_VERSION = 0, 3  # of the interface that is written for: that of the oldest JAX that is supported
_METADATA, _INTERNAL_ERROR = 1, 13
_DTYPES = {4: np.int32, 5: np.int64, 11: np.float32, 12: np.float64}


class _Head(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p)]


class _Version(_Head):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("version", _Version)]


class _Extension(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("metadata", ctypes.POINTER(_Metadata)),
    ]


class _ErrorArguments(_Head):
    _fields_ = [("message", ctypes.c_char_p), ("code", ctypes.c_int)]


class _Api(_Head):
    _fields_ = [
        ("version", _Version),
        ("internal", ctypes.c_void_p),
        ("create_error", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_ErrorArguments))),
    ]


class _Buffer(_Head):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    ]


class _Buffers(_Head):
    _fields_ = [
        ("size", ctypes.c_int64),
        ("types", ctypes.c_void_p),
        ("of", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _Frame(_Head):
    _fields_ = [
        ("api", ctypes.POINTER(_Api)),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
    ]


_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))
_handlers: dict[str, object] = {}  # XLA keeps their addresses: they must outlive the programs


def numpy_call(name: str, f: Callable[..., None]) -> Callable[..., Shaped[Array, "..."]]:
    """Let compiled programs on CPU call `f`, known to XLA as `name`, as call(result, *arguments, flops=…).

    `f` gets NumPy arrays, those of the arguments and one more of `result`'s shape and type, which it has to fill. It
    must not write to its arguments. Whole numbers of 32 or 64 bits and floating-point numbers of 32 or 64 bits alone.
    """
    handler = _handlers[name] = _Handler(lambda frame: _handle(f, frame.contents))
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.cast(handler, ctypes.c_void_p)), platform="cpu")
    return lambda result, *arguments, flops=0: jax.ffi.ffi_call(name, result)(*arguments, flops=np.int64(flops))


def flops(compiled: jax.stages.Compiled) -> float:
    """FLOPs of a program: those that XLA counts, and those that its calls of NumPy say of themselves."""
    calls = re.findall(r'custom_call_target="moejax_.*backend_config={flops = (\d+)', compiled.as_text())
    return compiled.cost_analysis()["flops"] + sum(map(int, calls))


def _handle(f: Callable[..., None], frame: _Frame) -> int | None:
    """What XLA calls: an address of an error, or none."""
    try:
        if frame.extension:
            _tell_version(_Extension.from_address(frame.extension))
        else:
            f(*map(_array, _each(frame.arguments)), *map(_array, _each(frame.results)))
    except Exception as error:  # no exception passes through C
        message = f"{type(error).__name__}: {error}".encode()
        arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, _INTERNAL_ERROR)
        return frame.api.contents.create_error(arguments)
    return None


def _tell_version(extension: _Extension) -> None:
    if extension.type == _METADATA:
        extension.metadata.contents.version.major, extension.metadata.contents.version.minor = _VERSION


def _each(buffers: _Buffers) -> list[_Buffer]:
    return [buffers.of[i].contents for i in range(buffers.size)]


def _array(buffer: _Buffer) -> np.ndarray:
    shape, dtype = buffer.dims[: buffer.rank], np.dtype(_DTYPES[buffer.dtype])
    size = int(np.prod(shape)) * dtype.itemsize
    return np.ndarray(shape, dtype, (ctypes.c_byte * size).from_address(buffer.data) if size else None)
