"""The results: what is kept of pytest-benchmark's JSON, where, and what can be read from it."""

import json
from pathlib import Path

from charlstm.host import machine

FOLDER = Path(__file__).parent / "results"

#: The contestants beside ours, by the names that results have, in the order of tables and charts.
RIVALS = {"pytorch": "PyTorch", "jax": "JAX", "plain_c": "plain C", "numpy_loop": "NumPy loop"}


def name_of_machine():
    """A name that is the same for every run on this kind of machine: amd-epyc-2-cores."""
    words = "".join(c if c.isalnum() else " " for c in machine.processor().lower()).split()
    return "-".join([*words[:6], str(machine.usable_cores()), "cores"])


def trimmed(raw, date):
    """What the report needs of what pytest-benchmark writes; rounds themselves, host names and paths are left out."""
    about = raw["machine_info"]
    return {
        "date": date,
        "commit": raw["commit_info"].get("id"),
        "uncommitted_changes": bool(raw["commit_info"].get("dirty")),
        "machine": {key: about[key] for key in ("processor", "cores", "system", "load")},
        "versions": about["versions"],
        "limits": about["limits"],
        "benchmarks": [{"name": each["name"], **_rounded(each["extra_info"])} for each in raw["benchmarks"]],
    }


def _rounded(value):
    """Six digits are more than a measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def read(path):
    return json.loads(Path(path).read_text())


def write(results, path):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


# ------------------------------------------------------------------------------------------------ what can be read
def race_of(results, work):
    """The race at a work; None where it was not run."""
    return next((each for each in results["benchmarks"] if each.get("work") == work and "contestants" in each), None)


def ours(race, threads, backend="numba", dtype="float32"):
    """Our own contestant of a race, exactly so; None where there was none."""
    wanted = ("ours", threads, backend, dtype)
    keys = ("name", "threads", "backend", "dtype")
    return next((c for c in race["contestants"] if tuple(c.get(key) for key in keys) == wanted), None)


def best(race, name, threads):
    """The fastest of a rival's contestants, or of ours in float32, with at most so many threads.

    JAX, which takes what cores it may have, is at its best of all.

    None where it took no part.
    """
    if name == "ours":
        found = (ours(race, n) for n in thread_counts(race) if n <= threads)
        return min((c for c in found if c), key=lambda c: c["median"], default=None)
    fits = [c for c in race["contestants"] if c["name"] == name and (name == "jax" or c["threads"] <= threads)]
    return min(fits, key=lambda c: c["median"], default=None)


def thread_counts(race):
    """The numbers of threads that ours was measured with."""
    return sorted({c["threads"] for c in race["contestants"] if c["name"] == "ours"})


def named(results, name):
    """A benchmark by its name; None where it was not run."""
    return next((each for each in results["benchmarks"] if each["name"] == name), None)


def costs(results, kind):
    """(size, race) of the works `cost-h-...` or `cost-b-...`, by size."""
    found = [each for each in results["benchmarks"] if each.get("work", "").startswith(f"{kind}-")]
    return sorted((int(each["work"].rpartition("-")[2]), each) for each in found)


def versions_of(results):
    """Versions of everything that took part."""
    found = dict(results["versions"])
    for each in results["benchmarks"]:
        for contestant in each.get("contestants", []):
            found |= contestant["versions"]
    return found
