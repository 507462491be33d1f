"""The results: selects the part of pytest-benchmark's JSON to keep, stores it, and reads it."""

import json
from pathlib import Path

from charlstm.host import machine

#: Name of what failed when Ctrl-C ended the benchmarks.
INTERRUPTED = "interrupted"
FOLDER = Path(__file__).parent / "results"

#: Titles of the rivals by their names in the results, in the order of tables and charts.
RIVALS = {
    "pytorch": "PyTorch",
    "pytorch_bf16": "PyTorch bfloat16",
    "jax": "JAX",
    "plain_c": "plain C",
    "numpy_loop": "NumPy loop",
}
#: Titles of contestants that tables and charts leave out.
_OTHERS = {"pytorch_usual": "PyTorch as usually written"}


def title_of(name, dtype="float32"):
    """Return the title of a contestant."""
    return {**RIVALS, **_OTHERS}.get(name, name) + ("" if dtype == "float32" else f" in {dtype}")


def name_of_machine():
    """Return a name that all machines of a kind share, such as amd-epyc-2-cores."""
    words = "".join(c if c.isalnum() else " " for c in machine.processor().lower()).split()
    return "-".join([*words[:6], str(machine.usable_cores()), "cores"])


def trimmed(raw, kept, failed, date):
    """Return the results: the figures that were kept, what failed, and from pytest-benchmark where and with what.

    They hold no host names and paths.
    """
    about = raw["machine_info"]
    return {
        "date": date,
        "commit": raw["commit_info"].get("id"),
        "uncommitted_changes": bool(raw["commit_info"].get("dirty")),
        "machine": {key: about[key] for key in ("processor", "cores", "system", "load")},
        "versions": about["versions"],
        "limits": about["limits"],
        "benchmarks": _rounded(kept),
        "failed": failed,
    }


def _rounded(value):
    """Round to six significant digits, more than any measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write(results, path):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8", newline="\n")


# ------------------------------------------------------------------------------------------------ what can be read
def race_of(results, work):
    """Return the race at a work, or None if it was not run."""
    return next((each for each in results["benchmarks"] if each.get("work") == work and "contestants" in each), None)


def ours(race, threads, backend="numba", dtype="float32"):
    """Return our contestant with exactly these settings, or None."""
    wanted = ("ours", threads, backend, dtype)
    keys = ("name", "threads", "backend", "dtype")
    return next((c for c in race["contestants"] if tuple(c.get(key) for key in keys) == wanted), None)


def best(race, name, threads, dtype="float32"):
    """Return a rival's fastest contestant, or ours in `dtype`, on at most `threads` threads; None if there is none.

    JAX, with a single stream, chooses its number of threads itself: its fastest contestant counts for any `threads`.
    """
    if name == "ours":
        found = (ours(race, n, dtype=dtype) for n in thread_counts(race) if n <= threads)
        return min((c for c in found if c), key=lambda c: c["median"], default=None)
    is_free = name == "jax" and race["work"] == "seed"
    fits = [c for c in race["contestants"] if c["name"] == name and (is_free or c["threads"] <= threads)]
    return min(fits, key=lambda c: c["median"], default=None)


def thread_counts(race):
    """Return the numbers of threads on which ours was measured."""
    return sorted({c["threads"] for c in race["contestants"] if c["name"] == "ours"})


def named(results, name):
    """Return the benchmark with this name, or None if it was not run."""
    return next((each for each in results["benchmarks"] if each["name"] == name), None)


def costs(results, kind):
    """Return (size, race) for the works `cost-h-...` or `cost-b-...`, sorted by size."""
    found = [each for each in results["benchmarks"] if each.get("work", "").startswith(f"{kind}-")]
    return sorted((int(each["work"].rpartition("-")[2]), each) for each in found)


def versions_of(results):
    """Return the versions of Python, the compiler and all packages that were measured."""
    found = dict(results["versions"])
    for each in results["benchmarks"]:
        for contestant in each.get("contestants", []):
            found |= contestant["versions"]
    return found
