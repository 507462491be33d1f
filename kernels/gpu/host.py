"""The ops for NumPy arrays, mixed with arrays that are on the GPU already; results are NumPy arrays.

NumPy arguments are copied to the GPU, and those that an op writes are copied back. Callers of many ops keep large
arrays on the GPU (:func:`to_device`); these are passed on without a copy.
"""

from functools import wraps
from inspect import signature
from typing import Any

import cupy
import numpy as np

from kernels import spec
from kernels.gpu import ops
from kernels.gpu.failures import in_one_line
from kernels.gpu.ops import workspace
from kernels.shared import DeviceFailed
from kernels.spec.arguments import HOST, check_layout, is_part
from kernels.spec.atomic import assignments
from kernels.spec.checks import ARRAYS


def to_device(array: np.ndarray) -> Any:
    """Copy an array to the GPU."""
    with in_one_line():
        return cupy.asarray(array)


def device_name() -> str:
    """Name of the current GPU."""
    runtime = cupy.cuda.runtime
    return str(runtime.getDeviceProperties(runtime.getDevice())["name"].decode())


class _Call:
    """The host arrays of one call, and their copies on the GPU."""

    def __init__(self, op: str) -> None:
        self._patterns = ARRAYS[op]
        self._written = {name for name, pattern in ARRAYS[op].items() if pattern.startswith("out ")}
        self._copies: dict[int, tuple[np.ndarray, Any]] = {}
        self._hosts: list[tuple[str, np.ndarray]] = []

    def copied(self, name: str, value: Any) -> Any:
        """Return an argument as passed to the GPU op; an array that is given twice gets a single copy."""
        if type(value) in HOST.types:
            self._hosts.append((name, value))
            if name in self._written:
                check_layout(name, value, True)
            if id(value) not in self._copies:
                self._copies[id(value)] = value, cupy.asarray(np.array(value, order="C", subok=False))
            return self._copies[id(value)][1]
        return _mapped(self.copied, name, value)

    def check_memory(self) -> None:
        """Refuse a written array that overlaps another: their copies on the GPU would not overlap."""
        for name, array in self._hosts:
            for other, part in self._hosts if name in self._written else ():
                is_held = f"may hold {other}" in self._patterns[name] and is_part(part, array)
                if array is not part and np.may_share_memory(array, part) and not is_held:
                    raise ValueError(f"{name}: expected memory of its own, got an array that overlaps {other}")

    def put_back(self) -> None:
        """Copy the written arguments back to their host arrays, all at once."""
        written = [array for name, array in self._hosts if name in self._written]
        assignments((array, self._copies[id(array)][1].get()) for array in written)()

    def returned(self, name: str, value: Any) -> Any:
        """Convert a result to NumPy; return the caller's own array if the result is its copy."""
        if isinstance(value, cupy.ndarray):
            own = [host for host, copy in self._copies.values() if copy is value]
            return own[0] if own else value.get()
        return _mapped(self.returned, name, value)


def _mapped(function: Any, name: str, value: Any) -> Any:
    """Apply a function to the named items of a tuple or named tuple; return anything else unchanged."""
    if not isinstance(value, tuple) or isinstance(value, spec.Shape):
        return value
    if hasattr(value, "_fields"):
        return type(value)(
            *(function(f"{name}.{field}", part) for field, part in zip(value._fields, value, strict=True))
        )
    fields = _OUT_FIELDS.get(len(value), range(len(value))) if name == "out" else range(len(value))
    return tuple(function(f"{name}.{field}", part) for field, part in zip(fields, value, strict=True))


#: Names of the items of the plain tuples `out` of forward ops, by length.
_OUT_FIELDS = {3: ("h", "c", "gates"), 2: ("h", "gates")}


def _for_the_host(name: str) -> Any:
    op = getattr(ops, name)
    parameters = signature(op)

    @wraps(op)
    def on_host(*args: Any, **kwargs: Any) -> Any:
        given, call = ops.bound(op, parameters, args, kwargs), _Call(name)
        with in_one_line():
            for key, value in given.arguments.items():
                if key != "workspace":
                    given.arguments[key] = call.copied(key, value)
            call.check_memory()
            try:
                result = op(*given.args, **given.kwargs)
            except DeviceFailed:  # nothing can be copied any more
                raise
            except BaseException:  # also after an interruption: completed iterations count
                call.put_back()
                raise
            call.put_back()
            return call.returned("", result)

    return on_host


globals().update({name: _for_the_host(name) for name in spec.OPS})

__all__ = list(spec.OPS)
__all__ += ["workspace"]


def __dir__() -> list[str]:
    return sorted(__all__)
