"""Diagnostics: figures about the gradient, the update and the gates of one iteration, measured before it is made.

They are measured on copies, by a pass of their own over the batch that the iteration is about to read, so training
gives the same bits with and without them. Which iterations have them follows from the options alone.
"""

import math
from functools import cached_property
from typing import Any

import numpy as np

import kernels
from charlstm.model.memory import Memory
from charlstm.settings.config import Config
from charlstm.training.steps import Steps
from kernels import spec
from kernels.spec import Shape

_LEAST = 1000  # iterations between two passes; on two cores a pass takes as long as two to four of them
_READS = 5e9  # least number of reads of a weight between two passes, which take up to 60 iterations of a tiny model
_LOW, _HIGH = 0.1, 0.9  # a gate beyond these is saturated, as in Karpathy, Johnson and Fei-Fei (2015)
_STREAMS, _STEPS = 4, 64  # most of a batch whose gates are looked at

#: The gates by kind of cell: name, and place among the blocks that the cell keeps.
_GATES: dict[str, dict[str, int]] = {
    "lstm": {"i": spec.GATE_I, "f": spec.GATE_F, "o": spec.GATE_O},
    "lnlstm": {"i": spec.GATE_I, "f": spec.GATE_F, "o": spec.GATE_O},
    "gru": {"r": spec.GATE_R, "z": spec.GATE_Z},
    "rnn": {},
}


def names(cell: str) -> tuple[str, ...]:
    """The keys of the diagnostics of a model with this kind of cell."""
    return ("grad_norm", "clipped", "update_ratio", *(f"saturation_{gate}" for gate in _GATES[cell] or "h"))


class Diagnostics:
    """The diagnostics of a run: those of its first net.

    Parameters
    ----------
    config, shape, steps : of that net
    """

    def __init__(self, config: Config, shape: Shape, steps: Steps) -> None:
        self._config, self._shape, self._steps = config, shape, steps
        self.every = period(config, shape)  #: iterations between two passes; 0 for none

    def is_due(self, iteration: int) -> bool:
        """Whether an iteration has diagnostics; iteration 0 has none, so that short runs need no extra kernels."""
        return bool(self.every and iteration and iteration % self.every == 0)

    def measure(self, memory: Memory, iteration: int, rate: float) -> dict[str, float]:
        """The diagnostics of an iteration whose learning rate is `rate`; `memory` is the state before it.

        ``grad_norm`` is the Euclidean norm of the gradient before clipping, ``clipped`` the fraction of its elements
        that clipping changes, ``update_ratio`` the norm of the update divided by the norm of the weights, and
        ``saturation_*`` the fraction of a gate's activations outside [0.1, 0.9], for an RNN of the hidden activations
        outside [-0.9, 0.9].
        """
        batch = self._steps.batch(memory, iteration)
        grad = self._steps.gradient(memory, iteration)
        norm = _norm(grad)
        values = {"grad_norm": norm, "clipped": self._clipped(grad, norm)}
        after = memory.copy()
        with self._steps.aside():
            self._steps.run(after, iteration, iteration + 1, np.array([rate]))
        theta, new = kernels.to_host(memory.theta), kernels.to_host(after.theta)
        values["update_ratio"] = _norm(new - theta) / max(_norm(theta), 1e-300)
        h, c = kernels.to_host(batch.h), kernels.to_host(batch.c)
        with self._blas.limit(limits=1, user_api="blas"):  # its threads take longer, and other bits
            return values | _saturation(self._shape, theta, h, c, batch.x)

    @cached_property
    def _blas(self) -> Any:
        """The controller of the threads of NumPy's products; to find the libraries takes milliseconds."""
        from threadpoolctl import ThreadpoolController

        return ThreadpoolController()

    def _clipped(self, grad: np.ndarray, norm: float) -> float:
        """The fraction of the elements of a gradient that clipping changes."""
        by_element, by_norm = self._config.grad_clip, self._config.grad_clip_norm
        size = np.abs(grad)
        if by_norm is not None and by_norm < (norm if by_element is None else _norm(np.minimum(size, by_element))):
            return 1.0
        return 0.0 if by_element is None else float(np.count_nonzero(size > by_element) / len(grad))


def period(config: Config, shape: Shape) -> int:
    """Iterations between two passes, a multiple of `report_every`; 0 for none.

    It is chosen by sizes so that passes take less than 1 % of the time: see docs/training.md.
    """
    if not config.diagnostics:
        return 0
    weights = spec.num_parameters(shape._replace(vocab_size=1)) + shape.hidden_size * shape.vocab_size
    least = max(_LEAST, _READS / (weights * config.iteration_chars))
    return math.ceil(least / config.report_every) * config.report_every


def _norm(values: np.ndarray) -> float:
    """The Euclidean norm of a flat vector, summed in an order that does not depend on threads, as BLAS's might."""
    return math.sqrt(float(np.sum(np.square(values, dtype=np.float64))))


def _saturation(shape: Shape, theta: np.ndarray, h: np.ndarray, c: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """The fraction of saturated activations of each gate over some steps and streams of a batch, all layers together.

    It is measured by the NumPy reference, which keeps the gates; compiled kernels keep them in forms of their own.
    """
    forward, has_c = getattr(kernels.load("numpy"), f"{shape.cell}_forward"), spec.CELLS[shape.cell].has_c
    views, H = spec.params(theta, shape), shape.hidden_size
    ids = np.ascontiguousarray(x[: min(_STEPS, len(x) - 1), :_STREAMS])
    below, found = ids if views.embedding is None else views.embedding[ids], []
    for layer, h0, c0 in zip(views.layers, h, c, strict=True):
        state = (np.ascontiguousarray(each[:_STREAMS]) for each in ((h0, c0) if has_c else (h0,)))
        *_, cache = forward(below, *state, *layer)
        below = cache.h[1:]
        if not _GATES[shape.cell]:
            found.append({"saturation_h": np.abs(below) > _HIGH})
            continue
        gates = cache.gates if cache.gates.ndim == 3 else cache.gates[0]
        parts = {gate: gates[:, :, k * H : (k + 1) * H] for gate, k in _GATES[shape.cell].items()}
        found.append({f"saturation_{gate}": (part < _LOW) | (part > _HIGH) for gate, part in parts.items()})
    return {name: float(np.mean([layer[name] for layer in found])) for name in found[0]}
