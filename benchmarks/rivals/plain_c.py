"""Plain C: compiles plain_c.c with the system's compiler at full optimisation and runs it.

CFLAGS come after our own flags: -march=haswell there makes a rival with AVX2 alone.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from kernels import spec

NEEDS = ()
WORKS = ("seed",)
VERSIONS = ()
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-math-errno", "-std=gnu11", "-shared", "-fPIC")


def compiler():
    """Return the command of the C compiler as a list, or None if there is no compiler."""
    for command in (os.environ.get("CC"), "gcc", "cc", "clang"):
        if command and shutil.which(shlex.split(command)[0]):
            return shlex.split(command)
    return None


def missing():
    return None if compiler() else "no C compiler"


def versions():
    said = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    return {"C compiler": said.splitlines()[0]}


def make(work, ids, threads):
    return PlainC(work, ids)


def compiled(work, folder):
    V, H = work.shape[:2]
    sizes = [f"-DV={V}", f"-DH={H}", f"-DT={work.seq_length}"]
    source, library = Path(__file__).with_suffix(".c"), Path(folder) / "plain_c.so"
    flags = [*FLAGS, *shlex.split(os.environ.get("CFLAGS", "")), *sizes]
    subprocess.run([*compiler(), *flags, str(source), "-o", str(library), "-lm"], check=True)
    function = ctypes.CDLL(str(library)).train
    function.restype = ctypes.c_double
    function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_long] * 3 + [ctypes.c_float] * 3
    return function


class PlainC:
    def __init__(self, work, ids):
        with tempfile.TemporaryDirectory() as folder:
            self.train = compiled(work, folder)
        self.weights = work.weights("float32")  # the C structure has the blocks in our order
        self.memory = spec.aligned_zeros(len(self.weights), "float32")
        self.h, self.c = np.zeros((2, work.shape.hidden_size), np.float32)
        self.ids, self.work, self.iteration = ids, work, 0
        self.per_pass = work.plan(len(ids)).iterations_per_pass

    def run(self, count):
        work, epsilon = self.work, spec.hyper_values("adagrad", self.work.hyper)["epsilon"]
        arrays = (array.ctypes.data for array in (self.weights, self.memory, self.h, self.c, self.ids))
        constants = (work.learning_rate, work.grad_clip, epsilon)
        loss = self.train(*arrays, self.per_pass, self.iteration, count, *constants)
        self.iteration += count
        return loss
