"""The compute backend of a run: the one that is named, or with "auto" the faster of processor and GPU."""

from typing import NamedTuple

import kernels
from charlstm.errors import UserError
from charlstm.model.backend import choose_backend
from charlstm.model.checkpoint import shapes_of
from charlstm.settings.config import Config
from kernels.spec import CELLS


class Choice(NamedTuple):
    """A backend, and why it was chosen: empty if there was no choice."""

    name: str
    why: str = ""


def chosen(config: Config, vocab_size: int, threads: int, *, ranks: int = 1, is_resumed: bool = False) -> Choice:
    """The backend of a run, the same for the same options, sizes, kind of GPU and number of threads.

    A run keeps the name of its backend; one that is resumed with "auto" nevertheless trains on the processor.

    Raises
    ------
    UserError
        If the named backend is not available, or lacks what the run needs.
    """
    if config.backend != "auto":
        [name] = {choose_backend(config.backend, net.cell) for net in config.nets}
        if name == "cupy" and len(config.nets) > 1:
            raise UserError("--backend cupy: trains one net; use --backend numba with --members or --seeds")
        return Choice(name)
    if not kernels.has_cupy():
        return Choice(kernels.fastest())
    if reason := _only_on_processor(config, ranks, is_resumed):
        return Choice(kernels.fastest(), reason)
    [shape] = shapes_of(config, vocab_size)
    gains, why = kernels.gains_by_gpu(
        shape, config.seq_length, config.batch_size, threads, lambda: gains_by_bfloat16(config),
        last_only=config.windows is not None, has_dropout=bool(config.dropout),
    )  # fmt: skip
    if gains:
        try:
            kernels.load_for_host("cupy")
        except kernels.BackendUnavailable as error:
            gains, why = False, str(error)
    return Choice("cupy" if gains else kernels.fastest(), why)


def _only_on_processor(config: Config, ranks: int, is_resumed: bool) -> str:
    """Why a run trains on the processor, whatever its sizes; empty if it may train on a GPU."""
    if is_resumed:
        return "a resumed run changes its backend only on request"
    if ranks > 1:
        return "several ranks train on GPUs only on request"
    if len(config.nets) > 1:
        return "several nets train on the processor only"
    if config.dtype not in ("auto", "float32"):
        return f"{config.dtype} on a GPU only on request"
    return "" if CELLS[config.cell].on_device else f"a GPU has no {config.cell} cell"


def gains_by_bfloat16(config: Config) -> bool:
    """Whether the processor trains these nets in bfloat16 if the dtype is "auto"."""
    shapes = shapes_of(config, 1)
    return (
        config.dtype == "auto"
        and kernels.fastest() == "numba"
        and all(kernels.gains_by_bfloat16(shape, config.batch_size) for shape in shapes)
    )
