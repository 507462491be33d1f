"""Types of arrays, for annotations. :data:`kernels.spec.checks.ARRAYS` lists what each op accepts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Any array: for arguments that take ids or floats, for flags, and for results, which have the arguments' dtype.
Array = NDArray[Any]

#: float32 or float64.
Floats = NDArray[np.floating[Any]]

#: Whole numbers: ids, texts, positions.
Ids = NDArray[np.integer[Any]]
