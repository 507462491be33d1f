"""The same ops for NumPy arrays, and for arrays that are on the device already: results are NumPy's.

What an op takes is copied to the device, what it writes is copied back. Whoever calls often keeps on the device what is
large (:func:`to_device`): that is passed on as it is, and stays there.
"""

from functools import wraps
from inspect import signature
from typing import Any

import cupy
import numpy as np

from kernels import spec
from kernels.gpu import ops
from kernels.spec.arguments import HOST, check_layout, is_part
from kernels.spec.atomic import assignments
from kernels.spec.checks import ARRAYS


def to_device(array: np.ndarray) -> Any:
    """A copy on the device."""
    return cupy.asarray(array)


def device_name() -> str:
    """What the current device is called."""
    runtime = cupy.cuda.runtime
    return str(runtime.getDeviceProperties(runtime.getDevice())["name"].decode())


class _Call:
    """The arrays of one call: those of the host, and their copies."""

    def __init__(self, op: str) -> None:
        self._patterns = ARRAYS[op]
        self._written = {name for name, pattern in ARRAYS[op].items() if pattern.startswith("out ")}
        self._copies: dict[int, tuple[np.ndarray, Any]] = {}
        self._hosts: list[tuple[str, np.ndarray]] = []

    def copied(self, name: str, value: Any) -> Any:
        """What stands for an argument on the device; an array that is given twice is one there, too."""
        if type(value) in HOST.types:
            self._hosts.append((name, value))
            if name in self._written:
                check_layout(name, value, True)
            if id(value) not in self._copies:
                self._copies[id(value)] = value, cupy.asarray(np.array(value, order="C", subok=False))
            return self._copies[id(value)][1]
        return _mapped(self.copied, name, value)

    def check_memory(self) -> None:
        """Refuse an array that is written and shares memory with another, which is a copy of its own on the device."""
        for name, array in self._hosts:
            for other, part in self._hosts if name in self._written else ():
                is_held = f"may hold {other}" in self._patterns[name] and is_part(part, array)
                if array is not part and np.may_share_memory(array, part) and not is_held:
                    raise ValueError(f"{name}: expected memory of its own, got an array that overlaps {other}")

    def put_back(self) -> None:
        """Bring the arguments of the host that are written up to date, all at once."""
        written = [array for name, array in self._hosts if name in self._written]
        assignments((array, self._copies[id(array)][1].get()) for array in written)()

    def returned(self, name: str, value: Any) -> Any:
        """A result as NumPy's: the caller's own array where it is one."""
        if isinstance(value, cupy.ndarray):
            own = [host for host, copy in self._copies.values() if copy is value]
            return own[0] if own else value.get()
        return _mapped(self.returned, name, value)


def _mapped(function: Any, name: str, value: Any) -> Any:
    """A tuple, named or not, with a function applied to what is in it, by name; anything else as it is."""
    if not isinstance(value, tuple) or isinstance(value, spec.Shape):
        return value
    if hasattr(value, "_fields"):
        return type(value)(
            *(function(f"{name}.{field}", part) for field, part in zip(value._fields, value, strict=True))
        )
    fields = _OUT_FIELDS.get(len(value), range(len(value))) if name == "out" else range(len(value))
    return tuple(function(f"{name}.{field}", part) for field, part in zip(fields, value, strict=True))


#: What the plain tuples `out` of the forward ops hold.
_OUT_FIELDS = {3: ("h", "c", "gates"), 2: ("h", "gates")}


def _for_the_host(name: str) -> Any:
    op = getattr(ops, name)
    parameters = signature(op)

    @wraps(op)
    def on_host(*args: Any, **kwargs: Any) -> Any:
        bound, call = parameters.bind(*args, **kwargs), _Call(name)
        given = dict(bound.arguments)
        for key, value in given.items():
            bound.arguments[key] = value if key == "workspace" else call.copied(key, value)
        call.check_memory()
        try:
            result = op(*bound.args, **bound.kwargs)
        finally:  # what was made before an interruption counts
            call.put_back()
        return call.returned("", result)

    return on_host


globals().update({name: _for_the_host(name) for name in spec.OPS})

__all__ = list(spec.OPS)


def __dir__() -> list[str]:
    return sorted(__all__)
