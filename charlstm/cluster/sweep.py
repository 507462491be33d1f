"""A search over options: many trials, each an ordinary run, shared by any number of workers on one folder.

The folder holds ``sweep.toml`` (text, options, space), ``journal.log`` (the study, as Optuna's journal), a run folder
for each trial, and ``sweep.csv``. There is no server: workers on any machines open the same folder.

A worker takes a trial under the folder's lock, and holds a lock of the trial until its result is recorded. Locks end
with their process, so a trial that is running without a holder has lost its worker: the next free worker takes it, with
the same number and options, and resumes its run. No trial is counted twice, and none is lost.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import kernels
from charlstm.cluster.space import Space, checked, plain, suggested
from charlstm.errors import Diverged, UserError
from charlstm.runs import begin, disk, store
from charlstm.runs.lock import Lock
from charlstm.runs.run import Run
from charlstm.settings.config import Config, from_preset
from charlstm.text.corpus import Corpus, Fetch
from charlstm.training.progress import Progress

PLAN, JOURNAL, TABLE = "sweep.toml", "journal.log", "sweep.csv"
_POLL = 0.5  # seconds between looks at what other workers do
_STARTUP, _WARMUP = 4, 3  # trials before any is pruned, and evaluations of a trial before it is


@dataclass(frozen=True)
class Plan:
    """What a sweep does: its text, the options that all trials share, the space, and the number of trials."""

    text: list[str]
    options: dict[str, Any]
    space: Space
    trials: int
    prune: bool = True
    seed: int = 0

    def config(self, chosen: dict[str, Any]) -> Config:
        """The options of a trial.

        Raises
        ------
        UserError
            If they do not go together.
        """
        return from_preset(
            **{"plot": False, **self.options, **{name: plain(name, value) for name, value in chosen.items()}}
        )


class Row(NamedTuple):
    """A trial: its number, state in a word, best held-out bits, options, characters, seconds of training, folder."""

    number: int
    state: str
    bits: float | None
    options: dict[str, Any]
    chars: int
    seconds: float
    folder: str


def see_that_valid(plan: Plan) -> None:
    """Check a plan.

    Raises
    ------
    UserError
        If Optuna is missing, or options and space do not go together.
    """
    _see_that_installed()
    checked(plan.space, "the space")
    for name in plan.space:
        if name in plan.options:
            raise UserError(f"--{name.replace('_', '-')}: is searched, so it cannot be given, too")
    if not plan.options.get("validation"):
        raise UserError("--validation: trials are compared by held-out text; give a fraction above 0")


def create(folder: Path, plan: Plan) -> None:
    """Write a new sweep into an empty folder; UserError, and nothing is written, if it is not valid."""
    import tomli_w

    see_that_valid(plan)
    values = asdict(plan)
    values["options"] = {name: "none" if value is None else value for name, value in plan.options.items()}
    disk.write(folder / PLAN, tomli_w.dumps(values).encode())


def read(folder: Path) -> Plan:
    """Read the plan of a sweep.

    Raises
    ------
    UserError
        If the folder is not one of a sweep.
    """
    import tomllib

    try:
        values = tomllib.loads((folder / PLAN).read_text("utf-8"))
        values["options"] = {name: plain(name, value) for name, value in values["options"].items()}
        return Plan(**values)
    except OSError as error:
        raise UserError(f"{folder}: not the folder of a sweep: {PLAN}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise UserError(f"{folder / PLAN}: damaged: {error}") from None


def _see_that_installed() -> None:
    """Raise UserError without Optuna, which else tells of nothing but errors from now on."""
    try:
        import optuna
    except ImportError:
        raise UserError('sweep: needs Optuna: pip install "charlstm[sweep]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def study(folder: Path) -> Any:
    """The study of a sweep, an :class:`optuna.Study`."""
    _see_that_installed()
    import os

    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock, JournalStorage

    path = str(folder / JOURNAL)
    lock = JournalFileOpenLock(path) if os.name == "nt" else JournalFileSymlinkLock(path)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARMUP)
    storage = JournalStorage(JournalFileBackend(path, lock))
    return optuna.create_study(study_name="sweep", storage=storage, pruner=pruner, load_if_exists=True)


class Worker:
    """Runs trials of a sweep until all are finished, wherever they run.

    Parameters
    ----------
    folder : of the sweep
    threads : of each run
    fetch : turns a URL or a built-in name into a file
    note : called with lines for the user
    """

    def __init__(self, folder: Path, threads: int | None, fetch: Fetch, note: Callable[[str], None]) -> None:
        self.folder, self.plan = folder, read(folder)
        self.stop = False  #: set it to end after the next iterations; the trial can be taken up again
        self._threads, self._fetch, self._note = threads, fetch, note
        with self._only_one():
            self._study = study(folder)
        self._corpus: Corpus | None = None

    def work(self) -> None:
        """Run trials, one after another, until as many as planned are finished.

        Raises
        ------
        UserError
            If this machine cannot read the text or a checkpoint, or write; the trial stays for others.
        """
        while not self.stop:
            taken = self._take()
            if taken is None:
                if self._is_finished():
                    return
                time.sleep(_POLL)
                continue
            trial, lock = taken
            try:
                self._train(trial)
            finally:
                lock.release()

    def _is_finished(self) -> bool:
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False)) >= self.plan.trials

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Hold the lock of the sweep, under which trials are taken."""
        while True:
            try:
                lock = Lock(self.folder)
                break
            except UserError:
                time.sleep(0.05)
        try:
            yield
        finally:
            lock.release()

    def _take(self) -> tuple[Any, Lock] | None:
        """Take a trial whose worker has ended, or a new one; None if there is none to take."""
        import optuna

        with self._only_one():
            trials = self._study.get_trials(deepcopy=False)
            for trial in trials:
                if not trial.state.is_finished() and (lock := self._held(trial.number)):
                    return optuna.trial.Trial(self._study, trial._trial_id), lock
            if len(trials) >= self.plan.trials:
                return None
            lock = self._held(len(trials))
            if lock is None:
                raise UserError(
                    f"{self.folder}: trial {len(trials)} is in use, but not in {JOURNAL}: was that replaced?"
                )
            return self._study.ask(), lock

    def _held(self, number: int) -> Lock | None:
        """The lock of a trial; None if a worker has it."""
        place = self.folder / "locks" / f"{number:04}"
        disk.make_folder(place)
        try:
            return Lock(place)
        except UserError:
            return None

    def _train(self, trial: Any) -> None:
        """Train a trial, or the rest of it, and record its result."""
        import optuna

        name, states = f"trial {trial.number}", optuna.trial.TrialState
        # Seeded by the number: two workers must not draw the same options, nor one that has been started again.
        self._study.sampler = optuna.samplers.TPESampler(seed=self.plan.seed + trial.number, constant_liar=True)
        chosen = suggested(trial, self.plan.space)
        run = self._resumed(trial.number)
        if run is None:
            folder, corpus = self._new_folder(trial.number), self._text()
            try:  # only options that do not go together fail a trial, not what is wrong with this machine
                config = replace(self.plan.config(chosen), threads=self._threads)
                if config.backend == "auto":  # trials that run at the same time would share a GPU
                    config = replace(config, backend=kernels.fastest())
                run = begin.start(corpus, config, str(folder), fetch=self._fetch)
            except UserError as error:
                return self._fail(trial, str(error))
        is_pruned, seen = False, set(self._study.trials[trial.number].intermediate_values)
        trial.set_user_attr("folder", run.folder.name)
        self._note(
            f"{name}  {_in_words(chosen)}" + (f", from iteration {at:,}" if (at := run.trainer.iteration) else "")
        )
        try:
            for progress in run.train():
                run.stop = run.stop or self.stop
                step = _tenth(run, progress)
                if step is not None and step not in seen and not run.stop:
                    seen.add(step)
                    trial.report(progress.val_bits_per_unit, step)
                    if self.plan.prune and trial.should_prune():
                        is_pruned = run.stop = True
        except Diverged as error:
            return self._fail(trial, str(error))
        if self.stop and not is_pruned and run.reached is None:
            return None  # whoever joins next takes it up
        best = run.trainer.marks.best_validation
        trial.set_user_attr("chars", run.trainer.iteration * run.config.iteration_chars)
        trial.set_user_attr("seconds", run.trainer.seconds)
        if best is None:
            return self._fail(trial, "it was never evaluated")
        if is_pruned:
            trial.set_user_attr("best", best)
            self._study.tell(trial.number, state=states.PRUNED)
        else:
            self._study.tell(trial.number, best)
        self._note(f"{name}  {best:.4f} bits" + (" (pruned)" if is_pruned else ""))
        return None

    def _fail(self, trial: Any, why: str) -> None:
        """Record that a trial cannot be trained."""
        import optuna

        trial.set_user_attr("failure", why)
        self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        self._note(f"trial {trial.number}  failed: {why}")

    def _resumed(self, number: int) -> Run | None:
        """The run of a trial that has a checkpoint."""
        for folder in self._folders(number):
            if (folder / store.LAST).is_file():
                threads = {} if self._threads is None else {"threads": self._threads}
                return begin.resume(folder, chosen=threads, fetch=self._fetch)
        return None

    def _new_folder(self, number: int) -> Path:
        """A new folder for the run of a trial, numbered if a worker ended before the first checkpoint of another."""
        before = len(self._folders(number))
        folder = self.folder / (f"trial-{number:04}" + (f"-{before + 1}" if before else ""))
        disk.make_folder(folder)
        return folder

    def _folders(self, number: int) -> list[Path]:
        return sorted(self.folder.glob(f"trial-{number:04}*"))

    def _text(self) -> Corpus:
        """The text of all trials, which is read once."""
        if self._corpus is None:
            self._corpus = begin.read_corpus(self.plan.text, self.plan.config({}), None, self._fetch)
        return self._corpus


def _tenth(run: Run, progress: Progress) -> int | None:
    """The number of tenths of its budget after which a regular evaluation came, by which trials are compared."""
    total = run.trainer.iterations
    if progress.kind != "evaluation" or progress.is_extra or progress.val_bits_per_unit is None or not total:
        return None
    return min(10, round(10 * run.trainer.iteration / total))


def rows(folder: Path) -> list[Row]:
    """All trials of a sweep, the best first."""
    found = []
    for trial in study(folder).get_trials(deepcopy=False):
        attributes, bits = trial.user_attrs, None
        if trial.state.name == "COMPLETE":
            bits = trial.value
        elif trial.state.name == "PRUNED":
            bits = attributes.get("best")
        found.append(
            Row(
                trial.number, trial.state.name.lower(), bits, dict(trial.params), attributes.get("chars", 0),
                attributes.get("seconds", 0.0), attributes.get("folder", ""),
            )
        )  # fmt: skip
    order = {"complete": 0, "pruned": 1}
    return sorted(found, key=lambda row: (order.get(row.state, 2), row.bits if row.bits is not None else 0, row.number))


def importances(folder: Path) -> dict[str, float]:
    """The share of each option in what makes good trials good (Watanabe et al. 2023, PED-ANOVA); {} if too few."""
    import optuna

    found = study(folder)
    complete = [trial for trial in found.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return {}
    with suppress(ValueError, RuntimeError):  # too few different values of an option
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(found, evaluator=evaluator))
    return {}


def write_table(folder: Path, found: list[Row]) -> Path:
    """Write the trials as sweep.csv; return its path."""
    import csv
    import io

    names = list(read(folder).space)
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["trial", "state", "bits", *names, "chars", "seconds", "folder"])
    for row in found:
        options = [row.options.get(name, "") for name in names]
        writer.writerow([row.number, row.state, row.bits, *options, row.chars, f"{row.seconds:.3f}", row.folder])
    disk.write(folder / TABLE, content.getvalue().encode())
    return folder / TABLE


def _in_words(options: dict[str, Any]) -> str:
    return "  ".join(f"{name} {word(value)}" for name, value in options.items())


def word(value: Any) -> str:
    """The value of an option, for the user."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
