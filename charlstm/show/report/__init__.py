"""The page of a report: one HTML file with its script, its style and its data inside.

Its Content-Security-Policy allows exactly this script and this style, by their digests, and no address at all. The data
is JSON in a block that browsers do not execute; JSON's own escapes keep "<", ">" and "&" out of it, and whatever the
page shows of them is set as text. The same contents give the same bytes.
"""

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

#: The parts of the script, in the order in which they are joined.
SCRIPTS = ("network.js", "sampler.js", "charts.js", "reading.js", "inside.js", "page.js")
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def page(contents: dict[str, Any]) -> str:
    """The whole page; `contents` are those of :func:`charlstm.runs.report.contents`."""
    script = "\n".join(_part(name) for name in SCRIPTS)
    style = _part("page.css")
    return Template(_part("page.html")).substitute(
        title=html.escape(_printable(contents["name"])),
        policy="; ".join(
            [
                "default-src 'none'", f"script-src {_digest(script)}", f"style-src {_digest(style)}", "img-src data:",
                "base-uri 'none'", "form-action 'none'",
            ]
        ),
        style=style,
        script=script,
        data=as_json(contents),
    )  # fmt: skip


def as_json(value: Any) -> str:
    """JSON that can stand inside any HTML element: ASCII only, and without "<", ">" and "&"."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _part(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
