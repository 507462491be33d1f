"""Where progress is shown: on a terminal that can be redrawn, in the cell of a notebook, or line by line."""

import os
import sys
from typing import Any, TextIO


def can_redraw(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal whose lines can be written over.

    What a notebook's cell runs with "!" has a terminal, too, but the cell keeps all that was ever written to it.
    """
    kind = os.environ.get("TERM", "xterm" if os.name == "nt" else "")
    return stream is not None and stream.isatty() and kind not in ("", "dumb", "unknown") and not is_started_by_cell()


def is_started_by_cell() -> bool:
    """Whether this program was started from a cell of a notebook, by the environment that its kernel makes.

    Source: ipykernel, `ZMQInteractiveShell.init_environment`; jupyter_client sets JPY_PARENT_PID.
    """
    made = {"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat", "CLICOLOR": "1"}
    return "JPY_PARENT_PID" in os.environ or all(os.environ.get(name) == value for name, value in made.items())


def notebook() -> Any:
    """The shell of the notebook that this program is the kernel of; None elsewhere."""
    ipython = sys.modules.get("IPython")  # which a kernel has loaded
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None
