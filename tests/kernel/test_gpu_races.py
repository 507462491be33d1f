"""Run the CUDA source on the CPU under sanitizers, which find races and out-of-bounds accesses.

Removing any barrier must make them report an error.
"""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from device import emulator

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(emulator.COMPILER is None, reason=emulator.REASON),
]
WORKS = {
    "small": ["block", "blocks"],
    "model": ["launches"],
    "clipping": ["launches"],
    "sample": ["drawing"],
    "persistent": ["steps"],
}
RUNTIMES = {"thread": "libtsan.so", "address": "libasan.so"}


def barriers():
    """Yield the file and line of every barrier."""
    for path in sorted(emulator.FOLDER.glob("*.cu")):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            if emulator.BARRIER.search(line):
                yield path.stem, number


def run(sanitizer, file, line, works):
    """Run the works in their own process; return the finished process."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    if sanitizer != "none":
        place = subprocess.run(
            [emulator.COMPILER, f"-print-file-name={RUNTIMES[sanitizer]}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if not os.path.isabs(place):
            pytest.skip(f"needs {RUNTIMES[sanitizer]}")
        environment |= {
            "LD_PRELOAD": place,
            "TSAN_OPTIONS": "exitcode=66 ignore_noninstrumented_modules=1 halt_on_error=1",
            "ASAN_OPTIONS": "detect_leaks=0 exitcode=66",
        }
    return subprocess.run(
        [sys.executable, "-m", "device.sanitized", sanitizer, file, str(line), *works],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("sanitizer", ["none", *RUNTIMES])
def test_nothing_is_seen_in_the_source_as_it_is(sanitizer):
    done = run(sanitizer, "small", 0, ["block", "blocks", "launches", "steps", "drawing"])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("file", "line"), list(barriers()), ids=str)
def test_a_barrier_that_is_taken_away_is_missed(file, line):
    outcomes = {}
    for sanitizer in ("none", "thread"):
        done = run(sanitizer, file, line, WORKS[file])
        assert done.returncode in (0, 3, 66), done.stdout + done.stderr
        outcomes[sanitizer] = done.returncode
    assert outcomes["thread"] == 66 or outcomes["none"] == 3, outcomes
