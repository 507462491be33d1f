"""Print the lower bounds of setup.cfg as pip's constraints, each pinned: ``python tests/oldest.py > oldest.txt``."""

import re
import sys
from configparser import ConfigParser
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"


def pinned(requirements):
    """Return `name ==version` for each requirement with a lower bound."""
    found = (re.fullmatch(r"([\w.-]+) *>=([\d.]+)(?:,.*)?", line.strip()) for line in requirements.splitlines())
    return [f"{each[1]} =={each[2]}" for each in found if each]


def main():
    setup = ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    print("\n".join(pinned(setup["options"]["install_requires"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
