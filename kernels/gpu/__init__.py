"""Every op on an NVIDIA GPU through CuPy, float32 and float64; :mod:`kernels.reference` documents and tests them.

The .cu files contain CUDA C++; launch.py compiles and launches it, matmul.py calls cuBLAS. layers.py runs one layer,
persistent.py all steps of a layer in one launch of several blocks, model.py a whole model, small.py the training of a
small model in one block (block.py has its layout). presence.py reports what is missing on this machine, and choice.py
predicts, from the figures in measured.py, whether a GPU is faster. ops.py has the public ops for arrays on the GPU,
host.py the same ops for NumPy arrays.

Only this folder uses CuPy. docs/gpu.md describes the design and how it is tested.
"""
