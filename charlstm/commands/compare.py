"""`charlstm compare`: presets, or finished runs, and the n-gram model on one text."""

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from charlstm.commands.layout import Place, Source, table
from charlstm.commands.options import config_options, write
from charlstm.errors import Diverged, RunFailed, UserError

_READING = ("encoding", "format", "column", "field", "bytes", "lower", "separator")
_GAP, _NARROWEST = 3, 24  # columns between two samples, and those of the narrowest sample that stands beside another


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """The words of a list such as a,b,c."""
    return tuple(filter(None, (value or "").split(",")))


@click.command(short_help="Compare presets, or runs, and the n-gram model on one text.")
@click.argument("text", nargs=-1, type=Source())
@click.option("-p", "--presets", metavar="NAME,NAME,...", callback=_words, help="presets to train [fast,min-char-lstm]")
@click.option("--runs", metavar="RUN,RUN,...", callback=_words, type=Place(), help="finished runs, instead of presets")
@click.option("-s", "--seconds", type=float, help="seconds of training of each preset [60]")
@click.option("--chars", type=int, help="characters that each preset learns, instead of --seconds")
@click.option("-V", "--validation", type=float, default=0.1, show_default=True, help="fraction of the text held out")
@partial(config_options, only=("validation_from", "threads"))
@click.option("--seed", type=int, default=0, show_default=True, help="random seed of all models and samples")
@click.option("--length", type=int, default=300, show_default=True, help="characters of each sample")
@click.option("--prime", default="", metavar="TEXT", help="text that each sample continues [none]")
@click.option("--temperature", type=float, default=0.8, show_default=True, help="sampling temperature of the presets")
@partial(config_options, only=_READING)
@click.option("-o", "--out", metavar="DIR", type=Place(), help="folder for the runs and the plot [runs/NAME-compare]")
@click.option("--offline", is_flag=True, help="download nothing: take URLs and built-in texts from the cache")
@click.option("-q", "--quiet", is_flag=True, help="print only the comparison, and errors")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per model")
def compare(
    text: tuple[str, ...], presets: tuple[str, ...], runs: tuple[str, ...], seconds: float | None, chars: int | None,
    validation: float, seed: int, length: int, prime: str, temperature: float, out: str | None, offline: bool,
    quiet: bool, as_json: bool, **reading: Any,
) -> int:  # fmt: skip
    """Compare models on TEXT, which is what `charlstm train` takes, or finished runs of one text (--runs).

    \b
    charlstm compare book.txt -p fast,char-rnn -s 120   two minutes each
    charlstm compare book.txt --chars 2000000           two million characters each
    charlstm compare --runs runs/a,runs/b               what has been trained already

    Each preset is trained in turn for the same time, or on the same number of characters, with the same part of the
    text held out, and so is the n-gram model. A table has, for each model, the held-out bits per character of its best
    evaluation, the difference to the n-gram model, the speed, and the number of parameters (of contexts, for the n-gram
    model). Samples follow, side by side. The curves are drawn into one plot, compare.png and compare.svg.
    """
    from charlstm.runs import comparison
    from charlstm.text import downloads

    how = comparison.Sampling(length, prime, temperature, seed)
    _see_that_fits(text, presets, runs, seconds, chars, validation, how)
    note = None if quiet else partial(click.echo, err=True)
    fetch = partial(downloads.fetch, offline=offline, note=note)
    corpus, folder, folders = None, Path(out or "."), dict(comparison.named(runs))
    if not runs:
        budget = {"max_chars": chars} if chars is not None else {"seconds": 60.0 if seconds is None else seconds}
        options = {name: value for name, value in reading.items() if value is not None}
        options |= {**budget, "validation": validation, "seed": seed, "lower": reading["lower"]}
        corpus, folder, folders = _trained(
            text, presets or ("fast", "min-char-lstm"), options, prime, out, fetch, quiet
        )
    rows, curves = comparison.compared(folders, how, fetch, corpus)
    unit = curves[0].unit
    if as_json:
        _write_json(rows, unit)
    else:
        write(_figures(rows, unit) + "\n\n" + side_by_side({row.name: row.sample for row in rows}) + "\n")
    for file in _drawn(curves, folder, "chars" if chars is not None else "seconds"):
        if note:
            note(f"plot    {file}")
    return 0


def _see_that_fits(
    text: tuple[str, ...], presets: tuple[str, ...], runs: tuple[str, ...], seconds: float | None, chars: int | None,
    validation: float, how: Any,
) -> None:  # fmt: skip
    """Raise UserError for options that do not go together or are out of range."""
    others = {"TEXT": text, "--presets": presets, "--seconds": seconds, "--chars": chars}
    if runs and (given := [name for name, value in others.items() if value]):
        raise UserError(f"--runs: compares what has been trained already, so it cannot be combined with {given[0]}")
    if seconds is not None and chars is not None:
        raise UserError("--chars: cannot be combined with --seconds")
    if not 0 < validation < 1:
        raise UserError(f"--validation: expected more than 0 and less than 1, got {validation:g}")
    if how.length < 1:
        raise UserError(f"--length: expected at least 1, got {how.length}")
    if not how.temperature >= 0:
        raise UserError(f"--temperature: expected at least 0, got {how.temperature:g}")


def _trained(
    text: tuple[str, ...],
    presets: tuple[str, ...],
    options: dict[str, Any],
    prime: str,
    out: str | None,
    fetch: Any,
    quiet: bool,
) -> tuple[Any, Path, dict[str, Path]]:
    """Train each preset; return the text, the folder, and the folders of the runs by preset."""
    from charlstm.runs import comparison
    from charlstm.runs.begin import read_corpus
    from charlstm.settings.config import from_preset
    from charlstm.show import display

    corpus = read_corpus(text, from_preset(**options), None, fetch)
    comparison.encoded(prime, corpus, is_lower=options["lower"])  # before anything is trained
    configs = comparison.configs(presets, corpus, **options)
    folder = comparison.new_folder(corpus, out)
    folders: dict[str, Path] = {}
    with closing(display.choose(quiet, as_json=False)) as screen:
        screen.note(display.text_line(corpus))
        screen.note(f"folder  {folder}")
    for number, (name, config) in enumerate(configs.items(), 1):
        run = comparison.begun(corpus, config, folder / name)
        with closing(display.choose(quiet, as_json=False)) as screen, display.CompileNote(screen):
            screen.note(f"preset  {name} ({number} of {len(configs)}), {run.trainer.num_parameters:,} parameters")
            folders |= _shown(run, name, screen)
    if not folders:
        raise RunFailed("every preset has diverged")
    return corpus, folder, folders


def _shown(run: Any, name: str, screen: Any) -> dict[str, Path]:
    """Train one run and show its progress; return its folder by name, or nothing if it diverges."""
    from charlstm.training.stopping import Interrupted, trained

    try:
        trained(run, screen.show)
    except Interrupted as error:
        screen.note(f"preset  {name} is {error}")
        raise
    except Diverged as error:
        screen.note(f"preset  {name} is left out: {error}")
        return {}
    finally:
        for said in run.notes:
            screen.note(said)
    return {name: run.folder}


def _figures(rows: Any, unit: str) -> str:
    """The table of a comparison."""
    short = "byte" if unit == "byte" else "char"
    learned = f"{short}s learned"
    titles = ("model", f"held-out bits/{short}", "to n-gram", f"{short}s/s", "parameters", learned, "seconds")
    cells = [
        (
            row.name, f"{row.bits:.3f}", f"{row.bits - row.baseline:+.3f}" if row.bits != row.baseline else "-",
            f"{row.chars_per_second:,.0f}", f"{row.parameters:,}", f"{row.chars:,}", f"{row.seconds:.1f}",
        )
        for row in rows
    ]  # fmt: skip
    return table([titles, *cells])


def _write_json(rows: Any, unit: str) -> None:
    import json
    from dataclasses import asdict

    for row in rows:
        values = asdict(row)
        bits = {f"bits_per_{'byte' if unit == 'byte' else 'char'}": values.pop("bits")}
        write(json.dumps({"name": values.pop("name"), **bits, **values}) + "\n")


def side_by_side(texts: dict[str, str], columns: int | None = None) -> str:
    """Texts in columns below their titles; one below the other on a terminal with too little room for that."""
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from charlstm.show.display import printable

    columns = columns or shutil.get_terminal_size().columns
    is_wide = (columns + _GAP) // len(texts) - _GAP >= _NARROWEST
    groups = [texts] if is_wide else [{title: shown} for title, shown in texts.items()]
    console = Console(file=io.StringIO(), width=columns, color_system=None, highlight=False)
    with console.capture() as captured:
        for group in groups:
            grid = Table.grid(padding=(0, _GAP, 0, 0), expand=True)
            for title in group:
                grid.add_column(ratio=1, overflow="fold", header=title)
            grid.add_row(*(Text(title) for title in group))
            grid.add_row(*(Text("-" * len(title)) for title in group))
            grid.add_row(*(Text(printable(shown).expandtabs(4)) for shown in group.values()))
            console.print(grid)
            console.print()
    return "\n".join(line.rstrip() for line in captured.get().rstrip().split("\n"))


def _drawn(curves: Any, folder: Path, by: str) -> list[Path]:
    """Draw the curves of all runs into one plot; return its files."""
    from charlstm.runs import disk
    from charlstm.show import plotting

    figure = plotting.plot(curves, by)
    files = [folder / f"compare.{kind}" for kind in ("png", "svg")]
    for file in files:
        try:
            disk.write(file, plotting.image(figure, plotting.kind_of(file)))
        except OSError as error:
            raise RunFailed(f"{file}: cannot be written: {error.strerror or error}") from None
    return files
