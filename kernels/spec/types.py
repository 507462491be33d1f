"""Types of arrays, for annotations. What an op accepts of them is in :data:`kernels.spec.checks.ARRAYS`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Any array: where ids or floats may stand, or flags, and for results, whose dtype is that of the arguments.
Array = NDArray[Any]

#: float32 or float64.
Floats = NDArray[np.floating[Any]]

#: Whole numbers: ids, texts, positions.
Ids = NDArray[np.integer[Any]]
