"""Checks of workspaces: their buffers fit the call, lie apart from its arguments, and serve one call at a time."""

import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

from kernels.shared import WrongType
from kernels.spec.arguments import HOST, Family, check_layout, check_type
from kernels.spec.parameters import Shape
from kernels.spec.workspaces import Workspace, workspace_layout


def check_workspace(
    ws: Any, shape: Shape, T: int, B: int, dtype: Any, arrays: tuple[Any, ...], family: Family, dropout: float = 0.0,
    bfloat16: bool = False,
) -> None:  # fmt: skip
    """Check that a workspace has the right sizes, and that none of its buffers overlaps an argument."""
    if ws is None:
        return
    if not isinstance(ws, Workspace):
        raise WrongType(f"workspace: expected kernels.spec.Workspace, got {type(ws).__name__}")
    for name, (dims, kind) in _layout(shape, T, B, np.dtype(dtype), dropout > 0, bfloat16).items():
        buffer = getattr(ws, name)
        if buffer is None:
            raise ValueError(f"workspace.{name}: expected {dims}, got None: make it for bfloat16")
        check_type(f"workspace.{name}", buffer)
        if buffer.shape != dims:
            raise ValueError(f"workspace.{name}: expected {dims}, got {buffer.shape}")
        if buffer.dtype != kind:
            raise ValueError(f"workspace.{name}: expected {kind}, got {buffer.dtype}")
        check_layout(f"workspace.{name}", buffer, True)
    if family is HOST:  # a workspace is in host memory, so it cannot overlap arrays on a GPU
        spans = _spans(ws)
        for array in arrays:
            if array is not None and _meets(spans, HOST.span(array)):
                raise ValueError("workspace: expected memory of its own, got buffers that overlap an argument")


@lru_cache(64)
def _layout(
    shape: Shape, T: int, B: int, dtype: np.dtype, has_dropout: bool, bfloat16: bool
) -> dict[str, tuple[Any, np.dtype]]:
    return workspace_layout(shape, T, B, dtype, 0.5 if has_dropout else 0.0, bfloat16)


def _spans(ws: Workspace) -> list[tuple[int, int]]:
    """Addresses (begin, end) of a workspace's buffers, sorted; raises ValueError if two of them overlap."""
    spans = ws.__dict__.get("spans")
    if spans is None:
        spans = sorted(HOST.span(buffer) for buffer in ws if buffer is not None and buffer.size)
        if any(begin < end for (_, end), (begin, _) in pairwise(spans)):
            raise ValueError("workspace: expected buffers of their own memory, got two that overlap")
        ws.__dict__["spans"] = spans  # can be kept: the buffers' addresses do not change
    return spans


def _meets(spans: list[tuple[int, int]], span: tuple[int, int]) -> bool:
    """Whether a span has a byte in common with one of `spans`, which are sorted."""
    at = bisect_left(spans, (span[1], 0)) - 1  # the last of `spans` that begins before the end of `span`
    return span[0] < span[1] and at >= 0 and spans[at][1] > span[0]


class _InUse:
    """The memory of the workspaces that are in use by running calls of this process."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):  # the threads that use the workspaces do not exist in a forked child
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = Lock()
        self._spans: list[list[tuple[int, int]]] = []

    def take(self, spans: list[tuple[int, int]]) -> None:
        with self._lock:
            if any(_meets(used, span) for used in self._spans for span in spans):
                raise ValueError("workspace: expected one that no other call uses now; each thread needs its own")
            self._spans.append(spans)

    def give_back(self, spans: list[tuple[int, int]]) -> None:
        with self._lock:
            self._spans[:] = [used for used in self._spans if used is not spans]


_in_use = _InUse()


@contextmanager
def exclusive(ws: Workspace | None) -> Iterator[None]:
    """Reserve a checked workspace for one call, as a context manager; do nothing if it is None.

    Raises
    ------
    ValueError
        If another running call uses this workspace, or one that shares a buffer with it.
    """
    if ws is None:
        yield
        return
    spans = _spans(ws)
    try:
        _in_use.take(spans)
        yield
    finally:
        _in_use.give_back(spans)
