"""Follows a thread through a kernel's SASS, and so finds out how often a GPU executes each instruction.

It computes integers and predicates, on which the loops depend; floats and what comes from shared memory are unknown.
The sums that come of it are the input of benchmarks/gpu_model.py.
"""

import re

import numpy as np

_WORD = 0xFFFFFFFF
#: Instructions that write no register.
_NO_RESULT = {
    "BAR", "BRA", "BRX", "BSSY", "BSYNC", "BREAK", "CALL", "CCTL", "DEPBAR", "ERRBAR", "EXIT", "JMP", "LEPC", "MEMBAR",
    "NANOSLEEP", "NOP", "RED", "REDG", "RET", "ST", "STG", "STL", "STS", "WARPSYNC", "YIELD",
}  # fmt: skip
_PREDICATE = re.compile(r"!?U?P(\d|T)")
_COMPARE = {
    "EQ": lambda a, b: a == b, "NE": lambda a, b: a != b, "LT": lambda a, b: a < b, "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b, "GE": lambda a, b: a >= b,
}  # fmt: skip
#: Of a comparison and a predicate that may be unknown.
_COMBINE = {
    "AND": lambda a, b: b if a else False, "OR": lambda a, b: True if a else b,
    "XOR": lambda a, b: None if b is None else a != b,
}  # fmt: skip


class Thread:
    """A thread that runs a kernel.

    Parameters
    ----------
    kernel : Kernel
    special : values of special registers by name, such as SR_TID.X
    constants : words of the constant bank by address: sizes of the grid, arguments of the kernel

    Words of global memory are zero. A branch whose condition is not known (it depends on floats or on shared memory) is
    not taken.
    """

    MOST = 2_000_000  # instructions

    def __init__(self, kernel, special, constants):
        self._kernel, self._special, self._constants = kernel, special, constants
        self._registers, self._predicates, self._calls = {}, {}, []

    def run(self):
        """Yield each instruction that the thread executes."""
        at, code = 0, self._kernel.code
        for _ in range(self.MOST):
            each = code[at]
            at += 1
            is_on = self.is_on(each)
            yield each
            if each.op == "EXIT" and is_on:
                return
            if each.op == "RET" and is_on:
                at = self._calls.pop()
            elif each.op == "CALL" and is_on:
                self._calls.append(at)
                at = self._kernel.target(each)
            elif each.op in ("BRA", "BRX"):
                conditions = [
                    self._predicate(operand) for operand in each.operands[:-1] if _PREDICATE.fullmatch(operand)
                ]
                if is_on and all(conditions) and "DIV" not in each.name:
                    at = self._kernel.target(each)
            elif each.op not in _NO_RESULT and is_on is not False:
                self._execute(each, is_on)
        raise RuntimeError(f"no end after {self.MOST:,} instructions")

    def is_on(self, instruction):
        """Return whether an instruction's predicate lets it act now; None if that is not known."""
        return self._predicate(instruction.guard) if instruction.guard else True

    def _execute(self, each, is_on):
        op = each.op[1:] if each.op.startswith("U") and len(each.op) > 2 else each.op
        count = next((k for k, operand in enumerate(each.operands) if not _PREDICATE.fullmatch(operand)), 0)
        known = getattr(self, f"_{op.lower()}", None) if is_on else None
        results = known(each.name.split(".")[1:], each.operands) if known else None
        if results is None:  # not known: what it writes is not either
            results = dict.fromkeys(each.operands[: max(1, count)])
            if count < len(each.operands) and not op.endswith(("SETP", "PLOP3")):
                results |= dict.fromkeys(_span(each.operands[count], each.name))
        for name, value in results.items():
            if name.lstrip("U") in ("RZ", "PT", "Z"):
                continue
            (self._predicates if _PREDICATE.fullmatch(name) else self._registers)[name] = value

    # ------------------------------------------------------------------------------------------------------ operands
    def _predicate(self, name):
        """Return the value of a predicate, None if it is not known."""
        value = True if name.lstrip("!").lstrip("U") == "PT" else self._predicates.get(name.lstrip("!"))
        return value if value is None or not name.startswith("!") else not value

    def _value(self, operand):
        """Return an operand as an unsigned word, None if it is not known."""
        if operand.startswith("-") and not operand[1:2].isdigit():
            value = self._value(operand[1:])
            return None if value is None else -value & _WORD
        if operand.startswith("~"):
            value = self._value(operand[1:])
            return None if value is None else ~value & _WORD
        if re.fullmatch(r"-?0x[0-9a-f]+|-?\d+", operand):
            return int(operand, 0) & _WORD
        if operand in ("RZ", "URZ", "SRZ"):
            return 0
        if operand.startswith("c["):
            found = re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", operand)
            return self._constants.get(int(found[1], 0)) if found else None
        return self._registers.get(operand.removesuffix(".H0_H0").removesuffix(".64"))

    def _values(self, *operands):
        values = [self._value(operand) for operand in operands]
        return None if None in values else values

    # -------------------------------------------------------------------------------------------------- instructions
    # Each returns the registers and predicates that it writes, with their values, or None if these are not known.
    def _mov(self, how, operands):
        return {operands[0]: self._value(operands[1])}

    def _hfma2(self, how, operands):
        if operands[1].lstrip("-") != "RZ" or operands[2] != "RZ":
            return None
        high, low = (int(np.array(float(each), np.float16).view(np.uint16)) for each in operands[3:5])
        return {operands[0]: high << 16 | low}  # a constant, as two halves

    def _r2ur(self, how, operands):
        return {operands[0]: self._value(operands[-1])}

    def _s2r(self, how, operands):
        return {operands[0]: self._special.get(operands[1])}

    _s2ur = _s2r

    def _cs2r(self, how, operands):
        return dict.fromkeys(_span(operands[0], "64" if "32" not in how else ""), 0 if operands[1] == "SRZ" else None)

    def _ldc(self, how, operands):
        found = re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", operands[1])
        if not found:
            return None
        first = int(found[1], 0)
        return {name: self._constants.get(first + 4 * k) for k, name in enumerate(_span(operands[0], ".".join(how)))}

    def _ldg(self, how, operands):
        return dict.fromkeys(_span(operands[0], ".".join(how)), 0)

    def _atom(self, how, operands):
        return {operands[1]: 0}

    def _ld(self, how, operands):  # the counter of the grid's barrier, at which all other blocks have arrived
        return {operands[0]: 0x80000000} if "STRONG" in how else None

    def _iadd3(self, how, operands):
        carries, (*sources, last) = self._carries(operands)
        values = self._values(*sources, last) if len(sources) == 2 else None
        if "X" in how:
            sources, carried = operands[1 + carries :][:3], operands[4 + carries :]
            values = self._values(*sources)
            ins = [self._predicate(each) for each in carried]
            if values is None or None in ins:
                return None
            values += [int(each) for each in ins]
        if values is None:
            return None
        return {operands[0]: sum(values) & _WORD, **dict.fromkeys(operands[1 : 1 + carries], sum(values) > _WORD)}

    def _carries(self, operands):
        count = 0
        while _PREDICATE.fullmatch(operands[1 + count]):
            count += 1
        return count, operands[1 + count : 4 + count]

    def _viadd(self, how, operands):
        values = self._values(*operands[1:3])
        return None if values is None else {operands[0]: sum(values) & _WORD}

    def _imad(self, how, operands):
        if "MOV" in how or ("U32" in how and operands[1] == operands[2] == "RZ"):
            return {operands[0]: self._value(operands[3])}
        values = self._values(*operands[1:4]) if len(operands) == 4 and "X" not in how else None
        if values is None:
            return None
        a, b, c = values
        if "WIDE" in how or "HI" in how:
            high = self._value(_next(operands[3])) if "WIDE" in how else 0
            if high is None:
                return None
            if "U32" not in how:
                a, b = _signed(a), _signed(b)
            if "HI" in how:
                return {operands[0]: ((a * b >> 32) + c) & _WORD}
            whole = a * b + (high << 32 | c)
            return {operands[0]: whole & _WORD, _next(operands[0]): whole >> 32 & _WORD}
        return {operands[0]: (a * b + c) & _WORD}

    def _isetp(self, how, operands):
        values = self._values(*operands[2:4])
        if values is None:
            return None
        a, b = values if "U32" in how else map(_signed, values)
        holds = _COMPARE[how[0]](a, b)
        if "EX" in how:  # the high words of 64-bit numbers; the last predicate compares the low ones
            low = self._predicate(operands[5])
            if low is None:
                return None
            if how[0] in ("EQ", "NE"):
                holds = holds and low if how[0] == "EQ" else holds or low
            elif a == b:
                holds = low
        combine = _COMBINE[next(each for each in how if each in _COMBINE)]
        other = self._predicate(operands[4])
        return {operands[0]: combine(holds, other), operands[1]: combine(not holds, other)}

    def _lop3(self, how, operands):
        count = 1 if _PREDICATE.fullmatch(operands[0]) else 0
        values = self._values(*operands[1 + count : 4 + count])
        if values is None:
            return None
        made = _lookup(int(operands[4 + count], 0), values, 32)
        is_set = made != 0 or bool(self._predicate(operands[5 + count]))
        return {operands[count]: made, **({operands[0]: is_set} if count else {})}

    def _plop3(self, how, operands):
        values = [self._predicate(operand) for operand in operands[2:5]]
        if None in values:
            return None
        first, second = (bool(_lookup(int(table, 0), list(map(int, values)), 1)) for table in operands[5:7])
        return {operands[0]: first, operands[1]: second}

    def _shf(self, how, operands):
        values = self._values(*operands[1:4])
        if values is None:
            return None
        low, by, high = values
        by = by & 31 if "W" in how else min(by, 63 if {"U64", "S64"} & set(how) else 32)
        whole = _signed(high) << 32 | low if {"S32", "S64"} & set(how) else high << 32 | low
        whole = whole << by if how[0] == "L" else whole >> by
        return {operands[0]: (whole >> 32 if "HI" in how else whole) & _WORD}

    def _lea(self, how, operands):
        if _PREDICATE.fullmatch(operands[1]) or "X" in how:
            return None
        if "HI" not in how:
            values = self._values(*operands[1:4])
            return None if values is None else {operands[0]: (values[1] + (values[0] << values[2])) & _WORD}
        if "SX32" in how:
            return None
        values = self._values(*operands[1:5])
        if values is None:
            return None
        low, add, high, by = values
        return {operands[0]: ((high << 32 | low) << by >> 32) + add & _WORD}

    def _sel(self, how, operands):
        which = self._predicate(operands[3])
        return None if which is None else {operands[0]: self._value(operands[1 if which else 2])}

    def _imnmx(self, how, operands):
        values, is_least = self._values(*operands[1:3]), self._predicate(operands[3])
        if values is None or is_least is None:
            return None
        by = (lambda value: value) if "U32" in how else _signed
        return {operands[0]: (min if is_least else max)(values, key=by)}

    _vimnmx = _imnmx

    def _viaddmnmx(self, how, operands):
        values, is_least = self._values(*operands[1:4]), self._predicate(operands[4])
        if values is None or is_least is None:
            return None
        by = (lambda value: value) if "U32" in how else _signed
        return {operands[0]: (min if is_least else max)((values[0] + values[1]) & _WORD, values[2], key=by)}

    def _iabs(self, how, operands):
        values = self._values(operands[1])
        return None if values is None else {operands[0]: abs(_signed(values[0]))}

    def _vote(self, how, operands):
        is_on = self._predicate(operands[-1])
        if is_on is None or _PREDICATE.fullmatch(operands[0]):
            return None
        return {operands[0]: _WORD if is_on else 0, operands[1]: is_on}  # all lanes are like this one

    _voteu = _vote

    def _p2r(self, how, operands):
        mask = int(operands[3], 0)
        bits = [(k, self._predicate(f"P{k}")) for k in range(7) if mask >> k & 1]
        if operands[2] != "RZ" or any(bit is None for _, bit in bits):
            return None
        return {operands[0]: sum(bit << k for k, bit in bits)}

    def _r2p(self, how, operands):
        values = self._values(*operands[1:3])
        if values is None:
            return None
        bits, mask = values
        return {f"P{k}": bool(bits >> k & 1) for k in range(7) if mask >> k & 1}


def _signed(word):
    return word - (1 << 32) if word >> 31 else word


def _next(register):
    return re.sub(r"\d+$", lambda found: str(int(found[0]) + 1), register)


def _span(register, name):
    """Return the registers that an instruction with this name writes."""
    is_double = name.startswith(("D", "F2F.F64", "I2F.F64", "MUFU.RCP64H", "MUFU.RSQ64H")) or "WIDE" in name
    count = 4 if "128" in name else 2 if is_double or "64" in name else 1
    names = [register]
    for _ in range(count - 1):
        names.append(_next(names[-1]))
    return names


def _lookup(table, values, bits):
    """Return the bits that a table of eight gives for each triple of bits."""
    mask, made = (1 << bits) - 1, 0
    for row in range(8):
        if table >> row & 1:
            wanted = [value if row >> (2 - k) & 1 else ~value for k, value in enumerate(values)]
            made |= wanted[0] & wanted[1] & wanted[2] & mask
    return made


# ------------------------------------------------------------------------------------------------------- what it takes
#: What each instruction occupies besides an issue slot; those not named are integer and logic instructions ("alu").
_PORTS = {
    "fma": "FADD FFMA FMUL HFMA2 IMAD",
    "fp64": "DADD DFMA DMUL DSETP",
    "xu": "F2F F2I I2F MUFU POPC",
    "lsu": "ATOM ATOMG LD LDG LDS SHFL ST STG STS",
    "": "BAR BMOV BRA BRX BSSY BSYNC CALL CCTL CGAERRBAR CS2R ERRBAR EXIT LDC MEMBAR NOP R2UR RET S2R S2UR WARPSYNC YIELD",
}
_PORT_OF = {op: port for port, ops in _PORTS.items() for op in ops.split()}
KINDS = ("issue", "fma", "alu", "xu", "fp64", "lsu", "lines")


def occupied(instruction):
    """Return how much of each of KINDS a warp's instruction occupies: one of its port, and 128-byte lines of global memory."""
    op = instruction.op
    port = _PORT_OF.get(op, "" if op.startswith("U") else "alu")
    lines = 4 if "128" in instruction.name else 2 if "64" in instruction.name else 1
    return ("issue", port), lines if op in ("LD", "LDG", "ST", "STG") else 0


def stretches(kernel, threads, constants):
    """Return the stretches of a block's run between two barriers: the sums of KINDS over its warps, each a tuple.

    The first thread of each warp stands for the warp.
    """
    found = []
    for warp in range(threads // 32):
        at, thread = 0, Thread(kernel, {"SR_TID.X": 32 * warp, "SR_CTAID.X": 0}, constants)
        for each in thread.run():
            if at == len(found):
                found.append(dict.fromkeys(KINDS, 0))
            ports, lines = occupied(each)
            for port in filter(None, ports):
                found[at][port] += 1
            found[at]["lines"] += lines
            at += each.op == "BAR" and thread.is_on(each)
    return [tuple(each.values()) for each in found]
