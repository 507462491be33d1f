"""Detection of where progress is shown: on a terminal that can redraw lines, in a notebook cell, or line by line."""

import os
import sys
from typing import Any, TextIO


def can_redraw(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal whose lines can be overwritten.

    A command started with "!" in a notebook cell has a terminal too, but the cell keeps all output ever written.
    """
    kind = os.environ.get("TERM", "xterm" if os.name == "nt" else "")
    return stream is not None and stream.isatty() and kind not in ("", "dumb", "unknown") and not is_started_by_cell()


def is_started_by_cell() -> bool:
    """Return whether a notebook cell started this program, judging by the environment that a kernel sets.

    Source: ipykernel, `ZMQInteractiveShell.init_environment`; jupyter_client sets JPY_PARENT_PID.
    """
    made = {"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat", "CLICOLOR": "1"}
    return "JPY_PARENT_PID" in os.environ or all(os.environ.get(name) == value for name, value in made.items())


def notebook() -> Any:
    """Return the notebook's shell if this process is a notebook kernel, else None."""
    ipython = sys.modules.get("IPython")  # every kernel has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None
