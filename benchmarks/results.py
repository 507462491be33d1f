"""The results: what is kept of pytest-benchmark's JSON, where, and what can be read from it."""

import json
from pathlib import Path

from charlstm import machine

FOLDER = Path(__file__).parent / "results"


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
