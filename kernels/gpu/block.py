"""How the block of small.cu is laid out: threads, registers, shared memory. Needs no CuPy."""

from typing import Any, NamedTuple

from kernels import spec

#: Most registers that the recurrent matrix may take of a thread's 128, of 32 bits each.
REGISTERS = 98
_GATES, _CELLS, _READOUT = 1, 2, 4  # what small.cu may have in shared memory


class Sizes(NamedTuple):
    """How a block is laid out for H hidden units."""

    warps: int
    rows: int  # of W_h, to a warp
    columns: int  # of W_h, to a lane


def sizes(H: int) -> Sizes:
    """Few warps for few units: barriers and partial sums cost by the warp."""
    warps = 4 if H <= 28 else 8 if H <= 56 else 16
    return Sizes(warps, -(-H // warps), -(-4 * H // 32))


def in_registers(H: int, itemsize: int) -> bool:
    """Whether the recurrent matrix of H hidden units fits in the registers of a block."""
    _, rows, columns = sizes(H)
    return rows * columns * itemsize // 4 <= REGISTERS


class Memory(NamedTuple):
    """Shared memory, in bytes, what of it is not always there, and numbers that have to lie elsewhere."""

    size: int
    shared: int
    scratch: int


def memory(H: int, T: int, V: int, itemsize: int, most: int) -> Memory | None:
    """What small.cu needs and puts into at most that many bytes; None where they are too few."""
    warps, rows, columns = sizes(H)
    used = (T + 2) * warps * rows + max(warps * 32 * columns, T * (V + H)) + 2 * T + 1
    room, shared, scratch = most // itemsize - 64, 0, 0  # it has a number of its own beside them
    if used > room:
        return None
    for what, length in ((_GATES, T * 32 * columns), (_CELLS, (T + 1) * H), (_READOUT, H * (V | 1))):
        if used + length <= room:
            used, shared = used + length, shared | what
        elif what != _READOUT:  # which then stays where it is
            scratch += length
    return Memory(used * itemsize, shared, scratch)


def rule_defines(optimizer: str) -> dict[str, Any]:
    """What an update is to know of the optimizer at compile time."""
    row = spec.OPTIMIZERS[optimizer]
    return {"RULE": optimizer, "SLOTS": row.slots, "SKIPS_ZEROS": int(row.skips_zeros)}


def defines(H: int, T: int, V: int, optimizer: str, shared: int) -> dict[str, Any]:
    """What small.cu is to know at compile time."""
    known = {"HIDDEN": H, "STEPS": T, "IDS": V, "WARPS": sizes(H).warps, "SHARED": shared}
    return {**known, **rule_defines(optimizer), "SMOOTHING": spec.SMOOTHING}
