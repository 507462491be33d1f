"""Emulation of a GPU, for testing kernels/gpu without one.

cuda.h compiles a .cu file for the CPU, and emulator.py builds and launches it. On top of that, fake_cupy.py provides
the part of CuPy that kernels/gpu uses and enforces CuPy's rules; real_arrays.py has CuPy's own arrays instead of its
arrays. nvrtc.py calls the real compiler, which needs no GPU, ptx.py runs its output, sass.py reads what a GPU would
execute, and thread.py counts it. sanitized.py runs a few works in their own process, for sanitizers.
"""
