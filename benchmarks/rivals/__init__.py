"""The rivals: other implementations of the same work, and ours, all behind one small protocol.

A rival is a module with

``NEEDS``       the packages that must be importable
``WORKS``       the works that it can run
``VERSIONS``    the packages whose versions the results record
``make(work, ids, threads)``   an object whose ``run(count)`` makes the next `count` iterations and returns the last
loss, summed over the batch, or the last id that it sampled

and, if it needs more than packages, ``missing()`` and ``versions()``. `make` and the first ``run`` raise CannotRun for
a work that it cannot run here; the results then give its reason. A rival starts with the weights, ids and order of
`work` (charlstm.measure.bench) and computes the same losses, which tests/test_rivals.py checks. ``python -m
benchmarks.rivals NAME WORK`` runs one in a process of its own; benchmarks/process.py is its parent.
"""

from importlib import import_module
from importlib.util import find_spec

NAMES = ("ours", "numpy_loop", "pytorch", "pytorch_bf16", "pytorch_usual", "jax", "plain_c")
WITH_THREADS = ("pytorch", "pytorch_bf16", "jax")  # which can use several threads
_MODULES = {"jax": "jax_scan"}


class CannotRun(Exception):
    """A contestant cannot run a work on this machine; the message is the reason."""


def module(name):
    return import_module(f"benchmarks.rivals.{_MODULES.get(name, name)}")


def missing(name):
    """Return the reason why rival `name` cannot run here, or None if it can; load none of its packages."""
    rival = module(name)
    absent = [package for package in rival.NEEDS if find_spec(package) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    return rival.missing() if hasattr(rival, "missing") else None
