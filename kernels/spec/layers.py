"""Types, signatures and array descriptions of each layer's ops, derived from its row of CELLS."""

from collections import namedtuple
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from kernels.spec.cells import CELLS, Cell


class Cache(tuple[Any, ...]):
    """For annotations: the named tuple that a forward op returns for its backward op; any backend takes any other's.

    It holds the arrays themselves, not copies: x, h (T+1, B, H), c and gates if the cell has them, W_x, W_h, ...; and
    lengths and reverse, as they were given.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Grads(tuple[Any, ...]):
    """For annotations: the named tuple of the gradients of a loss with respect to the arguments of a forward op.

    Its fields are dx (T, B, D), None for ids; dh0 (B, H), dc0 if the cell has it, dW_x, dW_h, ...
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


#: The ops of a layer: ``lstm_forward``, ``lstm_backward``, ``lstm_step`` and so on.
WAYS = ("forward", "backward", "step")


class Layer(NamedTuple):
    """Everything about a layer that follows from its row of CELLS."""

    row: Cell
    params: Any  # type of W_x, W_h and the vectors
    cache: Any  # type, see Cache
    grads: Any  # type, see Grads
    states: tuple[str, ...]  # h, and c if the cell has it
    made: tuple[str, ...]  # arrays that a forward op writes: the states, and gates if any are kept
    signatures: tuple[str, str, str]  # of the ops in WAYS
    arrays: tuple[dict[str, str], dict[str, str], dict[str, str]]  # of these ops, as in kernels.spec.arguments
    gates: str  # dimensions of the kept gates, in that notation; "" if none are kept
    dz: str  # dimensions of dz


def _type(name: str, fields: Iterable[str], what: str, defaults: tuple[Any, ...] = ()) -> Callable[..., Any]:
    made = namedtuple(name, fields, module="kernels.spec", defaults=defaults)  # type: ignore[misc]
    made.__doc__ = what
    return made


def _planes(count: int, columns: str, rows: str = "T B") -> str:
    return f"{count} {rows} {columns}" if count > 1 else f"{rows} {columns}"


def _layer(cell: str, row: Cell) -> Layer:
    title, columns = cell.upper(), f"{row.gates}H" if row.gates > 1 else "H"
    states, kept = ("h", "c") if row.has_c else ("h",), ("gates",) if row.kept else ()
    gates, dz = _planes(row.kept, columns) if row.kept else "", _planes(row.planes, columns)
    weights = {"W_x": f"D {columns}", "W_h": f"H {columns}"}
    vectors = {name: f"{vector.width}H" if vector.width > 1 else "H" for name, vector in row.vectors.items()}
    cached = {"x": "", **dict.fromkeys(states, "T+1 B H"), **dict.fromkeys(kept, gates), **weights}
    cached |= {name: vectors[name] for name, vector in row.vectors.items() if vector.is_in_cache}
    given = [*(f"{state}0" for state in states), *weights, *vectors]
    x, last = "ids<D T B | float T B D", [f"d{state}_last" for state in states]
    forward = {f"{state}0": "float B H" for state in states}
    forward |= {
        name: f"float {words}" for name, words in {"W_h": weights["W_h"], "W_x": weights["W_x"], **vectors}.items()
    }
    step = dict.fromkeys(states, "float B H") | {name: forward[name] for name in ("W_h", "W_x", *vectors)}
    step["x"] = "ids<D B | float B D"
    step |= {f"out.{state}" if states + kept != ("h",) else "out": f"out float B H, optional, may hold {state}"
             for state in states}  # fmt: skip
    step |= {"out.gates": f"out float {_planes(row.kept, columns, 'B')}, optional"} if row.kept else {}
    forward["x"] = x
    forward["lengths"] = "int64 B, optional"
    made = {f"out.{state}" if states + kept != ("h",) else "out": f"out float T+1 B H, optional, may hold {state}0"
            for state in states}  # fmt: skip
    forward |= made | ({"out.gates": f"out float {gates}, optional"} if kept else {})
    backward = {"dh": "float T B H"}
    backward |= {f"cache.{name}": f"float {cached[name]}" for name in cached if name != "x"} | {"cache.x": x}
    backward["cache.lengths"] = "int64 B, optional"
    backward |= dict.fromkeys(last, "float B H, optional") | {"dz": f"out float {dz}, optional"}
    backward |= {"out.dx": "out float T B D, optional"}
    backward |= {f"out.d{state}0": f"out float B H, optional, may hold d{state}_last" for state in states}
    backward |= {f"out.d{name}": f"out float {words}, optional" for name, words in {**weights, **vectors}.items()}
    return Layer(
        row,
        _type("LayerParams" if cell == "lstm" else f"{title}LayerParams", (*weights, *vectors),
              f"Views of the parameters (or gradients) of one layer: {', '.join((*weights, *vectors))}."),
        _type(f"{title}Cache", [*cached, "lengths", "reverse"],
              f"What `{cell}_forward` returns for `{cell}_backward`: {', '.join(cached)}, lengths, reverse.",
              (None, False)),
        _type(f"{title}Grads", ["dx", *(f"d{name}" for name in given)],
              f"Gradients of the loss with respect to the arguments of `{cell}_forward`; dx is None for ids."),
        states,
        (*states, *kept),
        (f"(x, {', '.join(given)}, *, lengths=None, reverse=False, threads=1, out=None)",
         f"(dh, cache, {', '.join(f'{name}=None' for name in last)}, *, threads=1, out=None, dz=None)",
         f"(x, {', '.join((*states, *weights, *vectors))}, *, out=None)"),
        (forward, backward, step),
        gates,
        dz,
    )  # fmt: skip


#: The layers by kind of cell.
LAYERS = {cell: _layer(cell, row) for cell, row in CELLS.items()}

#: The types of all layers, by name: LSTMCache, GRUGrads, LayerParams, ...
TYPES = {made.__name__: made for layer in LAYERS.values() for made in (layer.params, layer.cache, layer.grads)}
