"""Layout of the thread block of small.cu: threads, registers, shared memory. Needs no CuPy."""

from typing import Any, NamedTuple

from kernels import spec

#: Largest number of a thread's 128 registers, of 32 bits each, that the recurrent matrix may use.
REGISTERS = 98
_DZ, _FACTORS, _READOUT = 1, 2, 4  # bits of SHARED in small.cu: arrays that may be in shared memory


class Sizes(NamedTuple):
    """Layout of a block for H hidden units."""

    warps: int
    rows: int  # rows of W_h per warp
    columns: int  # columns of W_h per lane


def sizes(H: int) -> Sizes:
    """The layout for H hidden units: fewer warps for fewer units, as barriers and partial sums cost per warp."""
    warps = 4 if H <= 28 else 8 if H <= 56 else 16
    return Sizes(warps, -(-H // warps), -(-4 * H // 32))


def in_registers(H: int, itemsize: int) -> bool:
    """Whether the recurrent matrix of H hidden units fits in the registers of a block."""
    _, rows, columns = sizes(H)
    return rows * columns * itemsize // 4 <= REGISTERS


class Memory(NamedTuple):
    """Shared memory of a block of small.cu."""

    size: int  # bytes
    shared: int  # bits of the arrays that fit: _DZ, _FACTORS, _READOUT
    scratch: int  # numbers that do not fit and go to global memory


def memory(H: int, T: int, V: int, itemsize: int, most: int) -> Memory | None:
    """The shared memory of small.cu, at most `most` bytes; None if they are too few."""
    warps, rows, columns = sizes(H)
    used = (T + 2) * warps * rows + max(warps * 32 * columns, T * (-(-V // 4) * 4 + H)) + 2 * H + 3 * T + 1
    room, shared, scratch = most // itemsize - 64, 0, 0  # the kernel has a static shared variable, too
    if used > room:
        return None
    for what, length in ((_DZ, T * 32 * columns), (_FACTORS, 2 * T * H), (_READOUT, H * (V | 1))):
        if used + length <= room:
            used, shared = used + length, shared | what
        elif what != _READOUT:  # W_y then stays in theta
            scratch += length
    return Memory(used * itemsize, shared, scratch)


def rule_defines(optimizer: str) -> dict[str, Any]:
    """Compile-time constants of an update: the optimizer and its properties."""
    row = spec.OPTIMIZERS[optimizer]
    return {"RULE": optimizer, "SLOTS": row.slots, "SKIPS_ZEROS": int(row.skips_zeros)}


def defines(H: int, T: int, V: int, optimizer: str, shared: int) -> dict[str, Any]:
    """Compile-time constants of small.cu."""
    known = {"HIDDEN": H, "STEPS": T, "IDS": V, "WARPS": sizes(H).warps, "SHARED": shared}
    return {**known, **rule_defines(optimizer), "SMOOTHING": spec.SMOOTHING}
