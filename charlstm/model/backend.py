"""The choice of a compute backend."""

import kernels
from charlstm.errors import UserError
from kernels.spec import CELLS


def choose_backend(name: str, cell: str = "lstm") -> str:
    """The backend that `name` selects; "auto" is the fastest one on the CPU, as only training gains by a GPU.

    For "auto" in training, see :mod:`charlstm.training.backend`.

    Raises
    ------
    UserError
        If the backend is unknown or cannot be used here; the message says why.
    """
    if name not in ("auto", *kernels.BACKENDS):
        raise UserError(f"--backend: expected one of auto, {', '.join(kernels.BACKENDS)}, got {name!r}")
    if name == "auto":
        return kernels.fastest()
    reason = kernels.missing(name)
    if reason is not None:
        raise UserError(f"--backend {name}: {reason}")
    if name == "cupy" and not CELLS[cell].on_device:
        has = ", ".join(each for each, row in CELLS.items() if row.on_device)
        raise UserError(f"--backend {name}: has no {cell} cell, only {has}: use --backend numba")
    return name
