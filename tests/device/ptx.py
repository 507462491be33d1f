"""Translates a kernel's PTX, as the real compiler made it, into C++ that runs on the fibers of cuda.h.

It covers the PTX that our kernels need: scalars and small vectors in memory. Every register is 64 untyped bits; each
instruction says how to interpret them. Addresses of shared memory are offsets into the block's memory. Unknown PTX
raises an error and is never skipped.
"""

import re

_TYPES = {
    "f32": "float", "f64": "double", "pred": "bool",
    **{f"{kind}{size}": f"{'' if kind == 's' else 'u'}int{size}_t" for kind in "bus" for size in (8, 16, 32, 64)},
}  # fmt: skip
_SHUFFLES = {"bfly": "__shfl_xor_sync", "idx": "__shfl_sync"}
_SPECIAL = {"%tid.x": "threadIdx.x", "%ntid.x": "blockDim.x", "%ctaid.x": "blockIdx.x", "%nctaid.x": "gridDim.x"}
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%", "and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

_RUNTIME = r"""
#include "cuda.h"
namespace ptx {
template <class T> T as(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T> uint64_t bits(T value) {
    uint64_t all = 0;
    memcpy(&all, &value, sizeof value);
    return all;
}
template <class T> T flushed(T x) { return sizeof x == 4 && fabs(x) < T(1.17549435e-38) ? copysign(T(0), x) : x; }
inline float fma_down(float a, float b, float c) {
    const double exact = (double)a * b + c;
    const float near = (float)exact;
    return near > exact ? nextafterf(near, -INFINITY) : near;
}
template <class T> T saturated(T x) { return x > 0 ? x < 1 ? x : T(1) : T(0); }  // NaN gives 0
template <class T> T insert(T from, T into, uint32_t at, uint32_t length) {
    const T mask = (length >= 8 * sizeof(T) ? ~T(0) : (T(1) << length) - 1) << at;
    return (into & ~mask) | (from << at & mask);
}
template <class T, class W> T high(T a, T b) { return (T)(((W)a * (W)b) >> 8 * sizeof(T)); }
inline char* shared(uint64_t offset) { return device::block->memory + (uint32_t)offset; }
inline char* global(uint64_t address) { return (char*)address; }
template <class T> uint64_t read(const char* at) { return bits(*(const T*)at); }
}  // namespace ptx
using namespace ptx;
"""


class Unknown(NotImplementedError):
    """PTX that the translator does not cover."""


class _Kernel:
    def __init__(self, text, name):
        begin = text.index(f".entry {name}(")
        self.name, body = name, text[begin : text.index("\n}", begin)]
        head, _, body = body.partition("{")
        self.parameters = re.findall(r"\.param \.(\w+)(?: \.ptr(?: \.\w+)*? \.align \d+)? (\w+)", head)
        self.registers = re.findall(r"\.reg \.(\w+) \s*%(\w+)<(\d+)>;", body)
        self.shared, offset = {}, 0
        for align, kind, symbol, length in re.findall(r"\.shared \.align (\d+) \.(\w+) (\w+)(?:\[(\d+)\])?;", body):
            offset = -(-offset // int(align)) * int(align)
            self.shared[symbol] = offset
            offset += int(kind[1:]) // 8 * int(length or 1)
        self.static = -(-offset // 16) * 16  # start of dynamic shared memory
        self.shared |= dict.fromkeys(re.findall(r"\.extern \.shared [^;]*?(\w+)\[\];", text), self.static)
        scoped = re.findall(r"\.reg \.\w+ \s*%(\w+);", body)  # registers of an inner block
        self.scoped = sorted(set(scoped))
        self.body = re.sub(r"^\s*(\.(reg|shared|loc|pragma)\b[^\n]*|[{}]\s*$)", "", body, flags=re.MULTILINE)

    def cpp(self):
        lines = []
        for raw in re.split(r";|(?<=:)\s*\n", re.sub(r"//[^\n]*", "", self.body)):
            statement = " ".join(raw.split())
            if statement.endswith(":"):
                lines.append(f"{_label(statement[:-1])}:;")
            elif statement:
                guard, negated, predicate, rest = re.fullmatch(r"(@(!?)(%p\d+) )?(.*)", statement).groups()
                made = self.instruction(rest)
                lines.append(f"if ({negated}{_register(predicate)}) {{ {made} }}" if guard else made)
        taken = ", ".join(f"{_TYPES[kind]} {name}" for kind, name in self.parameters)
        registers = "".join(
            f"    uint64_t {', '.join(f'R_{name}{n} = 0' for n in range(int(count)))};\n"
            for _, name, count in self.registers
        )
        registers += "".join(f"    uint64_t R_{name} = 0;\n" for name in self.scoped)
        code = "\n    ".join(lines)
        return f"static void {self.name}({taken}) {{\n{registers}    {code}\n}}\nEXPORT_KERNEL({self.name}, {self.static})\n"

    # ------------------------------------------------------------------------------------------------------- operands
    def value(self, operand, kind):
        """Return an operand as C++ of a given type."""
        plain = _TYPES[kind]
        if operand in _SPECIAL:
            return f"({plain}){_SPECIAL[operand]}"
        if operand.startswith("%"):
            return f"as<{plain}>({_register(operand)})"
        if re.fullmatch(r"0[fF][0-9A-Fa-f]{8}|0[dD][0-9A-Fa-f]{16}", operand):
            return f"as<{plain}>(0x{operand[2:]}ull)"
        if re.fullmatch(r"-?\d+", operand):
            return f"({plain}){operand}ll"
        if operand in self.shared:
            return f"({plain}){self.shared[operand]}"
        raise Unknown(operand)

    def address(self, operand, space):
        base, plus, offset = re.fullmatch(r"\[(%?\w+)(\+(-?\d+))?\]", operand).groups()
        whole = f"{self.value(base, 'u32' if space == 'shared' else 'u64')} + ({offset if plus else 0})"
        return f"{space}({whole})"

    # --------------------------------------------------------------------------------------------------- instructions
    def instruction(self, text):
        """Translate one instruction into C++."""
        name, _, rest = text.partition(" ")
        op, *parts = name.split(".")
        operands = [part.strip() for part in re.findall(r"\s*(\{[^}]*\}|\[[^]]*\]|[^,]+)", rest)]
        if op == "ret":
            return "return;"
        if op == "bra":
            return f"goto {_label(operands[0])};"
        if op == "bar" and parts[0] == "sync":
            return "__syncthreads();"
        if op in ("ld", "st"):
            return self.memory(op, parts, operands)
        if op == "atom":
            if parts == ["add", "release", "gpu", "u32"]:
                at = f"(uint32_t*){self.address(operands[1], 'global')}"
                return _set(
                    operands[0], f"__atomic_fetch_add({at}, {self.value(operands[2], 'u32')}, __ATOMIC_RELEASE)"
                )
            space, what, kind = (part for part in parts if part not in ("relaxed", "gpu"))  # for 120
            if what != "min":
                raise Unknown(text)
            at = f"({_TYPES[kind]}*){self.address(operands[1], space)}"
            return _set(operands[0], f"atomicMin({at}, {self.value(operands[2], kind)})")
        if op == "shfl" and parts[0] == "sync" and parts[1] in _SHUFFLES:
            value, lanes, mask = (self.value(operands[k], "b32") for k in (1, 2, 4))
            return _set(operands[0].partition("|")[0], f"{_SHUFFLES[parts[1]]}({mask}, {value}, (int){lanes})")
        if op == "mov" and "{" in rest:
            return self.pair(operands)
        if not parts or not operands:
            raise Unknown(text)
        return _set(operands[0], self.expression(op, parts, operands[1:]))

    def memory(self, op, parts, operands):
        if parts[0] not in ("param", "global", "shared", "local", "acquire"):
            parts = ["global", *parts]  # through a pointer that the kernel read from memory
        space, kind = parts[0], parts[-1]
        if op == "ld" and parts == ["acquire", "gpu", "u32"]:  # a waiting thread polls this value
            at = f"(uint32_t*){self.address(operands[1], 'global')}"
            return f"sched_yield(); {_set(operands[0], f'__atomic_load_n({at}, __ATOMIC_ACQUIRE)')}"
        if space == "param":
            return _set(operands[0], operands[1][1:-1])
        if space not in ("global", "shared") or "nc" in parts:
            raise Unknown(".".join([op, *parts]))
        plain, data = _TYPES[kind], operands[0 if op == "ld" else 1].strip("{}").split(",")
        at = self.address(operands[1 if op == "ld" else 0], space)
        made = ""
        for k, one in enumerate(part.strip() for part in data):
            place = f"{at} + {k} * sizeof({plain})"
            made += (
                f"{_register(one)} = read<{plain}>({place}); "
                if op == "ld"
                else f"*({plain}*)({place}) = {self.value(one, kind)}; "
            )
        return made

    def pair(self, operands):
        """Translate mov.b64 between a register and its two halves."""
        if operands[0].startswith("{"):
            low, high = (part.strip() for part in operands[0].strip("{}").split(","))
            whole = self.value(operands[1], "b64")
            return " ".join(_set(d, f"(uint32_t)({whole} >> {at})") for d, at in ((low, 0), (high, 32)) if d != "_")
        low, high = (self.value(part.strip(), "b32") for part in operands[1].strip("{}").split(","))
        return _set(operands[0], f"(uint64_t){low} | (uint64_t){high} << 32")

    def expression(self, op, parts, operands):
        """Return the value of an instruction as a C++ expression."""
        kind = parts[-1]
        plain, is_float = _TYPES[kind], kind in ("f32", "f64")
        flush = (lambda text: f"flushed({text})") if "ftz" in parts and kind == "f32" else (lambda text: text)
        a = [flush(self.value(operand, kind)) for operand in operands] if op not in ("cvt", "selp", "bfi") else operands
        if op == "setp":
            return self.comparison(parts[0], a, is_float)
        if op == "cvt":
            return self.conversion(parts, operands[0])
        if op == "selp":
            first, second = (self.value(each, kind) for each in operands[:2])
            return f"as<bool>({_register(operands[2])}) ? {first} : {second}"
        if op == "bfi":
            whole, sizes = (
                [self.value(each, kind) for each in operands[:2]],
                [self.value(each, "u32") for each in operands[2:]],
            )
            return f"insert<{plain}>({', '.join(whole + sizes)})"
        if op in ("mul", "mad", "fma") and not (op == "mul" and not {"wide", "hi"} & set(parts)):
            return flush(self.product(op, parts, a, operands))
        if op in ("shl", "shr"):
            by = self.value(operands[1], "u32")
            return f"({plain})({by} < {kind[1:]} ? {a[0]} {'<<' if op == 'shl' else '>>'} {by} : 0)"
        if op in _INFIX:
            wide = plain if is_float or op in ("div", "rem") or kind == "pred" else _TYPES["u" + kind[1:]]
            return flush(f"({plain})(({wide}){a[0]} {_INFIX[op]} ({wide}){a[1]})")
        known = {
            "mov": "{0}", "cvta": "{0}", "neg": "-{0}", "not": "~{0}" if kind != "pred" else "!{0}",
            "abs": "fabs({0})" if is_float else "llabs({0})", "sqrt": "sqrt({0})", "rsqrt": "1 / sqrt({0})", "rcp": "1 / {0}", "ex2": "exp2({0})",
            "copysign": "copysign({1}, {0})", "max": "{0} > {1} ? {0} : {1}", "min": "{0} < {1} ? {0} : {1}",
        }  # fmt: skip
        if op not in known:
            raise Unknown(".".join([op, *parts]))
        return flush(f"({plain})({known[op].format(*a)})")

    def product(self, op, parts, a, operands):
        kind = parts[-1]
        plain = _TYPES[kind]
        if op == "fma":
            if "rm" in parts:
                return f"fma_down({', '.join(a)})"
            return f"std::fma({', '.join(a)})"
        double = f"{kind[0]}{2 * int(kind[1:])}" if kind[1:] != "64" else None
        if "wide" in parts:
            made = f"({_TYPES[double]}){a[0]} * ({_TYPES[double]}){a[1]}"
            return made if op == "mul" else f"{made} + {self.value(operands[2], double)}"
        if "hi" in parts and op == "mul" and double:
            return f"high<{plain}, {_TYPES[double]}>({a[0]}, {a[1]})"
        if op == "mad" and "lo" in parts:
            wide = _TYPES["u" + kind[1:]]
            return f"({plain})(({wide}){a[0]} * ({wide}){a[1]} + ({wide}){a[2]})"
        raise Unknown(".".join([op, *parts]))

    def comparison(self, how, a, is_float):
        unordered = f"isnan({a[0]}) || isnan({a[1]})"
        if how in ("num", "nan"):
            return f"!({unordered})" if how == "num" else unordered
        if is_float and how.endswith("u"):
            return f"({a[0]} {_COMPARE[how[:-1]]} {a[1]}) || {unordered}"
        if how == "ne" and is_float:
            return f"({a[0]} != {a[1]}) && !({unordered})"
        return f"{a[0]} {_COMPARE[how]} {a[1]}"

    def conversion(self, parts, operand):
        to, of = parts[-2:]
        value = self.value(operand, of)
        if "rni" in parts:
            value = f"nearbyint({value})"
        elif {"rzi", "rmi", "rpi"} & set(parts):
            raise Unknown(".".join(["cvt", *parts]))
        if "ftz" in parts and of == "f32":
            value = f"flushed({value})"
        made = f"({_TYPES[to]})({value})"
        return f"saturated({made})" if "sat" in parts else made


def _register(name):
    return f"R_{name[1:]}"


def _label(name):
    return "L" + name.replace("$", "_")


def _set(register, expression):
    return f"{_register(register)} = bits({expression});"


def translated(ptx, names):
    """Translate kernels of a PTX module into C++, to be compiled like cuda.h."""
    return _RUNTIME + "".join(_Kernel(ptx, name).cpp() for name in names)
