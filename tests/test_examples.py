"""Run the examples as a reader would, at a small size."""

import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import BACKENDS, ROOT, made_up_text

ONE_SITTING, FORECASTING = (ROOT / "examples" / f"{name}.py" for name in ("train_in_one_sitting", "forecasting"))


def run(folder, *arguments, example=ONE_SITTING):
    """Run an example in a process that may import NumPy and kernels but not charlstm; return its output."""
    program = (
        f"import sys, runpy; sys.modules['charlstm'] = None; runpy.run_path({str(example)!r}, run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.skipif("numpy" not in BACKENDS, reason="it is run with the reference")
def test_one_sitting_learns_scores_and_writes(tmp_path):
    (tmp_path / "book.txt").write_text(made_up_text(20_000))
    sizes = ("--hidden-size", "16", "--seq-length", "16", "--batch-size", "8", "--iterations", "100", "--length", "80")
    done = run(tmp_path, "book.txt", "--backend", "numpy", "--learning-rate", "0.05", *sizes)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.findall(r"^iteration +(\d+)  ([\d.]+) nats  ([\d.]+) bits per character$", done.stdout, re.M)
    assert [int(at) for at, _, _ in found] == list(range(10, 101, 10))
    nats, bits = ([float(each[k]) for each in found] for k in (1, 2))
    assert bits == pytest.approx([value / math.log(2) for value in nats], abs=2e-3)
    different = len(set(made_up_text(20_000)))
    assert nats[0] == pytest.approx(math.log(different), rel=0.15)  # uniform at first
    assert nats[-1] < 0.75 * nats[0]
    held_out = float(re.search(r"^held out: ([\d.]+) bits per character$", done.stdout, re.M)[1])
    assert held_out == pytest.approx(bits[-1], rel=0.15)
    sample = done.stdout.partition(" bits per character\n\n")[2].removesuffix("\n")
    assert len(sample) == 80
    assert set(sample) <= set(made_up_text(20_000))


def test_one_sitting_refuses_a_text_that_is_too_short(tmp_path):
    (tmp_path / "book.txt").write_text("abc" * 100)
    done = run(tmp_path, "book.txt", "--backend", "numpy")
    assert (done.returncode, done.stderr) == (1, "the text is too short for 16 streams of 64 characters\n")


def test_one_sitting_is_read_in_one_sitting():
    lines = ONE_SITTING.read_text().splitlines()
    assert len(lines) < 120
    assert not [line for line in lines if re.match(r"(def|class) ", line)]  # the script has no functions and no classes


@pytest.mark.skipif("numpy" not in BACKENDS, reason="it is run with the reference")
def test_a_forecast_is_better_than_the_last_value_and_knows_by_how_much(tmp_path):
    drawn = ("--plot", "forecast.png") if find_spec("matplotlib") else ()
    done = run(tmp_path, "--backend", "numpy", "--iterations", "60", *drawn, example=FORECASTING)
    assert (done.returncode, done.stderr) == (0, "")
    ours, theirs, noise = map(float, re.search(
        r"^held out: error ([\d.]+), last value ([\d.]+), the noise alone ([\d.]+)$", done.stdout, re.M
    ).groups())  # fmt: skip
    assert noise < ours < 0.8 * theirs
    inside, nats = map(float, re.search(r"^([\d.]+) % lie in the band of 95 %; (.+) nats", done.stdout, re.M).groups())
    assert 92 < inside < 98
    gaussian = math.log(ours) + 0.5 * math.log(2 * math.pi * math.e)  # of the error itself
    assert nats == pytest.approx(gaussian, abs=0.05)
    assert not drawn or (tmp_path / "forecast.png").read_bytes()[:4] == b"\x89PNG"
