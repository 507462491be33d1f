"""What measurements write into Markdown pages: tables, and the text between two marks."""


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page, begin, end, text):
    """Return a page whose text between the first `begin` and the `end` after it is replaced, on lines of its own."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
