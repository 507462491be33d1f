"""Descriptions and checks of arguments, shared by all backends. Checks run in Python, before a kernel starts.

Kernels themselves check nothing. A line such as ``"out float T+1 B H, may hold h0"`` describes an array:

- ``out``: the op writes it, so it must be writeable and overlap no other array of the call.
- A kind: ``float`` (float32 or float64, one of them per call), ``double`` (float64), ``ids`` (int32), ``text`` (uint8,
  uint16 or uint32), ``mask`` (uint8), ``int64``, ``bool``. ``ids<V`` asks for ids in [0, V).
- Its dimensions: a letter stands for the same size everywhere in a call; a number in front multiplies it.
- ``may hold NAME``: the named array may be a part of this one, because the op copies it before it writes.
- ``optional``: None is accepted. ``or a number``: a number is accepted, and stands for all elements.
- ``|`` separates two forms with different numbers of dimensions.

One row of :data:`VALUES` describes a number, for every op that takes it.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kernels.shared import WrongType

_DTYPES = {
    "float": ("float32", "float64"),
    "double": ("float64",),
    "ids": ("int32",),
    "text": ("uint8", "uint16", "uint32"),
    "mask": ("uint8",),
    "int64": ("int64",),
    "bool": ("bool",),
}
_KINDS = {kind: tuple(map(np.dtype, names)) for kind, names in _DTYPES.items()}
_COUNTS = {"K", "S", "M"}  # sizes that may be zero: iterations, optimizer slots, characters of a text


# ------------------------------------------------------------------------------------------------------------- arrays
def _host_span(array: Any) -> tuple[int, int]:
    begin = array.__array_interface__["data"][0]
    return begin, begin + array.nbytes


class Family(NamedTuple):
    """A kind of memory (host or GPU): the array types that live there, and functions that inspect and copy them."""

    types: tuple[type, ...]
    name: str  # the words of an error message: "expected ..."
    span: Callable[[Any], tuple[int, int]]  # addresses of the array's first byte and of the byte after its last
    overlap: Callable[[Any, Any], bool]  # whether two arrays have a byte in common
    has_flags: bool  # whether an array's flags tell if it is writeable and aligned
    copied: Callable[[Any], Any]  # returns a C-contiguous copy in the same memory
    to_host: Callable[[Any], np.ndarray]
    empty: Callable[[Any], Any]  # returns an uninitialized float64 array
    way: str  # hint of an error message: how to convert another array to this family


#: NumPy arrays, plain or memory-mapped.
HOST = Family(
    (np.ndarray, np.memmap), "an array", _host_span, np.may_share_memory, True,
    lambda array: np.array(array, order="C", subok=False), lambda array: array, np.empty,
    "numpy.asarray({}) gives one",
)  # fmt: skip


class _Form(NamedTuple):
    """One of the forms (shape and dtypes) that an array may have."""

    words: tuple[str, ...]
    dims: tuple[tuple[str, int, int], ...]  # per dimension: letter ("" for none), factor, summand
    dtypes: tuple[np.dtype, ...]
    is_real: bool  # whether it must have the one floating dtype of the call
    limit: str  # letter of the size that ids must be below, or ""


class _Array(NamedTuple):
    """One array argument."""

    name: str
    pattern: str
    forms: dict[int, _Form]  # by number of dimensions
    is_written: bool
    is_optional: bool
    holds: str  # name of the array that may be a part of it, or ""


_WORD = re.compile(r"(\d*)([A-Z]?)(?:\+(\d))?")


def _form(text: str) -> _Form:
    kind, *words = text.split()
    kind, _, limit = kind.partition("<")
    dims = []
    for word in words:
        times, letter, plus = _WORD.fullmatch(word).groups()  # type: ignore[union-attr]
        dims.append((letter, int(times or 1), int(plus or 0)))
    return _Form(tuple(words), tuple(dims), _KINDS[kind], kind == "float", limit)


def _array(name: str, pattern: str) -> _Array:
    text, *notes = pattern.split(", ")
    is_written = text.startswith("out ")
    forms = [_form(each) for each in text.removeprefix("out ").split(" | ")]
    holds = [note.removeprefix("may hold ") for note in notes if note.startswith("may hold ")]
    by_ndim = {len(form.dims): form for form in forms}
    return _Array(
        name, pattern, by_ndim, is_written, bool({"optional", "or a number"} & set(notes)), holds[0] if holds else ""
    )


class _Seen(NamedTuple):
    """Result of checking one combination of types, shapes, dtypes and flags: all of them valid."""

    sizes: dict[str, int]
    ids: tuple[tuple[int, str], ...]  # indices of the arrays of ids, each with the letter of its limit
    same: tuple[tuple[int, int], ...]  # pairs that overlap only if they are one object, since both own their memory
    near: tuple[tuple[int, int, bool], ...]  # pairs that may overlap; whether the second may be a part of the first


class Arrays:
    """Descriptions, by name, of the arrays of one op; calling it checks the arrays of one call.

    Checks that depend only on types, shapes, dtypes and flags run once per combination of these and are cached.
    """

    MOST_SEEN = 256

    def __init__(self, patterns: dict[str, str]) -> None:
        self.arrays = tuple(_array(name, pattern) for name, pattern in patterns.items())
        self._seen: dict[Any, _Seen] = {}

    def __call__(self, given: tuple[Any, ...], family: Family = HOST, **sizes: int) -> dict[str, int]:
        """Check the arrays of one call, given in the order of their descriptions; `sizes` are the sizes known already.

        Returns
        -------
        dict
            All sizes, by letter; callers must not change it.

        Raises
        ------
        WrongType
            ``theta: expected an array, got list``.
        ValueError
            ``dh: expected (T, B, H) = (5, 2, 3), got (5, 2, 4)``; likewise for a wrong dtype or memory order, a
            read-only array, ids out of range and arrays that overlap.
        """
        seen = None
        if family.has_flags:
            try:
                key: Any = [a if a is None else (type(a), a.shape, a.dtype, a.flags.num) for a in given]
                key = (tuple(key), *sizes.values())
                seen = self._seen.get(key)
            except (AttributeError, TypeError):  # one of them is not an array; _look names it
                key = None
        if seen is None:
            seen = self._look(given, family, sizes)
            if family.has_flags:
                if len(self._seen) >= self.MOST_SEEN:
                    self._seen.clear()
                self._seen[key] = seen
        for k, limit in seen.ids:
            check_ids(self.arrays[k].name, given[k], seen.sizes[limit])
        if len(set(map(id, given))) < len(given):  # two are one object, or not given
            for k, n in seen.same:
                if given[k] is given[n]:
                    raise self._overlap(k, n)
        overlap = family.overlap
        for k, n, may_be_part in seen.near:
            if overlap(given[k], given[n]) and not (may_be_part and is_part(given[n], given[k], family)):
                raise self._overlap(k, n)
        return seen.sizes

    def _look(self, given: tuple[Any, ...], family: Family, sizes: dict[str, int]) -> _Seen:
        """Check everything that depends neither on the addresses of the arrays nor on their elements."""
        sizes = {**sizes, "": 1}
        real, ids = None, []
        for k, (array, value) in enumerate(zip(self.arrays, given, strict=True)):
            if value is None and array.is_optional:
                continue
            check_type(array.name, value, family)
            form = array.forms.get(len(value.shape))
            if form is None or not _fit(form.dims, value.shape, sizes):
                raise _wrong_shape(array, value.shape, sizes)
            dtypes = (real,) if form.is_real and real is not None else form.dtypes
            if value.dtype not in dtypes:
                raise ValueError(f"{array.name}: expected {' or '.join(map(str, dtypes))}, got {value.dtype}")
            real = value.dtype if form.is_real else real
            check_layout(array.name, value, array.is_written, family)
            if form.limit:
                ids.append((k, form.limit))
        same, near = [], []
        for k, array in enumerate(self.arrays):
            for n, other in enumerate(self.arrays):
                counts = array.is_written and n != k and not (other.is_written and n < k)
                if counts and given[k] is not None and given[n] is not None:
                    may_be_part = other.name == array.holds
                    if not (family.has_flags and given[k].flags.owndata and given[n].flags.owndata):
                        near.append((k, n, may_be_part))
                    elif not may_be_part:
                        same.append((k, n))
        return _Seen(sizes, tuple(ids), tuple(same), tuple(near))

    def _overlap(self, k: int, n: int) -> ValueError:
        name, other = self.arrays[k].name, self.arrays[n].name
        return ValueError(f"{name}: expected memory of its own, got an array that overlaps {other}")


def is_part(part: Any, whole: Any, family: Family = HOST) -> bool:
    """Whether `part`, which overlaps `whole`, is all of it or begins at a multiple of its own size within it."""
    return bool((family.span(part)[0] - family.span(whole)[0]) % part.nbytes == 0)


def _fit(dims: tuple[tuple[str, int, int], ...], shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape matches `dims`; adds the size of each letter that is seen for the first time to `sizes`."""
    for (letter, factor, extra), got in zip(dims, shape, strict=True):
        known = sizes.get(letter)
        if known is None:
            known, rest = divmod(got - extra, factor)
            if rest or known < (0 if letter in _COUNTS else 1):
                return False
            sizes[letter] = known
        elif known * factor + extra != got:
            return False
    return True


def _wrong_shape(array: _Array, got: tuple[int, ...], sizes: dict[str, int]) -> ValueError:
    """The error for a wrong shape: the expected shape in letters and, as far as they are known, in numbers."""
    expected = []
    for form in array.forms.values():
        known = [
            word if sizes.get(letter) is None else str(sizes[letter] * factor + extra)
            for word, (letter, factor, extra) in zip(form.words, form.dims, strict=True)
        ]
        words, values = _tuple_text(form.words), _tuple_text(known)
        expected.append(words if words == values else f"{words} = {values}")
    dims = array.forms[len(got)].dims if len(got) in array.forms else ()
    too_small = any(size <= extra for size, (_, _, extra) in zip(got, dims, strict=False))
    at_least = " with sizes of at least 1" if too_small else ""
    return ValueError(f"{array.name}: expected {' or '.join(expected)}{at_least}, got {got}")


def _tuple_text(words: Any) -> str:
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def check_type(name: str, value: Any, family: Family = HOST) -> None:
    """Refuse anything but an array of the family, also NumPy's subclasses, whose masks or units would be ignored.

    Raises
    ------
    WrongType
        ``theta: expected an array, got list`` and the like.
    """
    if type(value) in family.types or (isinstance(value, family.types) and not family.has_flags):
        return  # GPU arrays have no such subclasses
    hint = ""
    if isinstance(value, np.ma.MaskedArray):
        hint = f"; {name}.filled(...) gives one"
    elif isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        hint = f"; {family.way.format(name)}"
    package = type(value).__module__.partition(".")[0]
    kind = type(value).__qualname__ if package == "builtins" else f"{package}.{type(value).__qualname__}"
    raise WrongType(f"{name}: expected {family.name}, got {kind}{hint}")


def check_layout(name: str, value: Any, is_written: bool, family: Family = HOST) -> None:
    """Check that an array is C-contiguous, aligned and, if the op writes it, writeable.

    Raises
    ------
    ValueError
        ``theta: expected a writeable array, got a read-only one`` and the like.
    """
    flags = value.flags
    if not flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array, got strides {value.strides}")
    if not family.has_flags:
        return
    if is_written and not flags.writeable:
        raise ValueError(f"{name}: expected a writeable array, got a read-only one")
    if not flags.aligned:
        raise ValueError(f"{name}: expected an aligned array, got one that begins within an element")


def check_ids(name: str, ids: Any, size: int) -> None:
    """Check that ids (int32) lie in [0, size).

    Raises
    ------
    ValueError
        ``x: expected ids in [0, 71), got 71``.
    """
    if ids.view(np.uint32).max() >= size:  # a negative id is a large unsigned one
        lowest, highest = int(ids.min()), int(ids.max())
        raise ValueError(f"{name}: expected ids in [0, {size}), got {highest if highest >= size else lowest}")


def unpacked(name: str, value: Any, kind: type) -> Any:
    """Return `value` after checking that it is a named tuple of type `kind`.

    Raises
    ------
    WrongType
        ``cache: expected LSTMCache, got NoneType``.
    """
    if not isinstance(value, kind):
        raise WrongType(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def parts(name: str, value: Any, *fields: str) -> tuple[Any, ...]:
    """Return the arrays of an optional tuple; if it is None, return one None per field.

    Raises
    ------
    WrongType, ValueError
        ``out: expected a tuple (h, c, gates), got list``; ``... got 2 of them``.
    """
    if value is None:
        return (None,) * len(fields)
    if not isinstance(value, tuple):
        raise WrongType(f"{name}: expected a tuple {_tuple_text(fields)}, got {type(value).__name__}")
    if len(value) != len(fields):
        raise ValueError(f"{name}: expected a tuple {_tuple_text(fields)}, got {len(value)} of them")
    for each in value:
        if each is None:
            raise WrongType(f"{name}: expected a tuple {_tuple_text(fields)}, got None for one of them")
    return value


# ------------------------------------------------------------------------------------------------------------ numbers
class Value(NamedTuple):
    """The allowed values of a number, the same for every op that has an argument of that name."""

    allowed: str  # in words, for error messages and documentation
    fits: Callable[[Any], bool]
    is_whole: bool = False
    may_be_none: bool = False


_AT_LEAST_0 = Value("a finite number of at least 0", lambda value: 0 <= value < math.inf)
_CLIP = Value("None, or a number of at least 0", lambda value: value >= 0, may_be_none=True)
_DECAY = Value("a number of at least 0 and less than 1", lambda value: 0 <= value < 1)
_COUNT = Value("a whole number of at least 1", lambda value: value >= 1, is_whole=True)
_SIZE = Value("a whole number from 1 to 2147483647", lambda value: 1 <= value < 2**31, is_whole=True)  # ids are int32
_SIZE_OR_0 = Value("a whole number from 0 to 2147483647", lambda value: 0 <= value < 2**31, is_whole=True)

#: Every number that an op takes, by name.
VALUES: dict[str, Value] = {
    "learning_rate": _AT_LEAST_0,
    "step": Value("a whole number from 0 to 2**62", lambda value: 0 <= value <= 2**62, is_whole=True),
    "grad_scale": _AT_LEAST_0,
    "grad_clip": _CLIP,
    "grad_clip_norm": _CLIP,
    "momentum": _AT_LEAST_0,
    "weight_decay": _AT_LEAST_0,
    "rho": _DECAY,
    "beta1": _DECAY,
    "beta2": _DECAY,
    "epsilon": Value(
        "0, or a finite number of at least 1.2e-38", lambda value: value == 0 or 1.2e-38 <= value < math.inf
    ),  # a smaller number may be flushed to zero
    "dropout": _DECAY,
    "weight_drop": _DECAY,
    "seed": Value("a whole number from 0 to 2**64 - 1", lambda value: 0 <= value < 2**64, is_whole=True),
    "smooth_loss": Value("a number or inf", lambda value: value > -math.inf),
    "stop_below": Value("a number or -inf", lambda value: value < math.inf),
    "delta": Value("a finite number of more than 0", lambda value: 0 < value < math.inf),
    "ignore_index": Value(
        "None, or a whole number from -2147483648 to 2147483647",
        lambda value: -(2**31) <= value < 2**31,
        is_whole=True,
        may_be_none=True,
    ),
    "temperature": Value(
        "0, or a finite number of at least 1e-300", lambda value: value == 0 or 1e-300 <= value < math.inf
    ),
    "top_k": Value("a whole number of at least 0", lambda value: value >= 0, is_whole=True),
    "top_p": Value("a number of more than 0 and at most 1", lambda value: 0 < value <= 1),
    "vocab_size": _SIZE,
    "hidden_size": _SIZE,
    "num_layers": _SIZE,
    "embedding_size": _SIZE_OR_0,
    "input_size": _SIZE_OR_0,
    "seq_length": _COUNT,
    "batch_size": _COUNT,
    "threads": _COUNT,
}


def number(name: str, given: Any) -> Any:
    """Return the argument `name` as a Python int or float, or None where that is allowed.

    Raises
    ------
    WrongType
        ``top_k: expected a whole number of at least 0, got '3' (str)``.
    ValueError
        ``temperature: expected 0, or a finite number of at least 1e-300, got -1``.
    """
    allowed, fits, is_whole, may_be_none = VALUES[name]
    if given is None and may_be_none:
        return None
    value = given
    if type(given) is not int and (is_whole or type(given) is not float):
        value = _plain(given, is_whole)
        if value is None:
            raise WrongType(f"{name}: expected {allowed}, got {given!r:.60} ({type(given).__name__})")
    if not fits(value):
        raise ValueError(f"{name}: expected {allowed}, got {given!r:.60}")
    return value if is_whole else float(value)


_LARGEST = {np.dtype(name): float(np.finfo(name).max) for name in ("float32", "float64")}


def held(dtype: np.dtype, value: Any) -> Any:
    """Limit a float, or an array of floats, to the largest finite number of a floating dtype."""
    largest = _LARGEST[dtype]
    if isinstance(value, float):
        return min(value, largest)
    return value if value.max(initial=0.0) <= largest else np.minimum(value, largest)


def _plain(given: Any, is_whole: bool) -> int | float | None:
    """Convert a subclass of int or float, or a NumPy scalar, to a Python number; None for anything else."""
    if isinstance(given, (bool, np.bool_)):
        return None
    if isinstance(given, (int, np.integer)):
        return operator.index(given)
    return float(given) if isinstance(given, (float, np.floating)) and not is_whole else None


def flag(name: str, given: Any) -> bool:
    """Return the argument `name` as True or False.

    Raises
    ------
    WrongType
        ``last_only: expected True or False, got 'yes' (str)``.
    """
    if not isinstance(given, (bool, np.bool_)):
        raise WrongType(f"{name}: expected True or False, got {given!r:.60} ({type(given).__name__})")
    return bool(given)
