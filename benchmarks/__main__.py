"""``python -m benchmarks run`` measures; ``python -m benchmarks report`` makes tables and charts from the results.

`run` tests the kernels first and measures nothing if a test fails. What it measured is kept and shown even if a
benchmark fails or Ctrl-C ends it.
"""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks import bars, report, results, stages
from benchmarks.process import ROOT
from charlstm.host import machine
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
    announce(quick, only)
    workers = str(min(4, machine.usable_cores()))
    tests = [sys.executable, "-m", "pytest", "-q", "-n", workers, "tests/kernel/test_chain.py"]
    if subprocess.run(tests, cwd=ROOT, check=False).returncode != 0:
        print("a test of the kernels failed: nothing is measured", file=sys.stderr)
        return 1
    last = results.FOLDER / "last.json"
    results.FOLDER.mkdir(exist_ok=True)
    last.unlink(missing_ok=True)
    select = ["-k", only] if only else []
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--benchmark-enable", f"--benchmark-json={last}"]
    environment = {**os.environ, "CHARLSTM_BENCH_QUICK": "1"} if quick else None
    code = to_its_end([*command, *select], environment)
    if quick and code == 0:
        print("all benchmarks run; so few iterations say nothing about speed")
        return 0
    if not last.exists():
        print("nothing was measured", file=sys.stderr)
        return 1
    found = results.read(last)
    is_part = quick or only or results.INTERRUPTED in [each["name"] for each in found["failed"]]
    return conclude(found, last if is_part else results.FOLDER / f"{results.name_of_machine()}.json")


def announce(quick, only):
    """Print what will run and for about how long, and which rivals are missing."""
    load = bench.load_average()
    print(f"{machine.processor()}, {machine.usable_cores()} cores, load {load}")
    warm, cold = map(stages.in_minutes, stages.TESTS_SECONDS)
    print(f"First the tests of the kernels: {warm}; where kernels must be compiled, {cold}.")
    if only:
        print(f"Then the benchmarks with {only} in their names.")
    elif not quick:
        planned = stages.planned()
        print(f"Then, in about {stages.in_minutes(sum(each.seconds for each in planned))} on two free cores:")
        for each in planned:
            print(f"  {stages.in_minutes(each.seconds):>6}  {each.name}: {each.what}")
    for title, reason in stages.absent().items():
        print(f"Not here: {title} ({reason})")
    if load and load > 0.5 and not quick:
        print(f"The machine is busy (load {load}): times will be longer, those of several threads above all.")
    sys.stdout.flush()


def to_its_end(command, environment):
    """Run a command; return its exit code. Ctrl-C reaches it, too; wait until it has written what it measured."""
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def conclude(found, path):
    """Keep the results, and print them: last the table of all works, and what failed."""
    rows = bars.bars(found)
    found["bars"] = [bar._asdict() for bar in rows]
    results.write(found, path)
    if any(bar.measured for bar in rows):
        print(f"\n{bars.as_text([bar for bar in rows if bar.measured])}")
    for table in (report.cost_table(found), report.memory_table(found), report.speed_table(found)):
        if len(table.splitlines()) > 2:
            print(f"\n{report.as_text(table)}")
    print(
        "2x: twice our time, the median of the rounds. floor: the least time that the limits of this machine allow; "
        f"load {bench.load_average()}."
    )
    print(f"results in {path.relative_to(ROOT)}")
    for each in found["failed"]:
        print(f"FAILED {each['name']}: {each['why']}")
    return 1 if found["failed"] else 0


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
