"""`charlstm watch`: follow a run from another terminal or machine."""

from contextlib import closing
from time import sleep
from typing import Any

import click

from charlstm.commands.options import RUN, leave, write
from charlstm.training.stopping import ENDS, Stopping

_SECONDS = 0.5  # between two looks at the files


@click.command(short_help="Follow a run from another terminal or machine.")
@RUN
@click.option("--once", is_flag=True, help="print the present state to stdout and exit")
def watch(run: str, once: bool) -> int:
    """Follow RUN, by default the newest run in runs/, while another process trains it.

    Shows what `charlstm train` shows, from the files of the run folder alone, and writes nothing there. Ends when the
    run ends, and prints its last state; Ctrl-C ends it earlier and leaves the run alone. A line says when the run has
    stopped writing.
    """
    from charlstm.runs.following import Following
    from charlstm.show import display

    following = Following(run)
    if once:
        write(_picture(_panel(following)) + _state(following) + "\n")
        return 0
    # Stopping, because an exception in the middle of drawing would leave a part of the panel on the screen
    stopping = Stopping(following, ENDS, lambda number: None, leave)
    with closing(display.choose(quiet=False, as_json=False)) as screen, stopping:
        _follow(following, screen)
    if stopping.number is not None:
        return 128 + stopping.number
    write(_picture(_panel(Following(run))) + _state(following) + "\n")
    return 0


def _follow(following: Any, screen: Any) -> None:
    """Show what is new until the run has ended."""
    screen.note(f"watch   {following.folder}; Ctrl-C ends watching, not the run")
    is_begun = is_told = False
    while not (screen.gone or following.stop):
        has_ended = following.has_ended  # before the files are read, so that the last lines are not missed
        news = following.poll()
        if following.is_new or (news and not is_begun):
            screen.begin(following.facts(news[:-1]))
            news, is_begun = news[-1:], True
        for progress in news:
            screen.show(progress)
        if has_ended:
            return
        silent = following.silent_seconds
        if silent and not is_told:
            screen.note(_state(following))
        is_told = bool(silent)
        screen.status("" if is_begun and not silent else "nothing written for" if silent else "waiting for reports ...")
        sleep(_SECONDS)


def _panel(following: Any) -> Any:
    """The panel of all that has been written."""
    from charlstm.show.panel import Panel

    news = following.poll()
    return Panel(following.facts(news))


def _picture(panel: Any) -> str:
    """The panel for stdout: as wide as the terminal, in colour on one that has colours."""
    import shutil
    import sys

    from rich.console import Console

    from charlstm.show.panel import Times, glyphs_for
    from charlstm.show.redrawn import Frame

    if panel.now is None:
        return ""
    console = Console(file=sys.stdout, highlight=False)
    columns, rows = shutil.get_terminal_size()
    times = Times(elapsed=panel.now.seconds, per_second=panel.now.chars_per_second)
    encoding = console.encoding
    lines = panel.lines(columns, max(rows, 24), times, encoding, glyphs_for(encoding, ""))
    with console.capture() as capture:
        console.print(Frame(lines), end="", soft_wrap=True)
    return capture.get()


def _state(following: Any) -> str:
    """Whether the run goes on, in a line."""
    from charlstm.show import hints
    from charlstm.show.words import duration

    name, last, holder = following.folder, following.last, following.holder
    if last is None:
        done = "no report yet"
    elif last.is_endless:
        done = f"{following.done:,} iterations"
    else:
        done = f"{following.done:,} of {last.iterations:,} iterations"
    silent = following.silent_seconds
    who = f"process {holder['pid']} on {holder['host']}" if holder else "its process"
    if silent and holder != {}:
        return f"silent  {name}: {done}; nothing written for {duration(silent)}: {who} may hang or have ended"
    if holder == {}:
        is_done = last is not None and following.done >= last.iterations
        return f"ended   {name}: {done}" + ("" if is_done else f"; {hints.going_on(name)} goes on")
    return f"trains  {name}: {done}" + (f", by {who}" if holder else "")
