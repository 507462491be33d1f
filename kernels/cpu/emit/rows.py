"""Access to one vector of a row at a time, for the element-wise part of a step, which stays in registers."""

from typing import Any

from kernels.cpu.emit.vectors import I64, Number, Vectors


class Row:
    """Loads and stores numbers of one vector of a row, at arrays given by address."""

    def __init__(self, vec: Vectors, at: Any, mask: Any) -> None:
        self.vec, self.at, self.mask = vec, at, mask

    def _place(self, base: Any, offset: Any) -> Any:
        at = self.at if offset is None else self.vec.b.add(self.at, offset)
        return self.vec.element(base, at)

    def load(self, base: Any, offset: Any = None) -> Number:
        """Load this vector of the row that begins `offset` elements after `base`."""
        return Number(self.vec.b, self.vec.load(self._place(base, offset), self.mask))

    def store(self, value: Number, base: Any, offset: Any = None) -> None:
        """Store this vector of the row that begins `offset` elements after `base`."""
        self.vec.store(value.value, self._place(base, offset), self.mask)


def block_offsets(builder: Any, stride: Any, gates: int = 4) -> list[Any]:
    """Offsets of the gates' blocks."""
    return [builder.mul(I64(gate), stride) for gate in range(gates)]
