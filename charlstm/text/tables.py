"""Extracts the texts of one column of CSV, or of one field of JSON Lines."""

import csv
import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from charlstm.errors import UserError

LONGEST = 2**24  #: characters allowed in a line, or in a field of CSV
_DELIMITERS = ",;\t|"


def lines(text: Iterable[str], name: str) -> Iterator[str]:
    """Yield the lines of a text that comes in pieces, each with its line feed; the last may have none.

    Raises
    ------
    UserError
        If a line is longer than LONGEST: it would have to fit in memory.
    """
    left: list[str] = []
    length = 0
    for piece in text:
        whole = piece.split("\n")
        for line in whole[:-1]:
            yield "".join(left) + line + "\n"
            left.clear()
            length = 0
        left.append(whole[-1])
        length += len(whole[-1])
        if length > LONGEST:
            raise UserError(f"{name}: has a line of more than {LONGEST:,} characters")
    if length:
        yield "".join(left)


def of_column(rows: Iterator[str], column: str, name: str, left_out: Counter[str]) -> Iterator[tuple[str]]:
    """Yield the texts in a column of CSV: a name in the first row, or a number from 1 on for a file without such a row.

    The delimiter is comma, semicolon, tab or |: the one that gives the named column, or else the most columns.
    """
    first = next(rows, "")
    delimiter, place, has_names = _place(first, column, name)
    if csv.field_size_limit() < LONGEST:
        csv.field_size_limit(LONGEST)  # shared by the whole process, so it is only ever raised
    found = csv.reader(_again(first, rows), delimiter=delimiter)
    try:
        for number, row in enumerate(found):
            if number == 0 and has_names:
                continue
            if place < len(row) and row[place]:
                yield (row[place],)
            elif row:
                left_out[f"rows with an empty column {column}"] += 1
    except csv.Error as error:
        raise UserError(f"{name}: line {found.line_num:,}: not CSV: {error}") from None


def _again(first: str, rows: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rows


def _place(first: str, column: str, name: str) -> tuple[str, int, bool]:
    """The delimiter, the column's index, and whether the first row holds names."""
    headers = {each: next(csv.reader([first], delimiter=each), []) for each in _DELIMITERS}
    for delimiter, names in headers.items():
        if column in names:
            return delimiter, names.index(column), True
    delimiter, names = max(headers.items(), key=lambda item: len(item[1]))
    if column.isdecimal() and 1 <= int(column) <= len(names):
        return delimiter, int(column) - 1, False
    raise UserError(f"{name}: has no column {column!r}: {_named(column, names)}")


def of_field(rows: Iterator[str], field: str, name: str, left_out: Counter[str]) -> Iterator[tuple[str]]:
    """Yield the texts in a field of JSON objects, one object per line; a.b is the field b of the object a."""
    is_there, first = False, None
    for number, line in enumerate(rows, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}: line {number:,}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{name}: line {number:,}: expected a JSON object, got {line.strip()[:30]}")
        first = first or values
        text = _value(values, field)
        if text is None or text == "":
            left_out[f"lines with an empty field {field}"] += 1
        elif not isinstance(text, str):
            raise UserError(f"{name}: line {number:,}: field {field!r} is not text: {json.dumps(text)[:30]}")
        else:
            is_there = True
            yield (text,)
    if first is not None and not is_there:
        raise UserError(f"{name}: no line has a field {field!r}: {_named(field, list(first))}")


def _value(values: Any, field: str) -> Any:
    if field in values:
        return values[field]
    for key in field.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _named(wrong: str, names: list[str]) -> str:
    close = difflib.get_close_matches(wrong, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(map(repr, names[:10]))}"
