"""`charlstm sweep`: a search over options by several workers, on any machines that share a folder."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from charlstm.commands.layout import Grouped, Place, Source, table
from charlstm.commands.options import config_options, leave, write
from charlstm.errors import RunFailed, UserError
from charlstm.settings.config import Config
from charlstm.show import hints
from charlstm.training.stopping import ENDS, Stopping


@click.command(cls=Grouped, short_help="Search for good options with many short trainings.")
@click.argument("text", nargs=-1, type=Source())
@click.option("--space", metavar="FILE", type=Place(), help="what to search: a TOML file with one table per option")
@click.option("--trials", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="trials in all")
@click.option("--jobs", metavar="J", type=click.IntRange(1), default=1, show_default=True, help="trials at a time")
@click.option("--join", metavar="DIR", type=Place(), help="work on the sweep in DIR, from any machine that shares it")
@click.option("--prune/--no-prune", default=True, help="end trials that are worse than the median")
@config_options
@click.option("-o", "--out", metavar="DIR", type=Place(), help="folder of the sweep [runs/NAME-sweep]")
@click.option("--offline", is_flag=True, help="download nothing: take URLs and built-in texts from the cache")
@click.option("--worker", is_flag=True, hidden=True)
@click.option("-q", "--quiet", is_flag=True, help="print only the table, and errors")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per trial instead of the table")
@click.pass_context
def sweep(
    ctx: click.Context, text: tuple[str, ...], space: str | None, trials: int, jobs: int, join: str | None,
    prune: bool, out: str | None, offline: bool, worker: bool, quiet: bool, as_json: bool, **_: Any,
) -> int:  # fmt: skip
    """Train on TEXT many times, with options drawn from a search space, and find the best on held-out text.

    \b
    charlstm sweep book.txt --space space.toml --trials 50 --jobs 2 --max-chars 2000000
    charlstm sweep --join runs/book-sweep          help from another machine, or go on after an interruption

    The file has a table for each option that is searched, for example [hidden_size] with choices = [64, 128], or
    [learning_rate] with low = 0.002, high = 0.02 and log = true. All other options are those of `charlstm train`, and
    the same for every trial; a tenth of the text is held out unless --validation says otherwise. Every trial is an
    ordinary run in DIR. A worker that is killed loses nothing but time: another one takes up its trial.
    """
    from charlstm.cluster import sweep as sweeps

    given = {
        item.name: ctx.params[item.name]
        for item in fields(Config)
        if ctx.get_parameter_source(item.name) is click.core.ParameterSource.COMMANDLINE
    }
    threads = given.pop("threads", None)
    note = partial(click.echo, err=True) if not quiet else lambda line: None
    if join is not None:
        typed = click.core.ParameterSource.COMMANDLINE
        others = [name for name in ("trials", "prune") if ctx.get_parameter_source(name) is typed]
        if text or space or given or out or others:
            raise UserError(
                "--join: the sweep has its text and options; only --jobs, --threads and --offline go with it"
            )
        folder = Path(join)
        sweeps.read(folder)
    else:
        folder = _begun(text, space, trials, prune, given, out, offline)
        note(f"sweep   {folder}: {trials} trials, {jobs} at a time")
    if worker:
        return _work(folder, threads, offline, note)
    number = _work(folder, threads, offline, note) if jobs == 1 else _employ(folder, jobs, threads, offline, quiet)
    found = sweeps.rows(folder)
    _show(folder, found, as_json, note)
    left = sum(row.state == "running" for row in found) + sweeps.read(folder).trials - len(found)
    if left:
        note(f"join    charlstm sweep {hints.option('join', folder)}: {left} trials are left")
    if not number and left:
        raise RunFailed(f"{folder}: all workers have ended, and {left} trials are left")
    return number


def _begun(
    text: tuple[str, ...], space: str | None, trials: int, prune: bool, given: dict[str, Any], out: str | None,
    offline: bool,
) -> Path:  # fmt: skip
    """The folder of a new sweep, after a look at its text and options."""
    from charlstm.cluster import space as spaces
    from charlstm.cluster import sweep as sweeps
    from charlstm.runs import begin
    from charlstm.text import downloads

    if space is None:
        raise UserError("--space: name a file with what to search, or --join a sweep")
    options = {"validation": 0.1, **given}
    sources = [os.path.abspath(source) if os.path.exists(source) else source for source in text]
    if "-" in sources:
        raise UserError("TEXT -: several workers cannot read one pipe; give them a file")
    if "weight" in options:  # of texts, whose workers may start elsewhere
        named = [word.rpartition("=") for word in options["weight"]]
        options["weight"] = [f"{os.path.abspath(n) if os.path.exists(n) else n}={number}" for n, _, number in named]
    plan = sweeps.Plan(sources, options, spaces.read(Path(space)), trials, prune, given.get("seed", 0))
    sweeps.see_that_valid(plan)
    fetch = partial(downloads.fetch, offline=offline)
    corpus = begin.read_corpus(sources, plan.config({}), None, fetch)
    folder = begin.made_folder(f"{corpus.name}-sweep", out)
    sweeps.create(folder, plan)
    return folder


def _work(folder: Path, threads: int | None, offline: bool, note: Any) -> int:
    """Run trials in this process; return the exit code."""
    from charlstm.cluster.sweep import Worker
    from charlstm.text import downloads

    worker = Worker(folder, threads, partial(downloads.fetch, offline=offline), note)
    told = lambda number: note("stopping after this iteration; press Ctrl-C again to quit immediately")  # noqa: E731
    with Stopping(worker, ENDS, told, leave) as stopping:
        worker.work()
    return 0 if stopping.number is None else 128 + stopping.number


def _employ(folder: Path, jobs: int, threads: int | None, offline: bool, quiet: bool) -> int:
    """Let several processes work on a sweep until it is done or all have ended; return the exit code."""
    from charlstm.host.machine import usable_cores

    each = threads or max(1, usable_cores() // jobs)
    command = [sys.executable, "-m", "charlstm", "sweep", "--join", str(folder), "--worker", "--threads", str(each)]
    command += ["--offline"] * offline + ["--quiet"] * quiet
    # Ctrl-C in a terminal reaches its whole foreground group: this process alone, which tells the workers once.
    group = 0 if os.name == "posix" else None
    workers, crew = [subprocess.Popen(command, process_group=group) for _ in range(jobs)], SimpleNamespace(stop=False)  # noqa: S603
    with Stopping(crew, ENDS, lambda number: None, leave) as stopping:
        try:
            while any(worker.poll() is None for worker in workers) and not crew.stop:
                time.sleep(0.1)
        finally:
            for worker in workers:
                if worker.poll() is None and not (os.name == "nt" and stopping.number == signal.SIGINT):
                    worker.terminate()
            codes = [worker.wait() for worker in workers]
    if stopping.number is None and all(code > 0 for code in codes):
        raise RunFailed(f"{folder}: every worker has failed, with exit code {codes[0]}")
    return 0 if stopping.number is None else 128 + stopping.number


def _show(folder: Path, found: list[Any], as_json: bool, note: Any) -> None:
    """Print the trials, the best first, and write them as a table and a plot."""
    from charlstm.cluster import sweep as sweeps
    from charlstm.runs import disk
    from charlstm.show import sweeps as plots
    from charlstm.show.plotting import image

    names = list(sweeps.read(folder).space)
    if as_json:
        write("".join(json.dumps(row._asdict()) + "\n" for row in found))
    else:
        head = ("trial", "state", "bits", *names, "characters", "seconds")
        body = [
            (
                str(row.number), row.state, "" if row.bits is None else f"{row.bits:.4f}",
                *(sweeps.word(row.options.get(name, "")) for name in names), f"{row.chars:,}", f"{row.seconds:.1f}",
            )
            for row in found
        ]  # fmt: skip
        write(table([head, *body]) + "\n")
    note(f"table   {sweeps.write_table(folder, found)}")
    shares = sweeps.importances(folder)
    if shares:
        note("matters " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    results = [plots.Trial(row.number, row.bits, row.state == "pruned") for row in found if row.bits is not None]
    if results:
        figure = plots.plot(results, shares, "byte" if sweeps.read(folder).options.get("bytes") else "char")
        for kind in ("png", "svg"):
            disk.write(folder / f"sweep.{kind}", image(figure, kind))
        note(f"plot    {folder / 'sweep.png'}")
    if found and found[0].state == "complete":
        note(f"best    trial {found[0].number}: {hints.sampling(folder / found[0].folder)}")
