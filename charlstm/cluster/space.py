"""What a sweep searches: a file space.toml with one table for each option.

::

    [hidden_size]
    choices = [64, 128, 256]

    [learning_rate]
    low = 0.002
    high = 0.02
    log = true
"""

import math
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

from charlstm.errors import UserError
from charlstm.settings.config import BUDGETS, Config, from_preset, see_that_known

#: Options that every trial must share: those that decide what is measured, on what, and where.
_SHARED = (
    *BUDGETS, "plans", "validation", "validation_from", "validate_every", "lower", "bytes", "encoding", "format",
    "column", "field", "separator", "documents", "weight", "unknown", "threads", "backend", "keep", "tensorboard",
)  # fmt: skip
_KEYS = {"choices", "low", "high", "log", "step"}

Space = dict[str, dict[str, Any]]


def read(path: Path) -> Space:
    """Read and check a file with a search space.

    Raises
    ------
    UserError
        If it cannot be read, or a table is not one of an option; the message names it.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None
    return checked(found, str(path))


def checked(space: dict[str, Any], name: str) -> Space:
    """The search space, after a look at every table; `name` is used in messages."""
    if not space:
        raise UserError(f"{name}: has no table; [hidden_size] with choices = [64, 128] is one")
    see_that_known(space)
    for option, table in space.items():
        _check(option, table, f"{name}, [{option}]")
    return space


def _check(option: str, table: Any, where: str) -> None:
    if option in _SHARED:
        raise UserError(f"{where}: all trials must share this option; give it to `charlstm sweep`")
    if not isinstance(table, dict) or (odd := sorted(set(table) - _KEYS)):
        what = f"unknown key {odd[0]!r}" if isinstance(table, dict) else "not a table"
        raise UserError(f"{where}: {what}; expected choices, or low and high, with log or step")
    if "choices" in table:
        values = table["choices"]
        if len(table) > 1 or not isinstance(values, list) or not values:
            raise UserError(f"{where}: expected choices = [...] and nothing else")
    else:
        if not {"low", "high"} <= set(table):
            raise UserError(f"{where}: expected choices, or low and high")
        values = [table["low"], table["high"]]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            raise UserError(f"{where}: expected numbers for low and high")
        if not values[0] < values[1] or not all(map(math.isfinite, values)):
            raise UserError(f"{where}: expected low < high, got {values[0]} and {values[1]}")
        if not isinstance(table.get("log", False), bool) or (table.get("log") and ("step" in table or values[0] <= 0)):
            raise UserError(f"{where}: log = true needs low > 0 and no step")
        if "step" in table and not (isinstance(table["step"], int | float) and table["step"] > 0):
            raise UserError(f"{where}: expected a positive step, got {table['step']!r}")
        if is_whole(option) and not all(isinstance(table.get(key, 1), int) for key in ("low", "high", "step")):
            raise UserError(f"{where}: expected whole numbers")
        if not is_whole(option) and float not in _kinds(option):
            raise UserError(f"{where}: is no number, so it needs choices")
    for value in values:
        try:
            from_preset(**{option: plain(option, value)})
        except UserError as error:
            if str(error).startswith(f"--{option.replace('_', '-')}: expected"):
                raise UserError(f"{where}: {error}") from None  # other errors may be due to options it goes with


def plain(option: str, value: Any) -> Any:
    """A value as Config takes it: the word none unsets an option that can be unset."""
    return None if value == "none" and type(None) in _kinds(option) else value


def is_whole(option: str) -> bool:
    """Whether an option's values are whole numbers."""
    return int in _kinds(option)


def _kinds(option: str) -> tuple[Any, ...]:
    kind = get_type_hints(Config)[option]
    return get_args(kind) or (kind,)


def suggested(trial: Any, space: Space) -> dict[str, Any]:
    """The options of a trial: those that it has, and others drawn, if its worker ended while it drew them."""
    found: dict[str, Any] = {}
    for option, row in distributions(space).items():
        if "choices" in space[option]:
            found[option] = trial.suggest_categorical(option, row.choices)
        else:
            suggest = trial.suggest_int if is_whole(option) else trial.suggest_float
            found[option] = suggest(option, row.low, row.high, step=row.step, log=row.log)
    return found


def distributions(space: Space) -> dict[str, Any]:
    """The search space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for option, table in space.items():
        if "choices" in table:
            found[option] = CategoricalDistribution(table["choices"])
        elif is_whole(option):
            found[option] = IntDistribution(
                table["low"], table["high"], log=table.get("log", False), step=table.get("step", 1)
            )
        else:
            found[option] = FloatDistribution(
                float(table["low"]), float(table["high"]), log=table.get("log", False), step=table.get("step")
            )
    return found
