"""Helpers for tests of large texts."""

import hashlib

import numpy as np


def names(folder):
    return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


def is_mapped(ids):
    return isinstance(ids.base, np.memmap)


def digest_of(text):
    characters = "".join(sorted(set(text)))
    ids = np.array([characters.index(each) for each in text], np.min_scalar_type(len(characters) - 1))
    return hashlib.sha256(characters.encode("utf-8", "surrogatepass") + b"\0" + ids.tobytes()).hexdigest()
