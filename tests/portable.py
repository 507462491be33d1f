"""Run the chain of trust as other machines would: ``make test-portable``, or ``python tests/portable.py [WORD ...]``.

With the vectors of older processors, under each other Python from 3.11 to 3.15 that is found, and under the commands in
CHARLSTM_PYTHONS, separated by ``;``: each runs a Python that has the packages of the extra `test`, in a chroot, say, or
on another architecture under qemu-user. One line tells how each ended, or why it was skipped; with WORDs, only those
with one of these words in their names run. What pytest wrote is in build/portable.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "portable"
MINORS = range(11, 16)
COMMANDS = "CHARLSTM_PYTHONS"
CHAIN = ("tests/kernel/test_chain.py",)
#: For another Python: what depends on it, too.
PRODUCT = (*CHAIN, "tests/commands/test_cli.py", "tests/text/test_formats.py", "tests/runs/test_run.py")
#: For an emulated processor, which is fifty times slower.
SHORT = (*CHAIN, "-k", "test_whole_model and lstm and not lnlstm or test_our_own_trace and lstm")
#: Name, processor, and what features of this machine's processor that one lacks.
VECTORS = (
    ("AVX2", "haswell", r"avx512.*|avx10.*|avx.+vnni.*|avxvnni.*|avxifma|avxneconvert|amx.*|evex512"),
    ("SSE", "nehalem", r"avx.*|amx.*|evex512|fma4?|f16c|xop|vaes|vpclmulqdq|bmi2?"),
)


@dataclass(frozen=True)
class Variant:
    """A way to run the tests, or the reason why it cannot be."""

    name: str
    python: tuple[str, ...] = (sys.executable,)
    tests: tuple[str, ...] = CHAIN
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def file(self):
        return OUT / (re.sub(r"\W+", "-", self.name) + ".log")


def main(words):
    failed = False
    for variant in (*vectors(), *pythons(), *commands()):
        if not words or any(word.lower() in variant.name.lower() for word in words):
            failed |= not tell(variant)
    return 1 if failed else 0


def tell(variant):
    """Run the tests, print how they ended in one line, and return whether they passed or were skipped."""
    if variant.missing:
        print(f"skipped  {variant.name}: {variant.missing}")
        return True
    begin = time.perf_counter()
    code, last = run(variant)
    where = "" if code == 0 else f"; see {variant.file.relative_to(ROOT)}"
    print(
        f"{'passed' if code == 0 else 'FAILED':7}  {variant.name}: {last}, {time.perf_counter() - begin:.0f} s{where}"
    )
    sys.stdout.flush()
    return code == 0


def run(variant):
    """Return the exit code of the tests and pytest's last line; kernels are compiled anew, into a folder of its own."""
    cache = variant.file.with_suffix("")
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "CHARLSTM_TEST_BACKEND": "numba", **variant.environment}
    options = ["-q", "-p", "no:cacheprovider", "-m", "not long and not browser and not mpi and not peers and not gpu"]
    with variant.file.open("w", encoding="utf-8") as log:
        done = subprocess.run(
            [*variant.python, "-m", "pytest", *options, *variant.tests],
            cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    lines = variant.file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return done.returncode, re.sub(r"^=+ | in [\d.]+s.*$", "", lines[-1]) if lines else "no output"


def vectors():
    """Return a variant for each kind of vectors that this machine's processor exceeds."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return [Variant(f"vectors of {name}", missing="this is no x86-64 processor") for name, _, _ in VECTORS]
    from llvmlite import binding

    found = []
    for name, processor, lacking in VECTORS:
        features = binding.get_host_cpu_features()
        without = [each for each in features if re.fullmatch(lacking, each)]
        exceeds = any(features[each] for each in without)
        for each in without:
            features[each] = False
        environment = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features.flatten()}
        missing = "" if exceeds else "this processor has no others, and `make test` runs with them"
        found.append(Variant(f"vectors of {name}", environment=environment, missing=missing))
    return found


def pythons():
    """Return a variant for each Python of MINORS but the running one, in an environment of its own."""
    for minor in MINORS:
        name, found = f"Python 3.{minor}", shutil.which(f"python3.{minor}")
        if sys.version_info[:2] == (3, minor):
            continue
        if not found or about((found,)) is None:
            yield Variant(name, missing=f"no python3.{minor} on PATH")
            continue
        folder = OUT / f"python3.{minor}"
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        steps = [[found, "-m", "venv", folder]] if not python.exists() else []
        steps += [[python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", ".[test]"]]
        why = next(filter(None, map(why_not, steps)), "")
        yield Variant(name, (str(python),), PRODUCT, missing=why)


def why_not(command):
    """Run a command; return the last line that it wrote if it failed, else nothing."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no packages"])[-1]


def commands():
    """Return a variant for each command in CHARLSTM_PYTHONS, and say if none has another architecture."""
    here, machines = platform.machine(), set()
    for line in filter(None, map(str.strip, os.environ.get(COMMANDS, "").split(";"))):
        python = tuple(shlex.split(line))
        found = about(python)
        if found is None:
            yield Variant(line, missing="it runs no Python")
            continue
        machine, version = found
        machines.add(machine)
        yield Variant(f"Python {version} on {machine}: {line}", python, PRODUCT if machine == here else SHORT)
    for other in {"aarch64", "x86_64"} - machines - {{"arm64": "aarch64", "AMD64": "x86_64"}.get(here, here)}:
        yield Variant(other, missing=f"{COMMANDS} names no Python on it; under qemu-user it may be emulated")


def about(python):
    """Return the architecture and version of a Python, or None if the command does not run one."""
    program = "import platform; print(platform.machine(), platform.python_version())"
    try:
        done = subprocess.run([*python, "-c", program], capture_output=True, text=True, check=False)
    except OSError:
        return None
    words = done.stdout.split()
    return tuple(words) if done.returncode == 0 and len(words) == 2 else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
