"""Exceptions whose message is the one line shown to the user."""

from collections.abc import Iterable


class UserError(ValueError):
    """An invalid request; the message says how to correct it. The command line exits with 2."""


def unknown_option(name: str, known: Iterable[str]) -> UserError:
    """The error for an option that does not exist; it suggests the option that was probably meant."""
    import difflib

    names = sorted(known)
    meant = _ELSEWHERE.get(name, name)
    close = difflib.get_close_matches(meant, names, 1)
    return UserError(
        f"unknown option {name!r}: " + (f"did you mean {close[0]!r}?" if close else f"options are {', '.join(names)}")
    )


#: Names that other programs use for some of our options.
_ELSEWHERE = {
    "lr": "learning_rate", "n_layer": "num_layers", "layers": "num_layers", "rnn_size": "hidden_size",
    "units": "hidden_size", "block_size": "seq_length", "max_iters": "iterations", "steps": "iterations",
    "max_new_tokens": "length", "verbose": "quiet",
}  # fmt: skip


class RunFailed(RuntimeError):
    """A valid request that failed. The command line exits with 1."""


class Diverged(RunFailed):
    """A loss, weight or logit is not finite."""


class RanksDiffer(RunFailed):
    """The ranks no longer have the same weights; all of them raise this."""


class OtherRankFailed(RunFailed):
    """Another rank has failed, and reports it: this one ends without a message, with the exit code `code`."""

    def __init__(self, code: int = 2) -> None:
        super().__init__("another rank has failed")
        self.code = code
