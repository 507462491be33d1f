"""Flushes denormal numbers to zero while kernels run, on x86.

The Adam and RMSprop state of a parameter whose gradient stays zero (a rare character's row of W_x) keeps decaying:
after some hundred iterations it is denormal, and each operation on it takes x86 processors a hundred times longer. This
cost training a quarter of its speed. Results below 1.2e-38 (float32) or 2.3e-308 (float64) become zero.

On other processors nothing changes; ARM handles denormals at full speed.
"""

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64")
_FLUSH = 0x8040  # results to zero (bit 15), operands as zero (bit 6)


def _control(builder, name, place):
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(place, ir.IntType(8).as_pointer())])


@intrinsic
def flush_denormals(typing):
    """Flush denormals to zero from here on, in this thread; return the previous setting, for :func:`restore`."""

    def emit(context, builder, signature, arguments):
        if not _HAS_MXCSR:
            return ir.IntType(32)(0)
        place = builder.alloca(ir.IntType(32))
        _control(builder, "llvm.x86.sse.stmxcsr", place)
        before = builder.load(place)
        builder.store(builder.or_(before, ir.IntType(32)(_FLUSH)), place)
        _control(builder, "llvm.x86.sse.ldmxcsr", place)
        return before

    return types.int32(), emit


@intrinsic
def restore(typing, setting):
    """Restore the setting that :func:`flush_denormals` returned."""

    def emit(context, builder, signature, arguments):
        if _HAS_MXCSR:
            place = builder.alloca(ir.IntType(32))
            builder.store(arguments[0], place)
            _control(builder, "llvm.x86.sse.ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.int32), emit
