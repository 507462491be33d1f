"""Reads SASS, the instructions that a GPU executes, from compiled kernels.

NVIDIA's disassembler is a wheel (extra gpu-test) and needs no GPU.
"""

import re
import subprocess
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from device import wheels

PACKAGE = "nvidia-cuda-nvdisasm"
REASON = f"needs the disassembler's wheel: pip install {PACKAGE} (extra gpu-test)"

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
_LABEL = re.compile(r"(\.L_x_\d+|\$[\w$]+):")


wheel = partial(wheels.installed, PACKAGE)


class Instruction(NamedTuple):
    """One instruction, as the disassembler writes it."""

    guard: str  # its predicate, such as P0 or !P0, or an empty string
    name: str  # with all its modifiers, such as LDG.E.128
    operands: tuple[str, ...]

    @property
    def op(self):
        """Its name without modifiers."""
        return self.name.partition(".")[0]


class Kernel(NamedTuple):
    """The instructions of a kernel, and the index that each label stands for."""

    code: tuple[Instruction, ...]
    labels: dict[str, int]

    def target(self, instruction):
        """Return the index to which a branch goes (the first of several), or None if it goes to no label."""
        found = re.search(r"`\((\S+?)\)|BRANCH_TARGETS (\S+)", " ".join(instruction.operands))
        return self.labels.get(found[1] or found[2]) if found else None

    def loops(self):
        """Return begin and end (inclusive) of each loop, by its branch backward."""
        for k, each in enumerate(self.code):
            begin = self.target(each) if each.op == "BRA" else None
            if begin is not None and begin <= k and begin != k:  # the last branch, to itself, is padding
                yield begin, k

    def inner_loops(self):
        """Return the loops that contain no other."""
        every = list(self.loops())
        return [(a, b) for a, b in every if not any((c, d) != (a, b) and a <= c and d <= b for c, d in every)]


def disassembled(cubin):
    """Return the kernels of compiled code, by name, with the functions that they call appended to each."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "kernels.cubin")
        path.write_bytes(cubin)
        text = subprocess.run(
            [wheels.path_of(PACKAGE, r"nvdisasm(\.exe)?"), "-c", path], capture_output=True, text=True, check=True
        ).stdout
    return {name: _kernel(lines) for name, lines in _sections(text)}


def _sections(text):
    parts = re.split(r"^\s*\.section\s+\.text\.(\w+),.*$", text, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def _kernel(text):
    code, labels = [], {}
    for line in text.splitlines():
        if found := _LABEL.match(line.strip()):
            labels[found[1]] = len(code)
        elif found := _LINE.search(line):
            _, guard, name, operands = found.groups()
            code.append(Instruction(guard or "", name, tuple(_operands(operands))))
    return Kernel(tuple(code), labels)


def _operands(text):
    return [part.strip().replace(".reuse", "") for part in text.split(",")] if text else []
