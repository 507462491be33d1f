"""Emulation of a GPU, for testing kernels/gpu without one.

cuda.h compiles a .cu file for the CPU, emulator.py builds and launches it, fake_cupy.py is the part of CuPy that
kernels/gpu uses, on top of it and with CuPy's rules enforced. nvrtc.py is the real compiler, which needs no GPU, and
ptx.py runs its output. sanitized.py runs a few works in a process of their own, for sanitizers.
"""
