"""Matrix products of bfloat16 by AMX, the tile registers of Intel processors since Sapphire Rapids.

A tile register holds up to 16 rows of 64 bytes. One instruction adds the product of a tile of 16 rows x 32 numbers and
a tile of 16 pairs of rows x 16 columns to a tile of 16 x 16 float32 sums, in the time that a core needs for 32
multiplications of vectors. A block of 2 x 2 tiles of sums needs two tiles of each operand at a time: all eight.

The processor adds in this way: from each 32 products of a sum, it adds those of even positions one after the other to
zero, those of odd positions too, each addition rounded once; then both sums to each other, and that to the tile.
Denormal numbers count as zero.

Linux gives a process these registers only on request.
"""

import ctypes
import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.emit.processor import has
from kernels.cpu.emit.vectors import I64, loop

_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


def _is_granted() -> bool:
    """Ask the system for the use of tile registers; it refuses where it does not know them."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0


#: Whether products of bfloat16 use these registers.
IS_AMX = has("amx-bf16") and has("amx-tile") and has("avx512f") and _is_granted()

_I8, _I32 = ir.IntType(8), ir.IntType(32)
_PLACE, _NOTHING = _I8.as_pointer(), ir.VoidType()
_SUMS, _ROWS, _COLUMNS = 0, 4, 6  # first tile of the sums, of the left operand, of the right one


def _call(builder: Any, name: str, *arguments: Any) -> None:
    kind = ir.FunctionType(_NOTHING, [argument.type for argument in arguments])
    function = builder.module.globals.get(f"llvm.x86.{name}") or ir.Function(builder.module, kind, f"llvm.x86.{name}")
    builder.call(function, arguments)


@intrinsic
def configure(typing, rows0, rows1, columns0, columns1):
    """Set the sizes of the tiles of a block: rows of its two rows of tiles, columns of its two columns; 0 for none."""

    def emit(context, builder, signature, arguments):
        place = cgutils.alloca_once(builder, ir.ArrayType(I64, 8))
        builder.store(ir.Constant(place.type.pointee, [1] + [0] * 7), place)  # palette 1
        rows, columns = arguments[:2], arguments[2:]
        # register: rows of the tile, bytes of a row
        sizes = {_SUMS + 2 * r + c: (rows[r], builder.mul(columns[c], I64(4))) for r in range(2) for c in range(2)}
        sizes |= {_ROWS + r: (rows[r], I64(64)) for r in range(2)}
        sizes |= {_COLUMNS + c: (I64(16), builder.mul(columns[c], I64(4))) for c in range(2)}
        first = builder.bitcast(place, _PLACE)
        for tile, (height, width) in sizes.items():
            at = builder.bitcast(builder.gep(first, [I64(16 + 2 * tile)]), ir.IntType(16).as_pointer())
            exists = builder.and_(builder.icmp_signed(">", height, I64(0)), builder.icmp_signed(">", width, I64(0)))
            builder.store(builder.trunc(builder.select(exists, width, I64(0)), ir.IntType(16)), at)
            kept = builder.select(exists, height, I64(0))
            builder.store(builder.trunc(kept, _I8), builder.gep(first, [I64(48 + tile)]))
        _call(builder, "ldtilecfg", first)
        return context.get_dummy_value()

    number = types.intp
    return types.void(number, number, number, number), emit


@intrinsic
def release(typing):
    """Give the tile registers back, so that switching to another thread need not save them."""

    def emit(context, builder, signature, arguments):
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), emit


def amx_block(row_tiles: int, column_tiles: int) -> Any:
    """``block(a, a_row, rows0, w, w_row, out, out_row, K)``: out += a @ w for a block of 1 or 2 tiles each way.

    a has rows of bfloat16, w row pairs of words; a_row, w_row and out_row are in bytes. The second row of tiles begins
    rows0 rows below the first. K, the number of numbers that are contracted, is a multiple of 32.
    """

    @intrinsic
    def block(typing, a, a_row, rows0, w, w_row, out, out_row, K):
        def emit(context, builder, signature, arguments):
            a, a_row, rows0, w, w_row, out, out_row, K = arguments
            at = lambda place: builder.inttoptr(place, _PLACE)  # noqa: E731
            below = lambda r, row: builder.mul(rows0, row) if r else I64(0)  # noqa: E731
            tiles = [(r, c) for r in range(row_tiles) for c in range(column_tiles)]
            places = [at(builder.add(out, builder.add(below(r, out_row), I64(64 * c)))) for r, c in tiles]
            for (r, c), place in zip(tiles, places, strict=True):
                _call(builder, "tileloadd64", _I8(_SUMS + 2 * r + c), place, out_row)

            def step(k, _):
                left = builder.add(a, builder.mul(k, I64(64)))
                right = builder.add(w, builder.mul(k, builder.mul(w_row, I64(16))))
                for r in range(row_tiles):
                    _call(builder, "tileloadd64", _I8(_ROWS + r), at(builder.add(left, below(r, a_row))), a_row)
                    for c in range(column_tiles):
                        if r == 0:
                            place = at(builder.add(right, I64(64 * c)))
                            _call(builder, "tileloadd64", _I8(_COLUMNS + c), place, w_row)
                        _call(builder, "tdpbf16ps", _I8(_SUMS + 2 * r + c), _I8(_ROWS + r), _I8(_COLUMNS + c))
                return []

            loop(builder, builder.sdiv(K, I64(32)), [], step)
            for (r, c), place in zip(tiles, places, strict=True):
                _call(builder, "tilestored64", _I8(_SUMS + 2 * r + c), place, out_row)
            return context.get_dummy_value()

        place, number = types.uintp, types.intp
        return types.void(place, number, number, place, number, place, number, number), emit

    return block
