"""Training of several models of one shape in one call: each gets the bits of its own call alone.

A backend's train_steps comes here if theta has a leading axis. Models share nothing but the text, so each is trained by
calls of its own, on a thread of its own, unless the backend can train all of them at once. All models make the same
number of iterations before any makes more; a signal such as Ctrl-C takes effect in between.
"""

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial, wraps
from time import perf_counter
from typing import Any, TypeVar, cast

import numpy as np

from kernels.spec import checks
from kernels.spec.arguments import HOST, Family
from kernels.spec.checks import Training
from kernels.spec.values import SMOOTHING

Train = TypeVar("Train", bound=Callable[..., Any])
_ARRAYS = ("theta", "state", "h", "c", "ids", "starts", "reset", "learning_rate", "masks", "out")
_SECONDS = 0.1  # of training between two looks at signals


def or_several_models(
    workspace_of: Callable[..., Any], family: Family = HOST, at_once: Callable[[Training], Any] = lambda _: None
) -> Callable[[Train], Train]:
    """Decorator of a backend's train_steps that makes it take several models, too.

    workspace_of allocates buffers. at_once takes the checked call and trains all models in one launch, or returns None
    if it cannot.
    """

    def decorate(train_steps: Train) -> Train:
        order = inspect.signature(train_steps)

        @wraps(train_steps)
        def one_or_several(theta: Any, *arrays: Any, **options: Any) -> Any:
            if getattr(theta, "ndim", 1) != 2:
                return train_steps(theta, *arrays, **options)
            given = order.bind(theta, *arrays, **options)
            given.apply_defaults()
            _check_models(given.arguments)
            for name in ("starts", "reset", "masks"):  # read alone, so a slice of a longer plan will do
                array = given.arguments[name]
                if type(array) in family.types and not array.flags.c_contiguous:
                    given.arguments[name] = family.copied(array)
            losses = at_once(checks.train_steps(**given.arguments, family=family))
            if losses is not None:
                return losses
            named = {name: given.arguments.pop(name) for name in _ARRAYS}
            return _train_several(train_steps, workspace_of, family, named, **given.arguments)

        return cast(Train, one_or_several)

    return decorate


def _check_models(given: dict[str, Any]) -> None:
    """Check that every array but the text has theta's leading axis.

    Raises
    ------
    ValueError
        ``starts: expected 3 models, as in theta, got (2, 7, 2)``.
    """
    models = len(given["theta"])
    if given["workspace"] is not None:
        raise ValueError(f"workspace: expected None for {models} models")
    for name in _ARRAYS:
        array = given[name]
        if not np.ndim(array) or name in ("ids", "out") or (name == "learning_rate" and np.ndim(array) < 2):
            continue
        if len(array) != models:
            raise ValueError(f"{name}: expected {models} models, as in theta, got {np.shape(array)}")


def _train_several(
    train_steps: Callable[..., np.ndarray], workspace_of: Callable[..., Any], family: Family, arrays: dict[str, Any],
    threads: int, smooth_loss: float, step: int, workspace: Any, **options: Any,
) -> np.ndarray:  # fmt: skip
    """Run ``train_steps`` for each model; return the losses (models, n), NaN after a model's last one.

    Raises
    ------
    ValueError
        As `train_steps`.
    """
    models = len(arrays["theta"])
    own = {name: array for name, array in arrays.items() if array is not None and name not in ("ids", "out")}
    losses = family.empty(np.shape(own["starts"])[:2]) if arrays["out"] is None else arrays["out"]
    losses[...] = np.nan
    shape, batch = options["shape"], np.shape(own["h"])[2]
    kind = shape, options["seq_length"], batch, own["theta"].dtype, options["dropout"], options["bfloat16"]
    spaces, smooth, going = [workspace_of(*kind) for _ in range(models)], [smooth_loss] * models, set(range(models))

    def run(k: int, begin: int, end: int) -> bool:
        """Run iterations of model k; return whether it goes on."""
        per_iteration = {name: own[name][k][begin:end] for name in ("starts", "reset", "masks") if name in own}
        rate = own["learning_rate"]
        rate = rate if np.ndim(rate) == 0 else (rate[begin:end] if np.ndim(rate) == 1 else rate[k][begin:end])
        made = family.to_host(train_steps(
            *(own[name][k] for name in ("theta", "state", "h", "c")), arrays["ids"], learning_rate=rate,
            threads=max(1, threads // models), smooth_loss=smooth[k], step=step + begin, workspace=spaces[k],
            out=losses[k, begin:end], **per_iteration, **options,
        ))  # fmt: skip
        for loss in made.tolist():
            smooth[k] = SMOOTHING * smooth[k] + (1 - SMOOTHING) * loss / batch
        is_low = len(made) > 0 and smooth[k] < options["stop_below"]
        return len(made) == end - begin and not is_low and bool(np.isfinite(made).all())

    begin, size, n = 0, 1, losses.shape[1]
    with _workers(min(threads, models) if family is HOST else 1) as run_all:  # a GPU is one thread's
        while going and begin < n:
            begun, end, now = perf_counter(), min(n, begin + size), sorted(going)
            goes_on = run_all([partial(run, k, begin, end) for k in now])
            going = {k for k, is_going in zip(now, goes_on, strict=True) if is_going}
            seconds = max(perf_counter() - begun, 1e-6)
            size, begin = max(1, min(2 * size, int(size * _SECONDS / seconds))), end
    return losses


@contextmanager
def _workers(count: int) -> Iterator[Callable[[list[Callable[[], bool]]], list[bool]]]:
    """A function that makes several calls on `count` threads and waits for all, whatever happens meanwhile."""
    if count == 1:
        yield lambda calls: [call() for call in calls]
        return
    with ThreadPoolExecutor(count, thread_name_prefix="charlstm") as pool:

        def run_all(calls: list[Callable[[], bool]]) -> list[bool]:
            futures: list[Future[bool]] = []
            try:
                futures += map(pool.submit, calls)
            finally:
                wait(futures)  # the models' arrays are in use until then
            return [future.result() for future in futures]

        yield run_all
