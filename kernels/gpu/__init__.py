"""Every op on an NVIDIA GPU through CuPy, float32 and float64; :mod:`kernels.reference` documents and judges them.

CUDA C++ is in the .cu files, launch.py compiles and launches it, matmul.py calls cuBLAS; layers.py has one layer,
persistent.py its steps in one launch of several blocks, model.py a whole one, small.py training of a small model in one
block (block.py its layout); presence.py says what is missing on this machine; ops.py is the door (arrays in and out are
on the device), host.py the same door for NumPy arrays.

Only this folder names CuPy. How it works and what is proven of it: docs/gpu.md.
"""
