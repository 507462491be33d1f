"""The contract that every backend keeps: cells, parameters, optimizers, ops and what an argument must be.

It names no backend. Equations: :mod:`kernels.spec.cells`.
"""

from kernels.spec.cells import CELLS, FLOAT_DTYPES, GATE_F, GATE_G, GATE_I, GATE_N, GATE_O, GATE_R, GATE_Z, ID_DTYPES
from kernels.spec.ops import OPS
from kernels.spec.optimizers import OPTIMIZERS, Optimizer, hyper_values, slots, slots_of
from kernels.spec.parameters import (
    GRULayerParams,
    LayerParams,
    Params,
    Shape,
    aligned_zeros,
    blocks,
    named,
    num_parameters,
    offsets,
    params,
)
from kernels.spec.values import (
    NORM_PANEL,
    SMOOTHING,
    GRUCache,
    GRUGrads,
    LSTMCache,
    LSTMGrads,
    RNNCache,
    RNNGrads,
    norm_panels,
    round_to_bfloat16,
)
from kernels.spec.workspaces import Workspace, packs, unit_panels, workspace, workspace_layout

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
    "ID_DTYPES",
    "NORM_PANEL",
    "OPS",
    "OPTIMIZERS",
    "SMOOTHING",
    "GRUCache",
    "GRUGrads",
    "GRULayerParams",
    "LSTMCache",
    "LSTMGrads",
    "LayerParams",
    "Optimizer",
    "Params",
    "RNNCache",
    "RNNGrads",
    "Shape",
    "Workspace",
    "aligned_zeros",
    "blocks",
    "hyper_values",
    "named",
    "norm_panels",
    "num_parameters",
    "offsets",
    "packs",
    "params",
    "round_to_bfloat16",
    "slots",
    "slots_of",
    "unit_panels",
    "workspace",
    "workspace_layout",
]
