"""Those who do the same work in another way, and ourselves, behind one small protocol.

A rival is a module with

``NEEDS``       what must be importable
``WORKS``       the works it can do
``VERSIONS``    the packages whose versions matter
``make(work, ids, threads)``   an object whose ``run(count)`` goes on by `count` iterations, and returns the loss of the
                last (summed over the batch), or the last id that it sampled

and, where packages are not all that it needs, ``missing()`` and ``versions()``. It begins with the weights, the ids and
the order of `work` (charlstm.measure.bench), and computes the same losses: tests/test_rivals.py holds it to that.
``python -m benchmarks.rivals NAME WORK`` runs one in a process of its own; benchmarks/process.py is the other end of
the line.
"""

from importlib import import_module
from importlib.util import find_spec

NAMES = ("ours", "numpy_loop", "pytorch", "pytorch_usual", "jax", "plain_c")
_MODULES = {"jax": "jax_scan"}


def module(name):
    return import_module(f"benchmarks.rivals.{_MODULES.get(name, name)}")


def missing(name):
    """Why rival `name` cannot run here, in words; None where it can. Loads none of its packages."""
    rival = module(name)
    absent = [package for package in rival.NEEDS if find_spec(package) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    return rival.missing() if hasattr(rival, "missing") else None
