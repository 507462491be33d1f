"""What Python programs and notebooks call: train, resume, and begin a run to be looked into while it trains."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from charlstm.errors import UserError
from charlstm.runs.run import Run
from charlstm.text.corpus import Corpus
from charlstm.text.reading import unescaped


def start(
    *sources: Any,
    texts: Sequence[str] | None = None,
    out: Any = None,
    preset: str = "fast",
    from_run: Any = None,
    offline: bool = False,
    **options: Any,
) -> Run:
    """Begin a run, to be trained by iterating ``run.train()``, which yields :class:`charlstm.Progress`.

    ``for progress in run.train(): ...`` trains to the budget. Whoever leaves the loop has all of it saved, and may go
    on with :func:`resume`. Parameters and errors are those of :func:`train`.
    """
    from charlstm.model.model import load
    from charlstm.runs import begin
    from charlstm.settings.config import from_model, from_preset
    from charlstm.text import downloads

    model = None if from_run is None else load(from_run)
    config = from_preset(preset, **options) if model is None else from_model(model.config, preset, **options)
    text = _text(sources, texts, config, model)
    return begin.start(text, config, out, model=model, fetch=partial(downloads.fetch, offline=offline))


def train(
    *sources: Any,
    texts: Sequence[str] | None = None,
    out: Any = None,
    preset: str = "fast",
    from_run: Any = None,
    offline: bool = False,
    quiet: bool | None = None,
    **options: Any,
) -> Run:
    """Train on texts (paths, folders, URLs, built-in names; none: the documentation inside Python), to the budget.

    Parameters
    ----------
    sources : what `charlstm train` takes as TEXT; or one :class:`charlstm.Corpus`
    texts : instead of sources: strings, which are joined as files are
    out : the run folder; by default runs/NAME
    from_run : a run folder or checkpoint file to begin with: its best weights, its sizes and its vocabulary
    offline : take URLs and built-in texts from the cache alone
    quiet : show no progress; by default it is shown in notebooks and on terminals
    preset, options : the words of :class:`charlstm.Config`

    Returns
    -------
    Run
        The finished run, with its folder, config, history and model; it samples and scores.

    Raises
    ------
    UserError
        For a text, an option or a folder that will not do.
    RunFailed
        If the loss stops being finite, a download fails, or the disk does not take the last checkpoint.
    Interrupted
        For Ctrl-C, or the stop button of a notebook: a KeyboardInterrupt whose ``run`` is the Run, saved as far as it
        came. A second one leaves at once.
    """
    return _shown(
        start(*sources, texts=texts, out=out, preset=preset, from_run=from_run, offline=offline, **options), quiet
    )


def resume(run: Any = None, *sources: Any, offline: bool = False, quiet: bool | None = None, **options: Any) -> Run:
    """Go on with a run where its newest whole checkpoint left it, to a larger budget.

    Parameters
    ----------
    run : its folder, or the Run; by default the newest run below runs/
    sources : the text, where it is not to be found where it was
    offline, quiet : as for :func:`train`
    options : those that may change, budgets among them, which are totals; the others are the run's own

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    UserError
        For a run without a checkpoint, or that another process has; another text; an option that cannot change.
    RunFailed, Interrupted
        As for :func:`train`.
    """
    from charlstm.runs import begin
    from charlstm.settings.config import see_that_known
    from charlstm.text import downloads

    see_that_known(options)
    folder = run.folder if isinstance(run, Run) else run
    text = _text(sources, None, None, None)
    return _shown(begin.resume(folder, text, options, partial(downloads.fetch, offline=offline)), quiet)


def _text(sources: Sequence[Any], texts: Sequence[str] | None, config: Any, model: Any) -> Any:
    """What to train on, as `charlstm.runs.begin.start` takes it."""
    if texts is not None:
        if sources:
            raise UserError("texts: strings to train on take the place of files: give these or those")
        return Corpus.from_texts(
            texts, separator=unescaped(config.separator), lower=config.lower, as_bytes=config.bytes,
            vocabulary=model.vocabulary if model else None, unknown=config.unknown,
        )  # fmt: skip
    if any(isinstance(source, Corpus) for source in sources):
        if len(sources) > 1:
            raise UserError(f"a Corpus is the whole text: got {len(sources)} texts; texts=[...] takes several strings")
        return sources[0]
    return sources


def _shown(run: Run, quiet: bool | None) -> Run:
    """Train a run, showing it where somebody looks."""
    from charlstm.show import display
    from charlstm.training.stopping import trained

    screen = display.for_python(quiet)

    def tell_notes() -> None:
        while run.notes:
            screen.note(run.notes.pop(0))

    def show(progress: Any) -> None:
        tell_notes()
        screen.show(progress)

    screen.note(display.text_line(run.trainer.corpus))
    screen.note(f"folder  {run.folder}")
    try:
        with display.CompileNote(screen):
            trained(run, show)
    finally:
        tell_notes()
        screen.close()
    screen.note(f"done    {run.reached} reached: {run.state}")
    return run
