"""Commands about this machine: gradient checks, speed, backends, caches and built-in texts."""

import math
from functools import partial
from typing import Any

import click

from charlstm.commands.layout import Commands, word_option
from charlstm.errors import UserError


@click.command(short_help="Check the gradients of every backend.")
@word_option(
    "--backend", choices="all|numpy|numba|cupy", default="all", help="backend to check [all that are available]"
)
@word_option("--cell", choices="all|lstm|gru|rnn|lnlstm", default="all", help="cell to check [all]")
@click.option("--sizes", metavar="T,B,V,H", help="steps, streams, vocabulary and hidden units [5,2,7,3]")
@click.option("--layers", type=click.IntRange(1, 9), help="number of layers of the models [1, 2 and 3]")
def gradcheck(backend: str, cell: str, sizes: str | None, layers: int | None) -> int:
    """Check the gradients of every backend against central differences; exit with 1 if any is wrong.

    The verdict comes first, then a table of all checks. A check costs two passes for each element, so that large sizes
    take long.
    """
    import kernels
    from charlstm.model.backend import choose_backend
    from kernels import testing

    names = kernels.available() if backend == "all" else (choose_backend(backend),)
    if backend == "all" and (reason := kernels.missing("numba")) is not None:
        click.echo(f"not checked: {reason}", err=True)
    depths, of_sizes = (1, 2, 3) if layers is None else (layers,), _gradcheck_sizes(sizes)
    found = []
    for name in names:
        ops = kernels.load_for_host(name)
        known = testing.cells_of(ops)
        if cell not in ("all", *known):
            raise UserError(f"--cell: expected one of all, {', '.join(known)} on the {name} backend, got {cell!r}")
        cells = known if cell == "all" else [cell]
        found += [(name, check) for check in testing.gradient_errors(ops, 0, cells, of_sizes, depths)]
    errors = [check.error for _, check in found]
    worst = float("inf") if any(map(math.isnan, errors)) else max(errors)
    passed = testing.is_correct(check for _, check in found)
    click.echo(
        f"{'all correct' if passed else 'WRONG'}: {len(found)} gradients in float64, worst relative error {worst:.1e} "
        f"(limit {testing.GRADIENT_TOLERANCE:g})"
    )
    click.echo(f"{'backend':8} {'op':28} {'tensor':12} {'error':>9}")
    for name, check in found:
        verdict = "" if testing.is_correct([check]) else "   WRONG"
        click.echo(f"{name:8} {check.op:28} {check.tensor:12} {check.error:9.1e}{verdict}")
    return 0 if passed else 1


def _gradcheck_sizes(text: str | None) -> Any:
    """The sizes of gradient checks, from an option such as 5,2,7,3."""
    from kernels.testing import Sizes

    if text is None:
        return Sizes()
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or min(numbers) < 1:
        raise UserError(f"--sizes: expected four whole numbers of at least 1, such as 5,2,7,3, got {text!r}")
    return Sizes(*numbers)


@click.command(short_help="Measure speed on this machine against its limits.")
@click.option("--threads", type=click.IntRange(1, 256), help="maximum number of threads [all cores]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object to stdout")
def bench(threads: int | None, as_json: bool) -> int:
    """Measure the speed of training and sampling on this machine; takes at most two minutes.

    The floor is a lower bound on the time of a workload: its matrix products, weight reads and exponentials at the
    limits of this machine, which are measured first. If a gradient is wrong, no speed is reported and the exit code is
    1.
    """
    import json
    from dataclasses import asdict

    import kernels
    from charlstm.host import machine
    from charlstm.measure import bench, limits

    click.echo("checking the gradients and measuring the machine's limits ...", err=True)
    worst = bench.check_gradients("numba")
    found = limits.measure()
    team = threads or machine.usable_cores()
    where = {"processor": machine.processor(), "cores": machine.usable_cores(), "load": bench.load_average()}
    where["vectors"] = kernels.vectors()
    if not as_json:
        click.echo(f"{where['processor']}, {where['cores']} usable cores, load {where['load']}; {where['vectors']}")
        click.echo("limits of one core: " + found.in_words())
        click.echo(f"\n{'workload':16} {'threads':>7} {'iteration':>10} {'chars/s':>11} {'floor':>10} {'of floor':>8}")
    rows = []
    for row in bench.short(found, team):
        rows.append({**asdict(row), "of_floor": row.of_floor})
        if not as_json:
            click.echo(
                f"{row.work:16} {row.threads:7} {bench.in_words(row.seconds):>10} {row.chars_per_second:11,.0f} "
                f"{bench.in_words(row.floor):>10} {row.of_floor:8.0%}"
            )
    if as_json:
        everything = {"machine": where, "versions": machine.versions(), "limits": found.as_dict()}
        click.echo(json.dumps({**everything, "worst_gradient_error": worst, "works": rows}))
    return 0


@click.group("data", cls=Commands)
def data_group() -> None:
    """List the built-in texts, or download one."""


@data_group.command("list")
def data_list() -> int:
    """List the built-in texts: name, size in bytes, licence, local copy, and URL."""
    from charlstm.text import downloads

    click.echo(f"{'name':16} {'bytes':>9}  {'licence':14} {'local':9} url")
    for name, text in downloads.BUILT_IN.items():
        here = "in Python" if not text.url else "cached" if downloads.cached(name) else "no"
        size = f"{text.size:,}" if text.size else "-"
        click.echo(f"{name:16} {size:>9}  {text.licence:14} {here:9} {text.url or '-'}")
    return 0


@data_group.command("get")
@click.argument("name")
@click.option("--offline", is_flag=True, help="download nothing: print the path of the cached copy")
def data_get(name: str, offline: bool) -> int:
    """Download a built-in text or a URL unless it is cached, and print the path of the file."""
    from charlstm.text import downloads

    click.echo(downloads.fetch(name, offline, note=partial(click.echo, err=True)))
    return 0


@click.command(short_help="Show backends, versions, caches and missing packages.")
@click.option("--clear-cache", is_flag=True, help="remove every compiled kernel")
def info(clear_cache: bool) -> int:
    """Show backends, cores, versions, caches and missing packages."""
    import kernels
    from charlstm.host.machine import processor, usable_cores, versions
    from charlstm.host.neighbours import mixture
    from charlstm.text import downloads

    if clear_cache:
        files, size = kernels.clear_kernel_cache()
        click.echo(f"removed {files} compiled kernels, {size / 2**20:.1f} MiB")
        return 0
    for package, number in versions().items():
        click.echo(f"{package:12} {number}")
    if line := mixture():
        click.echo(f"{'kernels':12} {line}")
    click.echo(f"{'processor':12} {processor()}, {usable_cores()} usable cores")
    for name in kernels.BACKENDS:
        click.echo(f"{'backend':12} {name}: {kernels.missing(name) or 'available'}")
    gpu, why = kernels.chosen_gpu() if kernels.missing("cupy") is None else (None, "")
    gains = f"cupy for what {gpu} is predicted to train faster, else " if gpu else ""
    click.echo(f"{'auto':12} {gains}{kernels.fastest()}" + (f": {why}" if why else ""))
    has_kernels = kernels.missing("numba") is None
    folder = kernels.kernel_cache_dir() if has_kernels else None
    size = sum(path.stat().st_size for path in folder.iterdir()) if folder else 0
    why = "no writable folder, so every process compiles" if has_kernels else "the numba backend is not available"
    where = f"{folder} ({size / 2**20:.1f} MiB)" if folder else f"none: {why}"
    click.echo(f"{'kernel cache':12} {where}")
    click.echo(f"{'text cache':12} {downloads.cache_dir()}")
    return 0
