"""The contract that every backend keeps: cells, parameters, optimizers, ops and the checks of their arguments.

Nothing here depends on a backend. Equations: :mod:`kernels.spec.cells`. Each name is imported from its file on first
use, so that cells and optimizers can be used without NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.spec.cells import (
        CELLS,
        FLOAT_DTYPES,
        GATE_F,
        GATE_G,
        GATE_I,
        GATE_N,
        GATE_O,
        GATE_R,
        GATE_Z,
        ID_DTYPES,
        LAYER_NORM_EPSILON,
        Cell,
        is_mixed,
    )
    from kernels.spec.layers import LAYERS, Cache, Grads
    from kernels.spec.layouts import LAYOUTS, LayerWeights, from_layout, to_layout
    from kernels.spec.losses import HALF_LOG_TWO_PI, LOSSES, Goal
    from kernels.spec.mixtures import Mixture
    from kernels.spec.ops import OPS
    from kernels.spec.optimizers import MOST_CONSTANTS, OPTIMIZERS, Optimizer, hyper_values, resolved, slots, takers
    from kernels.spec.parameters import (
        Params,
        Shape,
        aligned_zeros,
        blocks,
        named,
        num_parameters,
        offsets,
        params,
    )
    from kernels.spec.types import Array, Floats, Ids
    from kernels.spec.values import NORM_PANEL, SMOOTHING, norm_panels, round_to_bfloat16
    from kernels.spec.weight_drop import Dropping, dropping, factors
    from kernels.spec.workspaces import (
        NOT_ROUNDED,
        Workspace,
        packs,
        unit_panels,
        workspace,
        workspace_layout,
    )

#: The light ones come first: a name is looked for in one after the other.
_FILES = (
    "cells", "layers", "ops", "optimizers", "parameters", "mixtures", "layouts", "losses", "types", "values",
    "weight_drop", "workspaces",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        for file in _FILES:
            module = import_module(f"{__name__}.{file}")
            if name in vars(module):
                globals()[name] = vars(module)[name]
                return globals()[name]
    if not name.startswith("_"):
        from kernels.spec.layers import TYPES  # LSTMCache, LSTMGrads, LayerParams, ...

        if name in TYPES:
            return TYPES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CELLS",
    "FLOAT_DTYPES",
    "GATE_F",
    "GATE_G",
    "GATE_I",
    "GATE_N",
    "GATE_O",
    "GATE_R",
    "GATE_Z",
    "HALF_LOG_TWO_PI",
    "ID_DTYPES",
    "LAYERS",
    "LAYER_NORM_EPSILON",
    "LAYOUTS",
    "LOSSES",
    "MOST_CONSTANTS",
    "NORM_PANEL",
    "NOT_ROUNDED",
    "OPS",
    "OPTIMIZERS",
    "SMOOTHING",
    "Array",
    "Cache",
    "Cell",
    "Dropping",
    "Floats",
    "Goal",
    "Grads",
    "Ids",
    "LayerWeights",
    "Mixture",
    "Optimizer",
    "Params",
    "Shape",
    "Workspace",
    "aligned_zeros",
    "blocks",
    "dropping",
    "factors",
    "from_layout",
    "hyper_values",
    "is_mixed",
    "named",
    "norm_panels",
    "num_parameters",
    "offsets",
    "packs",
    "params",
    "resolved",
    "round_to_bfloat16",
    "slots",
    "takers",
    "to_layout",
    "unit_panels",
    "workspace",
    "workspace_layout",
]
