"""``python -m benchmarks run`` measures; ``python -m benchmarks report`` makes tables and charts from the results.

`run` tests the kernels first and measures nothing if a test fails.
"""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks import bars, report, results
from benchmarks.process import ROOT
from charlstm.measure import bench


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure everything into benchmarks/results/MACHINE.json")
    run.add_argument("--quick", action="store_true", help="run all benchmarks with tiny counts, to see that they work")
    run.add_argument("--only", metavar="WORD", help="run only benchmarks with WORD in their names, and write last.json")
    show = commands.add_parser("report", help="write tables and charts from the results of this machine")
    show.add_argument("file", nargs="?", help="read this file of benchmarks/results instead")
    show.add_argument("--bars", action="store_true", help="print every figure beside its target, and write nothing")
    arguments = parser.parse_args()
    return measure(arguments.quick, arguments.only) if arguments.command == "run" else tell(arguments)


def measure(quick, only):
    load = bench.load_average()
    if load and load > 0.5 and not quick:
        print(f"the machine is busy (load {load}), so figures for several threads will be unreliable", file=sys.stderr)
    tests = [sys.executable, "-m", "pytest", "-q", "tests/kernel/test_chain.py"]
    if subprocess.run(tests, cwd=ROOT, check=False).returncode != 0:
        print("a test of the kernels failed: nothing is measured", file=sys.stderr)
        return 1
    last = results.FOLDER / "last.json"
    path = last if only else results.FOLDER / f"{results.name_of_machine()}.json"
    results.FOLDER.mkdir(exist_ok=True)
    select = ["-k", only] if only else []
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--benchmark-enable", f"--benchmark-json={last}"]
    environment = {**os.environ, "CHARLSTM_BENCH_QUICK": "1"} if quick else None
    done = subprocess.run([*command, *select], cwd=ROOT, check=False, env=environment)
    if done.returncode != 0:
        print("a benchmark failed: its results are not kept", file=sys.stderr)
        return 1
    if quick:
        print("all benchmarks run; so few iterations say nothing about speed")
        return 0
    found = results.read(last)
    rows = bars.bars(found)
    found["bars"] = [bar._asdict() for bar in rows]
    results.write(found, path)
    for part in (report.speed_table(found), report.cost_table(found), report.memory_table(found), bars.as_text(rows)):
        print(f"\n{part}")
    print(f"results in {path.relative_to(ROOT)}; load {bench.load_average()}")
    return 0


def tell(arguments):
    path = Path(arguments.file) if arguments.file else results.FOLDER / f"{results.name_of_machine()}.json"
    if not path.exists():
        print(f"{path}: no such file; python -m benchmarks run writes it", file=sys.stderr)
        return 2
    if arguments.bars:
        print(bars.as_text(bars.bars(results.read(path))))
        return 0
    if path.resolve().parent != results.FOLDER.resolve():
        print(f"{path}: expected a file in benchmarks/results, because the page names it", file=sys.stderr)
        return 2
    if find_spec("matplotlib") is None:
        print("the charts need matplotlib: make bench installs it", file=sys.stderr)
        return 2
    report.write(path.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
