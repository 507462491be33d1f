"""What can go wrong, as exceptions whose message is the one line that a person should read."""


class UserError(ValueError):
    """A mistake in what was asked for, with the way out in the message. The command line exits with 2."""


class RunFailed(RuntimeError):
    """What was asked for could not be done, though nothing was asked for wrongly. The command line exits with 1."""
