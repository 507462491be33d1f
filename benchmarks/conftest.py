"""Shared fixtures of the benchmarks: they check the kernels before timing and record the machine in the results."""

import datetime
import platform

import pytest

from benchmarks import results
from benchmarks.process import QUICK
from charlstm.host import machine
from charlstm.measure import bench, limits


@pytest.fixture(scope="session", autouse=True)
def _right_before_fast(request):
    """Refuse to measure kernels whose gradients are wrong."""
    if not request.config.getoption("benchmark_enable"):  # this option overrides --benchmark-disable in pyproject.toml
        return
    try:
        bench.check_gradients("numba")
    except Exception as error:
        pytest.exit(str(error), returncode=1)


_limits = []


@pytest.fixture(scope="session")
def machine_limits():
    """Measure the machine's limits once, in the same run."""
    if not _limits:
        _limits.append(limits.measure(tries=2 if QUICK else 25))
    return _limits[0]


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(
        processor=machine.processor(),
        cores=machine.usable_cores(),
        system=platform.system(),
        load=bench.load_average(),
        versions=machine.versions(),
        limits=_limits[0].as_dict() if _limits else {},
    )


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Keep only the data that the report needs; drop everything about the user and the host."""
    now = datetime.datetime.now(datetime.UTC)
    kept = results.trimmed(output_json, f"{now:%Y-%m-%d}")
    output_json.clear()
    output_json.update(kept)
