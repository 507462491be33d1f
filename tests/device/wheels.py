"""NVIDIA's tools, from wheels of the extra gpu-test."""

import re
from importlib.metadata import PackageNotFoundError, files, version


def installed(package):
    """Return the version of a wheel, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def path_of(package, name):
    """Return the path of the first file of a wheel whose name matches a pattern."""
    return next(str(file.locate()) for file in files(package) if re.fullmatch(name, file.name))
