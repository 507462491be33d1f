"""Makes small files of every format."""

import io
import zipfile

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
CONTAINER = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PAGE = (
    "<!DOCTYPE html><html><head><title>Left out</title><style>p { color: red }</style></head><body><h1>Head</h1>\n"
    "<p>One &amp; <b>two</b>\n  three<br>four &#8211; five</p><script>if (1 < 2) { no }</script><!-- no -->"
    "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table><pre>x\n  y</pre></body></html>"
)
PAGE_TEXT = "Head\n\nOne & two three\nfour \u2013 five\n\na\tb\nc\n\nx\n  y\n"
SRT = "1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>Hello</i>\r\nthere\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,500\r\n{\\an8}You\r\n\r\nagain\r\n"
VTT = "WEBVTT - a title\n\nNOTE left\nout\n\nname\n00:01.000 --> 00:02.000 align:start\n<v Bob>Hi</v> <00:01.500>you\n\n00:02.000 --> 00:03.000\n7\n"
CSV = 'id,text\n1,"One, two\nthree"\n2,\n3,four\n'
JSONL = '{"a": {"b": "One\\n"}, "c": "x"}\n{"c": "two"}\n\n{"a": {"b": "three"}}\n'


def zipped(files, **how):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content, **how)
    return out.getvalue()


def epub(chapters=("<p>First \u2013 chapter.</p>", "<p>Second.</p>"), head="<!DOCTYPE html>", **more):
    names = [f"part {n}.xhtml" for n in range(len(chapters))]
    items = "".join(
        f'<item id="c{n}" href="text/{name.replace(" ", "%20")}" media-type="application/xhtml+xml"/>'
        for n, name in enumerate(names)
    )
    spine = "".join(
        f'<itemref idref="c{n}"/>' for n in reversed(range(len(names)))
    )  # the book's order, not the order of names
    package = f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}<item id="n" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="n"/>{spine}</spine></package>'
    pages = {
        f"OPS/text/{name}": f'<?xml version="1.0" encoding="utf-8"?>{head}<html xmlns="http://www.w3.org/1999/xhtml"><head><title>no</title></head><body>{body}</body></html>'
        for name, body in zip(names, chapters, strict=True)
    }
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "OPS/book.opf": package,
            "OPS/nav.xhtml": "<p>no</p>",
            **pages,
            **more,
        }
    )


def docx(body=None, head=""):
    body = body or (
        '<w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr><w:r><w:t>One </w:t></w:r><w:del><w:r><w:delText>no</w:delText></w:r></w:del>'
        "<w:r><w:t>two</w:t><w:tab/><w:t>three</w:t></w:r></w:p><w:p><w:r><w:t>Four</w:t><w:br/><w:t>five \u2013</w:t></w:r></w:p>"
    )
    return zipped(
        {
            "[Content_Types].xml": "<x/>",
            "word/document.xml": f'<?xml version="1.0"?>{head}<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
        }
    )


def pdf(*pages):
    """Make a PDF with one line per page; an empty line stands for a page with only a picture."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, line in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 720 Td ({line}) Tj ET" if line else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    out, places = "%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    count = len(objects) + 1
    return f"{out}xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n".encode()
