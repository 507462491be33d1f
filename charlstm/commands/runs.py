"""Commands about run folders: verify, inspect, plot, report, and tell whether samples are copied."""

from functools import partial

import click

from charlstm.commands.layout import Place, table, word_option
from charlstm.commands.options import CHECKPOINT, CHECKPOINT_LAST, RUN, newest
from charlstm.errors import RunFailed


@click.command(short_help="Check every file of a run for damage.")
@RUN
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per file")
def verify(run: str, as_json: bool) -> int:
    """Check every file of the run folder RUN, and checkpoints against their digests; exit with 1 if any is damaged."""
    import json
    from dataclasses import asdict

    from charlstm.runs.inspection import verify as findings

    faulty = []
    for found in findings(run):
        faulty += [found.file] if found.fault else []
        if as_json:
            click.echo(json.dumps(asdict(found)))
        else:
            click.echo(f"{found.file:42} {'DAMAGED  ' + found.fault if found.fault else 'intact   ' + found.what}")
    if faulty:
        raise RunFailed(f"{run}: damaged: {', '.join(faulty)}")
    if not as_json:
        click.echo("all files are intact")
    return 0


@click.command("inspect", short_help="Show the text, sizes, options and progress of a run.")
@RUN
@CHECKPOINT_LAST
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def inspect_run(run: str, checkpoint: str, as_json: bool) -> int:
    """Show the text, sizes, options, progress and history of RUN, a run folder or a checkpoint file."""
    import json
    import math

    from charlstm.figures import in_words
    from charlstm.runs.inspection import inspect

    found = inspect(run, checkpoint)
    if as_json:
        click.echo(json.dumps(found))
        return 0
    text, model, machine = found["text"], found["model"], found["machine"]
    click.echo(
        f"text     {text['name']}: {text['num_ids']:,} {found['unit']}s, SHA-256 of the ids {text['digest'][:16]}..."
    )
    click.echo(
        f"model    {model['nets']} hidden units, "
        f"{model['vocabulary']} {found['unit']}s, {model['parameters']:,} parameters, {model['dtype']}"
    )
    if found["each"]:
        label, words = found["each"].split(maxsplit=1)
        click.echo(f"{label:9}{words}")
    click.echo(f"preset   {found['preset']}" + (", with" if found["options"] else ""))
    for name, value in found["options"].items():
        click.echo(f"         --{name.replace('_', '-')} {'none' if value is None else value}")
    click.echo(
        f"trained  {found['iteration']:,} iterations, {found['chars']:,} {found['unit']}s, {found['seconds']:.1f} s, "
        f"smoothed loss {found['smooth_loss'] / found['loss_chars']:.4f} nats per {found['unit']}"
    )
    if machine:
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        click.echo(f"on       {machine['processor']}, {machine['backend']}, {versions}")
    if found["history"]:
        unit = "byte" if found["unit"] == "byte" else "char"
        click.echo(f"\n{'iteration':>12} {'loss':>9} {f'bits/{unit}':>9} {'held-out':>9} {'rate':>9}")
    for line in found["history"]:
        bits, held_out = (line.get(f"{of}bits_per_{unit}", line.get(f"{of}bits_per_char")) for of in ("", "val_"))
        loss = None if bits is None else math.log(2) * bits
        figures = " ".join(f"{'-' if each is None else in_words(each, 4):>9}" for each in (loss, bits, held_out))
        click.echo(f"{line['iteration']:12,} {figures} {line['learning_rate']:9.2g}")
    return 0


@click.command(short_help="Plot the loss of one or several runs.")
@click.argument("runs", nargs=-1, type=Place(), metavar="[RUN]...", callback=newest)
@word_option("--by", choices="iterations|chars|seconds", default="iterations", help="x axis [iterations]")
@click.option(
    "-o", "--out", metavar="FILE", multiple=True,
    help="image to write, a PNG, SVG or PDF by its name; several times for several [loss.png and loss.svg in RUN's "
    "folder; for several runs, in this one]",
)  # fmt: skip
def plot(runs: tuple[str, ...], by: str, out: tuple[str, ...]) -> int:
    """Plot bits per character and the learning rate of each RUN, by default the newest run in runs/.

    One run shows the losses of single iterations, their means from report to report, and the held-out points with the
    best one marked. Several runs are laid over each other. A run that is still training can be plotted, too. Prints the
    names of the images.
    """
    from pathlib import Path

    from charlstm.runs import disk
    from charlstm.runs.inspection import curves
    from charlstm.show import plotting

    folder = Path(runs[0]) if len(runs) == 1 else Path()
    files = [Path(each) for each in out] or [folder / f"loss.{kind}" for kind in ("png", "svg")]
    kinds = [plotting.kind_of(file) for file in files]
    figure = plotting.plot([curves(run) for run in runs], by)
    for file, kind in zip(files, kinds, strict=True):
        image = plotting.image(figure, kind)
        try:
            disk.write(file, image)
        except OSError as error:
            raise RunFailed(f"{file}: cannot be written: {error.strerror or error}") from None
        click.echo(file)
    return 0


@click.command(short_help="Write report.html: curves, samples, units, a live sampler.")
@RUN
@CHECKPOINT
@click.option("-o", "--out", metavar="FILE", help="the file to write [report.html in RUN's folder]")
@click.option(
    "--sampler/--no-sampler", default=None,
    help="include the weights, with which the page writes and reads by itself [for nets of up to 400,000 parameters]",
)  # fmt: skip
@click.option("--offline", is_flag=True, help="download nothing")
def report(run: str, checkpoint: str, out: str | None, sampler: bool | None, offline: bool) -> int:
    """Write one self-contained page about RUN, by default the newest run in runs/, and print its name.

    The page shows the loss, the saved samples, text coloured by single units and by surprise, how long the gates let
    the model remember, how far back its gradient reaches, how much of the samples is copied, and how to repeat the run.
    With its weights in the page, the model also writes and reads passages there. A page asks for nothing from anywhere,
    so it can be sent to others; it contains up to 1,200 characters of the text. A run that is still training can be
    shown, too.
    """
    from charlstm.runs.report import write as write_report
    from charlstm.text import downloads

    fetch = partial(downloads.fetch, offline=offline)
    click.echo(write_report(run, out, checkpoint=checkpoint, sampler=sampler, fetch=fetch))
    return 0


@click.command(short_help="Tell how much of a run's samples is copied.")
@RUN
@click.option(
    "--copied-from", "least", type=click.IntRange(1, 4096), default=20, show_default=True, metavar="N",
    help="a run of at least N characters that the training text has counts as copied",
)  # fmt: skip
@click.option("--offline", is_flag=True, help="download nothing")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object per sample")
def novelty(run: str, least: int, offline: bool, as_json: bool) -> int:
    """Tell how much of each saved sample of RUN occurs in the training text, character by character.

    For each sample: the length of the longest run that is in the training text, the fraction of the sample in runs of
    at least N characters, and for some lengths, the fraction of the sample's sequences of that length that are new. If
    the run holds text out, as many of its characters as a sample has are measured, too: by nature, any text has a few.
    """
    import json
    from dataclasses import asdict

    from charlstm.runs.novelty import of_run
    from charlstm.text import downloads
    from charlstm.text.novelty import LENGTHS

    name, found = of_run(run, least, partial(downloads.fetch, offline=offline))
    if as_json:
        for iteration, each in found:
            click.echo(json.dumps({"iteration": iteration, **asdict(each)}))
        return 0
    rows = [("sample", "characters", "longest", "copied", *(f"new {k}" for k in LENGTHS))]
    for iteration, each in found:
        new = (f"{each.new[k]:.0%}" if k in each.new else "-" for k in LENGTHS)
        of = "held-out" if iteration is None else f"{iteration:,}"
        rows.append((of, f"{each.chars:,}", f"{len(each.longest):,}", f"{each.copied:.0%}", *new))
    click.echo(table(rows))
    longest = max((each.longest for iteration, each in found if iteration is not None), key=len)
    click.echo(f"\nthe longest run that {name} has, {len(longest):,} characters:\n{longest[:500]}")
    return 0
