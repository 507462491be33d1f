"""Shared fixtures of the benchmarks: they check the kernels before timing, show progress, and keep what was measured.

One row of pytest-benchmark's tables is one iteration (one call, one start), in microseconds, and a group holds what may
be compared. The rounds are measured elsewhere, in processes that take turns; `row` replays them on the CLOCK.
"""

import datetime
import platform
import time

import pytest

from benchmarks import results, stages
from benchmarks.process import QUICK, ROUND_SECONDS, ROUNDS, Race, field, teams
from charlstm.host import machine
from charlstm.measure import bench, limits

_kept, _failed, _done, _limits = [], [], {}, []


# -------------------------------------------------------------------------------------------------------- before timing
@pytest.fixture(scope="session", autouse=True)
def _right_before_fast(request):
    """Refuse to measure kernels whose gradients are wrong."""
    if not request.config.getoption("benchmark_enable"):  # this option overrides --benchmark-disable in pyproject.toml
        pytest.skip("benchmarks run by `make bench`, or with --benchmark-enable")
    try:
        bench.check_gradients("numba")
    except Exception as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(scope="session")
def machine_limits():
    """Measure the machine's limits once, in the same run."""
    if not _limits:
        _limits.append(limits.measure(tries=2 if QUICK else 25))
    return _limits[0]


# -------------------------------------------------------------------------------------------------------------- measure
@pytest.fixture
def keep():
    """Return a function that keeps figures under a name in the results."""
    return lambda name, **figures: _kept.append({"name": name, **figures})


@pytest.fixture
def once():
    """Return a function that measures what several rows share: at the first call with this key."""

    def measured(key, measure):
        if key not in _done:
            _done[key] = measure()
        return _done[key]

    return measured


class _Clock:
    now = 0.0


def clock():
    """Return the time on the clock that `row` turns: pytest-benchmark's timer here."""
    return _Clock.now


@pytest.fixture
def row(request):
    """Return a function that shows the seconds of some rounds as a row of a group."""

    def show(group, times):
        rest = iter(times)

        def back():
            _Clock.now = 0.0

        def turn():
            _Clock.now = next(rest)

        benchmark = request.getfixturevalue("benchmark")  # not before: a row that is skipped shows none
        benchmark.group = group
        benchmark.pedantic(turn, setup=back, rounds=len(times))

    return show


class _Rows:
    """The rows of a race."""

    def __init__(self, race, row):
        self.race, self.row = race, row

    def show(self, contestant):
        """Show the row of a contestant; skip it if it is absent, fail if it failed."""
        if contestant in self.race.absent:
            pytest.skip(self.race.absent[contestant])
        if contestant in self.race.failed:
            pytest.fail(self.race.failed[contestant], pytrace=False)
        (times,) = (process.times for process in self.race.processes if process.contestant == contestant)
        threads = f"{contestant.threads} thread{'s' if contestant.threads > 1 else ''}"
        self.row(f"one iteration of {self.race.work.name} on {threads}", times)


@pytest.fixture
def races(request, machine_limits, row, once, keep):
    """Return a function that races contestants at a work, all that can run it unless told, and returns their rows."""

    def rows(work, contestants=None, rounds=ROUNDS, seconds=ROUND_SECONDS):
        def run():
            begin = time.perf_counter()
            entrants, absent = (contestants, {}) if contestants else field(work)
            race = Race(work, entrants, seconds)
            try:
                race.run(rounds)
            finally:
                race.close()
            found = race.result()
            found["absent"] |= absent
            found["floor"] = {str(n): work.floor(machine_limits, n) for n in (teams() if work.optimizer else [1])}
            test = request.node.originalname
            name = f"{test}[{work.name}]" if work.optimizer else test
            keep(name, **found, took=round(time.perf_counter() - begin, 1))
            return race

        return _Rows(once(("race", work.name), run), row)

    return rows


# ------------------------------------------------------------------------------------------------------------- progress
def pytest_collection_modifyitems(config, items):
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=clock))


class _Progress:
    """Writes a line as each stage begins: its number, what it measures, and how long it and the rest take."""

    def __init__(self, config):
        self.plugins = config.pluginmanager
        self.stage_of, self.stages, self.current, self.begin = {}, [], None, 0.0

    def pytest_collection_finish(self, session):
        self.stage_of = {item.nodeid: stages.name_of(item) for item in session.items}
        self.stages = [stages.stage(name) for name in dict.fromkeys(self.stage_of.values())]

    def pytest_runtest_logstart(self, nodeid):
        """Write a line if a stage begins; here, because what is written during a test is captured."""
        name, terminal = self.stage_of[nodeid], self.plugins.get_plugin("terminalreporter")
        if name != self.current and terminal:
            self.current = name
            terminal.ensure_newline()
            terminal.write_line(self.line(name))
            terminal.flush()

    def line(self, name):
        now = time.perf_counter()
        self.begin = self.begin or now
        place = [each.name for each in self.stages].index(name)
        done, rest = sum(each.seconds for each in self.stages[:place]), self.stages[place:]
        pace = max(0.5, (now - self.begin) / done) if done else 1.0
        left = stages.in_minutes(pace * sum(each.seconds for each in rest))
        return f"[{place + 1:2}/{len(self.stages)}] about {left:6} left   {name}: {rest[0].what}"


def pytest_configure(config):
    config.pluginmanager.register(_Progress(config), "progress of the benchmarks")


def pytest_report_teststatus(report, config):
    """Show no dots between the lines of progress; failures keep their letters."""
    if report.passed and report.when == "call":
        return "passed", "", "PASSED"
    return ("skipped", "", "SKIPPED") if report.skipped else None


# ----------------------------------------------------------------------------------------------------------------- keep
def pytest_runtest_logreport(report):
    if report.failed:
        why = str(report.longrepr).strip().splitlines()
        _failed.append({"name": report.nodeid.rpartition("::")[2], "why": why[-1] if why else report.when})


def pytest_keyboard_interrupt(excinfo):
    _failed.append({"name": results.INTERRUPTED, "why": "Ctrl-C"})


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(
        processor=machine.processor(),
        cores=machine.usable_cores(),
        system=platform.system(),
        load=bench.load_average(),
        versions=machine.versions(),
        limits=(_limits[0] if _limits else limits.measure(tries=2)).as_dict(),
    )


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Keep only the data that the report needs; drop everything about the user and the host."""
    now = datetime.datetime.now(datetime.UTC)
    kept = results.trimmed(output_json, _kept, _failed, f"{now:%Y-%m-%d}")
    output_json.clear()
    output_json.update(kept)
