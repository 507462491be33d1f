"""A backend's optimizer ops, made from the table and one function of that backend that computes the update."""

from collections.abc import Callable
from typing import Any

from kernels.spec import checks
from kernels.spec.arguments import HOST, Family
from kernels.spec.optimizers import OPTIMIZERS, documentation, signature
from kernels.spec.types import Floats


def optimizer_ops(
    module: str, update: Callable[[Any, Any, Any, checks.Update], None], family: Family = HOST
) -> dict[str, Callable[..., None]]:
    """Return the op of each optimizer by name; each checks its arguments, then calls `update`.

    ``update(theta, grad, state, given)`` writes theta and state; `given` are the checked numbers. `module` is the name
    of the module that the ops will belong to.
    """
    return {name: _op(name, module, update, family) for name in OPTIMIZERS}


def _op(name: str, module: str, update: Callable[..., None], family: Family) -> Callable[..., None]:
    defaults = OPTIMIZERS[name].hyper

    def op(
        theta: Any, grad: Any, state: Any, step: Any, *, learning_rate: Any, grad_clip: Any = None, **hyper: Any
    ) -> None:
        if not hyper.keys() <= defaults.keys():
            unknown = next(key for key in hyper if key not in defaults)
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown!r}")
        values = {**defaults, **hyper}
        update(
            theta, grad, state,
            checks.optimizer(name, theta, grad, state, step, learning_rate, grad_clip, values, family),
        )  # fmt: skip

    op.__name__ = op.__qualname__ = name
    op.__module__, op.__doc__ = module, documentation(name)
    whole = signature(name, Floats)
    op.__signature__ = whole  # type: ignore[attr-defined]
    op.__annotations__ = {each.name: each.annotation for each in whole.parameters.values()} | {"return": None}
    return op
