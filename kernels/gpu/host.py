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
from kernels.atomic import assignments
from kernels.gpu import ops

#: What an op writes into, by argument.
_WRITTEN = {
    "clip": ("grad",),
    "score": ("h", "c", "out"),
    "sample": ("h", "c", "log_probs"),
    "train_steps": ("theta", "state", "h", "c", "out"),
    "loss_and_grad": (),
    **dict.fromkeys(spec.OPTIMIZERS, ("theta", "state")),
}
_LAYERS = ("out", "dz")


def to_device(array: np.ndarray) -> Any:
    """A copy on the device."""
    return cupy.asarray(array)


def device_name() -> str:
    """What the current device is called."""
    runtime = cupy.cuda.runtime
    return str(runtime.getDeviceProperties(runtime.getDevice())["name"].decode())


class _Call:
    """The arrays of one call: those of the host, and their copies."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[np.ndarray, Any]] = {}

    def copied(self, value: Any) -> Any:
        """What stands for an argument on the device; an array that is given twice is one there, too."""
        if _is_of_host(value):
            if id(value) not in self._copies:
                copy = cupy.asarray(value) if value.flags.c_contiguous else cupy.asarray(value.copy())
                self._copies[id(value)] = value, copy
            return self._copies[id(value)][1]
        return _mapped(self.copied, value)

    def put_back(self, arguments: list[Any]) -> None:
        """Bring arguments of the host up to date, all at once."""
        pairs: list[tuple[np.ndarray, np.ndarray]] = []

        def collect(value: Any) -> None:
            if _is_of_host(value):
                pairs.append((value, self._copies[id(value)][1].get()))
            _mapped(collect, value)

        for argument in arguments:
            collect(argument)
        assignments(pairs)()

    def returned(self, value: Any) -> Any:
        """A result as NumPy's: the caller's own array where it is one."""
        if isinstance(value, cupy.ndarray):
            own = [host for host, copy in self._copies.values() if copy is value]
            return own[0] if own else value.get()
        return _mapped(self.returned, value)


def _is_of_host(value: Any) -> bool:
    return isinstance(value, np.ndarray) and not isinstance(value, cupy.ndarray)  # tests have arrays that are both


def _mapped(function: Any, value: Any) -> Any:
    """A tuple, named or not, with a function applied to what is in it; anything else as it is."""
    if not isinstance(value, tuple) or isinstance(value, spec.Shape):
        return value
    parts = [function(part) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def _for_the_host(name: str) -> Any:
    op = getattr(ops, name)
    parameters, written = signature(op), _WRITTEN.get(name, _LAYERS)

    @wraps(op)
    def on_host(*args: Any, **kwargs: Any) -> Any:
        bound, call = parameters.bind(*args, **kwargs), _Call()
        given = dict(bound.arguments)
        for key, value in given.items():
            bound.arguments[key] = value if key == "workspace" else call.copied(value)
        try:
            result = op(*bound.args, **bound.kwargs)
        finally:  # what was made before an interruption counts
            call.put_back([given[key] for key in written if given.get(key) is not None])
        return call.returned(result)

    return on_host


lstm_forward, lstm_backward = _for_the_host("lstm_forward"), _for_the_host("lstm_backward")
rnn_forward, rnn_backward = _for_the_host("rnn_forward"), _for_the_host("rnn_backward")
gru_forward, gru_backward = _for_the_host("gru_forward"), _for_the_host("gru_backward")
softmax_cross_entropy, clip = _for_the_host("softmax_cross_entropy"), _for_the_host("clip")
sgd, adagrad = _for_the_host("sgd"), _for_the_host("adagrad")
rmsprop, adam = _for_the_host("rmsprop"), _for_the_host("adam")
loss_and_grad, train_steps = _for_the_host("loss_and_grad"), _for_the_host("train_steps")
score, sample = _for_the_host("score"), _for_the_host("sample")

__all__ = list(spec.OPS)
