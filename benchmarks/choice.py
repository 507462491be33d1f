"""``python -m benchmarks.choice`` writes kernels/gpu/measured.py, by which `--backend auto` chooses.

All its figures come from benchmarks/results: GPUs on which the tests have passed, and the fastest core of each dtype.
"""

import sys

import numpy as np

from benchmarks import gpu_model, results
from benchmarks.process import ROOT
from charlstm.measure.bench import WORKS
from kernels.gpu.choice import Work

PATH = ROOT / "kernels" / "gpu" / "measured.py"
TEXT = '''"""What was measured and tested: python -m benchmarks.choice writes this file from benchmarks/results."""

#: GPUs on which the tests have passed, as the driver names them: seconds per node of a CUDA graph, and multiply-adds
#: per second of its products.
DEVICES: dict[str, tuple[float, float]] = {{{devices}}}
#: Multiply-adds per second of one core, in training: the most that were measured.
CORE = {{{cores}}}
'''


def sizes(work):
    """Return the sizes of a work as kernels/gpu/choice.py takes them."""
    return Work(work.shape, work.seq_length, work.batch_size, work.last_only)


def fitted(rows):
    """Fit seconds per node and multiply-adds per second to the works that a CUDA graph of single steps trained."""
    found = [(sizes(WORKS[row["work"]]), row["median"]) for row in rows if is_by_steps(row["work"])]
    per_second = [[work.nodes / seconds, work.products_on_gpu / seconds] for work, seconds in found]
    (node, product), *_ = np.linalg.lstsq(np.array(per_second), np.ones(len(found)), rcond=None)
    if node <= 0 or product <= 0:
        raise ValueError(f"the times of {[row['work'] for row in rows]} do not grow with nodes and products")
    return node, 1 / product


def is_by_steps(name):
    return bool(WORKS[name].optimizer) and name not in gpu_model.COUNTS


def devices(every):
    """Return the fitted figures of each GPU on which the tests have passed."""
    passed = [each for each in every if each.get("tests", {}).get("passed") and not each["tests"]["failed"]]
    return {each["machine"]["device"]: fitted(each["gpu"]) for each in passed}


def cores(every):
    """Return the most multiply-adds per second of one core, by dtype."""
    found = {}
    for race in (race for each in every for race in each.get("benchmarks", ()) if "contestants" in race):
        if WORKS[race["work"]].optimizer:
            for dtype in ("bfloat16", "float32"):
                if mine := results.ours(race, 1, dtype=dtype):
                    rate = sizes(WORKS[race["work"]]).products / mine["median"]
                    found[dtype] = max(found.get(dtype, 0.0), rate)
    return found


def text():
    """Return what the file should hold."""
    every = [results.read(path) for path in sorted(results.FOLDER.glob("*.json")) if path.name != "last.json"]
    gpus = [f'\n    "{name}": ({node:.2e}, {rate:.2e}),' for name, (node, rate) in devices(every).items()]
    rates = [f'\n    "{dtype}": {rate:.2e},' for dtype, rate in sorted(cores(every).items())]
    rows = ("".join(each) + ("\n" if each else "") for each in (gpus, rates))
    return TEXT.format(**dict(zip(("devices", "cores"), rows, strict=True))).replace("e+", "e")


def main():
    PATH.write_text(text(), encoding="utf-8", newline="\n")
    print(f"devices and rates in {PATH.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
