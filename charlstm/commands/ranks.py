"""Ends the ranks of a data-parallel run together: one that leaves alone would let the others wait for ever."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from charlstm.errors import Diverged, OtherRankFailed, RanksDiffer, RunFailed, UserError

if TYPE_CHECKING:
    from charlstm.training.world import World


@contextmanager
def ending_together(world: "World") -> Iterator[None]:
    """End all ranks, with a message, if a block ends by an exception on this one.

    What all ranks know of ends each of them in the ordinary way, and the first one, or the one that failed, tells it.
    """
    if world.size == 1:
        yield
        return
    try:
        yield
    except OtherRankFailed as error:
        raise click.exceptions.Exit(error.code) from None
    except (Diverged, RanksDiffer):
        if world.rank == 0:
            raise
        raise click.exceptions.Exit(1) from None
    except BaseException as error:
        if world.has_agreed:
            raise
        world.abort(_told(error, world.rank))


def _told(error: BaseException, rank: int) -> int:
    """Tell in a line why this rank fails, unless a signal ends it; return the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 130
    if not isinstance(error, UserError | RunFailed | OSError | MemoryError):
        traceback.print_exception(error)
    words = str(error) or type(error).__name__
    print(f"charlstm: rank {rank}: {words}: all ranks end", file=sys.stderr, flush=True)
    return 2 if isinstance(error, UserError) else 1
