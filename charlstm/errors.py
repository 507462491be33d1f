"""What can go wrong, as exceptions whose message is the one line that a person should read."""

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what was asked for, with the way out in the message. The command line exits with 2."""


def unknown_option(name: str, known: Iterable[str]) -> UserError:
    """What to raise for an option that there is not, with the one that was probably meant."""
    import difflib

    names = sorted(known)
    meant = _ELSEWHERE.get(name, name)
    close = difflib.get_close_matches(meant, names, 1)
    return UserError(
        f"unknown option {name!r}: " + (f"did you mean {close[0]!r}?" if close else f"options are {', '.join(names)}")
    )


#: What other programs call some of ours.
_ELSEWHERE = {
    "lr": "learning_rate", "n_layer": "num_layers", "layers": "num_layers", "rnn_size": "hidden_size",
    "units": "hidden_size", "block_size": "seq_length", "max_iters": "iterations", "steps": "iterations",
    "max_new_tokens": "length", "verbose": "quiet",
}  # fmt: skip


class RunFailed(RuntimeError):
    """What was asked for could not be done, though nothing was asked for wrongly. The command line exits with 1."""


class Diverged(RunFailed):
    """A loss, a weight or a logit is not finite."""
