"""The program, started as `charlstm` or `python -m charlstm`."""

import signal
import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is still loading ends the program without a traceback."""
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and not ignored, for example
    if is_pythons:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from charlstm.host.neighbours import foreign

    if line := foreign():
        print(f"charlstm: {line}", file=sys.stderr)
        sys.exit(2)
    from charlstm import cli

    if is_pythons:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
