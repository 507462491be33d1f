"""A device to test kernels/gpu with where there is none.

cuda.h compiles a .cu file for the processor, emulator.py builds and launches it, fake_cupy.py is as much of CuPy as
kernels/gpu uses, with that underneath and CuPy's rules enforced. nvrtc.py is the real compiler, which needs no device,
and ptx.py runs what it makes. sanitized.py does a few works in a process of its own, for sanitizers.
"""
