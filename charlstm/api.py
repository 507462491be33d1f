"""The Python API: train, resume, and start a run that the caller iterates."""

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
    """Start a run that trains while the caller iterates ``run.train()``, which yields :class:`charlstm.Progress`.

    ``for progress in run.train(): ...`` trains until the budget is used up. Leaving the loop saves the run, and
    :func:`resume` continues it. Parameters and errors are those of :func:`train`.
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
    """Train on texts until the budget is used up.

    Parameters
    ----------
    sources : paths, folders, URLs, built-in names, or one :class:`charlstm.Corpus`; by default the documentation
        inside Python
    texts : strings to train on instead of sources; they are joined like files
    out : the run folder; by default runs/NAME
    from_run : a run folder or checkpoint file whose best weights, sizes and vocabulary the run starts from
    offline : download nothing: take URLs and built-in texts from the cache
    quiet : show no progress; by default it is shown in notebooks and on terminals
    preset, options : fields of :class:`charlstm.Config`

    Returns
    -------
    Run
        The finished run, with its folder, config, history and model. It can sample and score.

    Raises
    ------
    UserError
        If a text, an option or the folder is not valid.
    RunFailed
        If the loss becomes infinite or NaN, a download fails, or the last checkpoint cannot be written.
    Interrupted
        On Ctrl-C, or the stop button of a notebook: a KeyboardInterrupt whose ``run`` is the saved Run. A second one
        quits immediately.
    """
    return _shown(
        start(*sources, texts=texts, out=out, preset=preset, from_run=from_run, offline=offline, **options), quiet
    )


def resume(run: Any = None, *sources: Any, offline: bool = False, quiet: bool | None = None, **options: Any) -> Run:
    """Resume a run from its newest intact checkpoint, with a larger budget.

    Parameters
    ----------
    run : a run folder or a Run; by default the newest run in runs/
    sources : the text, if it is no longer where it was
    offline, quiet : as for :func:`train`
    options : options that may change, such as budgets, which are totals; the others stay as they are

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    UserError
        If the run has no checkpoint or is in use, the text differs, or an option cannot change.
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
    """The text to train on, as `charlstm.runs.begin.start` takes it."""
    if texts is not None:
        if sources:
            raise UserError("texts: cannot be combined with files; give either strings or files")
        return Corpus.from_texts(
            texts, separator=unescaped(config.separator), lower=config.lower, as_bytes=config.bytes,
            vocabulary=model.vocabulary if model else None, unknown=config.unknown,
        )  # fmt: skip
    if any(isinstance(source, Corpus) for source in sources):
        if len(sources) > 1:
            raise UserError(
                f"a Corpus must be the only text, got {len(sources)} texts; texts=[...] takes several strings"
            )
        return sources[0]
    return sources


def _shown(run: Run, quiet: bool | None) -> Run:
    """Train a run and show its progress."""
    from charlstm.show import display
    from charlstm.training.live import LiveSamples
    from charlstm.training.stopping import trained

    screen = display.for_python(quiet)

    def tell_notes() -> None:
        while run.notes:
            screen.note(run.notes.pop(0))

    def show(progress: Any) -> None:
        tell_notes()
        screen.show(progress)
        if live is not None and (drawn := live.after(progress)) is not None:
            screen.show(drawn)

    screen.note(display.text_line(run.trainer.corpus))
    screen.note(f"folder  {run.folder}")
    live = None
    if screen.wants_samples:
        run.write_baseline()
        screen.begin(run.facts)
        live = LiveSamples(run.trainer)
    try:
        with display.CompileNote(screen):
            trained(run, show)
    finally:
        tell_notes()
        screen.close()
    screen.note(f"done    {run.reached} reached: {run.state}")
    return run
