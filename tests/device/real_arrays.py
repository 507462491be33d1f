"""CuPy's own arrays, with the host's memory in place of a GPU's: their views, orders, flags and addresses are CuPy's.

NumPy does what CuPy would do on a GPU: copies, assignments, reductions and comparisons. Anything else that needs a GPU
raises CuPy's error. This needs CuPy (extra gpu-test) and no driver. With CHARLSTM_TEST_ARRAYS=cupy in the environment,
fake_cupy.py takes these arrays instead of its own.
"""

import ctypes
import operator

import cupy
import numpy as np


class Array(cupy.ndarray):
    """An array of CuPy over memory of the host."""

    is_on_device = True

    def on_host(self):
        """Return NumPy's view of the same memory."""
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        assert min(self.strides, default=0) >= 0, "CuPy's views go forward here"
        length = self.dtype.itemsize + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        memory = (ctypes.c_char * length).from_address(self.data.ptr)
        return np.ndarray(self.shape, self.dtype, memory, strides=self.strides)

    def __setitem__(self, key, value):
        if type(value) is np.ndarray and value.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        self[key].on_host()[...] = value.on_host() if isinstance(value, Array) else value

    def get(self, stream=None, order="C", out=None, blocking=True):
        return np.array(self.on_host(), order=order)

    def copy(self, order="C"):
        return over(np.array(self.on_host(), order=order))

    def fill(self, value):
        self.on_host()[...] = value

    def min(self, axis=None, out=None, keepdims=False):
        return over(np.asarray(self.on_host().min()))

    def max(self, axis=None, out=None, keepdims=False):
        return over(np.asarray(self.on_host().max()))


def _comparison(name):
    compare = getattr(operator, name)
    return lambda self, other: over(np.asarray(compare(self.on_host(), other)))


for _name in ("lt", "le", "gt", "ge"):
    setattr(Array, f"__{_name}__", _comparison(_name))


def over(array):
    """Return an array of CuPy over the memory of a NumPy array, which it keeps."""
    memory = cupy.cuda.UnownedMemory(array.ctypes.data, max(1, array.nbytes), array, 0)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return Array(array.shape, array.dtype, pointer, strides=array.strides)


def asarray(array, dtype=None):
    if isinstance(array, Array) and dtype in (None, array.dtype):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        told = array.__cuda_array_interface__
        real, count = np.dtype(told["typestr"]), int(np.prod(told["shape"]))
        memory = (ctypes.c_char * (count * real.itemsize)).from_address(told["data"][0])
        return over(np.frombuffer(memory, real).reshape(told["shape"]))
    return over(np.array(array, dtype, order="K"))  # as CuPy, which keeps the order of columns, too


def empty(shape, dtype=float):
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = 0xFF  # NaN for floats
    return over(array)


def empty_like(prototype):
    return empty(prototype.shape, prototype.dtype)


def zeros(shape, dtype=float):
    return over(np.zeros(shape, dtype))
