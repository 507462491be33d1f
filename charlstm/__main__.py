"""The program: `charlstm`, or `python -m charlstm`."""

import signal


def main() -> None:
    """Run the command line. Ctrl-C that comes before it is loaded ends the program in silence, as the system does."""
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, say
    if is_pythons:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from charlstm import cli

    if is_pythons:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
