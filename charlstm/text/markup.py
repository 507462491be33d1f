"""Extracts the text of HTML, XHTML and XML in pieces, without expanding any entity that a file declares itself."""

import re
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import Any

from charlstm.errors import UserError

LONGEST = 2**24  #: characters allowed in one tag, comment or script of HTML; bytes allowed in one tag or comment of XML
DEEPEST = 1000  #: depth to which elements may be nested
_SPACE = re.compile(r"[ \t\n\r\f]+")
_HIDDEN = frozenset(("script", "style", "template", "noscript", "title", "svg", "rt", "rp"))
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr")
)
_PARAGRAPHS = frozenset(
    (
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "blockquote",
        "pre",
        "ul",
        "ol",
        "dl",
        "table",
        "figure",
        "section",
        "article",
        "hr",
    )
)
_LINES = frozenset(
    (
        "div",
        "li",
        "tr",
        "dt",
        "dd",
        "br",
        "caption",
        "figcaption",
        "address",
        "aside",
        "footer",
        "header",
        "main",
        "nav",
        "form",
        "option",
    )
)
_CELLS = frozenset(("td", "th"))


class _Seen(HTMLParser):
    """Collects the visible text in `out`: a paragraph after an empty line, other blocks on lines of their own."""

    def __init__(self, name: str) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self._name = name
        self._hidden: list[str] = []  # open elements whose text is hidden
        self._pre = 0
        self._breaks, self._gap, self._has_begun = 0, "", False  # line breaks, or the blank, due before the next text

    def handle_decl(self, decl: str) -> None:
        """Refuse a document type that declares entities."""
        if "<!entity" in decl.lower():
            raise UserError(f"{self._name}: declares XML entities, which may expand without limit: not read")

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Open an element."""
        if tag in _HIDDEN:
            self._hidden.append(tag)
        elif tag == "br":
            self._break(min(self._breaks + 1, 2))
        else:
            self._pre += tag == "pre"
            self._edge(tag)
            if tag in _CELLS and not self._breaks:
                self._gap = "\t"

    def handle_endtag(self, tag: str) -> None:
        """Close an element; an end tag without a start tag is ignored."""
        if tag in self._hidden:
            while self._hidden.pop() != tag:
                pass
        elif tag not in _VOID:
            self._pre = max(0, self._pre - (tag == "pre"))
            self._edge(tag)

    def handle_data(self, data: str) -> None:
        """Add text; outside of pre, every run of white space becomes one blank."""
        if self._hidden:
            return
        if self._pre:
            self._emit(data)
            return
        words = _SPACE.sub(" ", data)
        if words.startswith(" "):
            self._gap = self._gap or " "
        if bare := words.strip(" "):
            self._emit(bare)
            self._gap = " " if words.endswith(" ") else ""

    def _emit(self, text: str) -> None:
        if self._has_begun:
            self.out.append("\n" * self._breaks or self._gap)
        self.out.append(text)
        self._breaks, self._gap, self._has_begun = 0, "", True

    def _edge(self, tag: str) -> None:
        if tag in _PARAGRAPHS or tag in _LINES:
            self._break(2 if tag in _PARAGRAPHS else 1)

    def _break(self, lines: int) -> None:
        self._breaks, self._gap = max(self._breaks, lines), ""


def seen(text: Iterable[str], name: str) -> Iterator[str]:
    """The visible text of an HTML or XHTML document, in pieces; it ends in a line feed.

    Scripts, styles, the title, drawings and ruby annotations are left out.

    Raises
    ------
    UserError
        If the document declares entities or has a tag without an end.
    """
    parser = _Seen(name)
    for piece in text:
        for at in range(0, len(piece), 2**16):
            parser.feed(piece[at : at + 2**16])
            if len(parser.rawdata) > LONGEST:
                raise UserError(f"{name}: has a tag, a comment or a script of more than {LONGEST:,} characters")
            yield from parser.out
            parser.out.clear()
    parser.close()
    yield from parser.out
    if parser._has_begun:
        yield "\n"


def parse_xml(
    pieces: Iterable[bytes],
    name: str,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None] = lambda tag: None,
    data: Callable[[str], None] = lambda text: None,
) -> Iterator[None]:
    """Parse XML with Expat, piece by piece, without other files and without the entities that it declares.

    Parameters
    ----------
    pieces : the document
    name : for messages
    start, end, data : called for each start tag with its attributes, each end tag, and each piece of text; names are
        "NAMESPACE NAME", or NAME without a namespace

    Raises
    ------
    UserError
        If the document is not XML, declares entities, or exceeds LONGEST or DEEPEST.
    """
    from xml.parsers import expat

    depth, fed, parser = 0, 0, expat.ParserCreate(namespace_separator=" ")

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise UserError(f"{name}: has more than {DEEPEST:,} nested elements: not read")
        start(tag, attributes)

    def finish(tag: str) -> None:
        nonlocal depth
        depth -= 1
        end(tag)

    def refuse(*_: Any) -> None:
        raise UserError(f"{name}: declares XML entities, which may expand without limit: not read")

    parser.StartElementHandler, parser.EndElementHandler = begin, finish
    parser.CharacterDataHandler, parser.EntityDeclHandler = data, refuse
    try:
        for piece in pieces:
            parser.Parse(piece, False)
            fed += len(piece)
            if fed - parser.CurrentByteIndex > LONGEST:
                raise UserError(f"{name}: has a tag or a comment of more than {LONGEST:,} bytes: not read")
            yield
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise UserError(f"{name}: damaged: not valid XML: {error}") from None
    yield
