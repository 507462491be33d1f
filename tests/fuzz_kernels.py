"""Fuzz the kernels with invalid arguments: `python fuzz_kernels.py SEED CALLS SECONDS PROGRESS [BACKEND ...]`.

Each call is built from checks.ARRAYS: it has valid arguments of random small sizes, and some are replaced by invalid
ones that programs might pass. Arrays lie between canaries, right before a protected page. Every backend gets the same
memory, and the outcomes must agree: a result, or an error that names the argument.
"""

import ctypes
import mmap
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import kernels
from kernels import spec
from kernels.spec import checks

PAGE, CANARY = mmap.PAGESIZE, 0xA5
NAMED = re.compile(r"^[A-Za-z_0-9.]+: .")
MODELS = ("loss_and_grad", "train_steps", "score")
_KINDS = {"float": None, "double": "f8", "ids": "i4", "text": "u1", "mask": "u1", "int64": "i8", "bool": "?"}


class Memory:
    """Slots of a few pages, each followed by a protected page; canaries surround the array at the end of a slot."""

    PAGES, SLOTS = 16, 48

    def __init__(self):
        size = (self.PAGES + 1) * PAGE
        self._map = mmap.mmap(-1, size * self.SLOTS)
        whole = np.frombuffer(self._map, np.uint8)
        self._slots = [whole[n * size : n * size + self.PAGES * PAGE] for n in range(self.SLOTS)]
        if hasattr(ctypes.CDLL(None), "mprotect"):
            for slot in self._slots:
                end = slot.ctypes.data + slot.size
                if ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), PAGE, 0):
                    raise OSError("mprotect failed")
        self.free()

    def free(self):
        self._used, self._ranges = 0, []

    def place(self, values, gap=0):
        """Copy an array into its own slot, `gap` bytes before the slot's end."""
        slot, values = self._slots[self._used], np.asarray(values)
        end = slot.size - gap
        begin = end - values.nbytes
        if begin < PAGE:
            raise MemoryError(f"{values.nbytes} bytes in a slot of {slot.size}")
        slot[begin - PAGE : begin] = slot[end:] = CANARY
        self._used += 1
        self._ranges.append((begin, end))
        array = slot[begin:end].view(values.dtype).reshape(values.shape)
        array[...] = values
        return array

    def save(self):
        return [slot[begin:].copy() for slot, (begin, _) in zip(self._slots, self._ranges, strict=False)]

    def restore(self, saved):
        for slot, values in zip(self._slots, saved, strict=False):
            slot[slot.size - values.size :] = values

    def check(self):
        for n, (begin, end) in enumerate(self._ranges):
            slot = self._slots[n]
            if (slot[begin - PAGE : begin] != CANARY).any() or (slot[end:] != CANARY).any():
                raise AssertionError(f"memory around array {n} was changed")


class Call:
    """One call: an op, its arguments by name, and how extreme the values are."""

    def __init__(self, random, memory, folder):
        self.random, self.memory, self.folder = random, memory, folder
        self.op = random.choice(list(spec.OPS))
        self.dtype = str(random.choice(["f4", "f8"]))
        self.is_wild = False
        pick = random.randint
        cell = str(random.choice(list(spec.CELLS)))
        self.loss = "cross_entropy"
        if self.op == "regression_loss" or pick(4) == 0:
            self.loss = str(random.choice(spec.LOSSES[1:]))
        input_size = pick(1, 5) if self.loss != "cross_entropy" or pick(8) == 0 else 0
        V, Y = pick(1, 8), pick(1, 4)
        if self.loss != "cross_entropy":
            V = 2 * Y if self.loss == "gaussian" else Y
        embedding_size = pick(1, 4) if pick(4) == 0 and not input_size else 0
        self.shape = spec.Shape(V, pick(1, 9), pick(1, 3), cell, embedding_size, input_size)
        sizes = {
            "T": pick(1, 4),
            "B": pick(1, 4),
            "D": input_size if self.op in MODELS and input_size else pick(1, 6),
            "Y": Y,
            "K": pick(0, 3),
            "M": 60,
            "V": self.shape.vocab_size,
        }
        self.sizes = {**sizes, "H": self.shape.hidden_size, "L": self.shape.num_layers, "": 1}
        self.sizes["N"] = spec.num_parameters(self.shape) if self.op in (*MODELS, "sample") else pick(1, 40)
        self.given = self._numbers()
        hyper = {
            k: v for k, v in self.given.items() if self.op in spec.OPTIMIZERS and k in spec.OPTIMIZERS[self.op].hyper
        }
        optimizer = self.given.get("optimizer", self.op)
        self.sizes["S"] = spec.slots(optimizer, hyper or self.given.get("hyper")) if optimizer in spec.OPTIMIZERS else 0
        self._is_ids = bool(pick(2))
        arrays = {name: self._array(name, pattern) for name, pattern in self._patterns().items()}
        for _ in range(pick(4)):
            self._spoil(arrays)
        self._assemble(arrays)

    # ------------------------------------------------------------------------------------------- valid arguments
    def _patterns(self):
        """The descriptions of the arrays: those of the loss, and of a text or a series, with or without targets."""
        patterns, shape = checks.ARRAYS[self.op], self.shape
        if self.op == "regression_loss" and self.loss == "gaussian":
            return {each.name: each.pattern for each in checks._GAUSSIAN.arrays}
        if self.op not in MODELS:
            return patterns
        needs = shape.input_size and (self.loss == "cross_entropy" or self.sizes["Y"] != shape.input_size)
        kind = ("ids" if self.loss == "cross_entropy" else "float") if needs or self.random.randint(3) == 0 else ""
        chosen = checks._of_model(self.op, shape.input_size > 0, kind)
        return {each.name: each.pattern for each in chosen.arrays}

    def _numbers(self):
        random, op = self.random, self.op
        given = {}
        if op in spec.OPTIMIZERS:
            given = {"step": random.randint(9), "learning_rate": 0.1}
            if op == "sgd" and random.randint(2):
                given["momentum"] = 0.9
        if op.endswith(("_forward", "_backward")):
            given = {"threads": random.randint(1, 4)}
        if op.endswith("_forward"):
            given["reverse"] = bool(random.randint(2))
        if op == "clip":
            given = {"grad_clip": None, "grad_clip_norm": None}
        if op in (*MODELS, "sample"):
            given["shape"] = self.shape
        if op in (*MODELS, "regression_loss"):
            given |= {"loss": self.loss, "delta": float(random.choice([0.3, 1.0]))}
        if op in (*MODELS, "softmax_cross_entropy") and self.loss == "cross_entropy" and random.randint(3) == 0:
            given["ignore_index"] = int(random.choice([-100, 0, 1]))
        if op in ("loss_and_grad", "train_steps"):
            given |= {"last_only": bool(random.randint(2)), "dropout": float(random.choice([0, 0, 0.5]))}
        if op == "train_steps":
            given |= {"seq_length": self.sizes["T"], "optimizer": str(random.choice(list(spec.OPTIMIZERS)))}
            given |= {"threads": random.randint(1, 4), "grad_clip": 1.0, "step": random.randint(5)}
            given |= {"weight_drop": float(random.choice([0, 0, 0.5])), "seed": random.randint(5)}
            given["hyper"] = {"momentum": 0.9} if given["optimizer"] == "sgd" and random.randint(2) else None
        if op == "sample":
            given |= {"temperature": 0.8, "top_k": random.randint(4), "top_p": 0.9}
        return given

    def _array(self, name, pattern):
        random = self.random
        text, *notes = pattern.split(", ")
        text = text.removeprefix("out ")
        form = text.split(" | ")[0 if self._is_ids or " | " not in text else 1]
        kind, *words = form.split()
        kind, _, limit = kind.partition("<")
        if name == "masks":
            wanted = self.given["dropout"] > 0
        else:
            wanted = "optional" not in notes or bool(random.randint(2)) or name.startswith("out.")
        if not wanted or (name == "out.dx" and self._is_ids):
            return None
        dims = []
        for word in words:
            times, letter, plus = re.fullmatch(r"(\d*)([A-Z]?)(?:\+(\d))?", word).groups()
            dims.append(self.sizes[letter] * int(times or 1) + int(plus or 0))
        if kind in ("float", "double"):
            values = random.random_sample(dims) if kind == "double" else random.randn(*dims) * 0.5
            values = values.astype(_KINDS[kind] or self.dtype)
        else:
            high = {"ids": self.sizes[limit or "V"], "text": self.sizes["V"], "int64": 60 - self.sizes["T"]}.get(
                kind, 2
            )
            values = random.randint(0, high, dims).astype(_KINDS[kind])
        if name.endswith("lengths"):
            values = random.randint(1, self.sizes["T"] + 1, dims)
        if kind == "text" and random.randint(20) == 0:
            values = values.astype(str(random.choice(["u2", "u4"])))
        if name == "state":
            values = np.abs(values)
        return self.memory.place(values, gap=int(random.choice([0, 0, 8, 64])))

    # ----------------------------------------------------------------------------------------- invalid arguments
    def _spoil(self, arrays):
        random = self.random
        if self.given and random.randint(3) == 0:
            name = str(random.choice(list(self.given)))
            wrong = [-1, 0, 1, 2.5, 2.0, np.nan, np.inf, -np.inf, 1e-320, 1e300, 10**30, "3", None, True, [], 1 + 0j, {},
                     np.float32(0.5), np.int64(1), np.ones(1), spec.Shape(3, 2), (7, 5, 1), "adam", b"x", 1e-40]  # fmt: skip
            self.given[name] = wrong[random.randint(len(wrong))]
            return
        there = [name for name, array in arrays.items() if array is not None]
        if not there:
            return
        name = str(random.choice(there))
        array = arrays[name]
        if isinstance(array, np.ndarray) and array.ndim and array.dtype.kind in "fiub":  # not replaced yet
            how = str(random.choice([each for each in dir(self) if each.startswith("_as_")]))
            spoilt = getattr(self, how)(array, arrays)
            if type(spoilt) in (np.ndarray, np.memmap) and spoilt.flags.owndata and spoilt.dtype != object:
                spoilt = self.memory.place(spoilt)  # so that it is checked, and restored for the next backend
            arrays[name] = spoilt

    def _as_read_only(self, array, arrays):
        view = array.view()
        view.flags.writeable = False
        return view

    def _as_mapped(self, array, arrays):
        path = self.folder / "mapped"
        path.unlink(missing_ok=True)
        path.write_bytes(array.tobytes() or b"\0")
        return np.memmap(path, array.dtype, "r", shape=array.shape) if array.size else array

    def _as_strided(self, array, arrays):
        return self.memory.place(np.repeat(array, 2, axis=-1))[..., ::2]

    def _as_broadcast(self, array, arrays):
        return np.broadcast_to(array.reshape(-1)[:1], array.shape) if array.size else array

    def _as_fortran(self, array, arrays):
        return self.memory.place(array.T.copy()).T

    def _as_reversed(self, array, arrays):
        return array[::-1]

    def _as_unaligned(self, array, arrays):
        return (
            self.memory.place(np.frombuffer(b"\1" + array.tobytes(), "u1"))[1:].view(array.dtype).reshape(array.shape)
        )

    def _as_another_dtype(self, array, arrays):
        kinds = ["f2", "f4", "f8", ">f4", ">f8", "i4", ">i4", "i8", "u1", "u4", "?", "c16", "g", "O", "U3"]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return array.astype(str(self.random.choice(kinds)))

    def _as_other_sizes(self, array, arrays):
        dims = list(array.shape)
        at = self.random.randint(len(dims))
        dims[at] = max(0, dims[at] + self.random.randint(-2, 3))
        return self.memory.place(np.resize(array, dims) if array.size else np.zeros(dims, array.dtype))

    def _as_other_dimensions(self, array, arrays):
        return array[None] if self.random.randint(2) else array.reshape(-1)

    def _as_nothing(self, array, arrays):
        return array[:0]

    def _as_something_else(self, array, arrays):
        class Series:
            def __init__(self, values):
                self.values, self.shape, self.dtype = values, values.shape, values.dtype

            def __array__(self, *args, **kwargs):
                return self.values

        others = [array.tolist(), None, 0.5, "text", array.tobytes(), (array,), np.ma.array(array), array.view(np.recarray),
                  Series(array), array.astype(object), np.float64(1), memoryview(array)]  # fmt: skip
        return others[self.random.randint(len(others))]

    def _as_another_array(self, array, arrays):
        others = [each for each in arrays.values() if isinstance(each, np.ndarray)]
        return others[self.random.randint(len(others))]

    def _as_overlapping(self, array, arrays):
        """Put an array into another, mostly one that the op writes: arrays that are only read may overlap."""
        patterns = checks.ARRAYS[self.op]
        written = [each for name, each in arrays.items() if patterns.get(name, "").startswith("out ")]
        others = written if self.random.randint(4) else list(arrays.values())
        others = [each for each in others if isinstance(each, np.ndarray) and each.flags.c_contiguous]
        others = [each for each in others if each.nbytes >= array.nbytes and each is not array and each.dtype != object]
        alike = [each for each in others if each.dtype == array.dtype]
        others = alike if alike and self.random.randint(4) else others
        if not others or not array.size:
            return array
        other = others[self.random.randint(len(others))]
        is_alike = other.dtype == array.dtype
        self.is_wild = self.is_wild or not is_alike  # the values were made for another argument
        flat, step = other.reshape(-1).view(np.uint8), array.itemsize if is_alike else 4
        at = self.random.randint(0, (flat.size - array.nbytes) // step + 1) * step
        return flat[at : at + array.nbytes].view(array.dtype).reshape(array.shape)

    def _as_wild_values(self, array, arrays):
        if array.size and array.flags.writeable and array.dtype.kind in "fiu" and array.dtype.isnative:
            self.is_wild = True
            wild = (
                [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40, 3e38]
                if array.dtype.kind == "f"
                else [-1, 2**31 - 1, -(2**31), 9, 255]
            )
            with np.errstate(all="ignore"):
                value = np.array(wild[self.random.randint(len(wild))]).astype(array.dtype)
            array.reshape(-1)[self.random.randint(array.size)] = value
        return array

    # -------------------------------------------------------------------------------------------------- the call
    def _assemble(self, arrays):
        random, given = self.random, self.given
        groups = {}
        for name, array in arrays.items():
            head, _, field = name.partition(".")
            if field:
                groups.setdefault(head, {})[field] = array
            else:
                given[head] = array
        for head, fields in groups.items():
            kinds = {"cache": "Cache", "out": "Grads"}
            cell = self.op.partition("_")[0].upper()
            if head == "out" and (random.randint(2) or any(v is None for f, v in fields.items() if f != "dx")):
                given[head] = None
            elif head == "out" and self.op.endswith(("_forward", "_step")):
                given[head] = tuple(fields.values())
            else:
                kind = getattr(spec, cell + kinds[head])
                given[head] = kind(**{name: fields.get(name, bool(random.randint(2))) for name in kind._fields})
            if random.randint(12) == 0:
                other = spec.GRUCache(*range(5)), (), [], 3, "x", np.ones(3), None
                given[head] = other[random.randint(len(other))]
        if self.op in MODELS and random.randint(3) == 0:
            given["workspace"] = self._workspace()

    def _workspace(self):
        random = self.random
        dropout = self.given.get("dropout", 0.0)
        dropout = dropout if dropout in (0.0, 0.5) else 0.0
        ws = spec.workspace(self.shape, self.sizes["T"], self.sizes["B"], self.dtype, dropout)
        placed = {
            name: buffer if buffer is None else self.memory.place(buffer) for name, buffer in ws._asdict().items()
        }
        if random.randint(3) == 0:
            name = str(random.choice([name for name, buffer in placed.items() if buffer is not None]))
            how = str(random.choice([each for each in dir(self) if each.startswith("_as_") and "wild" not in each]))
            placed[name] = getattr(self, how)(placed[name], placed)
        return type(ws)(**placed)

    def run(self, ops):
        """Return ("result", numbers) or ("error", message)."""
        try:
            with np.errstate(all="ignore"):
                result = getattr(ops, self.op)(**self.given)
        except (ValueError, TypeError) as error:
            if not NAMED.match(str(error)) or not isinstance(error, ValueError):
                raise AssertionError(f"an error that names nothing: {type(error).__name__}: {error}") from error
            return "error", str(error)
        written = [
            name for name, pattern in checks.ARRAYS[self.op].items() if pattern.startswith("out ") and "." not in name
        ]
        values = [result, *(self.given.get(name) for name in written)]
        return "result", [np.array(each) for each in _arrays(values)]

    def __str__(self):
        lines = [f"{self.op} {self.shape} {self.sizes}"]
        for name, value in self.given.items():
            parts = value._asdict().items() if hasattr(value, "_asdict") else [("", value)]
            for field, part in parts:
                flags = (
                    f"{part.shape} {part.dtype} {part.flags.num:#x}"
                    if isinstance(part, np.ndarray)
                    else repr(part)[:80]
                )
                lines.append(f"    {name} {field} {flags}")
        return "\n".join(lines)


def _arrays(value):
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _arrays(each)
    elif isinstance(value, (np.ndarray, float)) and np.asarray(value).dtype != object:
        yield value


def _agree(one, other, call):
    """Return whether two outcomes agree; finite values must agree up to rounding."""
    if one[0] != other[0]:  # on overflow, backends may detect it at slightly different values
        said = one[1] if one[0] == "error" else other[1]
        return call.is_wild and "finite logits" in said
    if one[0] == "error":
        return one[1] == other[1]
    if [a.shape for a in one[1]] != [a.shape for a in other[1]]:
        return False
    if call.is_wild:
        return True  # overflow and NaN may come earlier or later by a rounding error
    tolerance = 2e-3 if call.dtype == "f4" else 1e-8
    for a, b in zip(one[1], other[1], strict=True):
        are_tame = [bool(np.isfinite(each).all() and np.abs(each, dtype="f8").max(initial=0) < 1e12) for each in (a, b)]
        if are_tame[0] != are_tame[1]:
            return False
        difference = np.linalg.norm(a.astype("f8") - b) if are_tame[0] else 0
        if difference and difference > tolerance * (np.linalg.norm(b.astype("f8")) + 1e-3):
            return False
    return True


def _copied(value):
    """Copy an argument, with all arrays in it."""
    if isinstance(value, np.ndarray):
        return np.array(value)
    if isinstance(value, tuple) and not isinstance(value, spec.Shape):
        parts = map(_copied, value)
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def main(seed, calls, seconds, progress, names):
    """Make calls; the file `progress` holds the number of the current one."""
    import faulthandler

    faulthandler.enable()
    backends = [kernels.load(name) for name in names]
    memory, end, made, errors = Memory(), time.monotonic() + seconds, 0, 0
    told = os.open(progress, os.O_WRONLY | os.O_CREAT)
    with tempfile.TemporaryDirectory() as folder:
        while made < calls and time.monotonic() < end:
            faulthandler.dump_traceback_later(300, exit=True)  # kills the process if a call hangs
            number = made
            os.pwrite(told, b"%d" % number, 0)
            memory.free()
            call = Call(np.random.RandomState((seed * 1_000_003 + number) % 2**32), memory, Path(folder))
            saved, outcomes = memory.save(), []
            for ops in backends:
                memory.restore(saved)
                try:
                    outcomes.append(call.run(ops))
                    memory.check()
                except BaseException as error:
                    raise AssertionError(f"{ops.__name__}, seed {seed}, call {number}: {error}\n{call}") from error
                made += 1
            errors += outcomes[0][0] == "error"
            if outcomes[0][0] == "result":  # arrays within one buffer must give the same result as separate ones
                memory.restore(saved)
                call.given = {name: _copied(value) for name, value in call.given.items()}
                outcomes.append(call.run(backends[0]))
            if not _agree(outcomes[0], outcomes[-1], call):
                raise AssertionError(
                    f"seed {seed}, call {number}: backends differ\n{call}\n{outcomes[0]}\n{outcomes[-1]}"
                )
    faulthandler.cancel_dump_traceback_later()
    print(f"{made} calls, {errors * len(backends)} refused")


if __name__ == "__main__":
    warnings.simplefilter("error")
    available = [name for name in ("numpy", "numba") if kernels.missing(name) is None]
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4], sys.argv[5:] or available)
