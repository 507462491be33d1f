"""The kernels' public interface for type checkers, editors and readers: a Protocol of all ops, dir(), the version."""

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest
from conftest import ROOT
from device import fake_cupy

import kernels
from kernels import reference, spec
from kernels.protocol import Ops

PROGRAM = """
import numpy as np
import kernels
from kernels.spec import Shape, num_parameters

ops = kernels.load("numpy")
shape = Shape(5, 8)
theta, h, c = np.zeros(num_parameters(shape)), np.zeros((1, 2, 8)), np.zeros((1, 2, 8))
x = np.zeros((4, 2), np.int32)
loss, grad, h, c = ops.loss_and_grad(theta, h, c, x, shape=shape)
ops.{op}(theta, grad, np.zeros((2, len(theta))), 0, learning_rate={rate})
h_all, c_all, cache = kernels.load_for_host("numpy").lstm_forward(
    x, h[0], c[0], np.zeros((5, 32)), np.zeros((8, 32)), np.zeros(32)
)
print(loss + 1, cache.gates.shape, kernels.{version}[:1])
"""
GRADS = {"Cache": spec.Cache, "Grads": spec.Grads, "Shape": spec.Shape, "Workspace": spec.Workspace}
TYPES = GRADS | {"Array": spec.Array, "Floats": spec.Floats, "Ids": spec.Ids, "Mixture": spec.Mixture}


def checked(tmp_path, **words):
    """Return the errors that mypy finds in a user's program."""
    pytest.importorskip("mypy", reason="mypy is not installed: make lint")
    program = PROGRAM.format(**{"op": "adam", "rate": "0.1", "version": "__version__"} | words)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--follow-imports=silent", "-c", program,
         f"--cache-dir={tmp_path / 'cache'}"],
        cwd=tmp_path, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition("error: ")[2] for line in done.stdout.splitlines() if "error: " in line]


def test_a_type_checker_knows_the_ops_in_a_program_of_the_users(tmp_path):
    assert checked(tmp_path) == []
    (misspelt,) = checked(tmp_path, op="adma")
    assert misspelt.startswith('"Ops" has no attribute "adma"')
    (wrong,) = checked(tmp_path, rate="'0.1'")
    assert wrong.startswith('Argument "learning_rate" to "adam" of "Ops" has incompatible type "str"')
    (unknown,) = checked(tmp_path, version="__versoin__")
    assert unknown.startswith('Module has no attribute "__versoin__"')


def described(op, **how):
    """Return a signature without self."""
    whole = inspect.signature(op, **how)
    return whole.replace(parameters=[each for each in whole.parameters.values() if each.name != "self"])


def bare(signature):
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=signature.empty)


def test_the_protocol_has_the_signature_and_the_types_of_every_op():
    ops = {name: op for name, op in vars(Ops).items() if inspect.isfunction(op) and not name.startswith("_")}
    assert sorted(ops) == sorted([*spec.OPS, "workspace"])
    assert str(bare(described(ops.pop("workspace")))) == str(bare(described(spec.workspace)))
    for name, op in ops.items():
        typed = described(op, eval_str=True, locals=TYPES)
        assert str(bare(typed)) == spec.OPS[name], name
        assert typed == described(getattr(reference, name)), name


@pytest.mark.parametrize("backend", kernels.BACKENDS)
def test_every_backend_keeps_the_protocol_and_shows_whole_ops_alone(backend):
    """This includes the GPU backend: without a GPU, a stand-in for CuPy loads it."""
    if kernels.missing(backend):
        modules = [kernels._documented(fake_cupy.load(f"kernels.gpu.{name}")) for name in ("ops", "host")]
    else:
        modules = [kernels.load(backend), kernels.load_for_host(backend)]
    for ops in modules:
        assert dir(ops) == sorted([*spec.OPS, "workspace"])
        assert bare(described(ops.workspace)) == bare(described(Ops.workspace))
        for name in spec.OPS:
            assert bare(described(getattr(ops, name))) == bare(described(getattr(Ops, name))), name
            assert inspect.getdoc(getattr(ops, name)).startswith(inspect.getdoc(getattr(reference, name))), name


def test_the_version(monkeypatch):
    from importlib import metadata

    assert kernels.__version__ == version("charlstm")
    with pytest.raises(AttributeError, match="module 'kernels' has no attribute 'lod'"):
        kernels.lod  # noqa: B018

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert kernels.__version__ == "0+unknown"
